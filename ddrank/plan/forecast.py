"""The plan of one evaluation: prepared as the evaluation itself would be, but with nothing made, trained or stored."""

from __future__ import annotations

import time
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
from ddrank.plan.contents import Forecast, Measurement, Preparation
from ddrank.plan.foresee import Foreseen, foresee
from ddrank.plan.preview import Preview
from ddrank.progress import Display
from ddrank.store import digest
from ddrank.student import derived_seed, steps_of
from ddrank.teacher import TeacherRoom

_costs: dict[tuple[Any, str, bool], Cost] = {}  # of this process; those of a sweep's jobs are alike


def forecast(config: DictConfig, since: float) -> Forecast:
    """The plan of the evaluation of `config` (checked), timed on this machine. `since` is when the work began, seconds
    since 1970. Raises InputError for whatever cannot be evaluated."""
    machine = engine.start(config.engine)
    evaluation.check_parts(config)
    store = Preview(config.paths.store)
    with Display() as display:
        real = load_real(config.dataset, config.paths.data)
        evaluation.check_enough(config, real)
        room, began = _Untrained(config, real, store, machine, display), time.time()
        missing = _to_be_made(config)
        phases = _rehearsed(config, real, room, machine, store, display) if missing else []
        since += time.time() - began
        arms = _arms(config, real, room, store, display, missing)
        measurer = Measurer(config, real, store, machine, display)
        seeds = [config.seed + offset for offset in range(config.num_eval)]
        foreseen = foresee(measurer, arms, seeds, store)
        reading = time.time() - since
        timed = _Timed(machine.alone(), display)
        if machine.ranks > 1:
            display.say(f"times are those of one device, not of the {machine.ranks} that train a student together")
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
            ],
            measurements=[timed.measurement(one, known=not invented & set(one.arms)) for one in foreseen],
            once=timed.once,
        )


def _rehearsed(
    config: DictConfig, real: RealDataset, room: _Untrained, machine: engine.Engine, store: Preview, display: Display
) -> list[Phase]:
    """What making the distilled data would cost; the networks that it wants trained are left with `room`."""
    phases, networks, space = make.rehearsed(config, real, machine, store, display)
    for name in networks:
        room.network(name, space)
    return phases or [Phase("distilled data, in seconds", 1, 0.0)]


def _arms(
    config: DictConfig, real: RealDataset, room: _Untrained, store: Preview, display: Display, missing: bool
) -> list[Arm]:
    """The arms of the evaluation, on noise where the distilled data are missing."""
    if missing:
        distilled, views = _made_up(config, real), None
    else:
        if make.ours(config):
            make.check_settings(config, real, store)
        distilled = evaluation.load_distilled(config, evaluation.find_distilled(config), real)
        views = evaluation.looked_through(distilled, config, display)
    spaces = evaluation.spaces(config, distilled, real, store)
    distilled = distilled.placed(spaces[0])
    if not missing:
        evaluation.refuse_impossible(config, distilled, real)
    teachers = room.teachers(spaces[0]) if config.method.labels != "hard" else None
    return evaluation.arms_to_measure(config, real, distilled, spaces, teachers, views, display)


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

    def _examine(self, *_: Any) -> None:
        """Nothing is computed for a plan."""


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
