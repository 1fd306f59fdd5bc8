"""Runs ranked by DDRS within each dataset, IPC, model and protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.collect import Apart, Run, collect
from ddrank.leaderboard.configuration import configuration, differences
from ddrank.result import Result
from ddrank.score import Statistic

_SAME = 12  # decimals: means that agree this far are a tie


@dataclass(frozen=True)
class Entry:
    """One row: a run, its scores at the ranking's w and g, and its place.

    `name` is the method, with what sets this entry apart from others of the same method in its group: 'dm (aug=none)'.
    `scores` holds 'hlr', 'ior', 'ddrs' and, where the run has the arms for it, 'ars'.
    """

    rank: int
    name: str
    scores: dict[str, Statistic]
    result: Result
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Group:
    """Entries that may be compared, best first; equal DDRS share a rank (1, 1, 3)."""

    dataset: str
    ipc: int
    model: str
    protocol: str
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, IPC {self.ipc}, {self.model}, protocol {self.protocol}"

    def is_best(self, entry: Entry, score: str) -> bool:
        """Whether no entry of this group has a better mean of `score`: a lower HLR, a higher one of the others."""
        return score in entry.scores and round(entry.scores[score].mean, _SAME) == self._best[score]

    @cached_property
    def _best(self) -> dict[str, float]:
        means: dict[str, list[float]] = {}
        for entry in self.entries:
            for score, statistic in entry.scores.items():
                means.setdefault(score, []).append(round(statistic.mean, _SAME))
        return {score: (min if score == "hlr" else max)(values) for score, values in means.items()}


@dataclass(frozen=True)
class Ranking:
    """All groups of a set of runs, at one w and g, and the files that could not be ranked."""

    w: float
    g: float
    groups: tuple[Group, ...]
    apart: tuple[Apart, ...] = ()

    @classmethod
    def from_runs(cls, paths: Iterable[Path | str], w: float = 0.5, g: float = 0.5) -> Ranking:
        """Rank the runs in the given result files and folders by DDRS at `w`; ARS is computed at `g`.

        Files that cannot be read or contradict each other are set apart. Raises InputError for a weight outside
        [0, 1], for a path that does not exist, and when nothing is left to rank.
        """
        for name, weight in (("w", w), ("g", g)):
            if not 0 <= weight <= 1:
                raise InputError(f"the weight {name} is {weight}, expected a number in [0, 1]")
        paths = list(map(Path, paths))
        runs, apart = collect(paths)
        if not runs:
            raise InputError(_nothing(paths, apart))
        groups: dict[tuple[str, int, str, str, str], list[Run]] = {}
        for run in runs:
            result = run.result
            # Models of one name may be of different width: they are not ranked together.
            settings = json.dumps(result.config.get("model"), sort_keys=True)
            key = (result.dataset, result.ipc, result.model, result.protocol, settings)
            groups.setdefault(key, []).append(run)
        ranked = (Group(*key[:-1], _entries(group, w, g)) for key, group in sorted(groups.items()))
        return cls(w, g, tuple(ranked), tuple(apart))


def _entries(runs: Sequence[Run], w: float, g: float) -> tuple[Entry, ...]:
    names = _names(runs)
    scored = [(replace(run.result, w=w, g=g).scores, name, run) for run, name in zip(runs, names, strict=True)]
    keys = [round(scores["ddrs"].mean, _SAME) for scores, _, _ in scored]
    places = {key: 1 + sum(other > key for other in keys) for key in set(keys)}
    entries = [
        Entry(places[key], name, scores, run.result, run.files)
        for key, (scores, name, run) in zip(keys, scored, strict=True)
    ]
    return tuple(sorted(entries, key=lambda entry: (entry.rank, entry.name)))


def _names(runs: Sequence[Run]) -> list[str]:
    names = [run.result.method for run in runs]
    for method in set(names):
        places = [index for index, run in enumerate(runs) if run.result.method == method]
        how = differences([configuration(runs[index].result) for index in places])
        for index, difference in zip(places, how, strict=True):
            if difference:
                names[index] = f"{method} ({difference})"
    return names


def _nothing(paths: Sequence[Path], apart: Sequence[Apart]) -> str:
    where = ", ".join(map(str, paths)) or "no path"
    if not apart:
        return f"there is no result.json in {where}: give the folder of finished runs, or evaluate a method first"
    if len(apart) == 1:
        return apart[0].sentence
    return f"none of the result files in {where} can be ranked; the first: {apart[0].sentence}"
