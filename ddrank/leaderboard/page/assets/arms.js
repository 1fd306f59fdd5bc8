// Accuracies: a panel of bars for each arm.

const MOST_BARS = 12;
const MOST_BARS_NARROW = 6; // where the arms stand one below the other
const NARROW = 520; // pixels
const PLAIN = { title: null, grid: true, gridColor: "var(--line)", domain: false, ticks: false };
const HEAD = { anchor: "start", frame: "group", fontSize: 12, fontWeight: "normal", color: "var(--ink)", offset: 6 };

function mostBars() {
  return document.getElementById("arms").clientWidth > NARROW ? MOST_BARS : MOST_BARS_NARROW;
}

function armsData(shown) {
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
    axis: { ...PLAIN, values: [0, 0.5, 1], format: "~g" },
  };
  const one = (arm, index) => ({
    width: cell,
    height,
    title: { ...HEAD, text: arm },
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
      {
        data: { name: arm },
        encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, y },
        mark: { type: "rule", color: "var(--ink)" },
      },
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
              mark: { ...NAME, align: "right", limit: left - 10 },
            },
          ]),
    ],
  });
  const padding = { left, right: 8, top: 26, bottom: 24 };
  return { concat: known.map(one), columns, spacing: { row: 56, column: 22 }, align: "all", bounds: "flush", padding };
}
