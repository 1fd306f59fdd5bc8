"""What a student costs on this machine, from a few steps of it."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ddrank import build, forward
from ddrank.crew import Crew
from ddrank.data.samples import Samples, TestBatches
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.fit import Assignment, fitted
from ddrank.store import digest
from ddrank.student import accuracy_on, steps_of

_SECONDS = 2.0  # of steps that are measured, at least
_FEWEST = 3  # steps that are measured, where there are so many
_TEST_BATCHES = 5  # that are measured, at most


@dataclass(frozen=True)
class Cost:
    """What one student costs, in seconds: before and after its steps (`setup`), an `epoch`, the test of one image
    (`test`), and `once` in a process for all students like it: to compile, say, with what is compiled on the disk.
    `memory` is the most that its process had in use, bytes: on a GPU, of the GPU's."""

    setup: float
    epoch: float
    test: float
    once: float
    memory: int

    def seconds(self, epochs: int, tested: int) -> float:
        """Of a student that is trained for `epochs` and tested on `tested` images, all passes together."""
        return self.setup + epochs * self.epoch + tested * self.test


def like(assignment: Assignment) -> str:
    """A digest of all that the cost of a student depends on: students of one recipe on images of one shape and number
    cost the same."""
    samples = assignment.samples
    return digest(
        {
            "model": build.unnamed(assignment.model),
            "training": vars(assignment.training),
            "criterion": build.unnamed(assignment.criterion),
            "aug": build.unnamed(assignment.aug),
            "teachers": assignment.teachers and assignment.teachers.fingerprint,
            "images": [*samples.images.shape, str(samples.images.dtype), samples.soft is None, samples.views is None],
            "test_every": assignment.test_every,
        }
    )


def calibrated(assignment: Assignment, engine: Engine, crew: Crew | None) -> Cost:
    """The cost of the student of `assignment`: in this process, or in as many workers as there are, all at once, where
    it would be trained in one of `crew`."""
    if crew is None:
        return calibrate(assignment, engine)
    costs: list[Cost] = []
    for number in range(engine.workers):
        crew.start(number, assignment, calibrate)
    while crew.busy:
        for message in crew.wait():
            if message.kind == "done":
                costs.append(message.content)
            elif message.kind in ("refused", "failed", "lost"):
                raise InputError(f"the few steps of {assignment.name} that were to be timed failed: {message.content}")
    return Cost(
        *(fmean(getattr(cost, part) for cost in costs) for part in ("setup", "epoch", "test", "once")),
        memory=max(cost.memory for cost in costs),
    )


def calibrate(assignment: Assignment, engine: Engine, *_: Any) -> Cost:
    """Time a few steps of `assignment` and a few batches of its test."""
    assignment = replace(assignment, checkpoint=None)
    _forget_peak(engine)
    with engine.cores(assignment.samples.numbers(assignment.training.batch_size)):
        cold = _Trial(assignment, engine, 0.0)
        warm = cold
        if cold.compiled:
            forward.forget()
            warm = _Trial(assignment, engine, 0.0)
        steady = _Trial(assignment, engine, _SECONDS)
    once = max(0.0, warm.setup - steady.setup) + max(0.0, warm.tested - steady.tested)
    return Cost(
        setup=steady.setup,
        epoch=steady.epoch,
        test=steady.tested / steady.images,
        once=once,
        memory=_peak(engine),
    )


class _Trial:
    """A student's first steps, for `seconds`, and the test of a part of its test images."""

    def __init__(self, assignment: Assignment, engine: Engine, seconds: float):
        watch, began = _Watch(seconds, engine), time.perf_counter()
        tests = engine.place(assignment.tests)
        student = fitted(replace(assignment, test_every=None), engine, tests, callbacks=[watch])
        whole = time.perf_counter() - began
        marks = watch.marks
        steps = [(later - earlier, epoch != before) for (earlier, before), (later, epoch) in pairwise(marks)]
        batches = steps_of(assignment.samples, replace(assignment.training, epochs=1))
        within = [taken for taken, crosses in steps if not crosses]
        across = [taken for taken, crosses in steps if crosses]
        step = fmean(within or across or [whole])
        self.epoch = (batches - 1) * step + fmean(across or [step])
        self.setup = max(0.0, whole - sum(taken for taken, _ in steps) - (step if steps else 0.0))
        part = _part(assignment, student, tests, engine)
        self.images, began = len(part), time.perf_counter()
        accuracy_on(student, part, engine)
        self.tested = time.perf_counter() - began
        self.compiled = student.call.compiles


def _part(assignment: Assignment, student: Any, tests: Samples, engine: Engine) -> Samples:
    """As many test images as make a few batches, each like one of the whole test, which is announced to `student`."""
    whole = TestBatches(tests, engine.test_batch)
    passes = assignment.training.epochs // assignment.test_every if assignment.test_every else 1
    student.call.expect((whole.batch_size, *tests.images.shape[1:]), len(whole) * passes, training=False)
    if len(whole) <= _TEST_BATCHES:
        return tests
    return tests[torch.arange(_TEST_BATCHES * whole.batch_size)]


class _Watch(Callback):
    """Notes when steps end, and ends the training when it has seen enough."""

    def __init__(self, seconds: float, engine: Engine):
        self._seconds, self._engine = seconds, engine
        self.marks: list[tuple[float, int]] = []  # when a step ended, and of which epoch it was

    def on_train_batch_end(self, trainer: Trainer, student: LightningModule, *_: Any) -> None:
        if self._engine.device == "cuda":
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), trainer.current_epoch))
        long = self.marks[-1][0] - self.marks[0][0] >= self._seconds
        if len(self.marks) > _FEWEST and long:
            trainer.should_stop = True


def _forget_peak(engine: Engine) -> None:
    if engine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # where there is no such file, the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def _peak(engine: Engine) -> int:
    if engine.device == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
