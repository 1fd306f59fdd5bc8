"""What a plan says, of one evaluation or of several that share what they can. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = "ddrank/plan/1"


@dataclass(frozen=True)
class Measurement:
    """A measurement of a plan: of the arms `arms`, which want it together, for `seed`.

    Attributes:
        lr: of its student; None where the search among the others decides on it.
        measures: what of its student is measured.
        keys: digests of its key in the store, one where it is settled; else of each that it may turn out to be.
        known: those are its keys; otherwise they hang on data or labels that have yet to be made.
        found, trains: it is in the store; a student is trained for it.
        steps: of that student.
        seconds, memory: that it takes here, and bytes that its process has in use meanwhile.
        beside: it is measured in a worker process, beside others.
    """

    arms: list[str]
    seed: int
    lr: float | None
    measures: str
    keys: list[str]
    known: bool
    found: bool
    trains: bool
    steps: int
    seconds: float
    memory: int
    beside: bool


@dataclass(frozen=True)
class Preparation:
    """What has to be made before: a teacher, or a part of a distillation. Those with the same `key` are one.

    `steps` of `seconds` each; `memory` in bytes, where it was measured.
    """

    key: str
    name: str
    steps: int
    seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class Forecast:
    """The plan of one evaluation; `once` are the seconds that the first student of each recipe takes longer than the
    others, most of them to compile; `reading` those until the first student can begin, what is to be made left out."""

    method: str
    dataset: str
    ipc: int
    model: str
    labels: str
    protocol: str
    seeds: list[int]
    workers: int
    reading: float
    preparations: list[Preparation]
    measurements: list[Measurement]
    once: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"schema": SCHEMA, **asdict(self), "seconds": round(seconds([self]), 1)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Forecast:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError where it is nothing of the kind."""
        if content["schema"] != SCHEMA:
            raise ValueError(f"it is no {SCHEMA}")
        fields = {name: content[name] for name in cls.__dataclass_fields__}
        return cls(
            **fields
            | {
                "preparations": [Preparation(**one) for one in content["preparations"]],
                "measurements": [Measurement(**one) for one in content["measurements"]],
            }
        )


def distinct(forecasts: Iterable[Forecast]) -> tuple[list[Preparation], list[Measurement]]:
    """What several plans want, once each: of what they share, whoever asks first makes it."""
    preparations: dict[str, Preparation] = {}
    measurements: dict[tuple[str, ...], Measurement] = {}
    for forecast in forecasts:
        for one in forecast.preparations:
            before = preparations.setdefault(one.key, one)
            preparations[one.key] = max(before, one, key=lambda each: each.steps)
        for one in forecast.measurements:
            measurements.setdefault(tuple(one.keys), one)
    return list(preparations.values()), list(measurements.values())


def seconds(forecasts: list[Forecast]) -> float:
    """How long the evaluations take one after the other on this machine, what they share counted once."""
    preparations, measurements = distinct(forecasts)
    workers = max(forecast.workers for forecast in forecasts)
    beside = [one.seconds for one in measurements if one.beside]
    alone = sum(one.seconds for one in measurements if not one.beside)
    once = {name: taken for forecast in forecasts for name, taken in forecast.once.items()}
    made = sum(one.steps * one.seconds for one in preparations)
    side_by_side = max(sum(beside) / workers, max(beside, default=0.0))
    return sum(one.reading for one in forecasts) + made + side_by_side + alone + sum(once.values())
