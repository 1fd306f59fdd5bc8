"""One student, from a description that can travel to another process, to its accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from torch import Tensor, nn

from ddrank import build
from ddrank.checkpoint import Checkpoint
from ddrank.data.samples import Samples
from ddrank.engine import Engine
from ddrank.models import build as build_model
from ddrank.ranks import together
from ddrank.student import Student, Training, accuracy_on, expect_training, new_network, train

if TYPE_CHECKING:
    from ddrank.teacher import Teachers

CURVE_POINTS = 200  # a curve's points are means over as many epochs as it takes


@dataclass(frozen=True, eq=False)
class Assignment:
    """Everything that fixes one student, and what is to be found out about it.

    Attributes:
        name: for people.
        model, criterion, aug: configs of the network, the loss and the augmentations.
        black: what black is in the images' space, one number a channel.
        samples, tests: what it is trained on, and what its accuracy is taken on.
        test_every: take the best of the accuracies after every so many epochs, not that after the last.
        weights: of a student that is trained already and only to be tested.
        keep_weights: the weights are asked for.
        checkpoint: where its state is kept meanwhile, if it takes long; removed by whoever keeps the outcome.
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
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a student.

    Accuracies are fractions; `losses` (epoch, mean training loss) and `tests` (epoch, accuracy on the way) are curves;
    `first_step` is the time of the first training step, `span` from when to when the student was at work, in seconds
    since 1970; `before`, how many seconds a process had spent on it that was killed.
    """

    accuracy: float
    losses: list[tuple[int, float | None]]
    tests: list[tuple[int, float]]
    span: tuple[float, float]
    first_step: float | None = None
    before: float = 0.0
    weights: dict[str, Tensor] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """How long it took, seconds."""
        return self.before + self.span[1] - self.span[0]


def run(
    assignment: Assignment,
    engine: Engine,
    advance: Callable[..., None],
    resumed: Callable[[int], None] = lambda epoch: None,
) -> Outcome:
    """Fit and test the student of `assignment`; `advance` is called after every epoch, and `resumed`, where there is a
    checkpoint to go on from, with the epoch. On an engine of several devices, its other processes do the same."""
    samples = assignment.samples
    if engine.ranks_for(assignment.training.batch_size, len(samples), samples.views) == 1:
        engine = engine.alone()
    with together(assignment, engine):
        return run_here(assignment, engine, advance, resumed)


def run_here(
    assignment: Assignment,
    engine: Engine,
    advance: Callable[..., None] = lambda note="": None,
    resumed: Callable[[int], None] = lambda epoch: None,
) -> Outcome:
    """What each process does in `run`."""
    began = time.time()
    tests = engine.place(assignment.tests)
    with engine.cores(assignment.samples.numbers(assignment.training.batch_size)):
        if assignment.weights is None:
            student = fitted(assignment, engine, tests, advance, resumed)
        else:
            student = _restored(assignment, engine)
        if assignment.test_every and student.tests:
            accuracy = max(accuracy for _, accuracy in student.tests)
        else:
            accuracy = accuracy_on(student, tests, engine)
    return Outcome(
        accuracy=accuracy,
        losses=_curve(student.losses),
        tests=list(student.tests),
        span=(began, time.time()),
        first_step=student.began,
        before=student.seconds,
        weights={name: tensor.detach().cpu() for name, tensor in student.network.state_dict().items()}
        if assignment.keep_weights
        else None,
    )


def fitted(
    assignment: Assignment,
    engine: Engine,
    tests: Samples,
    advance: Callable[..., None] = lambda note="": None,
    resumed: Callable[[int], None] = lambda epoch: None,
    callbacks: Sequence[Callback] = (),
) -> Student:
    """The student of `assignment`, trained; `callbacks` come after the augmentations."""
    return train(
        new_network(lambda: _network(assignment), assignment.seed),
        engine.place(assignment.samples),
        training=assignment.training,
        criterion=build.build(assignment.criterion, "criterion"),
        augmentations=[*build.parts(assignment.aug, "aug", black=assignment.black), *callbacks],
        lr=assignment.lr,
        seed=assignment.seed,
        engine=engine,
        num_classes=assignment.num_classes,
        teachers=assignment.teachers.to(engine.device) if assignment.teachers else None,
        tests=tests if assignment.test_every else None,
        test_every=assignment.test_every,
        advance=advance,
        checkpoint=assignment.checkpoint,
        resumed=resumed,
    )


def _restored(assignment: Assignment, engine: Engine) -> Student:
    network = _network(assignment)
    network.load_state_dict(assignment.weights)
    forward = engine.forward(network.to(engine.device))
    expect_training(forward, assignment.samples, assignment.training, engine.team)  # tested as if trained just now
    recipe = assignment.training
    return Student(network, nn.Identity(), recipe, assignment.lr, assignment.num_classes, None, forward, engine.team)


def _network(assignment: Assignment) -> nn.Module:
    _, channels, size, _ = assignment.samples.images.shape
    return build_model(assignment.model, num_classes=assignment.num_classes, channels=channels, size=size)


def _curve(values: list[Tensor]) -> list[tuple[int, float | None]]:
    losses, stride = [float(loss) for loss in values], -(-len(values) // CURVE_POINTS)
    chunks = [losses[start : start + stride] for start in range(0, len(losses), stride or 1)]
    means = [(number * stride + len(chunk), fmean(chunk)) for number, chunk in enumerate(chunks)]
    return [(epoch, loss if isfinite(loss) else None) for epoch, loss in means]
