// What the page holds: the trials as columns, ordered by the metric, the best first; and where each of them is on each axis.
const DATA = JSON.parse(document.getElementById("data").textContent);
const { columns, curves, size } = DATA;
const $ = id => document.getElementById(id);
const axes = DATA.axes.map(name => columns.find(c => c.name === name));
const metric = columns.find(c => c.name === DATA.metric);
const trials = columns[0].values;
const valued = metric.values.filter(v => v !== null).length;
const known = i => metric.values[i] !== null;
/** How many of the best are drawn in the accent's colour. */
const TOP = Math.max(1, Math.min(10, Math.round(valued / 10)));
/** Where an axis has its lane for trials that have no such value, and how far the axis reaches down to it. */
const LANE = -.1, LANE_END = -.14;
const count = n => n.toLocaleString("en");

/** A number as rows.number writes it. */
function short(v, percent) {
  if (percent) return v.toFixed(2);
  const [digits, power] = v.toExponential(3).split("e").map(Number);
  return power < -4 || power > 5 ? `${digits}e${power}` : String(Number(v.toPrecision(4)));
}
/** A trial's value as a text: in the table, and to filters. */
function shown(c, i) {
  const v = c.values[i];
  if (v === null) return c.kind === "text" ? "" : "–";
  return c.kind === "choice" ? c.choices[v] : c.kind === "number" ? short(v, c.percent) : v;
}
/** A trial's value as a number; null where it is none. */
function amount(c, i) {
  const v = c.values[i];
  return v === null || !c.numeric ? null : c.kind === "choice" ? Number(c.choices[v]) : v;
}
for (const c of columns)
  c.numeric = c.kind === "number" || (c.kind === "choice" && c.choices.every(v => v !== "" && isFinite(v)));

/** Round numbers from low to high, about five. */
function ticks(low, high, log) {
  const out = [];
  if (log && high / low >= 10) {
    const every = Math.ceil(Math.log10(high / low) / 6);
    for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p += every) out.push(10 ** p);
    return out;
  }
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find(m => m * unit >= rough - 1e-12);
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-6; k++) out.push(Number((k * step).toPrecision(12)));
  return out;
}
function tickText(v, log) {
  const power = Math.round(Math.log10(Math.abs(v)));
  if (!log || Math.abs(power) <= 3) return short(v, false);
  return "10" + String(power).replace(/./g, d => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(d)]);
}

/** Gives an axis its scale: `to` (value to place, 0 at its lower end, 1 at its upper), `from`, `ticks`, `step` of a key, and the places of
    all trials, those that are drawn a little apart where many have one choice. */
function scale(a) {
  const numbers = a.values.filter(v => v !== null);
  a.empty = numbers.length < size;
  a.bottom = a.empty ? LANE_END : 0;
  let apart = 0;
  if (a.kind === "choice") {
    const n = a.choices.length, every = Math.ceil(n / 12);
    a.to = v => (v + .5) / n;
    a.step = 1 / n;
    a.ticks = a.choices.map((text, v) => [a.to(v), text]).filter((_, v) => v % every === 0);
    apart = Math.min(.04, .6 / n);
  } else {
    let [low, high] = numbers.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
    if (!numbers.length) [low, high] = [0, 1];
    const pad = low === high ? Math.abs(low) / 10 || 1 : 0;
    [low, high] = [low - pad, high + pad];
    const bend = a.log ? Math.log10 : v => v, unbend = a.log ? v => 10 ** v : v => v;
    a.to = v => (bend(v) - bend(low)) / (bend(high) - bend(low));
    a.from = p => unbend(bend(low) + p * (bend(high) - bend(low)));
    a.step = 1 / 50;
    a.ticks = numbers.length ? ticks(low, high, a.log).map(v => [a.to(v), tickText(v, a.log)]) : [];
  }
  a.at = Float32Array.from(a.values, v => v === null ? LANE : a.to(v));
  a.drawn = a.at.map((p, i) => p + apart * ((Math.imul(i + 1, 2654435761) >>> 0) / 2 ** 32 - .5));
}
axes.forEach(scale);

/** A part of an axis in words. */
function words(a, [low, high]) {
  const none = a.empty && low <= LANE;
  if (high < 0) return "n/a";
  if (a.kind === "choice") {
    const inside = a.choices.filter((_, v) => a.to(v) >= low - 1e-9 && a.to(v) <= high + 1e-9);
    if (none) inside.unshift("n/a");
    return !inside.length ? "nothing" : inside.length > 4 ? `${inside[0]} … ${inside.at(-1)}` : inside.join(", ");
  }
  const [from, to] = [Math.max(0, low), Math.min(1, high)].map(p => short(a.from(p), a.percent));
  return `${none ? "n/a, or " : ""}${from} to ${to}`;
}

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
