// What the reader has chosen. It lives in the address, so that a view can be shared.

const content = JSON.parse(document.getElementById("content").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const { quantiles } = content;
const FIELDS = ["dataset", "ipc", "model", "protocol"]; // with the variant, they name a group
const COLUMNS = ["rank", "name", "ddrs", "ior", "hlr", "ars", "accuracy", "places", "first", "n"];
const DESCENDING = ["ddrs", "ior", "ars", "accuracy", "first", "n"]; // where the best or most comes first
const STILL = 300; // ms without a change after which the address is written: browsers limit how often it may be
const state = read(location.hash);
let unwritten = null; // the timer that will write the address

/** The protocol as it is chosen: with what sets this group apart from others of the same title. */
function protocolOf(group) {
  return group.variant ? `${group.protocol} (${group.variant})` : group.protocol;
}

function fieldOf(group, field) {
  return field === "protocol" ? protocolOf(group) : String(group[field]);
}

function titleOf(group) {
  return `${group.dataset}, IPC ${group.ipc}, ${group.model}, protocol ${protocolOf(group)}`;
}

/** The group that agrees with `wanted` in the most fields, the first ones counting most. */
function nearest(wanted, groups = content.groups) {
  const agrees = (group, field) => Number(fieldOf(group, field) === wanted[field]);
  const value = (group) => FIELDS.reduce((sum, field) => 2 * sum + agrees(group, field), 0);
  return groups.reduce((best, group) => (value(group) > value(best) ? group : best));
}

function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const group = nearest(Object.fromEntries(given));
  const sort = given.get("sort") ?? "rank";
  const column = sort.replace(/^-/, "");
  const id = group.entries.findIndex((entry) => entry.name === given.get("entry"));
  return {
    group,
    labels: given.get("labels") ?? "",
    find: given.get("find") ?? "",
    w: weight(given.get("w"), content.w),
    g: weight(given.get("g"), content.g),
    column: COLUMNS.includes(column) ? column : "rank",
    descending: COLUMNS.includes(column) && sort.startsWith("-"),
    selected: id < 0 ? null : id,
    all: false,
  };
}

function weight(text, otherwise) {
  const value = Number.parseFloat(text);
  return value >= 0 && value <= 1 ? value : otherwise;
}

function written() {
  const { group, labels, find, w, g, column, descending, selected } = state;
  const fields = Object.fromEntries(FIELDS.map((field) => [field, fieldOf(group, field)]));
  const told = new URLSearchParams({ ...fields, w, g });
  if (labels) told.set("labels", labels);
  if (find) told.set("find", find);
  if (column !== "rank" || descending) told.set("sort", (descending ? "-" : "") + column);
  if (selected !== null) told.set("entry", group.entries[selected].name);
  return `#${told}`;
}

/** Change the state: a new step in the history, or the present one anew (while a slider moves), once that is still. */
function change(changes, step = true) {
  if (step) flushAddress();
  Object.assign(state, changes);
  if (step) return writeAddress("pushState");
  clearTimeout(unwritten);
  unwritten = setTimeout(flushAddress, STILL);
}

/** Write now what waits to be written. */
function flushAddress() {
  if (unwritten === null) return;
  forgetAddress();
  writeAddress("replaceState");
}

function forgetAddress() {
  clearTimeout(unwritten);
  unwritten = null;
}

function writeAddress(how) {
  const address = written();
  if (address === location.hash) return;
  try {
    history[how](null, "", address);
  } catch {
    // A browser that refuses (Safari, after 100 in a while) leaves the address behind until the next change.
  }
}

/** Rows that fit the filters, in the order given. */
function fitting(rows) {
  const words = state.find.trim().toLowerCase();
  return rows
    .filter((row) => !state.labels || row.entry.labels === state.labels)
    .filter((row) => !words || row.entry.name.toLowerCase().includes(words));
}

/** Rows as the table shows them: those that fit the filters, in the chosen order. */
function arranged(rows) {
  const value = {
    rank: (row) => row.rank,
    name: (row) => row.entry.name.toLowerCase(),
    places: (row) => row.surety && row.surety.low * 1e6 + row.surety.high,
    first: (row) => row.surety?.first,
    n: (row) => row.entry.seeds.length,
  };
  const of = value[state.column] ?? ((row) => row[state.column]?.mean);
  const sign = state.descending ? -1 : 1;
  return fitting(rows)
    .map((row) => [of(row) ?? null, row])
    .sort(([one], [other]) => (one === null) - (other === null) || sign * inOrder(one, other)) // what lacks comes last
    .map(([, row]) => row);
}
