"""The scores: pure arithmetic on accuracies, which are fractions in [0, 1].

Definitions of Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation" (2025). Nothing here trains,
reads files or imports the rest of the project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ARMS = ("real_hard", "syn_hard", "syn_any", "rdm_any", "syn_any_noaug", "rdm_any_noaug")
SCORES = ("hlr", "ior", "ddrs", "ars")


def hlr(real_hard: float, syn_hard: float) -> float:
    """Hard-label recovery: what is lost by training on the distilled images instead of the real data; lower is better.

    >>> round(hlr(0.9, 0.6), 6)
    0.3
    """
    return _fraction(real_hard, "real_hard") - _fraction(syn_hard, "syn_hard")


def ior(syn_any: float, rdm_any: float) -> float:
    """Improvement over random: what the distilled images gain over random ones, treated alike; higher is better.

    >>> round(ior(0.7, 0.6), 6)
    0.1
    """
    return _fraction(syn_any, "syn_any") - _fraction(rdm_any, "rdm_any")


def ddrs(hlr: float, ior: float, w: float = 0.5) -> float:
    """DD-Ranking score, in [0, 1]: a = w * IOR - (1 - w) * HLR, scaled by (exp(a) - exp(-1)) / (exp(1) - exp(-1)).

    Later papers call it LRS. `hlr` and `ior` are differences of fractions, in [-1, 1]; `w` lies in [0, 1].

    >>> round(ddrs(hlr=0.3, ior=0.1, w=0.5), 6)
    0.228454
    """
    return _scaled(_weight(w, "w") * _difference(ior, "ior") - (1 - w) * _difference(hlr, "hlr"))


def ars(gain: float, gain_noaug: float, g: float = 0.5) -> float:
    """Augmentation-robust score, in [0, 1]: b = g * gain + (1 - g) * gain_noaug, scaled as DDRS.

    `gain` = syn_any - rdm_any and `gain_noaug` = syn_any_noaug - rdm_any_noaug are differences of fractions, in
    [-1, 1]; `g` lies in [0, 1].

    >>> round(ars(gain=0.2, gain_noaug=0.1, g=0.5), 6)
    0.337795
    """
    return _scaled(
        _weight(g, "g") * _difference(gain, "gain") + (1 - g) * _difference(gain_noaug, "gain_noaug"),
    )


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1; 0 for a single value) of one score over seeds."""

    mean: float
    std: float
    n: int
    per_seed: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values), tuple(values))


def scores(accuracies: Mapping[str, Sequence[float]], w: float = 0.5, g: float = 0.5) -> dict[str, Statistic]:
    """All scores from each arm's accuracies, one per seed: computed for each seed, then averaged.

    `accuracies` maps the names of ARMS to equally long sequences of fractions. A score whose arms are not all
    there is left out.
    """
    lengths = {arm: len(values) for arm, values in accuracies.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every arm needs one accuracy per seed, found {lengths}")

    def each(score, *arms: str) -> list[float] | None:
        if any(arm not in accuracies for arm in arms):
            return None
        return [score(*row) for row in zip(*(accuracies[arm] for arm in arms), strict=True)]

    per_seed = {
        "hlr": each(hlr, "real_hard", "syn_hard"),
        "ior": each(ior, "syn_any", "rdm_any"),
        "ddrs": each(
            lambda real, hard, syn, rdm: ddrs(hlr(real, hard), ior(syn, rdm), w),
            *("real_hard", "syn_hard", "syn_any", "rdm_any"),
        ),
        "ars": each(
            lambda syn, rdm, bare_syn, bare_rdm: ars(ior(syn, rdm), ior(bare_syn, bare_rdm), g),
            *("syn_any", "rdm_any", "syn_any_noaug", "rdm_any_noaug"),
        ),
    }
    return {name: Statistic.of(values) for name, values in per_seed.items() if values}


def _scaled(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def _fraction(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: accuracies are fractions in [0, 1], not percent")
    return value


def _difference(value: float, name: str) -> float:
    if not -1 <= value <= 1:
        raise ValueError(f"{name} is {value}: differences of accuracies lie in [-1, 1], not in percent")
    return value


def _weight(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: a weight lies in [0, 1]")
    return value
