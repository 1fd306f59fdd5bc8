"""A distillation as a long job: announced with its cost, watched, kept in checkpoints, resumed to the same images (on a
GPU, to images as equal as those of two undisturbed runs)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ddrank import pictures
from ddrank.checkpoint import Checkpoint, Pace, misfit, random_state, set_random_state
from ddrank.distill.base import Distillation, Distilled, Iterative, Phase, Task, rehearsal
from ddrank.errors import InputError
from ddrank.progress import Display, duration

_POINTS = 1000  # of a curve, at most


@dataclass(frozen=True)
class Job:
    """What is asked for besides the images; nothing here changes them.

    Attributes:
        checkpoint: to resume from and to keep the state in; removed by whoever keeps the images.
        seconds: between two checkpoints, at least; more where writing one takes more than a twentieth of it.
        frames: pictures taken on the way.
        validate: the accuracy (fraction) of students trained on what has been made so far, on held-out images.
        validate_every: iterations between two of those; 0 for none.
        stop_at: the iteration before which to stop, the state kept.
        log: is told what each logged iteration gave.
    """

    checkpoint: Checkpoint | None = None
    seconds: float = 60.0
    frames: int = 32
    validate: Callable[[Distilled], float] | None = None
    validate_every: int = 0
    stop_at: int | None = None
    log: Callable[[int, dict[str, float]], None] = lambda iteration, values: None


@dataclass
class Record:
    """What was seen on the way.

    Attributes:
        rows: of logged iterations, `iteration` and what the step gave (see `Distillation.step`), or `validation`.
        frames: (iteration, mosaic of the images, uint8 (H, W, C)).
        seconds: spent on it, over all processes that worked on it.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    frames: list[tuple[int, Tensor]] = field(default_factory=list)
    seconds: float = 0.0


def carry_out(distiller: Iterative, task: Task, job: Job) -> tuple[Distilled | None, Record]:
    """All iterations of `distiller`, from where a checkpoint left off, if it fits; None for the images where it stops
    before.

    Raises InputError where the loss is no longer a number.
    """
    name = f"{type(distiller).__name__} on {task.real.name}, IPC {task.ipc}"
    length = distiller.length(task)
    if (found := _taken_up(distiller, task, job.checkpoint)) is not None:
        distillation, record, start = found
        task.display.say(f"{name}: going on at iteration {start} of {length}, from {job.checkpoint.path}")
    else:
        with isolate_rng(include_cuda=task.device == "cuda"):
            phases = distiller.rehearse(rehearsal(task))
        announce(name, phases, task.display)
        distillation, record, start = distiller.begin(task), Record(), 0
    loop = _Loop(name, length, distillation, task, job, record)
    end = length if job.stop_at is None else min(job.stop_at, length)
    loop.run(start, end)
    record.seconds += time.monotonic() - loop.clock
    if end < length:
        return None, record
    loop.look(end)
    return distillation.result(), record


class _Loop:
    """The iterations, with all that happens between them."""

    def __init__(self, name: str, length: int, distillation: Distillation, task: Task, job: Job, record: Record):
        self._name, self._iterations, self._distillation = name, length, distillation
        self._task, self._job, self._record = task, job, record
        self._stride = max(1, self._iterations // _POINTS)
        self._moments = {round(self._iterations * (k / job.frames) ** 2) for k in range(job.frames)}
        self._pace, self.clock = Pace(job.seconds), time.monotonic()

    def run(self, start: int, end: int) -> None:
        note = ""
        with self._task.display.activity(self._name, self._iterations - start) as advance:
            for iteration in range(start, end):
                self.look(iteration)
                values = self._distillation.step(iteration)
                last = iteration + 1 == self._iterations
                if iteration % self._stride == 0 or last:
                    note = self._note(iteration, values)
                advance(note)
                done = iteration + 1
                if self._job.checkpoint and not last and (self._pace.due or done == end):
                    self._check(iteration, values)
                    self._keep(done)

    def look(self, iteration: int) -> None:
        """A picture and a validation before `iteration`, where they are due."""
        if iteration in self._moments or (self._job.frames and iteration == self._iterations):
            self._record.frames.append((iteration, _mosaic(self._distillation, self._task)))
        due = self._job.validate_every and (iteration % self._job.validate_every == 0 or iteration == self._iterations)
        if due and self._job.validate:
            made = self._distillation.result()
            with isolate_rng(include_cuda=self._task.device == "cuda"):
                accuracy = self._job.validate(made)
            labels = "hard" if made.soft_labels is None else "soft"
            self._task.display.say(
                f"{self._name}: validation accuracy {accuracy:.4f} ({labels} labels) before iteration {iteration}"
            )
            self._row(iteration, {"validation": accuracy})

    def _note(self, iteration: int, values: dict[str, Tensor | float]) -> str:
        self._check(iteration, values)
        read = {name: float(value) for name, value in values.items()}
        if read:
            self._row(iteration, read)
        return "  ".join(f"{name} {value:.4g}" for name, value in read.items())

    def _row(self, iteration: int, values: dict[str, float]) -> None:
        self._record.rows.append({"iteration": iteration, **values})
        self._job.log(iteration, values)

    def _check(self, iteration: int, values: dict[str, Tensor | float]) -> None:
        loss, tensors = float(values.get("loss", 0)), self._distillation.tensors.values()
        lost = not all(bool(tensor.isfinite().all()) for tensor in tensors) if tensors else not math.isfinite(loss)
        if lost:  # a loss alone may be one that a method passes over
            raise InputError(
                f"{self._name}: the loss is {loss} at iteration {iteration}, so the images are lost: choose smaller "
                "learning rates (method.distiller.lr and the like)"
            )

    def _keep(self, done: int) -> None:
        now = time.monotonic()
        self._record.seconds += now - self.clock
        self.clock = now
        state = _state(done, self._distillation, self._task, self._record)
        self._pace.timed(lambda: self._job.checkpoint.keep(state))


def announce(name: str, phases: list[Phase], display: Display) -> None:
    """Say what `phases` will cost here."""
    parts = [
        f"{phase.steps} {phase.name} of {phase.seconds:.2g} s, {duration(phase.steps * phase.seconds)}"
        for phase in phases
    ]
    total = sum(phase.steps * phase.seconds for phase in phases)
    whole = f"; together about {duration(total)}" if len(phases) > 1 else ""
    display.say(f"{name}: expected on this machine: {'; '.join(parts)}{whole}")


def _mosaic(distillation: Distillation, task: Task) -> Tensor:
    shown = pictures.shown(task.labels)
    pixels = task.space.inverse(distillation.some(shown)).clamp(0, 1)
    return pictures.mosaic(pixels, task.labels[shown])


def _state(done: int, distillation: Distillation, task: Task, record: Record) -> dict[str, Any]:
    """What a checkpoint holds after `done` iterations."""
    return {
        "done": done,
        "state": distillation.state(),
        "random": _random_state(task),
        "rows": record.rows,
        "frames": record.frames,
        "seconds": record.seconds,
    }


def _taken_up(
    distiller: Iterative, task: Task, checkpoint: Checkpoint | None
) -> tuple[Distillation, Record, int] | None:
    """What a checkpoint holds: the distillation, what was seen on the way, and the next iteration. None where there is
    none that fits; then nothing random has been drawn."""
    saved = None if checkpoint is None else checkpoint.saved()
    if saved is None:
        return None
    before = _random_state(task)
    distillation, record = distiller.begin(task), Record()
    if (problem := misfit(lambda: _restore(saved, distillation, task, record))) is None:
        return distillation, record, saved["done"]
    _set_random_state(before, task)
    checkpoint.refuse(problem)
    return None


def _restore(saved: dict[str, Any], distillation: Distillation, task: Task, record: Record) -> None:
    distillation.restore(saved["state"])
    record.rows, record.seconds = saved["rows"], saved["seconds"]
    record.frames = [tuple(frame) for frame in saved["frames"]]
    _set_random_state(saved["random"], task)


def _random_state(task: Task) -> dict[str, Any]:
    return random_state(task.device) | {"choices": task.generator.get_state()}


def _set_random_state(state: dict[str, Any], task: Task) -> None:
    task.generator.set_state(state["choices"])
    set_random_state(state, task.device)
