// The charts, drawn by Vega-Lite. Colours are the style's variables, so that dark mode and print need no other charts.

const COLOURS = 8; // --s0 to --s7
const SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"];
const MOST_NAMED = 16; // entries that have a colour and a name; the best come first
const MOST_BARS = 12;
const MOST_BARS_NARROW = 6; // where the arms stand one below the other
const NARROW = 520; // pixels
const LEFT = -0.16; // where plain accuracy stands, beside w in [0, 1]
const SWEEP = Array.from({ length: 11 }, (_, place) => place / 10);
const TENTHS = [0, 0.2, 0.4, 0.6, 0.8, 1];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
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

/** Draw every chart for `rows` (best first), or bring what is drawn up to date. */
function drawCharts(rows, on) {
  if (!window.vegaEmbed) return;
  const named = rows.filter((row, place) => place < MOST_NAMED || row.id === state.selected);
  draw("plane", planeSpec, planeData(rows, named), on);
  document.getElementById("bump-figure").hidden = rows.length < 2;
  if (rows.length > 1) draw("bump", bumpSpec, bumpData(rows, named), on);
  draw("arms", armsSpec, armsData(rows), on);
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

function listen(view, on) {
  const id = (item) => item?.datum?.id ?? item?.datum?.datum?.id ?? null;
  view.addEventListener("click", (_, item) => id(item) !== null && on.select(id(item)));
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

// --- IOR against HLR ---

function planeData(rows, named) {
  const [x, y] = ["hlr", "ior"].map((score) => domain(rows.map((row) => row[score])));
  const point = (row) => ({
    ...marked(row),
    hlr: row.hlr.mean,
    ior: row.ior.mean,
    hlrLow: (row.hlr.interval ?? [row.hlr.mean])[0],
    hlrHigh: (row.hlr.interval ?? [row.hlr.mean]).at(-1),
    iorLow: (row.ior.interval ?? [row.ior.mean])[0],
    iorHigh: (row.ior.interval ?? [row.ior.mean]).at(-1),
  });
  state.group.cloud ??= rows.map((row) => ({ id: row.id, hlr: row.hlr.mean, ior: row.ior.mean }));
  const sets = { lines: equalScores(x, y, state.w), cloud: state.group.cloud, points: named.map(point).reverse() };
  return { frame: { x, y }, sets };
}

function domain(statistics) {
  const all = statistics.flatMap((one) => [one.mean, ...(statistics.length > 3 * MOST_NAMED ? [] : one.interval ?? [])]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = Math.max(0.08 * (high - low), 0.01);
  return [low - margin, high + margin];
}

/** Lines w IOR - (1 - w) HLR = a within the frame, each with its DDRS. */
function equalScores([left, right], [bottom, top], w) {
  const score = (hlr, ior) => scaled(w * ior - (1 - w) * hlr);
  const [low, high] = [score(right, bottom), score(left, top)];
  const step = niceStep((high - low) / 8);
  const lines = [];
  for (let k = Math.ceil(low / step); k * step < high; k += 1) {
    const a = unscaled(k * step);
    const ends = [
      ...(w > 0 ? [left, right].map((x) => [x, (a + (1 - w) * x) / w]) : []),
      ...(w < 1 ? [bottom, top].map((y) => [(w * y - a) / (1 - w), y]) : []),
    ].filter(([x, y]) => x >= left - 1e-9 && x <= right + 1e-9 && y >= bottom - 1e-9 && y <= top + 1e-9);
    ends.sort(([x, y], [u, v]) => x - u || y - v);
    if (ends.length < 2) continue;
    const [[x, y], [u, v]] = [ends[0], ends.at(-1)];
    lines.push({ x, y, u, v, above: Number(u < right - 1e-9), level: short(k * step) });
  }
  return lines;
}

function niceStep(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  return power * [1, 2, 2.5, 5, 10].find((one) => one * power >= size);
}

function planeSpec(width, { x, y }) {
  const height = Math.round(Math.min(430, Math.max(300, width * 0.72)));
  const axis = { tickCount: 6, format: ".2~f" };
  const at = (field, range, title) => ({
    field,
    type: "quantitative",
    scale: { domain: range, nice: false, zero: false },
    axis: { ...axis, title },
  });
  const hlr = at("hlr", x, "HLR: what is lost to the full data");
  const ior = at("ior", y, "IOR: what is gained over random images");
  const [lineX, lineY] = [{ ...hlr, field: "x" }, { ...ior, field: "y" }];
  const bars = { type: "rule", strokeWidth: 1, opacity: 0.55, clip: true };
  return {
    width,
    height,
    padding: { left: 2, right: 30, top: 16, bottom: 2 },
    autosize: { type: "fit", contains: "padding" },
    layer: [
      {
        data: { name: "lines" },
        encoding: { x: lineX, y: lineY, x2: { field: "u" }, y2: { field: "v" } },
        mark: { type: "rule", color: "var(--line)" },
      },
      {
        data: { name: "lines" },
        encoding: { x: { ...hlr, field: "u" }, y: { ...ior, field: "v" }, text: { field: "level" } },
        mark: {
          type: "text",
          color: "var(--soft)",
          fontSize: 10,
          align: { expr: "datum.above ? 'center' : 'left'" },
          dx: { expr: "datum.above ? 0 : 4" },
          dy: { expr: "datum.above ? -7 : 0" },
        },
      },
      {
        data: { name: "cloud" },
        encoding: { x: hlr, y: ior },
        mark: { type: "point", filled: true, size: 14, color: "var(--soft)", opacity: 0.45, cursor: "pointer" },
      },
      {
        data: { name: "points" },
        encoding: { x: { ...hlr, field: "hlrLow" }, x2: { field: "hlrHigh" }, y: ior, ...coloured("colour") },
        mark: bars,
      },
      {
        data: { name: "points" },
        encoding: { x: hlr, y: { ...ior, field: "iorLow" }, y2: { field: "iorHigh" }, ...coloured("colour") },
        mark: bars,
      },
      {
        name: "named",
        data: { name: "points" },
        encoding: {
          x: hlr,
          y: ior,
          fill: { field: "colour", type: "nominal", scale: null },
          shape: { field: "shape", type: "nominal", scale: null },
          size: { condition: { test: "datum.raised", value: 170 }, value: 75 },
          stroke: { condition: { test: "datum.raised", value: "var(--ink)" }, value: "var(--paper)" },
        },
        mark: { type: "point", strokeWidth: 1.2, opacity: 1, cursor: "pointer" },
      },
    ],
  };
}

/** Names beside the points, where they cover neither points nor each other: Vega's label transform. */
function withNames(spec) {
  spec.marks.push({
    type: "text",
    from: { data: "named_marks" },
    encode: {
      enter: { font: { value: FONT }, fontSize: { value: 11.5 }, cursor: { value: "pointer" } },
      update: {
        text: { field: "datum.label" },
        fill: { value: "var(--ink)" },
        fontWeight: { signal: "datum.datum.chosen ? 'bold' : 'normal'" },
      },
    },
    transform: [
      {
        type: "label",
        size: [{ signal: "width" }, { signal: "height" }],
        offset: [5, 5, 5, 5, 12, 12, 12, 12],
        anchor: ["right", "left", "top-right", "bottom-right", "top-left", "bottom-left", "top", "bottom"],
      },
    ],
  });
  return spec;
}

function coloured(field) {
  return { color: { field, type: "nominal", scale: null } };
}

// --- ranks over w ---

/** Ranks by plain accuracy and at each w of SWEEP: (weights + 1, entries), computed once for a group. */
function swept(group) {
  group.swept ??= [
    group.entries.map((entry) => measured(entry, quantiles).accuracy.mean),
    ...SWEEP.map((w) => group.entries.map((entry) => mean(ddrsOf(entry, w, quantiles)))),
  ].map(ranked);
  return group.swept;
}

function bumpData(rows, named) {
  const shown = [...named].sort((one, other) => one.id - other.id);
  const all = swept(state.group);
  const lines = all.flatMap((ranks, step) => {
    const order = [...shown].sort((one, other) => ranks[one.id] - ranks[other.id] || one.id - other.id);
    return order.map((row, place) => ({
      ...marked(row),
      x: step ? SWEEP[step - 1] : LEFT,
      y: place + 1,
      rank: ranks[row.id],
      end: step === 0 ? "left" : step === all.length - 1 ? "right" : "",
    }));
  });
  const sets = {
    lines: lines.filter((one) => one.x >= 0),
    from: lines.filter((one) => one.x <= 0),
    dots: lines,
    left: lines.filter((one) => one.end === "left").map((one) => ({ ...one, text: `${one.label}  ${one.rank}` })),
    right: lines.filter((one) => one.end === "right").map((one) => ({ ...one, text: `${one.rank}  ${one.label}` })),
    weight: [{ w: state.w }],
  };
  return { frame: { rows: shown.length, longest: Math.max(...sets.right.map((one) => one.text.length)) }, sets };
}

function bumpSpec(width, { rows, longest }) {
  const names = Math.min(Math.round(longest * 6.8) + 16, Math.round(width * 0.36));
  const both = width > 460;
  const x = {
    field: "x",
    type: "quantitative",
    scale: { domain: [LEFT, 1], nice: false },
    axis: { values: TENTHS, format: "~g", title: "w: weight of IOR against HLR", domain: false },
  };
  const y = { field: "y", type: "quantitative", scale: { domain: [rows + 0.5, 0.5], nice: false, zero: false }, axis: null };
  const wide = { condition: { test: "datum.raised", value: 4 }, value: 2 };
  const detail = { field: "id", type: "nominal" };
  const words = { type: "text", limit: names - 8, cursor: "pointer", fontWeight: { expr: "datum.chosen ? 'bold' : 'normal'" } };
  return {
    autosize: "none",
    padding: { left: both ? names : 34, right: names, top: 26, bottom: 40 },
    width: width - names - (both ? names : 34),
    height: Math.max(rows * 24, 120),
    layer: [
      {
        data: { name: "weight" },
        encoding: { x: { ...x, field: "w" } },
        mark: { type: "rule", strokeDash: [2, 3], color: "var(--ink)" },
      },
      {
        data: { name: "from" },
        encoding: { x, y, detail, ...coloured("colour") },
        mark: { type: "line", strokeWidth: 1, opacity: 0.6, cursor: "pointer" },
      },
      {
        data: { name: "lines" },
        encoding: { x, y, detail, ...coloured("colour"), strokeWidth: wide },
        mark: { type: "line", cursor: "pointer" },
      },
      {
        data: { name: "dots" },
        encoding: {
          x,
          y,
          fill: { field: "colour", type: "nominal", scale: null },
          shape: { field: "shape", type: "nominal", scale: null },
          size: { condition: { test: "datum.raised", value: 90 }, value: 45 },
        },
        mark: { type: "point", stroke: "var(--paper)", strokeWidth: 0.8, opacity: 1, cursor: "pointer" },
      },
      {
        data: { name: "left" },
        encoding: { x, y, text: { field: both ? "text" : "rank" } },
        mark: { ...words, align: "right", dx: -10 },
      },
      { data: { name: "right" }, encoding: { x, y, text: { field: "text" } }, mark: { ...words, align: "left", dx: 10 } },
      {
        data: { values: [{ x: LEFT, text: "accuracy" }, { x: 0.5, text: "by DDRS" }] },
        encoding: { x, y: { value: -14 }, text: { field: "text" } },
        mark: { type: "text", color: "var(--soft)", fontSize: 11 },
      },
    ],
  };
}

// --- accuracies ---

function armsData(rows) {
  const most = document.getElementById("arms").clientWidth > NARROW ? MOST_BARS : MOST_BARS_NARROW;
  const shown = rows.filter((row, place) => place < most || row.id === state.selected);
  const known = content.arms.filter((arm) => shown.some((row) => row.entry.arms[arm]));
  const names = shown.map((row, place) => ({ ...marked(row), place: place + 1 }));
  const sets = { names };
  for (const arm of known) {
    sets[arm] = shown.flatMap((row, place) => {
      const own = row.entry.arms[arm];
      if (!own) return [];
      const { mean: middle, interval } = statistic(own.accuracy, quantiles);
      const [low, high] = (!own.reference && interval) || [middle, middle];
      const text = number(middle, 3).replace(/^0/, "") + (own.reference ? "*" : "");
      return { ...names[place], mean: middle, low, high, text };
    });
  }
  return { frame: { rows: shown.length, known, longest: Math.max(...names.map((one) => one.label.length)) }, sets };
}

function armsSpec(width, { rows, known, longest }) {
  const columns = width > 860 ? known.length : width > NARROW ? 3 : 1;
  const left = Math.min(Math.round(longest * 7) + 20, 170);
  const cell = Math.floor((width - left - 22 * (columns - 1) - 8) / columns);
  const height = rows * 20;
  const y = {
    field: "place",
    type: "ordinal",
    scale: { domain: Array.from({ length: rows }, (_, place) => place + 1), paddingInner: 0.25 },
    axis: null,
  };
  const x = {
    field: "mean",
    type: "quantitative",
    scale: { domain: [0, 1.22], nice: false },
    axis: { values: [0, 0.5, 1], format: "~g", title: null, grid: true, gridColor: "var(--line)", domain: false, ticks: false },
  };
  const one = (arm, index) => ({
    width: cell,
    height,
    title: { text: arm, anchor: "start", frame: "group", fontSize: 12, fontWeight: "normal", color: "var(--ink)", offset: 6 },
    layer: [
      {
        data: { name: arm },
        encoding: { x, y },
        mark: {
          type: "bar",
          color: { real: "var(--s6)", syn: "var(--s0)", rdm: "var(--s4)" }[arm.split("_")[0]],
          opacity: arm.endsWith("noaug") ? 0.5 : 0.9,
          cursor: "pointer",
        },
      },
      { data: { name: arm }, encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, y }, mark: { type: "rule", color: "var(--ink)" } },
      {
        data: { name: arm },
        encoding: { x: { ...x, field: "high" }, y, text: { field: "text" } },
        mark: { type: "text", align: "left", dx: 4, fontSize: 10.5 },
      },
      ...(index % columns
        ? []
        : [
            {
              data: { name: "names" },
              encoding: { y, x: { value: -8 }, text: { field: "label" }, opacity: { value: 1 } },
              mark: { type: "text", align: "right", limit: left - 10, cursor: "pointer", fontWeight: { expr: "datum.chosen ? 'bold' : 'normal'" } },
            },
          ]),
    ],
  });
  const padding = { left, right: 8, top: 26, bottom: 24 };
  return { concat: known.map(one), columns, spacing: { row: 56, column: 22 }, align: "all", bounds: "flush", padding };
}
