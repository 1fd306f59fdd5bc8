"""Cross-architecture tables: one distilled dataset, evaluated with students of several architectures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ddrank.leaderboard import statistics
from ddrank.leaderboard.configuration import comparability, configuration, differences
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.score import Statistic


@dataclass(frozen=True)
class Row:
    """One method's mean DDRS with each model (None where it was not evaluated with one), their mean and the worst.

    `mean`, its 95 % interval (Student's, of the seeds' means over models) and `worst` are None where a model lacks:
    means over different models cannot be compared. The interval is None too where models have different seeds, or one.
    """

    name: str
    models: tuple[float | None, ...]
    mean: float | None
    interval: tuple[float, float] | None
    worst: float | None


@dataclass(frozen=True)
class Architectures:
    """All methods of one dataset, IPC and protocol over the models, best mean first, those that lack a model last."""

    dataset: str
    ipc: int
    protocol: str
    models: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, IPC {self.ipc}, protocol {self.protocol}: DDRS with each model"


def architectures(ranking: Ranking) -> list[Architectures]:
    """A table for each dataset, IPC and protocol that was evaluated with more than one model."""
    return [_table(groups) for groups in side_by_side(ranking) if len(groups) > 1]


def side_by_side(ranking: Ranking) -> list[list[Group]]:
    """The groups of a ranking, those together that differ in their model alone."""
    found: dict[Hashable, list[Group]] = {}
    for group in ranking.groups:
        choices = {
            key: value for key, value in comparability(group.entries[0].result).items() if not key.startswith("model.")
        }
        key = (group.dataset, group.ipc, group.protocol, frozenset(choices.items()))
        found.setdefault(key, []).append(group)
    return list(found.values())


def names(groups: Sequence[Group]) -> list[list[str]]:
    """For each of some groups the names of its entries, the same where a method was evaluated on the same images in the
    same way with another model. (An entry's own name says how it differs from the others of its group.)"""
    data: dict[str, dict[str, None]] = {}
    ways: dict[str, list[dict[str, str]]] = {}
    for entry in (entry for group in groups for entry in group.entries):
        data.setdefault(entry.result.method, {})[entry.result.distilled["sha256"]] = None
        known = ways.setdefault(entry.result.method, [])
        if (way := _way(entry)) not in known:
            known.append(way)
    labels = {method: differences(known) for method, known in ways.items()}

    def name(entry: Entry) -> str:
        method, images = entry.result.method, entry.result.distilled["sha256"]
        parts = [labels[method][ways[method].index(_way(entry))], f"data={images[:8]}" if len(data[method]) > 1 else ""]
        told = ", ".join(filter(None, parts))
        return f"{method} ({told})" if told else method

    return [[name(entry) for entry in group.entries] for group in groups]


def _way(entry: Entry) -> dict[str, str]:
    """How an entry was evaluated, whatever the model."""
    found = configuration(entry.result).items()
    return {key: value for key, value in found if key not in ("model", "data") and not key.startswith("model.")}


def _table(groups: Sequence[Group]) -> Architectures:
    models = tuple(f"{group.model} ({group.variant})" if group.variant else group.model for group in groups)
    evaluated: dict[str, list[Entry | None]] = {}
    for place, (group, called) in enumerate(zip(groups, names(groups), strict=True)):
        for entry, name in zip(group.entries, called, strict=True):
            evaluated.setdefault(name, [None] * len(groups))[place] = entry
    rows = [_row(name, entries) for name, entries in evaluated.items()]
    rows.sort(key=lambda row: (row.mean is None, -(row.mean or 0), row.name))
    first = groups[0]
    return Architectures(first.dataset, first.ipc, first.protocol, models, tuple(rows))


def _row(name: str, entries: Sequence[Entry | None]) -> Row:
    found = [None if entry is None else entry.scores["ddrs"] for entry in entries]
    means = tuple(statistic and statistic.mean for statistic in found)
    if None in entries:
        return Row(name, means, None, None, None)
    interval = None
    if len({tuple(entry.result.seeds) for entry in entries}) == 1:
        seeds = zip(*(statistic.per_seed for statistic in found), strict=True)
        interval = statistics.interval(Statistic.of([sum(seed) / len(seed) for seed in seeds]))
    return Row(name, means, sum(means) / len(means), interval, min(means))
