"""DATM, difficulty-aligned trajectory matching: Guo et al., "Towards Lossless Dataset Distillation via
Difficulty-Aligned Trajectory Matching" (ICLR 2024).

Trajectories are matched as by MTT, but between bounds on the epoch at which students start: few images learn from early
epochs, many from late ones, and the upper bound grows, from easy patterns to hard ones. Soft labels begin as logits of
experts on images that these classify correctly, and are learned like pixels and rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddrank.distill.base import Distillation, Distilled, Task, initial
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.settings import check_not_negative, check_positive
from ddrank.distill.trajectory import MTT, Matching
from ddrank.distill.unroll import Flat
from ddrank.engine import Engine
from ddrank.errors import InputError

Classifier = Callable[[Tensor], Tensor]  # logits (n, classes) of images (n, C, H, W), on the CPU
_TOGETHER = 256  # images that an expert classifies at a time


@dataclass
class DATM(MTT):
    """Difficulty-aligned trajectory matching; settings that are not said here are those of `MTT`.

    Args:
        min_start_epoch, initial_max_start_epoch, max_start_epoch, growth: the student starts after `min_start_epoch`
            (T-) to T - 1 epochs of an expert; T is `initial_max_start_epoch` (null: T+) at first, and grows to
            `max_start_epoch` (T+) in `growth` iterations.
        lr_label, label_momentum: of SGD on the logits of the soft labels.
        init: `correct` (random real images that an expert classifies correctly; labels are the mean logits of the
            experts that do) or `real` (random real images; labels are the first expert's logits).
        threshold: iterations with a loss above it change nothing.
        ema_decay: the images of the file are the moving average with this decay (as in FTD); 0 for the last ones.
        rho, alpha: radius and weight of the experts' GSAM; rho 0 for plain SGD, as MTT's experts.
    """

    inits: ClassVar = ("correct", "real")

    iterations: int = 10000
    syn_steps: int = 80
    min_start_epoch: int = 0
    initial_max_start_epoch: int | None = 10
    growth: int = 1000
    lr_label: float = 2.0
    label_momentum: float = 0.9
    init: str = "correct"
    threshold: float = 1.0
    ema_decay: float = 0.0
    train_epochs: int = 100
    rho: float = 0.01
    alpha: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        check_positive(growth=self.growth, threshold=self.threshold)
        not_below = ("min_start_epoch", "lr_label", "label_momentum", "ema_decay", "rho", "alpha")
        check_not_negative(**{name: getattr(self, name) for name in not_below})
        if not self.min_start_epoch < self.first_bound <= self.max_start_epoch:
            raise InputError(
                f"method.distiller.min_start_epoch={self.min_start_epoch}, initial_max_start_epoch={self.first_bound} "
                f"and max_start_epoch={self.max_start_epoch} leave no epoch to start from: the first must be below the "
                "second, and the second not above the third"
            )
        if self.ema_decay >= 1:
            raise InputError(f"method.distiller.ema_decay is {self.ema_decay}, expected a number from 0 to below 1")

    @property
    def first_bound(self) -> int:
        """The upper bound on the start epoch to begin with."""
        return self.max_start_epoch if self.initial_max_start_epoch is None else self.initial_max_start_epoch

    def unused(self) -> Sequence[str]:
        return () if self.rho else ("alpha",)

    def begin(self, task: Task) -> Distillation:
        experts = self._experts(task)
        experts.make()
        if self.init == "correct":
            images = task.samples.floats(correct_images(task, self._classifiers(task, experts)))
            logits = right_logits((classifier(images) for classifier in self._classifiers(task, experts)), task)
        else:
            images = task.random_real()
            logits = next(self._classifiers(task, experts))(images)
        return AlignedMatching(self, task, experts, images.to(task.device), logits.to(task.device))

    def _classifiers(self, task: Task, experts: Experts) -> Iterator[Classifier]:
        """The experts after their last epochs, in training mode, as they are matched."""
        network = Flat(task.network(self.model).to(task.device).train())
        for number in range(self.experts):
            yield partial(classify, network, experts.final(number).to(task.device), task.engine)

    def _rehearsed(self, task: Task, experts: Experts, share: float) -> Matching:
        logits = torch.zeros(len(task.labels), task.real.num_classes, device=task.device)
        return AlignedMatching(self, task, experts, initial(task, "real"), logits, share)

    def _recipe(self) -> ExpertRecipe:
        recipe = (self.model, self.train_epochs, self.train_batch, self.train_lr, self.mirror)
        return ExpertRecipe(*recipe, self.rho, self.alpha)


class AlignedMatching(Matching):
    """Matching under way, with soft labels that are learned from `logits` (N, classes) on, a gate, and an average of
    the images."""

    def __init__(self, datm: DATM, task: Task, experts: Experts, images: Tensor, logits: Tensor, share: float = 1.0):
        super().__init__(datm, task, experts, images, share)
        self.tensors["soft_labels"] = logits.requires_grad_()
        self.optimizers.append(torch.optim.SGD([logits], datm.lr_label, momentum=datm.label_momentum))
        self._datm, self._skipped = datm, 0
        self._average = images.detach().clone() if datm.ema_decay else None  # of the images

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        values, datm = super().step(iteration), self._datm
        if iteration + 1 == datm.iterations and 2 * self._skipped > datm.iterations:
            self._task.display.say(
                f"DATM: {self._skipped} of {datm.iterations} iterations changed nothing, their loss being above "
                f"method.distiller.threshold={datm.threshold:g}: choose a larger one"
            )
        return values | {"skipped": self._skipped / (iteration + 1)}

    def start_epoch(self, iteration: int) -> int:
        datm = self._datm
        bound = upper_bound(iteration, datm.first_bound, datm.max_start_epoch, datm.growth)
        return int(torch.randint(datm.min_start_epoch, bound, (), generator=self._task.generator))

    def labels(self, index: Tensor) -> Tensor:
        return self.tensors["soft_labels"][index].softmax(1)

    def update(self, loss: Tensor) -> None:
        if not float(loss) <= self._datm.threshold:
            self._skipped += 1
            return
        super().update(loss)
        if self._average is not None:
            self._average.lerp_(self.tensors["images"].detach(), 1 - self._datm.ema_decay)

    def result(self) -> Distilled:
        made = super().result()
        return made if self._average is None else replace(made, images=self._average.cpu())

    def state(self) -> dict[str, Any]:
        return super().state() | {"average": self._average, "skipped": self._skipped}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if self._average is not None:
            self._average.copy_(state["average"])
        self._skipped = state["skipped"]


def upper_bound(iteration: int, first: int, last: int, growth: int) -> int:
    """The bound below which students start at an iteration: from `first` up to `last` in `growth` iterations.

    >>> [upper_bound(iteration, 10, 20, 1000) for iteration in (0, 99, 100, 999, 1000, 9999)]
    [10, 10, 11, 19, 20, 20]
    """
    return min(last, first + (last - first) * iteration // growth)


def classify(network: Flat, parameters: Tensor, engine: Engine, images: Tensor) -> Tensor:
    """Logits (n, classes), on the CPU, of `images` (n, C, H, W) on any device, under `parameters` (P,)."""
    with torch.no_grad(), engine.autocast():
        parts = images.split(_TOGETHER)
        return torch.cat([network(parameters, part.to(parameters.device)).float().cpu() for part in parts])


def correct_images(task: Task, classifiers: Iterable[Classifier]) -> Tensor:
    """Indices in `task.samples` (classes * ipc,), class-major, of random images that the first classifier is right
    about; where a class has too few of them, of those that the next ones are right about.

    Raises InputError where that is not enough.
    """
    labels, count = task.samples.labels, len(task.labels)
    chosen = torch.empty(0, dtype=torch.int64)
    for classifier in classifiers:
        for index in torch.randperm(len(labels), generator=task.generator).split(_TOGETHER):
            right = index[classifier(task.samples.floats(index)).argmax(1) == labels[index]]
            new = right[~torch.isin(right, chosen)]
            chosen = first_of_each_class(torch.cat([chosen, new]), labels, task.ipc)
            if len(chosen) == count:
                return chosen
    counts = torch.bincount(labels[chosen], minlength=task.real.num_classes)
    fewest = int(counts.argmin())
    raise InputError(
        f"experts classify only {int(counts[fewest])} images of class {task.real.class_names[fewest]!r} of "
        f"{task.real.name} correctly, and ipc={task.ipc} wants as many: train them longer "
        "(method.distiller.train_epochs, train_lr), or start from any images (method.distiller.init=real)"
    )


def first_of_each_class(index: Tensor, labels: Tensor, count: int) -> Tensor:
    """Of `index` (n,), the first `count` of each class of `labels` at them, class-major.

    >>> first_of_each_class(torch.tensor([4, 0, 2, 3]), torch.tensor([1, 0, 1, 0, 1]), 1).tolist()
    [3, 4]
    """
    of_index = labels[index]
    order = of_index.argsort(stable=True)
    sizes = torch.bincount(of_index)
    place = torch.arange(len(index)) - (sizes.cumsum(0) - sizes)[of_index[order]]
    return index[order[place < count]]


def right_logits(logits: Iterable[Tensor], task: Task) -> Tensor:
    """Of several classifiers' `logits` (N, classes) on the task's images, the mean over those that are right, for each
    image (N, classes).

    Raises InputError for an image about which none is right.
    """
    total = torch.zeros(len(task.labels), task.real.num_classes)
    votes = torch.zeros(len(task.labels), 1)
    for of_one in logits:
        right = (of_one.argmax(1) == task.labels)[:, None]
        total += torch.where(right, of_one, 0)
        votes += right
    if not bool(votes.all()):
        image = int(votes.argmin())
        raise InputError(
            f"no expert classifies image {image} (class {task.real.class_names[int(task.labels[image])]!r}) correctly, "
            "so it gets no soft label: train the experts longer (method.distiller.train_epochs, train_lr)"
        )
    return total / votes
