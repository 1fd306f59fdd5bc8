"""Cross-architecture tables: one distilled dataset, evaluated with students of several architectures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ddrank.leaderboard import statistics
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
    groups: dict[tuple[str, int, str], list[Group]] = {}
    for group in ranking.groups:
        groups.setdefault((group.dataset, group.ipc, group.protocol), []).append(group)
    return [_table(*key, found) for key, found in groups.items() if len(found) > 1]


def _table(dataset: str, ipc: int, protocol: str, groups: Sequence[Group]) -> Architectures:
    models = tuple(f"{group.model} ({group.variant})" if group.variant else group.model for group in groups)
    evaluated: dict[tuple[str, str], dict[str, Entry]] = {}  # the images have to be the same ones, not only the method
    for model, group in zip(models, groups, strict=True):
        for entry in group.entries:
            evaluated.setdefault((entry.name, entry.result.distilled["sha256"]), {})[model] = entry
    counts = Counter(name for name, _ in evaluated)
    rows = [
        _row(name if counts[name] == 1 else f"{name} (data={data[:8]})", [entries.get(model) for model in models])
        for (name, data), entries in evaluated.items()
    ]
    rows.sort(key=lambda row: (row.mean is None, -(row.mean or 0), row.name))
    return Architectures(dataset, ipc, protocol, models, tuple(rows))


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
