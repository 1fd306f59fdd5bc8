"""What the page knows: a ranking as plain JSON with each seed's accuracies, so that any w and g can be tried."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ddrank import __version__
from ddrank.leaderboard import statistics
from ddrank.leaderboard.architectures import names, side_by_side
from ddrank.leaderboard.collect import Run
from ddrank.leaderboard.portable import portable
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.leaderboard.statistics import LEVEL, RESAMPLES
from ddrank.result import Arm
from ddrank.score import ARMS

PARTS = (20, 10, 4)  # into which w in [0, 1] is divided; ranks are resampled at their ends
MOST_ENTRIES = 50  # of a group that is resampled at other w than the ranking's
MOST_WORK = 2000  # entries x weights that are resampled: a few seconds


def content(ranking: Ranking) -> dict[str, Any]:
    """All that the page shows but configurations and pictures, as plain dicts, lists, strings and finite numbers.

    `quantiles` are Student's at (1 + level) / 2 by degrees of freedom, from 0 (None). `surety` is what seeds say about
    ranks, at the weights w that it names; it holds at no other.
    """
    most = max(len(entry.result.seeds) for group in ranking.groups for entry in group.entries)
    configs = {text: index for index, text in enumerate(_configurations(ranking))}
    step, others = _resampled(ranking)
    beside = {
        id(group): (number, called)
        for number, groups in enumerate(side_by_side(ranking))
        for group, called in zip(groups, names(groups), strict=True)
    }
    return {
        "version": __version__,
        "w": ranking.w,
        "g": ranking.g,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "step": step,
        "arms": list(ARMS),
        "quantiles": [None] + [float(statistics.margin(math.sqrt(n), n)) for n in range(2, most + 1)],
        "groups": [
            {
                "dataset": group.dataset,
                "ipc": group.ipc,
                "model": group.model,
                "protocol": group.protocol,
                "variant": group.variant,
                "beside": beside[id(group)][0],  # equal where groups differ in their model alone
                "over_models": beside[id(group)][1],  # what its entries are called there
                "tau": [None if math.isnan(tau) else round(tau, 6) for tau in group.sweep.tau.tolist()],
                "surety": _surety(group, ranking.w, others),
                "entries": [_entry(ranking, entry, configs[_text(entry)]) for entry in group.entries],
            }
            for group in ranking.groups
        ],
        "notes": list(ranking.notes),
        "set_apart": ranking.set_apart(),
    }


def configurations(ranking: Ranking) -> list[dict[str, Any]]:
    """The different resolved configurations and environments of a ranking's results, numbered as in `content`."""
    return [json.loads(text, parse_constant=str) for text in _configurations(ranking)]


def _configurations(ranking: Ranking) -> list[str]:
    return list(dict.fromkeys(_text(entry) for group in ranking.groups for entry in group.entries))


def _text(entry: Entry) -> str:
    result = portable(entry.result)  # a page is for others
    return json.dumps({"config": result.config, "environment": result.environment}, default=str)


def _entry(ranking: Ranking, entry: Entry, config: int) -> dict[str, Any]:
    result, about = entry.result, entry.about
    return {
        "name": entry.name,
        "method": result.method,
        "labels": result.labels,
        "aug": result.aug,
        "criterion": result.criterion,
        "data": result.distilled["sha256"],
        "seeds": result.seeds,
        "arms": {name: _arm(result.arms[name]) for name in ARMS if name in result.arms},
        "files": list(map(ranking.place, entry.files)),
        "config": config,
        **{name: getattr(about, name) for name in ("paper", "code", "by", "date", "note")},
    }


def _arm(arm: Arm) -> dict[str, Any]:
    rates = arm.lr[:1] if len(set(arm.lr)) == 1 else arm.lr
    return {"accuracy": arm.accuracy, "lr": rates, "reference": arm.source == "reference"}


def _resampled(ranking: Ranking) -> tuple[float | None, list[Ranking]]:
    """The smaller groups ranked at every `step` of w, so many that it takes a few seconds; None and none otherwise."""
    small = [group for group in ranking.groups if len(group.entries) <= MOST_ENTRIES]
    runs = [Run(entry.result, entry.files) for group in small for entry in group.entries]
    parts = next((parts for parts in PARTS if runs and len(runs) * (parts + 1) <= MOST_WORK), None)
    if parts is None:
        return None, []
    return 1 / parts, [Ranking.of(runs, w=place / parts, g=ranking.g) for place in range(parts + 1)]


def _surety(group: Group, w: float, others: Sequence[Ranking]) -> list[dict[str, Any]]:
    """By weight: intervals of ranks, chances of being first, who is tied with the first; in the order of the group."""
    by_weight = {}
    for other in others:
        found = {id(entry.result): entry for again in other.groups for entry in again.entries}
        by_weight[other.w] = [found[id(entry.result)] for entry in group.entries if id(entry.result) in found]
    by_weight[w] = list(group.entries)
    return [
        {
            "w": weight,
            "low": [entry.places[0] for entry in entries],
            "high": [entry.places[1] for entry in entries],
            "first": [None if entry.first is None else round(entry.first, 6) for entry in entries],
            "tied": [int(entry.tied) for entry in entries],
        }
        for weight, entries in sorted(by_weight.items())
        if entries
    ]
