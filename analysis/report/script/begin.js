// Puts the interactive parts into the page. Until here it has its pictures and a plain table, as it keeps them without a script.
for (const button of document.querySelectorAll("[data-copy]"))
  button.replaceWith(copier(button.textContent, () => $(button.dataset.copy).textContent));
$("explore").hidden = false;
$("toplabel").textContent = TOP > 1 ? `best ${TOP} of what is selected` : "best of what is selected";
$("clear").onclick = clearAll;
$("csv").onclick = download;

chooseColours();
plane = $("coordinates").appendChild(make("div", { className: "plane" }));
[back, front, over] = [0, 1, 2].map(() => addCanvas(plane));
axes.forEach(addAxis);
plane.append(make("div", { className: "tip", id: "tip", hidden: true }));
plane.onpointermove = event => { if (!event.buttons) hover(event.target === plane ? nearest(event) : -1, event); };
plane.onpointerleave = () => hover(-1);
plane.onclick = event => { if (event.target === plane && hovered >= 0) pin(hovered); };
if (curves) [curveBack, curveOver] = [0, 1].map(() => addCanvas($("curvesbox")));
else $("curves").hidden = true;

const body = $("table").tBodies[0], box = $("tablebox"), trialAt = event => Number(event.target.closest("tr")?.dataset.trial ?? -1);
fillHead();
body.onpointerover = event => hover(trialAt(event));
body.onpointerleave = () => hover(-1);
body.addEventListener("focusin", event => hover(trialAt(event)));
body.addEventListener("focusout", () => hover(-1));
body.onclick = event => { if (trialAt(event) >= 0) pin(trialAt(event)); };
box.onscroll = () => { if (box.scrollTop + 2 * box.clientHeight > box.scrollHeight && rowsOf().length < listed.length) addRows(); };

pin(0);
select();
layOut();
fillTable();
drawCurves();
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return;  // a phone's bars that come and go change the height only
  wide = innerWidth;
  layOut();
  drawCurves();
});
addEventListener("beforeprint", () => { while (rowsOf().length < Math.min(100, listed.length)) addRows(); });
dark.addEventListener("change", () => {
  chooseColours();
  drawBack();
  drawLines();
  drawCurves();
});
