// The table of the selected trials, the card of one of them, and the CSV file.
const MOST_ROWS = 500, ROWS_AT_ONCE = 60;
let sort = { column: metric, down: DATA.mode === "max" };
let listed = [];               // the trials that the table has room for, in its order
const rowsOf = () => $("table").tBodies[0].rows;

function fillHead() {
  const heads = columns.map(c => c.head = make("th", { scope: "col", className: c.kind }, make("button", {
    type: "button", textContent: c.label, onclick: () => {
      sort = { column: c, down: sort.column === c ? !sort.down : c === metric && DATA.mode === "max" };
      fillTable();
    },
  })));
  const boxes = columns.map(c => {
    c.box = make("input", { type: "text", spellcheck: false, autocomplete: "off", placeholder: c === columns[0] ? "filter" : "" });
    c.box.setAttribute("aria-label", `filter ${c.label}`);
    c.box.oninput = () => {
      if (c.box.value.trim()) filters.set(c, c.box.value); else filters.delete(c);
      if (question(c, c.box.value) === undefined) c.box.setAttribute("aria-invalid", "true"); else c.box.removeAttribute("aria-invalid");
      select();
    };
    return make("td", {}, c.box);
  });
  $("table").tHead.replaceChildren(make("tr", {}, ...heads), make("tr", { className: "filters" }, ...boxes));
}
function fillTable() {
  const values = sort.column.values, turn = sort.down ? -1 : 1;
  const order = [...selected].sort((a, b) => {
    const p = values[a], q = values[b];
    if (p === null || q === null) return (p === null) - (q === null) || a - b;  // what has no value is last, however it is sorted
    return (p < q ? -1 : p > q ? 1 : 0) * turn || a - b;
  });
  for (const c of columns) c.head.removeAttribute("aria-sort");
  sort.column.head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
  listed = order.slice(0, MOST_ROWS);
  $("table").tBodies[0].replaceChildren();
  $("tablebox").scrollTop = 0;
  addRows();
  $("more").textContent = !order.length ? "No trial passes all filters and brushes." : order.length <= MOST_ROWS ? ""
    : `The first ${MOST_ROWS} of ${count(order.length)} selected trials; filter or brush to see others.`;
}
/** Adds rows at the end of the table; cells cost more than lines, so they come as they are scrolled to. */
function addRows() {
  const first = rowsOf().length;
  $("table").tBodies[0].append(...listed.slice(first, first + ROWS_AT_ONCE).map(i => {
    const name = make("td", {}, make("button", { type: "button", textContent: trials[i] }));
    const cells = columns.slice(1).map(c => make("td", { className: c.kind, textContent: shown(c, i) }));
    const row = make("tr", { className: i === pinned ? "pinned" : "" }, name, ...cells);
    row.dataset.trial = i;
    return row;
  }));
}

/** Shows one trial whole, with the command that trains it again. */
function pin(i) {
  pinned = i;
  const facts = columns.slice(1).map(c => [c.label, shown(c, i)]).filter(([, text]) => text && text !== "–");
  const command = /^[\w.-]+$/.test(trials[i]) ? DATA.commands[DATA.command[i]].replaceAll("TRIAL", trials[i]) : "";
  const place = known(i) && size === DATA.total ? `, ${i + 1} of ${valued} by ${metric.label}` : "";
  $("trial").replaceChildren(
    make("h3", { textContent: `Trial ${trials[i]}${place}` }),
    make("dl", {}, ...facts.map(([name, text]) => make("div", { className: name.length + text.length > 26 ? "long" : "" },
      make("dt", { textContent: name }), make("dd", { textContent: text })))),
    ...command ? [
      make("p", { className: "hint", textContent: "This trains it again, from the folder that the report was written in:" }),
      make("div", { className: "code" }, copier("Copy", () => command), make("pre", { textContent: command, tabIndex: 0, id: "command" })),
    ] : []);
  for (const row of rowsOf()) row.classList.toggle("pinned", Number(row.dataset.trial) === i);
}
function copier(label, text) {
  const button = make("button", { type: "button", className: "copy", textContent: label });
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(text()); } catch { copyByHand(text()); }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  };
  return button;
}
/** Copies where the browser does not let a page at its clipboard. */
function copyByHand(text) {
  const area = document.body.appendChild(make("textarea", { value: text }));
  area.select();
  document.execCommand("copy");
  area.remove();
}
/** Saves the selected trials, with the names and units of trials.parquet: shares are fractions there. */
function download() {
  const quote = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const exact = (c, v) => String(c.percent ? Number((v / 100).toPrecision(5)) : v);
  const cell = (c, v) => v === null ? "" : c.kind === "choice" ? c.choices[v] : exact(c, v);
  const lines = [columns.map(c => quote(c.name)), ...selected.map(i => columns.map(c => quote(cell(c, c.values[i]))))];
  const address = URL.createObjectURL(new Blob([lines.map(line => `${line.join()}\r\n`).join("")], { type: "text/csv" }));
  make("a", { href: address, download: `${DATA.study.replace(/[^\w.-]+/g, "_")}_trials.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
