"""A distillation as a long job: announced with its cost, watched, kept in checkpoints, resumed to the same images."""

from __future__ import annotations

import json
import math
import pickle
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ddrank import atomic, pictures
from ddrank.distill.base import Distillation, Distilled, Iterative, Phase, Task, rehearsal
from ddrank.errors import InputError, StoreWarning
from ddrank.progress import Display, duration
from ddrank.store.entry import check_archive

_POINTS = 1000  # of a curve, at most


@dataclass(frozen=True)
class Job:
    """What is asked for besides the images; nothing here changes them.

    Attributes:
        checkpoint: the file to resume from and to keep the state in; removed by whoever keeps the images.
        seconds: between two checkpoints, at least; more where writing one takes more than a twentieth of it.
        frames: pictures taken on the way.
        validate: the accuracy (fraction) of students trained on what has been made so far, on held-out images.
        validate_every: iterations between two of those; 0 for none.
        stop_at: the iteration before which to stop, the state kept.
        log: is told what each logged iteration gave.
        about: what a checkpoint says of itself for whoever looks at the store, as JSON has it.
    """

    checkpoint: Path | None = None
    seconds: float = 60.0
    frames: int = 32
    validate: Callable[[Distilled], float] | None = None
    validate_every: int = 0
    stop_at: int | None = None
    log: Callable[[int, dict[str, float]], None] = lambda iteration, values: None
    about: Mapping[str, Any] = field(default_factory=dict)


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
    """All iterations of `distiller`, from where a checkpoint left off; None for the images where it stops before.

    Raises InputError where the loss is no longer a number.
    """
    name = f"{type(distiller).__name__} on {task.real.name}, IPC {task.ipc}"
    saved = _saved(job.checkpoint, task)
    if saved is None:
        with isolate_rng(include_cuda=task.device == "cuda"):
            phases = distiller.rehearse(rehearsal(task))
        announce(name, phases, task.display)
    distillation = distiller.begin(task)
    record, start, length = Record(), 0, distiller.length(task)
    if saved is not None:
        start = _restore(saved, distillation, task, record)
        task.display.say(f"{name}: going on at iteration {start} of {length}, from {job.checkpoint}")
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
        self._saved = self.clock = time.monotonic()
        self._between = job.seconds

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
                due = time.monotonic() - self._saved >= self._between
                if self._job.checkpoint and not last and (due or done == end):
                    self._check(iteration, values)
                    self._keep(done)

    def look(self, iteration: int) -> None:
        """A picture and a validation before `iteration`, where they are due."""
        if iteration in self._moments or (self._job.frames and iteration == self._iterations):
            self._record.frames.append((iteration, _mosaic(self._distillation, self._task)))
        due = self._job.validate_every and (iteration % self._job.validate_every == 0 or iteration == self._iterations)
        if due and self._job.validate:
            with isolate_rng(include_cuda=self._task.device == "cuda"):
                accuracy = self._job.validate(self._distillation.result())
            self._task.display.say(f"{self._name}: validation accuracy {accuracy:.4f} before iteration {iteration}")
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
        _save(self._job, done, self._distillation, self._task, self._record)
        self._saved = time.monotonic()
        self._between = max(self._job.seconds, 20 * (self._saved - now))


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


def _save(job: Job, done: int, distillation: Distillation, task: Task, record: Record) -> None:
    """Keep the state after `done` iterations; where that cannot be, say so and go on."""
    content = {
        "about": json.dumps(job.about),
        "done": done,
        "state": distillation.state(),
        "random": _random_state(task),
        "rows": record.rows,
        "frames": record.frames,
        "seconds": record.seconds,
    }
    try:
        atomic.write_with(job.checkpoint, lambda temporary: torch.save(content, temporary))
    except (InputError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"no checkpoint was kept ({reason}): going on without", StoreWarning, stacklevel=2)


def _saved(path: Path | None, task: Task) -> dict[str, Any] | None:
    """The content of a checkpoint, or None; one that cannot be read is reported and counts as none."""
    if path is None or not path.exists():
        return None
    try:
        check_archive(path)  # torch looks at no checksum
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f"the checkpoint {path} is corrupt ({reason}): starting anew", StoreWarning, stacklevel=2)
        return None


def _restore(saved: dict[str, Any], distillation: Distillation, task: Task, record: Record) -> int:
    """Go on from a checkpoint; returns the next iteration."""
    distillation.restore(saved["state"])
    record.rows, record.seconds = saved["rows"], saved["seconds"]
    record.frames = [tuple(frame) for frame in saved["frames"]]
    task.generator.set_state(saved["random"]["choices"])
    torch.set_rng_state(saved["random"]["torch"])
    if "cuda" in saved["random"] and task.device == "cuda":
        torch.cuda.set_rng_state(saved["random"]["cuda"])
    return saved["done"]


def _random_state(task: Task) -> dict[str, Tensor]:
    state = {"choices": task.generator.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if task.device == "cuda" else {})
