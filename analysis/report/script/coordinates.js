// Parallel coordinates: a line for each trial, axes with brushes for the mouse, the finger and the keyboard.
const TOP_PX = 46, HEIGHT_PX = 300, GAP_PX = 74;
const MOST_CURVED = 1500;      // of more trials the lines are straight
const MOST_LINES = 1000;       // coloured ones: so many are drawn in a frame or two; in grey there are all
let plane, back, front, over, xs = [];
const y = p => TOP_PX + (1 - p) * HEIGHT_PX;

function trace(g, i) {
  g.moveTo(xs[0], y(axes[0].drawn[i]));
  for (let k = 1; k < axes.length; k++) {
    const here = y(axes[k].drawn[i]), half = (xs[k - 1] + xs[k]) / 2;
    if (size > MOST_CURVED) g.lineTo(xs[k], here);
    else g.bezierCurveTo(half, y(axes[k - 1].drawn[i]), half, here, xs[k], here);
  }
}
function layOut() {
  const width = Math.max($("coordinates").clientWidth, (axes.length - 1) * GAP_PX + 110), height = TOP_PX + HEIGHT_PX * 1.14 + 12;
  const gap = (width - 110) / (axes.length - 1);
  Object.assign(plane.style, { width: `${width}px`, height: `${height}px` });
  xs = axes.map((_, k) => 48 + k * gap);
  for (const layer of [back, front, over]) resize(layer, width, height);
  axes.forEach((a, k) => {
    a.strip.style.left = a.name_.style.left = `${xs[k]}px`;
    a.name_.style.width = `${Math.min(gap - 2, 190, 2 * Math.min(xs[k], width - xs[k]))}px`;
  });
  drawBack();
  drawLines();
}
/** All trials in grey, once, in pieces that let the page go on in between. */
function drawBack() {
  const g = wipe(back), mine = drawBack.last = {};
  Object.assign(g, { strokeStyle: look.muted, globalAlpha: Math.max(.05, Math.min(.3, 40 / size)) });
  (function piece(first) {
    if (mine !== drawBack.last) return;
    for (let i = first; i < Math.min(first + 300, size);) {
      g.beginPath();
      for (const end = Math.min(i + 8, size); i < end; i++) trace(g, i);
      g.stroke();
    }
    if (first + 300 < size) setTimeout(piece, 0, first + 300);
  })(0);
}
/** The selected trials that are drawn in colour: of many the best, and others evenly from the rest. */
function coloured() {
  if (selected.length <= MOST_LINES) return selected;
  const best = MOST_LINES / 4, step = (selected.length - best) / (MOST_LINES - best);
  return [...selected.slice(0, best), ...Array.from({ length: MOST_LINES - best }, (_, k) => selected[best + Math.floor(k * step)])];
}
function drawLines() {
  const some = coloured();
  back.style.visibility = some.length === size ? "hidden" : "visible";
  stroke(wipe(front), some, trace, Math.max(.2, Math.min(.85, 9 / Math.sqrt(some.length + 1))));
  $("lines").textContent = some === selected ? "" : `${count(MOST_LINES)} of ${count(selected.length)} lines in colour, all in grey`;
}

// ----------------------------------------------------------------------------------------------------------------- brushes

const ends = a => [...(brushes.get(a) || [a.bottom, 1])];
/** Sets a brush, or takes it away where it holds the whole axis. */
function hold(a, one, other) {
  const low = Math.max(a.bottom, Math.min(one, other)), high = Math.min(1, Math.max(one, other));
  if (low <= a.bottom + 1e-6 && high >= 1 - 1e-6) brushes.delete(a); else brushes.set(a, [low, high]);
  place(a);
  select();
}
/** Shows where the brush of an axis is. */
function place(a) {
  const range = ends(a), [low, high] = range;
  a.strip.classList.toggle("set", brushes.has(a));
  a.brush.hidden = !brushes.has(a);
  Object.assign(a.brush.style, { top: `${(1 - high) * HEIGHT_PX}px`, height: `${Math.max(2, (high - low) * HEIGHT_PX)}px` });
  a.thumbs.forEach((thumb, which) => {
    thumb.style.top = `${(1 - range[which]) * HEIGHT_PX}px`;
    thumb.setAttribute("aria-valuenow", Math.round(100 * range[which]));
    thumb.setAttribute("aria-valuetext", words(a, range));
  });
}
/** An end of a brush as a slider: the arrow keys move it, with Shift and the Page keys further, Escape takes the brush away. */
function addThumb(a, which) {
  const thumb = make("div", { className: "thumb", tabIndex: 0 });
  const told = { role: "slider", "aria-orientation": "vertical", "aria-label": `${a.label}, ${which ? "highest" : "lowest"}`,
                 "aria-valuemin": Math.round(100 * a.bottom), "aria-valuemax": 100 };
  for (const [name, value] of Object.entries(told)) thumb.setAttribute(name, value);
  thumb.onkeydown = event => {
    const range = ends(a), step = a.step * (event.shiftKey ? 5 : 1), was = range[which];
    const to = { ArrowUp: was + step, ArrowRight: was + step, ArrowDown: was - step, ArrowLeft: was - step, PageUp: was + 5 * step,
                 PageDown: was - 5 * step, Home: a.bottom, End: 1, Escape: which ? 1 : a.bottom }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (event.key === "Escape") return hold(a, a.bottom, 1);
    const lane = !a.empty ? 0 : which ? 2 * LANE - LANE_END : LANE_END;  // from the axis to its lane, and back, in one step
    range[which] = to < was ? (to < -1e-6 ? lane : to) : was < 0 && event.key !== "End" ? 0 : to;
    hold(a, Math.min(range[0], range[1]), which ? Math.max(range[0], range[1]) : range[1]);
  };
  return thumb;
}
/** A name that may be broken after its dashes. */
const breakable = text => make("span", {}, ...text.split(/(?<=[_./:-])/).flatMap(part => [part, make("wbr")]));

function addAxis(a) {
  const named = a.empty ? [...a.ticks, [LANE, "n/a"]] : a.ticks;
  a.name_ = make("div", { className: "axisname", title: a.label }, breakable(a.label));
  a.brush = make("div", { className: "brush" });
  a.thumbs = [0, 1].map(which => addThumb(a, which));
  a.strip = make("div", { className: a === axes.at(-1) ? "axis last" : "axis" }, ...named.map(([p, text]) => {
    const tick = make("span", { className: "tick", textContent: text, title: text });
    tick.style.top = `${(1 - p) * HEIGHT_PX}px`;
    return tick;
  }), a.brush, ...a.thumbs);
  a.strip.style.height = `${(1 - a.bottom) * HEIGHT_PX}px`;
  a.strip.onpointerdown = event => drag(a, event);
  plane.append(a.name_, a.strip);
  place(a);
}
/** Drags a new brush, an end of one, or a whole one; a click beside a brush takes it away. */
function drag(a, event) {
  const top = a.strip.getBoundingClientRect().top, at = e => 1 - (e.clientY - top) / HEIGHT_PX;
  const began = at(event), [low, high] = ends(a), which = a.thumbs.indexOf(event.target), whole = event.target === a.brush;
  const still = e => Math.abs(at(e) - began) * HEIGHT_PX < 3;
  event.preventDefault();
  a.strip.setPointerCapture(event.pointerId);
  if (which >= 0) a.thumbs[which].focus();
  a.strip.onpointermove = e => {
    const by = Math.max(a.bottom - low, Math.min(1 - high, at(e) - began));
    if (still(e)) return;
    if (whole) hold(a, low + by, high + by);
    else if (which === 0) hold(a, Math.min(at(e), high), high);
    else if (which === 1) hold(a, low, Math.max(at(e), low));
    else hold(a, began, at(e));
  };
  a.strip.onpointerup = a.strip.onpointercancel = e => {
    a.strip.onpointermove = a.strip.onpointerup = a.strip.onpointercancel = null;
    if (still(e) && which < 0 && !whole) hold(a, a.bottom, 1);
  };
}

// ------------------------------------------------------------------------------------------------ what the mouse points at

/** How far a curve with level ends has risen at t of its way: its x is 1.5 u (1 - u)^2 + 1.5 u^2 (1 - u) + u^3, solved by halving. */
function risen(t) {
  if (size > MOST_CURVED) return t;
  let low = 0, high = 1;
  for (let k = 0; k < 20; k++) {
    const u = (low + high) / 2;
    if (1.5 * u * (1 - u) ** 2 + 1.5 * u * u * (1 - u) + u ** 3 < t) low = u; else high = u;
  }
  return 3 * low ** 2 - 2 * low ** 3;
}
/** The selected trial whose line is nearest to the mouse, -1 where none is near. */
function nearest(event) {
  const box = plane.getBoundingClientRect(), x = event.clientX - box.left, at = event.clientY - box.top, k = xs.findIndex(v => v > x);
  if (k < 1) return -1;
  const t = risen((x - xs[k - 1]) / (xs[k] - xs[k - 1]));
  let best = -1, least = 9;
  for (const i of selected) {
    const away = Math.abs(y(axes[k - 1].drawn[i] * (1 - t) + axes[k].drawn[i] * t) - at);
    if (away < least) [best, least] = [i, away];
  }
  return best;
}
/** Shows a trial in coordinates, curves and table at once; with a note at the mouse where that is over the coordinates. */
function hover(i, event) {
  if (i !== hovered) {
    hovered = i;
    strokeOne(over, trace, i);
    if (curves) strokeOne(curveOver, traceCurve, i);
    for (const row of $("table").tBodies[0].rows) row.classList.toggle("on", Number(row.dataset.trial) === i);
  }
  const tip = $("tip");
  tip.hidden = i < 0 || !event;
  if (tip.hidden) return;
  tip.textContent = `${trials[i]}  ${metric.label} ${shown(metric, i)}`;
  const box = plane.getBoundingClientRect(), x = event.clientX - box.left;
  tip.style.left = `${Math.max(0, x > box.width / 2 ? x - tip.offsetWidth - 12 : x + 12)}px`;
  tip.style.top = `${event.clientY - box.top + 12}px`;
}
