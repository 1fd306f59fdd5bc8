"""The student: one network in training, as a LightningModule."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from torchmetrics.classification import MulticlassAccuracy

from ddrank.augment.mix import mixed_loss
from ddrank.checkpoint import Checkpoint
from ddrank.data.samples import Batches, Samples, TestBatches
from ddrank.data.stored_views import ViewBatches
from ddrank.engine import Engine
from ddrank.forward import Forward
from ddrank.ranks.team import ALONE, Team
from ddrank.resume import Resume


@dataclass(frozen=True)
class Training:
    """How a network is trained, but for its learning rate; see `ddrank.config.Training` for units."""

    epochs: int
    batch_size: int
    optimizer: str
    momentum: float
    betas: tuple[float, float]
    weight_decay: float
    schedule: str
    step_size: int
    gamma: float
    cosine_span: float

    def effective(self, count: int) -> dict[str, Any]:
        """The settings that the chosen optimizer and schedule read, for the keys of measurements on `count` images."""
        unused = {"betas"} if self.optimizer == "sgd" else {"momentum"}
        unused |= {"step_size", "gamma"} if self.schedule != "step" else set()
        unused |= {"cosine_span"} if self.schedule != "cosine" else set()
        used = {name: value for name, value in vars(self).items() if name not in unused}
        return used | {"batch_size": min(self.batch_size, count)}

    @classmethod
    def of(cls, config: Any) -> Training:
        """The fields of a `ddrank.config.Training` config."""
        return cls(**{field: config[field] for field in cls.__dataclass_fields__} | {"betas": tuple(config.betas)})


class Student(LightningModule):
    """One network, its criterion, optimizer and schedule.

    Batches are dicts of `image` (N, C, H, W), `label` int64 (N,) and, where one soft label is stored for each image,
    `soft_label` (N, classes) logits. With `teachers`, soft labels are the teachers' mean logits on the image as it
    reaches the student, after augmentation; where those are stored, they are `view_label`. A mixing augmentation leaves
    `partner` and `lam` in the batch. Where a `team` trains it, batches are parts of whole ones, each with a `weight`.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: nn.Module,
        training: Training,
        lr: float,
        num_classes: int,
        teachers: Callable[[Tensor], Tensor] | None = None,
        forward: Forward | None = None,
        team: Team = ALONE,
    ):
        super().__init__()
        self.network = network
        self.call = forward or Forward(network)
        self.criterion = criterion
        self.training_recipe = training
        self.lr = lr
        # Teachers are shared by many students: kept out of this module's parameters and state.
        object.__setattr__(self, "teachers", teachers)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.losses: list[Tensor] = []
        self.tests: list[tuple[int, float]] = []
        self._team = team
        self.began: float | None = None  # the time of the first training step, seconds since 1970
        self.seconds = 0.0  # spent on it before this process took it up
        self._epoch: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.call(image).float()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.began = self.began or time.time()
        image = batch["image"]
        logits = self(image)
        of_view = batch.get("view_label") if self.teachers is None else self.teachers(image)
        target = batch.get("soft_label") if of_view is None else of_view
        label = batch["label"] if "label" in self.criterion.needs else None
        loss = mixed_loss(partial(self.criterion, logits), target, label, batch, fixed_target=of_view is None)
        loss = loss * batch["weight"] if "weight" in batch else loss
        self._epoch.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.losses.append(self._team.mean(torch.stack(self._epoch)).mean())
        self._epoch.clear()

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        label, logits = batch["label"], self(batch["image"])
        if len(label):  # none of a batch of fillings
            self.accuracy.update(logits[: len(label)], label)

    def on_validation_epoch_end(self) -> None:
        epoch = self.current_epoch + 1 if self.trainer.state.fn == "fit" else self.training_recipe.epochs
        right, false = self._team.sum(torch.stack([self.accuracy.tp.sum(), self.accuracy.fn.sum()])).tolist()
        self.tests.append((epoch, right / (right + false)))
        self.accuracy.reset()

    def progress(self) -> dict[str, Any]:
        """What has been seen so far."""
        return {"losses": _stacked(self.losses), "epoch": _stacked(self._epoch), "tests": list(self.tests)}

    def restore(self, seen: dict[str, Any]) -> None:
        """Go on from what `progress` gave, and the `seconds` that it took."""
        self.losses, self._epoch = (list(seen[name].to(self.device)) for name in ("losses", "epoch"))
        self.tests, self.seconds = seen["tests"], seen["seconds"]

    def configure_optimizers(self) -> dict:
        recipe = self.training_recipe
        optimizer = _optimizer(recipe, self.network.parameters(), self.lr)
        scheduler = _scheduler(recipe, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def _stacked(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses) if losses else torch.empty(0)


def _optimizer(recipe: Training, parameters, lr: float) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[recipe.optimizer](parameters, lr, betas=tuple(recipe.betas), weight_decay=recipe.weight_decay)


def _scheduler(recipe: Training, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Stepped once an epoch. `cosine`: 0.5 * (1 + cos(pi * span * epoch / epochs)); a span of 0.5 ends at half."""
    if recipe.schedule == "step":
        return StepLR(optimizer, recipe.step_size, recipe.gamma)
    if recipe.schedule == "cosine":
        turn = math.pi * recipe.cosine_span / recipe.epochs
        return LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(turn * epoch)))
    return LambdaLR(optimizer, lambda epoch: 1.0)


def train(
    network: nn.Module,
    samples: Samples,
    *,
    training: Training,
    criterion: nn.Module,
    augmentations: list[Callback],
    lr: float,
    seed: int,
    engine: Engine,
    num_classes: int,
    teachers: Callable[[Tensor], Tensor] | None = None,
    tests: Samples | None = None,
    test_every: int | None = None,
    advance: Callable[..., None] = lambda note="": None,
    checkpoint: Checkpoint | None = None,
    resumed: Callable[[int], None] = lambda epoch: None,
) -> Student:
    """Train `network` on `samples` and return the student; with the CPU threads that are set (see `Engine.cores`).

    Random numbers derive from `seed` alone. With `tests`, accuracy on them is taken every `test_every` epochs and
    lands in `student.tests`. `advance` is called after each epoch.

    With a `checkpoint`, the state is kept there every `engine.checkpoint_every` minutes; where there is one already,
    training goes on from it, and `resumed` is told in which epoch, counted from 0.

    On an engine of several ranks, each of them calls this and takes its part of every batch; the gradient is that of
    the mean over the whole batch. Every rank draws its own augmentations, the leader the order of the samples.
    """
    team = engine.team
    forward = engine.forward(network.to(engine.device))
    student = Student(network, criterion, training, lr, num_classes, teachers, forward, team)
    expect_training(forward, samples, training, team)
    loaders = [_training_batches(samples, training, pin=_pin(samples, engine), team=team)]
    if test_every:
        loaders.append(_test_batches(student, tests, engine, training.epochs // test_every))
    resume = []
    if checkpoint is not None and engine.checkpoint_every:
        resume = [Resume(checkpoint, 60 * engine.checkpoint_every, loaders[0], resumed, team)]
    trainer = engine.trainer(
        training.epochs,
        callbacks=[*resume, *augmentations, _EpochTick(advance)],
        limit_val_batches=None if test_every else 0,
        check_val_every_n_epoch=test_every,
    )
    with isolate_rng(include_cuda=engine.device == "cuda"), ExitStack() as stack:
        purpose = "training" if team.leads else f"training rank {team.rank}"
        seed_everything(derived_seed(seed, purpose), verbose=False)
        trainer.fit(student, *(stack.enter_context(loader) for loader in loaders))
    return student


def expect_training(forward: Forward, samples: Samples, training: Training, team: Team = ALONE) -> None:
    """Announce the batches of a whole training, as this rank of a team sees them."""
    for size, count in _training_batches(samples, training, team=team).sizes.items():
        forward.expect((size, *samples.images.shape[1:]), count * training.epochs, training=True)


def steps_of(samples: Samples, training: Training) -> int:
    """How many steps a whole training has."""
    return len(_training_batches(samples, training)) * training.epochs


def accuracy_on(student: Student, samples: Samples, engine: Engine) -> float:
    """Accuracy (fraction) of a trained student on `samples`."""
    with _test_batches(student, samples, engine, 1) as batches:
        engine.trainer(1).validate(student, batches, verbose=False)
    return student.tests.pop()[1]


def new_network(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A freshly initialised network whose weights derive from `seed` alone."""
    with isolate_rng(include_cuda=False):
        seed_everything(derived_seed(seed, "initialisation"), verbose=False)
        return make()


def derived_seed(seed: int, purpose: str) -> int:
    """An independent 32-bit seed for one purpose of one measurement."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:4], "big")


def _training_batches(
    samples: Samples, training: Training, pin: bool = False, team: Team = ALONE
) -> Batches | ViewBatches:
    if samples.views is None:
        return Batches(samples, training.batch_size, pin, team)
    return ViewBatches(samples, pin, team)


def _test_batches(student: Student, samples: Samples, engine: Engine, passes: int) -> TestBatches:
    batches = TestBatches(samples, engine.test_batch, pin=_pin(samples, engine), team=engine.team)
    student.call.expect((batches.batch_size, *samples.images.shape[1:]), len(batches) * passes, training=False)
    return batches


def _pin(samples: Samples, engine: Engine) -> bool:
    return engine.device == "cuda" and samples.images.device.type == "cpu"


class _EpochTick(Callback):
    def __init__(self, advance: Callable[..., None]):
        self._advance = advance

    def on_train_epoch_end(self, trainer: Trainer, student: LightningModule) -> None:
        self._advance()
