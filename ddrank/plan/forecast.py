"""The plan of one evaluation: prepared as the evaluation itself would be, but with nothing made, trained or stored."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ddrank import build, engine, evaluation
from ddrank.arms import Arm
from ddrank.data import DistilledDataset, RealDataset, Space, load_real
from ddrank.data.distilled import FILE
from ddrank.distill import make
from ddrank.distill.base import Phase
from ddrank.fit import Assignment
from ddrank.measure import Measurer
from ddrank.plan.calibrate import Cost, calibrated, like
from ddrank.plan.foresee import Foreseen, foresee
from ddrank.plan.preview import Preview
from ddrank.progress import Display
from ddrank.store import digest
from ddrank.student import derived_seed, steps_of
from ddrank.teacher import TeacherRoom

SCHEMA = "ddrank/plan/1"
_costs: dict[tuple[Any, str, bool], Cost] = {}  # of this process; those of a sweep's jobs are alike


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


def forecast(config: DictConfig, since: float) -> Forecast:
    """The plan of the evaluation of `config` (checked), timed on this machine. `since` is when the work began, seconds
    since 1970. Raises InputError for whatever cannot be evaluated."""
    machine = engine.start(config.engine)
    evaluation.check_parts(config)
    store = Preview(config.paths.store)
    with Display() as display:
        real = load_real(config.dataset, config.paths.data)
        evaluation.check_enough(config, real)
        room = _Untrained(config, real, store, machine, display)
        missing, began, phases = _to_be_made(config), time.time(), []
        if missing:
            phases, networks, space = make.rehearsed(config, real, machine, store, display)
            for name in networks:
                room.network(name, space)
            distilled, views = _made_up(config, real), None
        else:
            if make.ours(config):
                make.check_settings(config, real, store)
            distilled = evaluation.load_distilled(config, evaluation.find_distilled(config), real)
            views = evaluation.looked_through(distilled, config, display)
        rehearsed = time.time() - began if missing else 0.0
        spaces = evaluation.spaces(config, distilled, real, store)
        distilled = distilled.placed(spaces[0])
        if not missing:
            evaluation.refuse_impossible(config, distilled, real)
        teachers = room.teachers(spaces[0]) if config.method.labels != "hard" else None
        arms = evaluation.arms_to_measure(config, real, distilled, spaces, teachers, views, display)
        measurer = Measurer(config, real, store, machine, display)
        seeds = [config.seed + offset for offset in range(config.num_eval)]
        foreseen = foresee(measurer, arms, seeds, store)
        reading = time.time() - since - rehearsed
        timed = _Timed(machine, display)
        invented = {arm.name for arm in arms if _invented(arm, missing, bool(room.wanted), config)}
        return Forecast(
            method=config.method.name,
            dataset=config.dataset.name,
            ipc=config.ipc,
            model=config.model.name,
            labels=config.method.labels,
            protocol=config.protocol.name,
            seeds=seeds,
            workers=machine.workers,
            reading=round(reading, 1),
            preparations=[
                *(timed.teacher(key, assignment) for key, assignment in room.wanted.items()),
                *(_of_phase(phase, config) for phase in phases),
                *([] if phases or not missing else [_of_phase(Phase("selection of images, seconds", 1, 0.0), config)]),
            ],
            measurements=[timed.measurement(one, known=not invented & set(one.arms)) for one in foreseen],
            once=timed.once,
        )


class _Timed:
    """What things cost here. Students of one recipe are timed once, in the processes that they would be trained in."""

    def __init__(self, machine: engine.Engine, display: Display):
        self._machine, self._display, self._crew = machine, display, machine.crew()
        self.once: dict[str, float] = {}

    def measurement(self, one: Foreseen, known: bool) -> Measurement:
        cost, steps, tested, epochs, beside = None, 0, 0, 0, False
        if not one.found:
            assignment = one.task.assignment()
            beside = self._crew is not None and self._machine.beside(one.task.numbers, one.task.total)
            cost, training = self._cost(assignment, beside), assignment.training
            passes = training.epochs // assignment.test_every if assignment.test_every else 1
            tested = passes * len(assignment.tests)
            if one.trains:
                epochs, steps = training.epochs, steps_of(assignment.samples, training)
        return Measurement(
            arms=list(one.arms),
            seed=one.seed,
            lr=one.lr,
            measures=one.measures,
            keys=list(one.keys),
            known=known,
            found=one.found,
            trains=one.trains,
            steps=steps,
            seconds=0.0 if cost is None else round(cost.seconds(epochs, tested), 3),
            memory=0 if cost is None else cost.memory,
            beside=beside,
        )

    def teacher(self, key: str, assignment: Assignment) -> Preparation:
        cost, steps = self._cost(assignment, beside=False), steps_of(assignment.samples, assignment.training)
        taken = cost.seconds(assignment.training.epochs, len(assignment.tests))
        return Preparation(key, f"steps of the {assignment.name}", steps, taken / steps, cost.memory)

    def _cost(self, assignment: Assignment, beside: bool) -> Cost:
        name = like(assignment)
        if (self._machine, name, beside) not in _costs:
            with self._display.activity(f"timing a few steps of {assignment.name}", 1):
                _costs[self._machine, name, beside] = calibrated(
                    assignment, self._machine, self._crew if beside else None
                )
        cost = _costs[self._machine, name, beside]
        self.once[name] = round(cost.once, 3)
        return cost


class _Untrained(TeacherRoom):
    """Teachers without their training: those that the store lacks are networks that nobody has trained, `wanted` by
    their keys. Their fingerprints are those that they will have."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.wanted: dict[str, Assignment] = {}

    def trained(self, model: dict[str, Any], space: Space, seed: int = 0) -> tuple[nn.Module, str]:
        key, network = self._key(model, space, seed), self._network(model)
        if (weights := self._store.find_tensors(key)) is not None:
            network.load_state_dict(weights)
        else:
            self.wanted[digest(key)] = self.assignment(model, space, seed)
        return network, digest(key)


def _to_be_made(config: DictConfig) -> bool:
    """Whether there are no distilled data yet, but the means to make them."""
    path = Path(config.method.data)
    if make.ours(config):
        return not (path / FILE).exists()
    return config.method.distiller is not None and "://" not in config.method.data and not path.exists()


def _made_up(config: DictConfig, real: RealDataset) -> DistilledDataset:
    """Noise in the place of distilled data, of their shapes, and the same wherever the same data are meant."""
    distiller = build.build(config.method.distiller, "method.distiller")
    labels = torch.arange(real.num_classes).repeat_interleave(config.ipc)
    place = digest({"distilled": str(Path(config.method.data).resolve())})
    generator = torch.Generator().manual_seed(derived_seed(0, place))
    stored = config.method.labels == "single" and not config.method.relabel
    return DistilledDataset(
        torch.randn(len(labels), real.channels, real.size, real.size, generator=generator),
        labels,
        soft_labels=torch.zeros(len(labels), real.num_classes) if stored else None,
        lr=distiller.lr_init if distiller.learns_lr else None,
        space=config.method.made_in,
        path=Path(config.method.data),
    )


def _invented(arm: Arm, missing: bool, untrained: bool, config: DictConfig) -> bool:
    """Whether an arm's samples are not those that they will be: distilled data or teachers' labels made up here."""
    labelled = config.method.labels == "single" and arm.samples(config.seed).soft is not None
    return (missing and arm.source.startswith("distilled")) or (untrained and labelled)


def _of_phase(phase: Phase, config: DictConfig) -> Preparation:
    place = str(Path(config.method.data).resolve())
    name = f"{phase.name} ({config.method.name}, IPC {config.ipc})"
    return Preparation(
        phase.shared or digest({"distilled": place, "part": phase.name}), name, phase.steps, phase.seconds
    )
