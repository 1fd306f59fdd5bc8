"""Runs ranked by DDRS within each dataset, IPC, model and protocol, and how sure the ranks are."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ddrank.errors import InputError
from ddrank.leaderboard import statistics
from ddrank.leaderboard.about import UNKNOWN, About
from ddrank.leaderboard.collect import Apart, Run, collect
from ddrank.leaderboard.configuration import comparability, configuration, differences
from ddrank.leaderboard.portable import place, with_places
from ddrank.leaderboard.statistics import DECIMALS
from ddrank.result import Result
from ddrank.score import Statistic

SHARED = ("real_hard", "rdm_any")  # arms whose measurements methods share
WEIGHTS = np.linspace(0, 1, 101)  # of the sweep over w


@dataclass(frozen=True)
class Entry:
    """One row: a run, its scores at the ranking's w and g, and its place.

    `name` is the method, with what sets this entry apart from others of the same method in its group: 'dm (aug=none)'.
    `scores` holds 'hlr', 'ior', 'ddrs' and, where the run has the arms for it, 'ars'; `places` the 95 % interval of the
    rank; `first` the probability of being first, None for a single seed. `tied` says that the seeds do not tell it
    apart from an entry of rank 1 (of that one: from some other). How they are found: `ddrank.leaderboard.statistics`.
    """

    rank: int
    name: str
    scores: dict[str, Statistic]
    result: Result
    files: tuple[Path, ...]
    places: tuple[int, int]
    first: float | None
    tied: bool
    about: About = UNKNOWN

    @cached_property
    def accuracies(self) -> dict[str, Statistic]:
        """Each arm's test accuracy over the seeds."""
        return {name: Statistic.of(arm.accuracy) for name, arm in self.result.arms.items()}

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval (Student's over seeds) of a score or of an arm's accuracy.

        None for a single seed, for a published reference, and for what this entry does not have.
        """
        arm = self.result.arms.get(name)
        statistic = self.scores.get(name) or self.accuracies.get(name)
        if statistic is None or (arm and arm.source == "reference"):
            return None
        return statistics.interval(statistic)


@dataclass(frozen=True)
class Sweep:
    """A group's ranking at each weight w, and how far it agrees with the ranking by plain accuracy (`syn_any`).

    `weights` (weights,); `ranks` (weights, entries), of the mean DDRS; `accuracy` (entries,): ranks by plain accuracy;
    `tau` (weights,): Kendall's tau-b between the two, NaN for a single entry.
    """

    weights: np.ndarray
    ranks: np.ndarray
    accuracy: np.ndarray
    tau: np.ndarray


@dataclass(frozen=True)
class Group:
    """Entries that may be compared, best first; equal DDRS share a rank (1, 1, 3).

    `variant` is what sets the group apart from others of the same title: 'model.width=64'. `apart` (entries, entries)
    says which of them the seeds tell apart (`statistics.told_apart`).
    """

    dataset: str
    ipc: int
    model: str
    protocol: str
    entries: tuple[Entry, ...]
    variant: str = ""
    apart: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool), repr=False, compare=False)

    @property
    def title(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.dataset}, IPC {self.ipc}, {self.model}, protocol {self.protocol}{variant}"

    def tied_with(self, entry: Entry) -> tuple[str, ...]:
        """The names of all other entries that the seeds do not tell apart from `entry`."""
        (row,) = (row for row, other in zip(self.apart, self.entries, strict=True) if other is entry)
        return tuple(
            other.name for other, apart in zip(self.entries, row, strict=True) if other is not entry and not apart
        )

    @cached_property
    def sweep(self) -> Sweep:
        """How the ranking changes over w in [0, 1], in steps of 0.01."""
        hlr, ior = ([entry.scores[score].per_seed for entry in self.entries] for score in ("hlr", "ior"))
        values = statistics.ddrs_over(hlr, ior, WEIGHTS)
        accuracy = np.array([entry.accuracies["syn_any"].mean for entry in self.entries])
        tau = statistics.kendall_tau(values, accuracy)
        return Sweep(WEIGHTS, statistics.ranks(values), statistics.ranks(accuracy), tau)

    def is_best(self, entry: Entry, score: str) -> bool:
        """Whether no entry of this group has a better mean of `score`: a lower HLR, a higher one of the others."""
        return score in entry.scores and round(entry.scores[score].mean, DECIMALS) == self._best[score]

    @cached_property
    def _best(self) -> dict[str, float]:
        means: dict[str, list[float]] = {}
        for entry in self.entries:
            for score, statistic in entry.scores.items():
                means.setdefault(score, []).append(round(statistic.mean, DECIMALS))
        return {score: (min if score == "hlr" else max)(values) for score, values in means.items()}


@dataclass(frozen=True)
class Ranking:
    """All groups of a set of runs, at one w and g, and the files that could not be ranked.

    `roots` are the files and folders in which the runs were found; what is published names files by their place below.
    """

    w: float
    g: float
    groups: tuple[Group, ...]
    apart: tuple[Apart, ...] = ()
    roots: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_runs(cls, paths: Path | str | Iterable[Path | str], w: float = 0.5, g: float = 0.5) -> Ranking:
        """Rank the runs in the given result files and folders by DDRS at `w`; ARS is computed at `g`.

            ranking = Ranking.from_runs("runs")         # or several: ["runs", "leaderboard/submissions"]
            ranking                                     # in a notebook: its tables
            ranking.at(w=0.8).groups[0].entries[0]      # the first of a group at another weight
            pandas.DataFrame(ranking.to_dicts())        # a row an entry

        Files that cannot be read or contradict each other are set apart. Raises InputError for a weight outside
        [0, 1], for a path that does not exist, and when nothing is left to rank.
        """
        _check(w, g)
        paths = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
        runs, apart = collect(paths)
        if not runs:
            raise InputError(_nothing(paths, apart))
        return cls.of(runs, apart, w, g, paths)

    @classmethod
    def of(
        cls,
        runs: Iterable[Run],
        apart: Iterable[Apart] = (),
        w: float = 0.5,
        g: float = 0.5,
        roots: Iterable[Path] = (),
    ) -> Ranking:
        """Rank runs that are in memory; what was set apart and the roots are only passed on."""
        _check(w, g)
        groups: dict[tuple[str, int, str, str], dict[Hashable, list[Run]]] = {}
        for run in runs:
            result = run.result
            titled = groups.setdefault((result.dataset, result.ipc, result.model, result.protocol), {})
            titled.setdefault(frozenset(comparability(result).items()), []).append(run)
        ranked = []
        for key, variants in sorted(groups.items(), key=lambda item: item[0]):
            names = differences([comparability(group[0].result) for group in variants.values()])
            for variant, group in sorted(zip(names, variants.values(), strict=True), key=lambda item: item[0]):
                entries, told = _entries(group, w, g)
                ranked.append(Group(*key, entries, variant, told))
        return cls(w, g, tuple(ranked), tuple(apart), tuple(roots))

    def at(self, w: float | None = None, g: float | None = None) -> Ranking:
        """The same runs ranked at other weights, without reading a file again."""
        runs = [Run(entry.result, entry.files, entry.about) for group in self.groups for entry in group.entries]
        return Ranking.of(runs, self.apart, self.w if w is None else w, self.g if g is None else g, self.roots)

    def place(self, file: Path) -> str:
        """Where a file lies for others: below the folder in which it was found, no path of this machine."""
        return place(file, self.roots)

    def set_apart(self) -> list[dict[str, Any]]:
        """The files that could not be ranked, and why, for others: plain dicts with `files` and `why`."""
        return [
            {
                "files": list(map(self.place, apart.files)),
                "why": with_places(apart.sentence, (*apart.files, *apart.others), self.roots),
            }
            for apart in self.apart
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know before comparing groups: one sentence for each mixture of protocols."""
        protocols: dict[tuple[str, int, str], dict[str, None]] = {}
        for group in self.groups:
            protocols.setdefault((group.dataset, group.ipc, group.model), {})[group.protocol] = None
        return tuple(
            f"{dataset}, IPC {ipc}, {model} was evaluated under different protocols ({', '.join(found)}), whose "
            "accuracies cannot be compared: each is ranked by itself"
            for (dataset, ipc, model), found in protocols.items()
            if len(found) > 1
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat dict an entry, as in ranking.csv: scores, intervals and accuracies at full precision."""
        from ddrank.leaderboard.tables import rows

        return rows(self)

    def _repr_markdown_(self) -> str:
        from ddrank.leaderboard.tables import to_markdown

        return to_markdown(self)


def _check(w: float, g: float) -> None:
    for name, weight in (("w", w), ("g", g)):
        if not 0 <= weight <= 1:
            raise InputError(f"the weight {name} is {weight}, expected a number in [0, 1]")


def _entries(runs: Sequence[Run], w: float, g: float) -> tuple[tuple[Entry, ...], np.ndarray]:
    """A group's entries, and which of them are told apart (entries, entries)."""
    scored = [(replace(run.result, w=w, g=g).scores, name, run) for run, name in zip(runs, _names(runs), strict=True)]
    ranks = statistics.ranks(np.array([scores["ddrs"].mean for scores, _, _ in scored]))
    # The order of the files must not change the random numbers.
    order = sorted(range(len(runs)), key=lambda index: (ranks[index], scored[index][1]))
    ranks, scored = ranks[order], [scored[index] for index in order]
    seeds = statistics.Seeds.of([row["ddrs"].per_seed for row, _, _ in scored], [_shared(run) for _, _, run in scored])
    found = statistics.places(seeds)
    tied = ~found.apart & ~np.eye(len(runs), dtype=bool)
    leaders = ranks == 1
    entries = tuple(
        Entry(
            rank=int(rank),
            name=name,
            scores=scores,
            result=run.result,
            files=run.files,
            places=(int(found.low[index]), int(found.high[index])),
            first=None if np.isnan(found.first[index]) else float(found.first[index]),
            tied=bool(tied[index].any() if rank == 1 else tied[index, leaders].any()),
            about=run.about,
        )
        for index, (rank, (scores, name, run)) in enumerate(zip(ranks, scored, strict=True))
    )
    return entries, found.apart


def _shared(run: Run) -> list[Hashable]:
    """What runs have in common that share measurements: the arm, its seeds and accuracies."""
    arms = ((name, run.result.arms[name]) for name in SHARED)
    return [(name, tuple(run.result.seeds), tuple(arm.accuracy)) for name, arm in arms if arm.source == "measured"]


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
        return (
            f"there is no result.json in {where} and no submission: give the folder of finished runs, or evaluate a "
            "method first"
        )
    if len(apart) == 1:
        return apart[0].sentence
    return f"none of the result files in {where} can be ranked; the first: {apart[0].sentence}"
