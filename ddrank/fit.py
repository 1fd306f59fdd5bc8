"""One student, from a description that can travel to another process, to its accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from ddrank import build
from ddrank.data.samples import Samples
from ddrank.engine import Engine
from ddrank.models import build as build_model
from ddrank.student import Student, Training, accuracy_on, new_network, train
from ddrank.teacher import Teachers

CURVE_POINTS = 200  # a curve's points are means over as many epochs as it takes


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that fixes one student, and what is to be found out about it.

    Attributes:
        name: for people.
        model, criterion, aug: configs of the network, the loss and the augmentations.
        black: what black is in the images' space, one number a channel.
        samples, tests: what it is trained on, and what its accuracy is taken on.
        test_every: take the best of the accuracies after every so many epochs, not that after the last.
        weights: of a student that is trained already and only to be tested.
        keep_weights: the weights are asked for.
    """

    name: str
    model: Mapping[str, Any]
    num_classes: int
    training: Training
    criterion: Mapping[str, Any]
    aug: Mapping[str, Any]
    black: list[float]
    lr: float
    seed: int
    samples: Samples
    tests: Samples
    test_every: int | None = None
    teachers: Teachers | None = None
    weights: Mapping[str, Tensor] | None = None
    keep_weights: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a student.

    Accuracies are fractions; `losses` (epoch, mean training loss) and `tests` (epoch, accuracy on the way) are curves;
    `first_step` is the time of the first training step, `span` from when to when the student was at work, in seconds
    since 1970.
    """

    accuracy: float
    losses: list[tuple[int, float | None]]
    tests: list[tuple[int, float]]
    span: tuple[float, float]
    first_step: float | None = None
    weights: dict[str, Tensor] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """How long it took, seconds."""
        return self.span[1] - self.span[0]


def run(job: Job, engine: Engine, advance: Callable[..., None]) -> Outcome:
    """Fit and test the student of `job`; `advance` is called after every epoch."""
    began = time.time()
    tests = engine.place(job.tests)
    with engine.cores(job.samples.numbers(job.training.batch_size)):
        student = _fitted(job, engine, tests, advance) if job.weights is None else _restored(job, engine)
        if job.test_every and student.tests:
            accuracy = max(accuracy for _, accuracy in student.tests)
        else:
            accuracy = accuracy_on(student, tests, engine)
    return Outcome(
        accuracy=accuracy,
        losses=_curve(student.losses),
        tests=list(student.tests),
        span=(began, time.time()),
        first_step=student.began,
        weights={name: tensor.detach().cpu() for name, tensor in student.network.state_dict().items()}
        if job.keep_weights
        else None,
    )


def _fitted(job: Job, engine: Engine, tests: Samples, advance: Callable[..., None]) -> Student:
    return train(
        new_network(lambda: _network(job), job.seed),
        engine.place(job.samples),
        training=job.training,
        criterion=build.build(job.criterion, "criterion"),
        augmentations=build.parts(job.aug, "aug", black=job.black),
        lr=job.lr,
        seed=job.seed,
        engine=engine,
        num_classes=job.num_classes,
        teachers=job.teachers.to(engine.device) if job.teachers else None,
        tests=tests if job.test_every else None,
        test_every=job.test_every,
        advance=advance,
    )


def _restored(job: Job, engine: Engine) -> Student:
    network = _network(job)
    network.load_state_dict(job.weights)
    forward = engine.forward(network.to(engine.device))
    return Student(network, nn.Identity(), job.training, job.lr, job.num_classes, forward=forward)


def _network(job: Job) -> nn.Module:
    _, channels, size, _ = job.samples.images.shape
    return build_model(job.model, num_classes=job.num_classes, channels=channels, size=size)


def _curve(values: list[Tensor]) -> list[tuple[int, float | None]]:
    losses, stride = [float(loss) for loss in values], -(-len(values) // CURVE_POINTS)
    chunks = [losses[start : start + stride] for start in range(0, len(losses), stride or 1)]
    means = [(number * stride + len(chunk), fmean(chunk)) for number, chunk in enumerate(chunks)]
    return [(epoch, loss if isfinite(loss) else None) for epoch, loss in means]
