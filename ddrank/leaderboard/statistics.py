"""How sure a ranking is: intervals over seeds, ties, intervals of ranks, and what the weight w does. Arithmetic alone.

What varies is the seed: one seed gives every arm of a method one student, and so the method one value of each score.
Arms of a seed are never taken apart, since all of it works on scores of seeds.

Methods are *paired* where they share measurements (`real_hard`, `rdm_any`) on the same seeds. What is shared moves them
together and does not count in their difference. A method with other seeds, one missing among them, is taken as
independent of the others: what it is told with is then less sure than it could be.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ddrank.score import Statistic

LEVEL = 0.95
RESAMPLES = 10_000
DECIMALS = 12  # values that agree this far are equal
_TOO_SMALL = 1e-9  # a spread that is rounding
_AT_ONCE = 1000  # resamplings that are in memory together


def interval(statistic: Statistic, level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of a mean over seeds, mean -+ t(n - 1) * std / sqrt(n); None for a single seed.

    >>> low, high = interval(Statistic(mean=0.5, std=0.1, n=5, per_seed=()))
    >>> round(low, 4), round(high, 4)
    (0.3758, 0.6242)
    """
    if statistic.n < 2:
        return None
    half = float(margin(statistic.std, statistic.n, level))
    return statistic.mean - half, statistic.mean + half


def margin(std: np.ndarray | float, n: np.ndarray | int, level: float = LEVEL) -> np.ndarray:
    """Half the width of Student's interval of a mean: t(n - 1) * std / sqrt(n), t at the quantile (1 + level) / 2.

    `std` is the sample standard deviation of n >= 2 values; both may be arrays.
    """
    from scipy.special import stdtrit

    return stdtrit(np.asarray(n) - 1, (1 + level) / 2) * std / np.sqrt(n)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, the highest value first; equal ones (to 12 decimals) share the best: 1, 1, 3."""
    values = np.round(values, DECIMALS)
    order = np.argsort(-values, axis=-1)
    ordered = np.take_along_axis(values, order, -1)
    changes = np.ones(values.shape, dtype=bool)
    changes[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    places = np.maximum.accumulate(np.where(changes, np.arange(1, values.shape[-1] + 1), 1), axis=-1)
    found = np.empty_like(places)
    np.put_along_axis(found, order, places, -1)
    return found


def families(marks: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Positions that belong together, directly or through others, because they have a mark in common; in order."""
    of: list[int] = list(range(len(marks)))
    members = {position: [position] for position in of}
    holders: dict[Hashable, int] = {}
    for position, own in enumerate(marks):
        for mark in own:
            first, second = sorted((of[holders.setdefault(mark, position)], of[position]))
            if first != second:
                for moved in members.pop(second):
                    of[moved] = first
                    members[first].append(moved)
    return [sorted(family) for family in members.values()]


@dataclass(frozen=True)
class Seeds:
    """One score of several methods, by seed.

    `values` holds (methods of a family, seeds) for each family, `places` the methods' positions in it. Methods of a
    family are paired: a column is one seed of all of them. Different families are independent of each other.
    """

    values: tuple[np.ndarray, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, per_seed: Sequence[Sequence[float]], marks: Sequence[Iterable[Hashable]]) -> Seeds:
        """From the values of each method, and marks that only those share which are measured on the same seeds."""
        groups = families(marks)
        values = tuple(np.array([per_seed[place] for place in group], dtype=float) for group in groups)
        return cls(values, tuple(map(tuple, groups)))

    def __len__(self) -> int:
        return sum(map(len, self.places))

    def means(self) -> np.ndarray:
        """The methods' means over their seeds (methods,)."""
        found = np.empty(len(self))
        for values, places in zip(self.values, self.places, strict=True):
            found[list(places)] = values.mean(1)
        return found

    def counts(self) -> np.ndarray:
        """The methods' numbers of seeds (methods,)."""
        found = np.empty(len(self), dtype=int)
        for values, places in zip(self.values, self.places, strict=True):
            found[list(places)] = values.shape[1]
        return found

    def resampled(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        """Means as they might have been with other seeds (draws, methods).

        Seeds are resampled by weights rather than drawn: each seed of a family gets a normal weight z, the same for
        all its methods and arms, and each draw one chi-squared number of n - 1 degrees of freedom,

            mean* = mean + sqrt((n - 1) / chi2) * sum_seeds z_seed (x_seed - mean) / sqrt(n (n - 1)),

        so that a mean, and the difference of two paired ones, varies as Student's t says. (The multiplier bootstrap,
        e.g. Chernozhukov, Chetverikov and Kato 2013, studentised. Drawing 5 seeds of 5 with replacement gives 0.63
        of that width: its 95 % intervals of a mean hold it in 84 % of cases.) One seed alone does not vary.
        """
        found = np.empty((draws, len(self)))
        for values, places in zip(self.values, self.places, strict=True):
            n = values.shape[1]
            means = values.mean(1)
            drawn = np.broadcast_to(means, (draws, len(means)))
            if n > 1:
                weights = generator.standard_normal((draws, n)) / np.sqrt(generator.chisquare(n - 1, (draws, 1)) * n)
                drawn = means + weights @ (values - means[:, None]).T
            found[:, list(places)] = drawn
        return found


def told_apart(seeds: Seeds, level: float = LEVEL) -> np.ndarray:
    """Whether two methods' means differ by more than chance over seeds explains (methods, methods).

    For each pair, the interval of the difference (Student's over seeds for paired methods; for others Welch's, with
    Satterthwaite's degrees of freedom) has to leave out 0. Holm's correction (1979) makes intervals wide enough that,
    with probability `level`, no two methods of equal expectation in the whole group are told apart. All other pairs
    are ties. A tie says that the seeds do not decide, not that methods are equal, and it is not transitive.

    A method with one seed is tied with all others; so are methods whose difference does not vary over seeds.
    """
    from scipy.special import stdtr

    means, n = seeds.means(), seeds.counts()
    paired = np.zeros((len(n), len(n)), dtype=bool)
    covariance = np.zeros((len(n), len(n)))  # of the means
    for values, places in zip(seeds.values, seeds.places, strict=True):
        block = np.ix_(places, places)
        paired[block] = True
        count = values.shape[1]
        deviations = values - values.mean(1, keepdims=True)
        covariance[block] = deviations @ deviations.T / (count * max(1, count - 1))
    first, second = np.triu_indices(len(n), 1)
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(0, variance[first] + variance[second] - 2 * covariance[first, second]))
    decides = (spread > _TOO_SMALL) & (n[first] > 1) & (n[second] > 1)
    first, second, spread = first[decides], second[decides], spread[decides]
    parts = variance[first], variance[second]
    freedom = np.where(
        paired[first, second],
        n[first] - 1,
        spread**4 / (parts[0] ** 2 / (n[first] - 1) + parts[1] ** 2 / (n[second] - 1)),
    )
    chances = 2 * stdtr(freedom, -np.abs(means[first] - means[second]) / spread)
    rejected = _holm(chances, 1 - level, pairs=len(n) * (len(n) - 1) // 2)
    found = np.zeros_like(paired)
    found[first[rejected], second[rejected]] = True
    return found | found.T


def _holm(chances: np.ndarray, error: float, pairs: int) -> np.ndarray:
    """Which of the p-values are rejected: in rising order, the k-th while it is at most error / (pairs - k + 1)."""
    order = np.argsort(chances)
    kept = chances[order] > error / (pairs - np.arange(len(chances)))
    until = int(np.argmax(kept)) if kept.any() else len(chances)
    rejected = np.zeros(len(chances), dtype=bool)
    rejected[order[:until]] = True
    return rejected


@dataclass(frozen=True)
class Places:
    """What the seeds say about the methods' ranks: the highest mean is first.

    `low`, `high` (methods,): the interval of each rank. It holds the middle 95 % of the ranks over resampled seeds, and
    every place that its ties leave open: 1 + (methods told apart above it) to methods - (methods told apart below it).
    Without the second part, intervals would hold the true places of nearly equal methods too seldom (Xie, Singh and
    Zhang 2009); with it, all of a group hold theirs with probability 95 % (Klein, Wright and Wieczorek 2020).
    In simulations (8 methods, 5 seeds) the intervals of a group all hold at once in 95 % of cases where methods are
    equal, in 99 % and more where they differ.
    `first` (methods,): the share of resamplings in which the method is first, equal ones sharing it; NaN for a method
    with one seed, which does not take part in it. It is as often true as it says where methods differ by several
    standard errors. Where all are nearly equal it promises too much: with true means that spread by 1 standard error,
    what is said to be first with 0.69 is so in 0.6 of cases, with 0.5 standard errors in 0.4. The ties tell of that.
    `apart` (methods, methods): which pairs are told apart.
    """

    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    apart: np.ndarray


def places(seeds: Seeds, draws: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Places:
    """Intervals of the methods' ranks by their means, and how probable it is that each is first."""
    counts, first = resampled_ranks(seeds, draws, seed)
    below = np.cumsum(counts, axis=1) / draws
    low = 1 + (below <= (1 - level) / 2).sum(1)
    high = 1 + (below < (1 + level) / 2).sum(1)
    apart = told_apart(seeds, level)
    means = seeds.means()
    better = means[None, :] > means[:, None]
    low = np.minimum(low, 1 + (apart & better).sum(1))
    high = np.maximum(high, len(means) - (apart & ~better).sum(1))
    return Places(low, high, first, apart)


def resampled_ranks(seeds: Seeds, draws: int = RESAMPLES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How often each method has each rank over resampled seeds (methods, methods), and the share of draws in which it
    is first among those with more than one seed (methods,)."""
    generator = np.random.default_rng(seed)
    methods = len(seeds)
    several = seeds.counts() > 1
    counts = np.zeros(methods * methods, dtype=int)
    first = np.zeros(methods)
    for start in range(0, draws, _AT_ONCE):
        means = seeds.resampled(min(_AT_ONCE, draws - start), generator)
        cells = np.arange(methods) * methods + ranks(means) - 1
        counts += np.bincount(cells.ravel(), minlength=methods * methods)
        if several.any():
            leads = np.round(means[:, several], DECIMALS)
            leads = leads == leads.max(1, keepdims=True)
            first[several] += (leads / leads.sum(1, keepdims=True)).sum(0)
    return counts.reshape(methods, methods), np.where(several, first / draws, np.nan)


def ddrs(hlr: np.ndarray, ior: np.ndarray, w: np.ndarray | float) -> np.ndarray:
    """`score.ddrs` of arrays that broadcast: (exp(a) - exp(-1)) / (exp(1) - exp(-1)), a = w * IOR - (1 - w) * HLR."""
    return (np.exp(w * ior - (1 - w) * hlr) - np.exp(-1)) / (np.exp(1) - np.exp(-1))


def ddrs_over(hlr: Sequence[Sequence[float]], ior: Sequence[Sequence[float]], weights: np.ndarray) -> np.ndarray:
    """The methods' mean DDRS at each weight (weights, methods), of HLR and IOR by method and seed."""
    lengths = np.array([len(row) for row in hlr])
    found = np.empty((len(weights), len(lengths)))
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        own_hlr, own_ior = (np.array([rows[place] for place in places], dtype=float) for rows in (hlr, ior))
        found[:, places] = ddrs(own_hlr, own_ior, np.asarray(weights)[:, None, None]).mean(-1)
    return found


def kendall_tau(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kendall's tau-b between each row of `values` (rows, methods) and `others` (methods,): how far two orders
    agree, from -1 (reversed) to 1 (the same); NaN where an order is nothing but ties.

        tau_b = (concordant - discordant) / sqrt(pairs not tied in one * pairs not tied in the other)

    (Kendall 1945). Values that agree to 12 decimals are tied.
    """
    first, second = np.triu_indices(len(others), 1)

    def signs(row: np.ndarray) -> np.ndarray:
        row = ranks(row)
        return np.sign(row[first] - row[second]).astype(np.float32)

    reference = signs(others)
    untied = np.count_nonzero(reference)
    found = np.full(len(values), np.nan)
    for index, row in enumerate(values):
        own = signs(row)
        if both := np.count_nonzero(own) * untied:
            found[index] = np.sum(own * reference, dtype=float) / np.sqrt(both)
    return found
