// The learning curves of the selected trials; rows.py writes them, two letters for each point.
const MOST_CURVES = 200;
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const STEPS = 4000, HEIGHTS = { 4001: -.2, 4002: 1.2, 4095: NaN };  // below the axis, above it, no value
let curveBack, curveOver, room = {};

const decoded = new Map();
/** [epoch, height from 0 to 1] of the points of a trial. */
function points(i) {
  if (!decoded.has(i)) {
    const text = curves.points[i], n = text.length / 2, last = curves.epochs[i];
    decoded.set(i, Array.from({ length: n }, (_, k) => {
      const v = LETTERS.indexOf(text[2 * k]) * 64 + LETTERS.indexOf(text[2 * k + 1]);
      const epoch = n === last ? k : Math.floor((2 * k * (last - 1) + n - 1) / (2 * (n - 1)));
      return [1 + epoch, v in HEIGHTS ? HEIGHTS[v] : v / STEPS];
    }));
  }
  return decoded.get(i);
}
const across = epoch => room.left + (room.last > 1 ? (epoch - 1) / (room.last - 1) : .5) * room.width;
const down = p => room.top + (1 - p) * room.height;

function traceCurve(g, i) {
  let drawing = false;
  for (const [epoch, p] of points(i)) {
    if (isFinite(p) && drawing) g.lineTo(across(epoch), down(p));
    else if (isFinite(p)) { g.moveTo(across(epoch), down(p)); g.lineTo(across(epoch) + .5, down(p)); }
    drawing = isFinite(p);
  }
}
function drawCurves() {
  if (!curves) return;
  const width = $("curvesbox").clientWidth, height = $("curvesbox").clientHeight;
  for (const layer of [curveBack, curveOver]) resize(layer, width, height);
  const some = selected.filter(i => curves.epochs[i]), drawn = some.slice(0, MOST_CURVES), g = curveBack.getContext("2d");
  room = { left: 42, top: 8, width: width - 52, height: height - 46, last: Math.max(1, ...drawn.map(i => curves.epochs[i])) };
  drawFrame(g);
  for (const layer of [g, curveOver.getContext("2d")]) {
    layer.beginPath();
    layer.rect(room.left, room.top, room.width, room.height);
    layer.clip();
  }
  stroke(g, drawn, traceCurve, Math.max(.35, Math.min(.9, 12 / Math.sqrt(drawn.length + 1))));
  const which = drawn.length < some.length ? `The best ${drawn.length} of ${count(some.length)} selected trials`
    : `${some.length} selected ${some.length === 1 ? "trial" : "trials"}`;
  const thin = drawn.some(i => curves.points[i].length < 2 * curves.epochs[i]) ? "; some epochs of each" : "";
  $("curvesnote").textContent = `${curves.label} over epochs. ${which}, coloured as above${thin}.`;
}
function drawFrame(g) {
  Object.assign(g, { font: "11px system-ui, sans-serif", fillStyle: look.muted, strokeStyle: look.line, textAlign: "right",
                     textBaseline: "middle" });
  for (const v of ticks(curves.low, curves.high, false)) {
    const at = down((v - curves.low) / (curves.high - curves.low));
    g.beginPath();
    g.moveTo(room.left, at);
    g.lineTo(room.left + room.width, at);
    g.stroke();
    g.fillText(short(v, false), room.left - 6, at);
  }
  Object.assign(g, { textAlign: "center", textBaseline: "top" });
  for (const v of ticks(1, Math.max(2, room.last), false))
    if (v >= 1 && v <= room.last && Number.isInteger(v)) g.fillText(String(v), across(v), room.top + room.height + 6);
  g.fillText("epoch", room.left + room.width / 2, room.top + room.height + 22);
}
