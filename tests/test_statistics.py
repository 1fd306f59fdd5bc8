"""How sure a ranking is: against SciPy, hand-worked numbers, and simulations whose truth is known."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from scipy import stats

from ddrank import score
from ddrank.leaderboard import statistics
from ddrank.leaderboard.statistics import Seeds
from ddrank.score import Statistic

SIMULATIONS = 4000


def paired(values: np.ndarray) -> Seeds:
    """Methods (methods, seeds) that share measurements."""
    return Seeds.of(values.tolist(), [["shared"]] * len(values))


def unpaired(values: np.ndarray) -> Seeds:
    return Seeds.of(values.tolist(), [[]] * len(values))


def test_docstrings_show_what_happens():
    outcome = doctest.testmod(statistics)
    assert outcome.attempted >= 2
    assert outcome.failed == 0


class TestIntervals:
    def test_by_hand_and_by_scipy(self):
        # mean 4, std sqrt(13), n 3: t(2) at 0.975 is 4.302653, times sqrt(13 / 3) = 2.081666
        statistic = Statistic.of([1, 3, 8])
        assert statistics.interval(statistic) == pytest.approx((4 - 8.956686, 4 + 8.956686), abs=1e-5)
        assert statistics.interval(statistic, 0.9) == pytest.approx(stats.t.interval(0.9, 2, 4, np.sqrt(13 / 3)))

    def test_a_single_seed_has_none(self):
        assert statistics.interval(Statistic.of([0.5])) is None

    @pytest.mark.parametrize("seeds", [2, 5, 10])
    def test_they_cover_the_truth_in_95_percent_of_simulations(self, seeds):
        values = np.random.default_rng(seeds).normal(0.3, 0.05, (SIMULATIONS, seeds))
        half = statistics.margin(values.std(1, ddof=1), seeds)
        assert 0.93 <= np.mean(abs(values.mean(1) - 0.3) <= half) <= 0.97

    @pytest.mark.parametrize("seeds", [3, 5, 10])
    def test_those_of_ddrs_cover_it_too(self, seeds):
        # Accuracies of four arms, the random images' the noisiest; DDRS is not linear in them.
        truth = drawn_ddrs(1_000_000, 1).mean()
        covered = 0
        for values in drawn_ddrs(SIMULATIONS, seeds):
            low, high = statistics.interval(Statistic.of(values.tolist()))
            covered += low <= truth <= high
        assert 0.93 <= covered / SIMULATIONS <= 0.97


def drawn_ddrs(
    methods: int, seeds: int, generator: np.random.Generator | None = None, shared: bool = False
) -> np.ndarray:
    """DDRS of equal methods (methods, seeds), of drawn accuracies; those of the real and the random images are the same
    for all methods where `shared`."""
    generator = generator or np.random.default_rng(seeds)
    of_all = (1 if shared else methods, seeds)
    real, rdm = generator.normal(0.97, 0.003, of_all), generator.normal(0.55, 0.045, of_all)
    hard, syn = generator.normal(0.6, 0.02, (methods, seeds)), generator.normal(0.7, 0.015, (methods, seeds))
    return statistics.ddrs(real - hard, syn - rdm, 0.5)


class TestRanks:
    def test_equal_values_share_the_best_rank(self):
        assert statistics.ranks(np.array([0.2, 0.5, 0.5, 0.1, 0.5 + 1e-14])).tolist() == [4, 1, 1, 5, 1]

    def test_they_are_scipys(self):
        values = np.random.default_rng(0).integers(0, 5, (20, 7)) / 4
        assert (statistics.ranks(values) == stats.rankdata(-values, method="min", axis=1)).all()


class TestTies:
    def test_two_paired_methods_are_a_paired_t_test(self):
        first, second = [0.30, 0.31, 0.33, 0.35], [0.29, 0.31, 0.31, 0.34]
        for shift, apart in ((0.0, False), (0.01, True)):
            seeds = paired(np.array([np.add(first, shift), second]))
            assert (stats.ttest_rel(np.add(first, shift), second).pvalue < 0.05) == apart
            assert statistics.told_apart(seeds).tolist() == [[False, apart], [apart, False]]

    def test_two_methods_that_share_nothing_are_welchs_test(self):
        first, second = [0.30, 0.31, 0.33, 0.35, 0.32], [0.25, 0.31, 0.28]
        for shift, apart in ((0.0, False), (0.05, True)):
            found = statistics.told_apart(Seeds.of([list(np.add(first, shift)), second], [[], []]))
            assert (stats.ttest_ind(np.add(first, shift), second, equal_var=False).pvalue < 0.05) == apart
            assert found[0, 1] == apart

    @pytest.mark.parametrize("seed", range(5))
    def test_several_methods_follow_holm(self, seed):
        values = np.random.default_rng(seed).normal(np.linspace(0, 0.1, 6)[:, None], 0.02, (6, 5))
        pairs = list(itertools.combinations(range(6), 2))
        chances = {pair: stats.ttest_rel(values[pair[0]], values[pair[1]]).pvalue for pair in pairs}
        expected = set()
        for number, pair in enumerate(sorted(pairs, key=chances.get)):
            if chances[pair] > 0.05 / (len(pairs) - number):
                break
            expected.add(pair)
        assert 0 < len(expected) < len(pairs)
        found = statistics.told_apart(paired(values))
        assert {pair for pair in pairs if found[pair]} == expected
        assert (found == found.T).all()

    @pytest.mark.parametrize("make", [paired, unpaired])
    def test_equal_methods_are_not_told_apart(self, make):
        generator = np.random.default_rng(0)
        values = generator.normal(0, 1, (2000, 6, 5)) + generator.normal(0, 1, (2000, 1, 5)) * (make is paired)
        assert np.mean([statistics.told_apart(make(each)).any() for each in values]) <= 0.06

    @pytest.mark.parametrize("seeds", [3, 5, 10])
    @pytest.mark.parametrize("shared", [True, False])
    def test_equal_methods_are_not_told_apart_by_their_ddrs(self, seeds, shared):
        generator = np.random.default_rng(seeds)
        make = paired if shared else unpaired
        found = [statistics.told_apart(make(drawn_ddrs(6, seeds, generator, shared))).any() for _ in range(2000)]
        assert 0.005 < np.mean(found) <= 0.06

    def test_equal_methods_among_others_are_not_told_apart(self):
        values = np.random.default_rng(1).normal(np.array([0, 0, 60, 120, 240])[:, None], 1, (2000, 5, 5))
        found = np.array([statistics.told_apart(paired(each)) for each in values])
        assert found[:, 0, 1].mean() <= 0.065
        assert found[:, 0, 4].mean() > 0.99

    def test_what_methods_share_does_not_blur_their_difference(self):
        generator = np.random.default_rng(0)
        values = generator.normal([[0.30], [0.28]], 0.001, (2, 5)) + generator.normal(0, 0.05, 5)
        assert statistics.told_apart(paired(values))[0, 1]
        assert not statistics.told_apart(unpaired(values))[0, 1]

    def test_what_does_not_vary_decides_nothing(self):
        assert not statistics.told_apart(paired(np.array([[0.1, 0.2], [0.3, 0.4]]))).any()
        assert not statistics.told_apart(Seeds.of([[0.9], [0.1, 0.11, 0.12]], [[], []])).any()


class TestResampling:
    def test_marks_make_families_also_through_others(self):
        assert statistics.families([["a"], ["b"], ["a", "c"], [], ["c", "d"], ["b"], ["d"]]) == [
            [0, 2, 4, 6],
            [1, 5],
            [3],
        ]

    def test_paired_methods_move_together_and_others_do_not(self):
        values = np.random.default_rng(0).normal(0, 1, 5) + np.array([[0.0], [1.0]])
        together = paired(values).resampled(2000, np.random.default_rng(0))
        assert np.ptp(together[:, 1] - together[:, 0]) < 1e-12
        alone = unpaired(values).resampled(2000, np.random.default_rng(0))
        assert abs(np.corrcoef(alone.T)[0, 1]) < 0.1

    def test_the_chance_of_being_first_of_two_is_students(self):
        values = np.array([[0.30, 0.31, 0.33, 0.35, 0.36], [0.29, 0.32, 0.31, 0.34, 0.33]])
        difference = values[0] - values[1]
        t = difference.mean() / difference.std(ddof=1) * np.sqrt(5)
        _, first = statistics.resampled_ranks(paired(values), draws=40_000)
        assert first[0] == pytest.approx(stats.t.cdf(t, 4), abs=0.01)
        assert first.sum() == pytest.approx(1)

    @pytest.mark.parametrize("count", [5, 40])
    def test_ranks_agree_with_a_direct_simulation(self, count):
        # Means as other seeds would give them: multivariate t around those that were found.
        generator = np.random.default_rng(2)
        draws = 10_000
        shared = generator.normal(0, 0.03, count)  # random images that all were compared with
        values = (
            generator.normal([[0.31], [0.305], [0.30], [0.25]], [[0.01], [0.02], [0.03], [0.02]], (4, count)) + shared
        )
        found, first = statistics.resampled_ranks(paired(values), draws)
        again = stats.multivariate_t(values.mean(1), np.cov(values) / count, count - 1, seed=0).rvs(draws)
        ranks = stats.rankdata(-again, axis=1)
        direct = np.array([[np.mean(ranks[:, method] == rank) for rank in range(1, 5)] for method in range(4)])
        assert found / draws == pytest.approx(direct, abs=0.025)
        assert first == pytest.approx(direct[:, 0], abs=0.025)
        places = statistics.places(paired(values), draws)
        low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
        above = places.apart & (values.mean(1)[None, :] > values.mean(1)[:, None])
        assert places.low.tolist() == np.minimum(low, 1 + above.sum(1)).tolist()
        assert places.high.tolist() == np.maximum(high, 4 - (places.apart & ~above).sum(1)).tolist()

    @pytest.mark.parametrize("gap", [0.1, 1.0, 5.0])  # in standard errors of a mean
    @pytest.mark.parametrize("make", [paired, unpaired])
    def test_intervals_hold_the_true_place(self, gap, make):
        generator = np.random.default_rng(3)
        means, truth = -gap / np.sqrt(5) * np.arange(6), np.arange(1, 7)
        held, widths = [], []
        for number in range(300):
            found = statistics.places(make(generator.normal(means[:, None], 1, (6, 5))), draws=300, seed=number)
            held.append((found.low <= truth) & (truth <= found.high))
            widths.append(found.high - found.low + 1)
        assert np.mean(held, axis=0).min() >= 0.95
        assert np.mean(widths) < 6 if gap < 5 else np.mean(widths) < 2.5

    def test_places_by_hand(self):
        # Two that nothing tells apart, one far below: 1-2, 1-2, 3.
        values = np.array(
            [[0.50, 0.52, 0.51, 0.49, 0.53], [0.51, 0.50, 0.52, 0.53, 0.48], [0.1, 0.12, 0.11, 0.13, 0.1]]
        )
        found = statistics.places(paired(values))
        assert (found.low.tolist(), found.high.tolist()) == ([1, 1, 3], [2, 2, 3])
        assert found.first[2] < 0.001
        assert found.first[:2].sum() == pytest.approx(1, abs=0.001)

    def test_one_seed_leaves_every_place_open_and_takes_no_part_in_who_is_first(self):
        found = statistics.places(Seeds.of([[0.9], [0.5, 0.51, 0.52], [0.1, 0.11, 0.12]], [[], [], []]))
        assert (found.low[0], found.high[0]) == (1, 3)
        assert np.isnan(found.first[0])
        assert found.first[1:].sum() == pytest.approx(1)

    def test_equal_methods_share_being_first(self):
        found = statistics.places(paired(np.array([[0.5, 0.6, 0.7]] * 2)))
        assert found.first.tolist() == [0.5, 0.5]


class TestSweep:
    def test_ddrs_is_that_of_the_scores(self):
        hlr, ior = [[0.3, 0.1], [0.2], [0.4, 0.5]], [[0.1, 0.2], [0.05], [-0.1, 0.0]]
        for w, row in zip((0, 0.3, 1), statistics.ddrs_over(hlr, ior, np.array([0, 0.3, 1])), strict=True):
            expected = [
                np.mean([score.ddrs(*pair, w) for pair in zip(*rows, strict=True)])
                for rows in zip(hlr, ior, strict=True)
            ]
            assert row == pytest.approx(expected)

    @pytest.mark.parametrize("ties", [False, True])
    def test_kendalls_tau_is_scipys(self, ties):
        generator = np.random.default_rng(0)
        values, others = generator.random((10, 12)), generator.random(12)
        if ties:
            values, others = np.round(4 * values) / 4, np.round(4 * others) / 4
        expected = [stats.kendalltau(row, others).statistic for row in values]
        assert statistics.kendall_tau(values, others) == pytest.approx(expected)

    def test_kendalls_tau_of_nothing_but_ties_is_nan(self):
        assert np.isnan(statistics.kendall_tau(np.ones((1, 3)), np.arange(3))).all()
        assert np.isnan(statistics.kendall_tau(np.ones((1, 1)), np.ones(1))).all()
