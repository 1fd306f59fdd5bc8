// The plane of IOR against HLR: intervals, lines of equal DDRS, names beside the points.

function planeData(rows, shown, named) {
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
  const ids = new Set(shown.map((row) => row.id));
  const cloud = ids.size < rows.length ? state.group.cloud.filter((one) => ids.has(one.id)) : state.group.cloud;
  const sets = { lines: equalScores(x, y, state.w), cloud, points: named.map(point).reverse() };
  return { frame: { x, y }, sets };
}

function planeExtent(rows, shown, named) {
  const sentence = extent(rows, shown, named, "Named");
  return named.length < shown.length ? `${sentence} Dots: the others.` : sentence;
}

function domain(statistics) {
  const many = statistics.length > 3 * MOST_NAMED;
  const all = statistics.flatMap((one) => [one.mean, ...((!many && one.interval) || [])]);
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
