// Canvases and colours. What is selected, what is not and what the mouse points at have a canvas each, so that the last is redrawn alone.
const dark = matchMedia("(prefers-color-scheme: dark)");
/** Cividis, which everybody sees alike, from the worst to the best, away from the lightness of the paper. */
const RAMPS = {
  light: ["#e8d36a", "#a69d75", "#66696f", "#2d4373", "#00204d"],
  dark: ["#33446a", "#5f6572", "#8a8678", "#c6b76a", "#ffea46"],
};
const SHADES = 24;
let look = {};

function chooseColours() {
  const style = getComputedStyle(document.documentElement);
  look = Object.fromEntries(["ink", "muted", "line", "top"].map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
  const ramp = RAMPS[dark.matches ? "dark" : "light"].map(hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16)));
  look.shades = Array.from({ length: SHADES }, (_, k) => {
    const x = k / (SHADES - 1) * (ramp.length - 1), j = Math.min(ramp.length - 2, Math.floor(x));
    return `rgb(${ramp[j].map((v, channel) => Math.round(v + (x - j) * (ramp[j + 1][channel] - v)))})`;
  });
}
/** From 0 for the worst to SHADES - 1 for the best. */
const shade = i => known(i) && valued > 1 ? Math.round((1 - i / (valued - 1)) * (SHADES - 1)) : known(i) ? SHADES - 1 : 0;

function addCanvas(parent) {
  const made = parent.appendChild(make("canvas"));
  made.setAttribute("aria-hidden", "true");
  return made;
}
/** Sets the size in the page's pixels; a canvas of more than 8,192 of the screen's is more than browsers like. */
function resize(made, width, height) {
  const ratio = Math.min(devicePixelRatio || 1, 8192 / width);
  Object.assign(made, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(made.style, { width: `${width}px`, height: `${height}px` });
  made.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
}
function wipe(made) {
  const g = made.getContext("2d");
  g.save();
  g.setTransform(1, 0, 0, 1, 0, 0);
  g.clearRect(0, 0, made.width, made.height);
  g.restore();
  return g;
}
/** Draws trials in the colours of their ranks, the worst first, and the best of them last, in the accent's colour. */
function stroke(g, some, trace, alpha) {
  g.lineWidth = 1;
  g.globalAlpha = alpha;
  for (let k = some.length - 1; k >= 0;) {
    const colour = shade(some[k]);
    g.beginPath();
    for (let n = 0; n < 8 && k >= 0 && shade(some[k]) === colour; n++, k--) if (k >= TOP || !known(some[k])) trace(g, some[k]);
    g.strokeStyle = look.shades[colour];
    g.stroke();
  }
  g.beginPath();
  for (const i of some.slice(0, TOP).reverse()) if (known(i)) trace(g, i);
  Object.assign(g, { strokeStyle: look.top, globalAlpha: .95, lineWidth: 1.7 });
  g.stroke();
}
/** Draws one trial over all others; none for -1. */
function strokeOne(made, trace, i) {
  const g = wipe(made);
  if (i < 0) return;
  g.beginPath();
  trace(g, i);
  Object.assign(g, { strokeStyle: look.ink, lineWidth: 3 });
  g.stroke();
}
