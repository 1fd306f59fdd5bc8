// The ranking as a table: headings that sort, and as many rows as a reader looks at.

const FIRST_ROWS = 50;
const HEADINGS = {
  rank: "Rank",
  name: "Method",
  ddrs: "DDRS",
  ior: "IOR",
  hlr: "HLR",
  ars: "ARS",
  accuracy: "Accuracy",
  places: "Ranks",
  first: "First",
  n: "Seeds",
};

function drawHead(onSort) {
  const cells = COLUMNS.map((column) => {
    const button = element("button", { type: "button" }, HEADINGS[column]);
    button.addEventListener("click", () => onSort(column));
    return element("th", { scope: "col", class: column, "data-column": column }, button);
  });
  document.getElementById("head").replaceChildren(...cells);
}

function drawTable(shown, onSelect) {
  for (const cell of document.getElementById("head").children) {
    const chosen = cell.dataset.column === state.column;
    if (chosen) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const selected = shown.findIndex((row) => row.id === state.selected);
  const until = state.all ? shown.length : Math.max(FIRST_ROWS, selected + 1);
  const made = [];
  for (const row of shown.slice(0, until)) {
    made.push(drawRow(row, onSelect));
    if (row.id === state.selected) made.push(drawEntry(row));
  }
  if (!made.length) {
    const none = element("td", { colspan: COLUMNS.length, class: "none" }, "No entry fits the filters.");
    made.push(element("tr", {}, none));
  }
  document.getElementById("body").replaceChildren(...made);
  const more = document.getElementById("more");
  more.hidden = shown.length <= until;
  more.textContent = `Show all ${shown.length.toLocaleString("en-GB")}`;
}

function drawRow(row, onSelect) {
  const open = row.id === state.selected;
  const { entry, surety } = row;
  const button = element(
    "button",
    { type: "button", "aria-expanded": String(open), "aria-controls": open ? "entry" : null },
    element("span", { class: "swatch", "data-colour": row.id % COLOURS }),
    element("span", {}, entry.name),
  );
  button.addEventListener("click", () => onSelect(open ? null : row.id));
  const places = surety ? (surety.low === surety.high ? `${surety.low}` : `${surety.low}–${surety.high}`) : "·";
  const tie = element("abbr", { title: "the seeds do not tell it apart from the first" }, " =");
  return element(
    "tr",
    { "data-id": row.id, class: open ? "selected" : null },
    element("td", { class: "rank" }, String(row.rank)),
    element("th", { scope: "row", class: "name" }, button, element("small", {}, `${entry.labels} labels`)),
    ...SCORES.map((score) => scoreCell(row[score], score)),
    element(
      "td",
      { class: "accuracy" },
      best(row.accuracy, number(row.accuracy.mean) + (entry.arms.syn_any.reference ? "*" : "")),
      element("small", {}, `rank ${row.plain}`),
    ),
    element("td", { class: "places" }, places, surety?.tied ? tie : ""),
    element("td", { class: "first" }, surety ? (surety.first === null ? "–" : number(surety.first, 2)) : "·"),
    element("td", { class: "n" }, String(entry.seeds.length)),
  );
}

function scoreCell(found, score) {
  if (!found) return element("td", { class: score }, "–");
  const spread = found.n > 1 ? element("span", { class: "spread" }, ` ± ${number(found.std)}`) : "";
  return element(
    "td",
    { class: score },
    element("span", { class: "mean" }, best(found, number(found.mean)), spread),
    found.interval ? element("small", {}, span(found.interval)) : "",
  );
}

function best(found, text) {
  return found.best ? element("strong", {}, text) : text;
}
