"""The scores against numbers worked by hand."""

from __future__ import annotations

import doctest
import json
import math

import pytest

from ddrank import score
from ddrank.result import Arm, Result

# HLR 0.9 - 0.6 = 0.3, IOR 0.7 - 0.6 = 0.1; w = 0.5 gives a = -0.1, and
# (exp(-0.1) - exp(-1)) / (exp(1) - exp(-1)) = (0.904837 - 0.367879) / (2.718282 - 0.367879) = 0.228454.
CHECK = {"real_hard": [0.9], "syn_hard": [0.6], "syn_any": [0.7], "rdm_any": [0.6]}


def test_docstrings_show_what_happens():
    outcome = doctest.testmod(score)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_check_value_through_the_function():
    assert score.ddrs(hlr=0.3, ior=0.1, w=0.5) == pytest.approx(0.228454, abs=5e-7)
    assert score.scores(CHECK)["ddrs"].mean == pytest.approx(0.228454, abs=5e-7)


def test_check_value_through_a_result_file(tmp_path):
    result = Result(
        method="dm",
        dataset="digits",
        ipc=1,
        model="convnet3",
        aug="none",
        criterion="ce",
        labels="hard",
        protocol="strict",
        seeds=[0],
        arms={name: Arm(accuracy, [0.01]) for name, accuracy in CHECK.items()},
        w=0.5,
        g=0.5,
        distilled={"path": "distilled.safetensors", "sha256": "0" * 64},
    )
    path = result.save(tmp_path / "result.json")
    assert round(json.loads(path.read_text())["scores"]["ddrs"]["mean"], 6) == 0.228454
    assert round(Result.load(path).scores["ddrs"].mean, 6) == 0.228454


def test_w_of_one_counts_only_ior_and_w_of_zero_only_hlr():
    # (exp(0.1) - exp(-1)) / (exp(1) - exp(-1)) = (1.105171 - 0.367879) / 2.350402 = 0.313687
    assert score.ddrs(hlr=0.3, ior=0.1, w=1) == pytest.approx(0.313687, abs=5e-7)
    assert score.ddrs(hlr=-0.8, ior=0.1, w=1) == score.ddrs(hlr=0.3, ior=0.1, w=1)
    # (exp(-0.3) - exp(-1)) / (exp(1) - exp(-1)) = (0.740818 - 0.367879) / 2.350402 = 0.158670
    assert score.ddrs(hlr=0.3, ior=0.1, w=0) == pytest.approx(0.158670, abs=5e-7)
    assert score.ddrs(hlr=0.3, ior=-0.8, w=0) == score.ddrs(hlr=0.3, ior=0.1, w=0)


def test_ddrs_spans_zero_to_one():
    assert score.ddrs(hlr=1, ior=-1) == 0
    assert score.ddrs(hlr=-1, ior=1) == 1


def test_hlr_falls_and_ior_rises_with_better_images():
    assert score.hlr(real_hard=0.9, syn_hard=0.6) == pytest.approx(0.3)
    assert score.hlr(real_hard=0.6, syn_hard=0.9) == pytest.approx(-0.3)
    assert score.ior(syn_any=0.7, rdm_any=0.6) == pytest.approx(0.1)
    assert score.ior(syn_any=0.6, rdm_any=0.7) == pytest.approx(-0.1)


def test_ars_by_hand():
    # g = 0.25: b = 0.25 * 0.2 + 0.75 * 0.04 = 0.08; (1.083287 - 0.367879) / 2.350402 = 0.304377
    assert score.ars(gain=0.2, gain_noaug=0.04, g=0.25) == pytest.approx(0.304377, abs=5e-7)
    accuracies = {"syn_any": [0.8], "rdm_any": [0.6], "syn_any_noaug": [0.54], "rdm_any_noaug": [0.5]}
    assert score.scores(accuracies, g=0.25)["ars"].mean == pytest.approx(0.304377, abs=5e-7)
    assert score.scores(accuracies, g=1)["ars"].mean == pytest.approx(score.ars(gain=0.2, gain_noaug=-1, g=1))


def test_spread_is_the_sample_standard_deviation():
    # mean 4, squared deviations 9 + 1 + 16 = 26, over n - 1 = 2: sqrt(13)
    statistic = score.Statistic.of([1, 3, 8])
    assert statistic == score.Statistic(mean=4, std=pytest.approx(math.sqrt(13)), n=3, per_seed=(1, 3, 8))
    assert score.Statistic.of([0.25]) == score.Statistic(mean=0.25, std=0.0, n=1, per_seed=(0.25,))


def test_scores_are_computed_for_each_seed_then_averaged():
    accuracies = {"real_hard": [0.9, 0.9], "syn_hard": [0.9, 0.1], "syn_any": [0.5, 0.5], "rdm_any": [0.5, 0.5]}
    found = score.scores(accuracies, w=0)
    each = (score.ddrs(0.0, 0.0, 0), score.ddrs(0.8, 0.0, 0))
    assert found["hlr"].per_seed == pytest.approx((0.0, 0.8))
    assert found["ddrs"].per_seed == pytest.approx(each)
    assert found["ddrs"].mean == pytest.approx(sum(each) / 2)
    assert found["ddrs"].mean != pytest.approx(score.ddrs(0.4, 0.0, 0), abs=0.01)
    assert found["ddrs"].std == pytest.approx(abs(each[0] - each[1]) / math.sqrt(2))


def test_a_score_without_its_arms_is_left_out():
    assert set(score.scores(CHECK)) == {"hlr", "ior", "ddrs"}
    assert set(score.scores({name: CHECK[name] for name in ("real_hard", "syn_hard")})) == {"hlr"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: score.hlr(90.0, 60.0),
        lambda: score.hlr(0.9, -0.1),
        lambda: score.ior(70.0, 0.6),
        lambda: score.ior(float("nan"), 0.6),
        lambda: score.ddrs(hlr=30.0, ior=0.1),
        lambda: score.ddrs(hlr=0.3, ior=10.0),
        lambda: score.ars(gain=0.1, gain_noaug=5.0),
        lambda: score.scores({**CHECK, "syn_any": [70.0]}),
    ],
)
def test_percent_is_refused(call):
    with pytest.raises(ValueError, match="percent"):
        call()


@pytest.mark.parametrize("weight", [-0.1, 1.1, 50, float("nan")])
def test_weights_outside_the_unit_interval_are_refused(weight):
    with pytest.raises(ValueError, match=r"w is .*a weight lies in"):
        score.ddrs(0.3, 0.1, w=weight)
    with pytest.raises(ValueError, match=r"g is .*a weight lies in"):
        score.ars(0.3, 0.1, g=weight)


def test_arms_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one accuracy per seed"):
        score.scores({**CHECK, "rdm_any": [0.6, 0.6]})
