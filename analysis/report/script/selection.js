// The one selection that table, coordinates and curves show: all trials that pass the filters of the table and the brushes of the axes.
const filters = new Map();     // column -> what is in its box
const brushes = new Map();     // axis -> [low, high]: where on it a trial has to be
let selected = [];             // the best first
let pinned = 0, hovered = -1;

const COMPARE = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b };

/** What the text of a box asks of a trial: a function, null for nothing (yet), undefined for what cannot be understood. */
function question(c, text) {
  const word = text.trim().toLowerCase();
  if (!word || /^([<>]=?|!?=|!)$/.test(word)) return null;
  const same = /^(!?)=\s*(.+)$/.exec(word);
  if (same) {
    const [, not, wanted] = same, nothing = /^(n\/a|none|-)$/.test(wanted);
    const is = i => shown(c, i).toLowerCase() === wanted || (nothing && c.values[i] === null)
      || (amount(c, i) !== null && amount(c, i) === Number(wanted));
    return i => is(i) === !not;
  }
  if (/^[<>]/.test(word)) {
    const parts = [...word.matchAll(/([<>]=?)\s*([^\s<>=]+)\s*/g)];
    if (!c.numeric || parts.map(p => p[0]).join("") !== word || !parts.every(p => isFinite(p[2]))) return undefined;
    return i => amount(c, i) !== null && parts.every(p => COMPARE[p[1]](amount(c, i), Number(p[2])));
  }
  return i => shown(c, i).toLowerCase().includes(word);
}

/** Chooses the trials anew. The lines are drawn in the next frame, table and curves when nothing has changed for a moment. */
function select() {
  const asked = [...filters].map(([c, text]) => question(c, text)).filter(Boolean), held = [...brushes];
  selected = [];
  const inside = (a, i, [low, high]) => a.at[i] >= low - 1e-6 && a.at[i] <= high + 1e-6;
  for (let i = 0; i < size; i++)
    if (asked.every(is => is(i)) && held.every(([a, range]) => inside(a, i, range))) selected.push(i);
  say();
  cancelAnimationFrame(select.frame);
  select.frame = requestAnimationFrame(drawLines);
  clearTimeout(select.timer);
  select.timer = setTimeout(() => { fillTable(); drawCurves(); }, 90);
}

/** Says how many are selected and by what, with a button that takes each of it away. */
function say() {
  const some = selected.length < size ? `${count(selected.length)} of ` : "";
  $("count").textContent = `${some}${count(size)} ${size === 1 ? "trial" : "trials"}`;
  const chips = [...brushes].map(([a, range]) => [`${a.label}: ${words(a, range)}`, () => { brushes.delete(a); place(a); }]);
  for (const [c, text] of filters)
    if (question(c, text)) chips.push([`${c.label} ${text.trim()}`, () => { filters.delete(c); c.box.value = ""; }]);
  $("chips").replaceChildren(...chips.map(([text, drop]) => make("button", {
    type: "button", className: "chip", title: "take this away", textContent: `${text} ×`,
    onclick: () => { drop(); select(); $($("clear").hidden ? "csv" : "clear").focus(); },
  })));
  $("clear").hidden = !chips.length;
}
function clearAll() {
  for (const c of filters.keys()) { c.box.value = ""; c.box.removeAttribute("aria-invalid"); }
  filters.clear();
  const were = [...brushes.keys()];
  brushes.clear();
  were.forEach(place);
  select();
  $("csv").focus();
}
