// The same distilled data with students of several architectures: DDRS at the chosen w, its mean and its worst.

/** As ddrank.leaderboard.architectures: a row for each method, best mean first, those that lack a model last. */
function overModels(groups, w) {
  const found = new Map();
  groups.forEach((group, place) => {
    group.entries.forEach((entry, index) => {
      const name = group.over_models[index];
      if (!found.has(name)) found.set(name, new Array(groups.length).fill(null));
      found.get(name)[place] = entry;
    });
  });
  const rows = [...found].map(([name, each]) => {
    const values = each.map((one) => one && ddrsOf(one, w, quantiles));
    const means = values.map((one) => one && mean(one));
    if (means.includes(null)) return { name, means, mean: null, interval: null, worst: null };
    const alike = new Set(each.map((one) => String(one.seeds))).size === 1;
    const bySeed = alike && values[0].map((_, seed) => mean(values.map((one) => one[seed])));
    return {
      name,
      means,
      mean: mean(means),
      interval: bySeed ? statistic(bySeed, quantiles).interval : null,
      worst: Math.min(...means),
    };
  });
  const last = (row) => (row.mean === null ? 1 : 0);
  return rows.sort((a, b) => last(a) - last(b) || b.mean - a.mean || inOrder(a.name, b.name));
}

function drawArchitectures() {
  const { group, w } = state;
  const groups = content.groups.filter((other) => other.beside === group.beside);
  const section = document.getElementById("architectures");
  section.hidden = groups.length < 2;
  if (section.hidden) return;
  document.getElementById("architectures-words").textContent =
    `${group.dataset}, IPC ${group.ipc}, protocol ${group.protocol}: DDRS at w = ${short(w)} with each model, ` +
    "best mean first. The interval is of the mean over models.";
  const rows = overModels(groups, w);
  const shown = rows.slice(0, FIRST_ROWS);
  const models = groups.map((one) => (one.variant ? `${one.model} (${one.variant})` : one.model));
  const heads = ["Method", ...models, "Mean", "95 % interval", "Worst"];
  const highest = (values) => Math.max(...values.filter((value) => value !== null));
  const best = [...models.map((_, place) => highest(rows.map((row) => row.means[place])))];
  const bestMean = highest(rows.map((row) => row.mean));
  const bestWorst = highest(rows.map((row) => row.worst));
  const cell = (value, top) =>
    element("td", {}, value === null ? "–" : value === top ? element("strong", {}, number(value)) : number(value));
  section.querySelector("thead").replaceChildren(
    element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head))),
  );
  section.querySelector("tbody").replaceChildren(
    ...shown.map((row) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, row.name),
        ...row.means.map((value, place) => cell(value, best[place])),
        cell(row.mean, bestMean),
        element("td", {}, span(row.interval) || "–"),
        cell(row.worst, bestWorst),
      ),
    ),
  );
}
