// The arithmetic of ddrank.score and ddrank.leaderboard.statistics, on accuracies by seed.

const DECIMALS = 1e12; // values that agree to 12 decimals are equal
const SCORES = ["ddrs", "ior", "hlr", "ars"];

/** A sum that is right to the last bit (Neumaier 1974), as Python's fmean takes it. */
function total(values) {
  let sum = 0;
  let lost = 0;
  for (const value of values) {
    const next = sum + value;
    lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  return sum + lost;
}

function mean(values) {
  return total(values) / values.length;
}

/** Mean, sample standard deviation and Student's interval of the mean (null for a single seed). */
function statistic(values, quantiles) {
  const n = values.length;
  const middle = mean(values);
  if (n < 2) return { mean: middle, std: 0, n, interval: null };
  const std = Math.sqrt(total(values.map((value) => (value - middle) ** 2)) / (n - 1));
  const half = (quantiles[n - 1] * std) / Math.sqrt(n);
  return { mean: middle, std, n, interval: [middle - half, middle + half] };
}

/** numpy.round(value, 12): to even where it is halfway. */
function rounded(value) {
  const scaled = value * DECIMALS;
  const floor = Math.floor(scaled);
  const above = scaled - floor;
  return (above < 0.5 || (above === 0.5 && floor % 2 === 0) ? floor : floor + 1) / DECIMALS;
}

/** Ranks, the highest value first; equal ones share the best: 1, 1, 3. */
function ranked(values) {
  const round = values.map(rounded);
  const order = round.map((_, index) => index).sort((one, other) => round[other] - round[one]);
  const ranks = new Array(values.length);
  order.forEach((index, place) => {
    const before = order[place - 1];
    ranks[index] = place && round[before] === round[index] ? ranks[before] : place + 1;
  });
  return ranks;
}

/** (exp(x) - exp(-1)) / (exp(1) - exp(-1)), which brings [-1, 1] to [0, 1]. */
function scaled(exponent) {
  return (Math.exp(exponent) - Math.exp(-1)) / (Math.exp(1) - Math.exp(-1));
}

/** The a of w * IOR - (1 - w) * HLR that a DDRS belongs to. */
function unscaled(score) {
  return Math.log(score * (Math.exp(1) - Math.exp(-1)) + Math.exp(-1));
}

function difference(entry, one, other) {
  const [first, second] = [entry.arms[one], entry.arms[other]];
  return first && second ? first.accuracy.map((value, seed) => value - second.accuracy[seed]) : null;
}

/** What of an entry depends on neither w nor g; computed once. */
function measured(entry, quantiles) {
  if (!entry.measured) {
    const hlr = difference(entry, "real_hard", "syn_hard");
    const ior = difference(entry, "syn_any", "rdm_any");
    const bare = difference(entry, "syn_any_noaug", "rdm_any_noaug");
    entry.measured = {
      perSeed: { hlr, ior, bare },
      hlr: statistic(hlr, quantiles),
      ior: statistic(ior, quantiles),
      accuracy: statistic(entry.arms.syn_any.accuracy, quantiles),
    };
  }
  return entry.measured;
}

function ddrsOf(entry, w, quantiles) {
  const { hlr, ior } = measured(entry, quantiles).perSeed;
  return hlr.map((value, seed) => scaled(w * ior[seed] - (1 - w) * value));
}

function arsOf(entry, g, quantiles) {
  const { ior, bare } = measured(entry, quantiles).perSeed;
  return bare && ior.map((value, seed) => scaled(g * value + (1 - g) * bare[seed]));
}

/** A group's rows at w and g, best DDRS first, equal ones by name; `id` is the entry's place in the group. */
function ranking(group, w, g, quantiles) {
  const rows = group.entries.map((entry, id) => {
    const own = measured(entry, quantiles);
    const ars = arsOf(entry, g, quantiles);
    return {
      id,
      entry,
      ddrs: statistic(ddrsOf(entry, w, quantiles), quantiles),
      ior: own.ior,
      hlr: own.hlr,
      ars: ars && statistic(ars, quantiles),
      accuracy: own.accuracy,
    };
  });
  const ranks = ranked(rows.map((row) => row.ddrs.mean));
  const plain = ranked(rows.map((row) => row.accuracy.mean));
  const known = group.surety.find((surety) => surety.w === w);
  rows.forEach((row, id) => {
    row.rank = ranks[id];
    row.plain = plain[id];
    row.surety = known && {
      low: known.low[id],
      high: known.high[id],
      first: known.first[id],
      tied: known.tied[id] === 1,
    };
  });
  for (const score of [...SCORES, "accuracy"]) {
    const found = rows.filter((row) => row[score]).map((row) => rounded(row[score].mean));
    const best = score === "hlr" ? Math.min(...found) : Math.max(...found);
    for (const row of rows) if (row[score]) row[score].best = rounded(row[score].mean) === best;
  }
  return rows.sort((one, other) => one.rank - other.rank || inOrder(one.entry.name, other.entry.name));
}

/** Names as Python orders them. */
function inOrder(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}
