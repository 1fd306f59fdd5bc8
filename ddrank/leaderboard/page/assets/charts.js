// The charts, drawn by Vega-Lite. Colours are the style's variables, so that dark mode and print need no other charts.

const COLOURS = 8; // --s0 to --s7
const SHAPES = [
  ...["circle", "square", "triangle-up", "diamond"],
  ...["triangle-down", "cross", "triangle-right", "triangle-left"],
];
const MOST_NAMED = 16; // entries that have a colour and a name; the best come first
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const NAME = { type: "text", cursor: "pointer", fontWeight: { expr: "datum.chosen ? 'bold' : 'normal'" } };
const views = {}; // by chart: what it was drawn for, and its Vega view

const CONFIG = {
  background: null,
  font: FONT,
  aria: false, // the element around it says what it is
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)",
    titleColor: "var(--soft)",
    titleFontWeight: "normal",
    titleFontSize: 12,
    labelFontSize: 11,
    domainColor: "var(--line)",
    tickColor: "var(--line)",
    grid: false,
    tickSize: 4,
  },
  text: { color: "var(--ink)", fontSize: 11.5 },
  rule: { color: "var(--soft)" },
};

/** Draw every chart for those `shown` of all `rows` (best first), or bring what is drawn up to date. */
function drawCharts(rows, shown, on) {
  if (!window.vegaEmbed) return;
  const figures = { bump: rows.length > 1 && shown.length > 0, arms: shown.length > 0 };
  for (const [name, drawn] of Object.entries(figures)) document.getElementById(`${name}-figure`).hidden = !drawn;
  const named = leading(shown, MOST_NAMED);
  draw("plane", planeSpec, planeData(rows, shown, named), on);
  say("plane", planeExtent(rows, shown, named));
  if (figures.bump) draw("bump", bumpSpec, bumpData(named), on);
  say("bump", bumpExtent(rows, shown, named));
  const barred = leading(shown, mostBars());
  if (figures.arms) draw("arms", armsSpec, armsData(barred), on);
  say("arms", extent(rows, shown, barred));
}

/** The first `most` of `rows`, and the selected one. */
function leading(rows, most) {
  return rows.filter((row, place) => place < most || row.id === state.selected);
}

/** Which of `rows` a chart shows, as a sentence: those `drawn` of the `shown`; nothing where it shows them all. */
function extent(rows, shown, drawn, what = "Shown") {
  const filtered = shown.length < rows.length;
  if (drawn.length === shown.length) {
    return filtered ? `Shown: those that fit the filters, ${shown.length} of ${rows.length}.` : "";
  }
  const apart = drawn.at(-1) !== shown[drawn.length - 1]; // selected, and not among the best
  const among = filtered ? `the ${shown.length} that fit the filters` : shown.length;
  return `${what}: the best ${drawn.length - apart} of ${among}${apart ? ", and the selected one" : ""}.`;
}

function say(name, sentence) {
  document.getElementById(`${name}-extent`).textContent = sentence;
}

/** `frame` is what the chart is built for; `sets` change while it stays. */
function draw(name, spec, { frame, sets }, on) {
  const place = document.getElementById(name);
  const width = Math.floor(place.clientWidth);
  if (!width) return;
  const drawnFor = JSON.stringify([width, frame]);
  const known = views[name];
  if (known?.drawnFor === drawnFor) {
    known.sets = sets;
    if (known.view) update(known);
    return;
  }
  known?.view?.finalize();
  const made = { drawnFor, sets, drawn: {}, view: null };
  views[name] = made;
  const options = { ast: true, actions: false, defaultStyle: false, renderer: "svg", tooltip: false, config: CONFIG };
  const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec(width, frame) };
  if (name === "plane") options.patch = withNames;
  const inside = element("div", { "aria-hidden": "true" });
  window.vegaEmbed(inside, full, options).then(({ view }) => {
    if (views[name] !== made) return view.finalize();
    made.view = view;
    place.replaceChildren(inside);
    listen(view, on);
    return update(made);
  });
}

/** Give the view what has changed, and let it draw if anything has. */
function update(known) {
  let changed = false;
  for (const [name, values] of Object.entries(known.sets)) {
    const before = known.drawn[name];
    const text = before?.values === values ? before.text : JSON.stringify(values);
    if (text !== before?.text) known.view.data(name, values);
    changed ||= text !== before?.text;
    known.drawn[name] = { values, text };
  }
  return changed && known.view.runAsync();
}

// The browser's own clicks are lost where the chart is drawn anew, and with it the mark, between press and release.
let pressed = null; // the id of the entry whose mark the pointer was pressed on
addEventListener("pointerdown", () => (pressed = null), true);

function listen(view, on) {
  const id = (item) => item?.datum?.id ?? item?.datum?.datum?.id ?? null;
  view.addEventListener("pointerdown", (event, item) => {
    pressed = event.button === 0 ? id(item) : null;
  });
  view.addEventListener("pointerup", (_, item) => pressed !== null && pressed === id(item) && on.select(pressed));
  view.addEventListener("pointermove", (event, item) => on.hover(id(item), event));
  view.addEventListener("pointerout", () => on.hover(null));
}

function marked(row) {
  const chosen = row.id === state.selected;
  return {
    id: row.id,
    colour: `var(--s${row.id % COLOURS})`,
    shape: SHAPES[row.id % SHAPES.length],
    chosen: Number(chosen),
    raised: Number(chosen || row.id === hovered),
    label: row.entry.name.length > 24 ? `${row.entry.name.slice(0, 23)}…` : row.entry.name,
  };
}

function coloured(field) {
  return { color: { field, type: "nominal", scale: null } };
}
