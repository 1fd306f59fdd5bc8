// Ties it together: what the reader does changes the state, and the state is drawn.

let rows = [];
let hovered = null; // the id of an entry that the pointer is on
let pending = null; // the frame in which the charts are drawn
let spoken = null;

const byId = (id) => document.getElementById(id);
const on = {
  select: (id) => {
    change({ selected: id });
    drawAll();
  },
  hover: (id, event) => {
    showTooltip(id, event);
    if (id === hovered) return;
    hovered = id;
    for (const row of byId("body").querySelectorAll("tr[data-id]")) {
      row.classList.toggle("hovered", row.dataset.id === String(id));
    }
    soon();
  },
};

function drawAll() {
  drawFilters();
  drawWeights();
  rank();
}

/** What depends on the weights: everything below the controls. */
function rank() {
  rows = ranking(state.group, state.w, state.g, quantiles);
  drawRanking();
  drawArchitectures();
}

/** What the filters hide from: the table and the charts. */
function drawRanking() {
  const shown = arranged(rows);
  drawTable(shown, select);
  byId("title").textContent = titleOf(state.group);
  const hidden = rows.length - shown.length;
  byId("summary").textContent =
    `${count(rows.length, "entry", "entries")}, DDRS at w = ${short(state.w)}, ARS at g = ${short(state.g)}.` +
    (hidden ? ` ${shown.length} shown; ranks are those among all ${rows.length}.` : "");
  drawSurety();
  drawTau();
  soon();
}

function drawSurety() {
  const weights = state.group.surety.map((one) => one.w);
  const said = byId("surety");
  if (weights.includes(state.w)) {
    said.textContent = "Ranks: 95 % interval of the rank; =: the seeds do not tell it apart from the first.";
    return;
  }
  const where = weights.length > 1 ? `every ${short(content.step)} of w` : `w = ${short(weights[0])}`;
  const nearby = weights.reduce((best, w) => (Math.abs(w - state.w) < Math.abs(best - state.w) ? w : best));
  const button = element("button", { type: "button" }, `see w = ${short(nearby)}`);
  button.addEventListener("click", () => setWeights({ w: nearby }));
  said.replaceChildren(
    `Intervals of ranks and the chance of being first are known at ${where}, and not shown at another: `,
    button,
  );
}

function drawTau() {
  const place = Math.round(state.w * 100);
  const tau = state.group.tau[place];
  byId("tau").textContent =
    tau === null
      ? ""
      : `Kendall's tau between the two is ${number(tau, 2)} at w = ${short(place / 100)} (1: the same order).`;
}

function soon() {
  pending ??= requestAnimationFrame(() => {
    pending = null;
    drawCharts(rows, fitting(rows), on);
  });
}

function select(id) {
  const active = document.activeElement?.closest?.("tr[data-id]")?.dataset.id;
  on.select(id);
  if (active === undefined) return;
  byId("body").querySelector(`tr[data-id="${active}"] button`)?.focus({ preventScroll: true });
}

// --- controls ---

function drawFilters() {
  let among = content.groups;
  for (const field of FIELDS) {
    options(byId(field), [...new Set(among.map((group) => fieldOf(group, field)))], fieldOf(state.group, field));
    among = among.filter((group) => fieldOf(group, field) === fieldOf(state.group, field));
  }
  const labels = [...new Set(state.group.entries.map((entry) => entry.labels))].sort();
  if (!labels.includes(state.labels)) state.labels = "";
  options(byId("labels"), ["", ...labels], state.labels);
  if (byId("find").value !== state.find) byId("find").value = state.find;
}

function options(select, values, chosen) {
  const names = (value) => value || "all";
  select.replaceChildren(
    ...values.map((value) => element("option", { value, selected: value === chosen }, names(value))),
  );
  select.disabled = values.length < 2;
}

function drawWeights() {
  for (const name of ["w", "g"]) {
    for (const input of [byId(name), byId(`${name}-exact`)]) {
      if (input !== document.activeElement || Number(input.value) !== state[name]) input.value = state[name];
    }
  }
}

function listenToControls() {
  for (const field of FIELDS) {
    byId(field).addEventListener("change", () => {
      const wanted = Object.fromEntries(FIELDS.map((other) => [other, byId(other).value]));
      const fits = content.groups.filter((group) => fieldOf(group, field) === wanted[field]);
      const group = nearest(wanted, fits);
      const name = state.selected === null ? null : state.group.entries[state.selected].name;
      const selected = group.entries.findIndex((entry) => entry.name === name);
      hovered = null;
      change({ group, selected: selected < 0 ? null : selected, all: false });
      drawAll();
      speak();
    });
  }
  byId("labels").addEventListener("change", (event) => {
    change({ labels: event.target.value });
    drawRanking();
    speak();
  });
  byId("find").addEventListener("input", (event) => {
    change({ find: event.target.value }, false);
    drawRanking();
    speak();
  });
  for (const name of ["w", "g"]) {
    for (const input of [byId(name), byId(`${name}-exact`)]) {
      input.addEventListener("input", () => {
        const value = weight(input.value, null);
        if (value === null || value === state[name]) return;
        change({ [name]: value }, false);
        drawWeights();
        rank();
        speak();
      });
    }
    byId(name).addEventListener("pointerup", flushAddress); // not on change: a held key changes at every repeat
    byId(`${name}-exact`).addEventListener("blur", drawWeights);
  }
  byId("reset").addEventListener("click", () => setWeights({ w: content.w, g: content.g }));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    state.all = true;
    drawRanking();
  });
}

function setWeights(weights) {
  change(weights);
  drawAll();
  speak();
}

function sort(column) {
  const first = DESCENDING.includes(column);
  change({ column, descending: state.column === column ? !state.descending : first });
  drawRanking();
  speak(`Sorted by ${HEADINGS[column]}, ${state.descending ? "descending" : "ascending"}. `);
}

/** Tell a screen reader what has changed, once the reader's hand is still. */
function speak(before = "") {
  clearTimeout(spoken);
  spoken = setTimeout(() => {
    const shown = arranged(rows);
    const [top] = rows;
    byId("announcement").textContent =
      `${before}${count(shown.length, "entry", "entries")}. At w = ${short(state.w)}, first is ${top.entry.name} ` +
      `with DDRS ${number(top.ddrs.mean)}.`;
  }, 500);
}

// --- pointer ---

function showTooltip(id, event) {
  const tooltip = byId("tooltip");
  const row = id === null ? null : rows.find((one) => one.id === id);
  tooltip.hidden = !row;
  if (!row) return;
  const line = (score) => {
    const value = `${number(row[score].mean)} ${span(row[score].interval)}`;
    return element("div", {}, element("span", {}, HEADINGS[score]), element("span", {}, value));
  };
  tooltip.replaceChildren(
    element("strong", {}, `${row.rank}. ${row.entry.name}`),
    ...["ddrs", "ior", "hlr", "accuracy"].map(line),
  );
  const { offsetWidth, offsetHeight } = tooltip;
  const [x, y] = [event.clientX + 14, event.clientY + 14];
  tooltip.style.left = `${Math.max(4, Math.min(x, innerWidth - offsetWidth - 4))}px`;
  tooltip.style.top = `${y + offsetHeight > innerHeight ? event.clientY - offsetHeight - 10 : y}px`;
}

function listenToPointer() {
  const body = byId("body");
  body.addEventListener("pointerover", (event) => {
    const id = event.target.closest("tr[data-id]")?.dataset.id;
    if (id === undefined || Number(id) === hovered) return;
    hovered = Number(id);
    soon();
  });
  body.addEventListener("pointerleave", () => {
    hovered = null;
    soon();
  });
}

// --- what does not change ---

function drawNotes() {
  const { notes, set_apart: apart, left_out: leftOut = [] } = content;
  const sentences = [...notes, ...leftOut, ...apart.map((one) => `Set apart, not ranked: ${one.why}`)];
  byId("notes").hidden = !sentences.length;
  byId("notes").querySelector("ul").replaceChildren(...sentences.map((sentence) => element("li", {}, sentence)));
  byId("version").textContent = content.version;
  const entries = content.groups.reduce((sum, group) => sum + group.entries.length, 0);
  const comparisons = count(content.groups.length, "comparison");
  byId("counts").textContent = `${count(entries, "entry", "entries")} in ${comparisons}.`;
}

function follow() {
  forgetAddress();
  if (location.hash === written() || /^#\w+$/.test(location.hash)) return; // the latter: a link within the page
  Object.assign(state, read(location.hash));
  hovered = null;
  drawAll();
}

drawNotes();
drawHead(sort);
listenToControls();
listenToPointer();
drawAll();
addEventListener("popstate", follow);
addEventListener("hashchange", follow);
addEventListener("pagehide", flushAddress);
addEventListener("load", soon);
new ResizeObserver(soon).observe(document.querySelector("main"));
