// Ranks by plain accuracy and over w, as a bump chart.

const LEFT = -0.16; // where plain accuracy stands, beside w in [0, 1]
const SWEEP = Array.from({ length: 11 }, (_, place) => place / 10);
const TENTHS = [0, 0.2, 0.4, 0.6, 0.8, 1];

/** Ranks by plain accuracy and at each w of SWEEP: (weights + 1, entries), computed once for a group. */
function swept(group) {
  group.swept ??= [
    group.entries.map((entry) => measured(entry, quantiles).accuracy.mean),
    ...SWEEP.map((w) => group.entries.map((entry) => mean(ddrsOf(entry, w, quantiles)))),
  ].map(ranked);
  return group.swept;
}

function bumpData(named) {
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

function bumpExtent(rows, shown, named) {
  const sentence = extent(rows, shown, named);
  const order = `Lines are in order among themselves; their numbers are ranks among all ${rows.length}.`;
  return sentence && `${sentence} ${order}`;
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
  const places = { domain: [rows + 0.5, 0.5], nice: false, zero: false };
  const y = { field: "y", type: "quantitative", scale: places, axis: null };
  const wide = { condition: { test: "datum.raised", value: 4 }, value: 2 };
  const detail = { field: "id", type: "nominal" };
  const words = { ...NAME, limit: names - 8 };
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
      {
        data: { name: "right" },
        encoding: { x, y, text: { field: "text" } },
        mark: { ...words, align: "left", dx: 10 },
      },
      {
        data: { values: [{ x: LEFT, text: "accuracy" }, { x: 0.5, text: "by DDRS" }] },
        encoding: { x, y: { value: -14 }, text: { field: "text" } },
        mark: { type: "text", color: "var(--soft)", fontSize: 11 },
      },
    ],
  };
}
