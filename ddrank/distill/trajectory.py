"""MTT, matching training trajectories: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories"
(CVPR 2022).

A student starts from an expert's parameters after some epoch and is trained on the synthetic images for some steps; the
images, and the rate of these steps, are moved so that it ends where the expert was some epochs later (algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.distill.base import Distillation, Iterative, Phase, Task, initial, seconds_per_step
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.settings import check_not_negative, check_positive, one_of
from ddrank.distill.unroll import Flat, Unroll, room, vector_of
from ddrank.errors import InputError


@dataclass
class MTT(Iterative):
    """Matching training trajectories.

    Args:
        model: a name of `conf/model`, of experts and students.
        iterations: steps on the synthetic images.
        syn_steps: steps of the student, N.
        expert_epochs: epochs of the expert that they shall reach, M.
        max_start_epoch: the student starts after 0 to `max_start_epoch` - 1 epochs of an expert, T+.
        syn_batch: synthetic images of one step of the student; null for all.
        lr_img, lr_lr, momentum: of SGD on the pixels, and of SGD on the student's rate.
        lr_init: the student's rate to begin with.
        init: `real` (random real images) or `noise` (standard normal).
        experts: how many.
        train_epochs, train_batch, train_lr: of the experts' training.
        mirror: whether DSA may flip.
    """

    inits: ClassVar = ("real", "noise")
    learns_lr: ClassVar = True

    model: str = "convnet"
    iterations: int = 5000
    syn_steps: int = 30
    expert_epochs: int = 2
    max_start_epoch: int = 20
    syn_batch: int | None = None
    lr_img: float = 100.0
    lr_lr: float = 1e-5
    momentum: float = 0.5
    lr_init: float = 0.01
    init: str = "real"
    experts: int = 100
    train_epochs: int = 50
    train_batch: int = 256
    train_lr: float = 0.01
    mirror: bool = True

    def __post_init__(self):
        one_of("init", self.init, self.inits)
        above = ("iterations", "syn_steps", "expert_epochs", "max_start_epoch", "syn_batch", "lr_img", "lr_init")
        above += ("experts", "train_batch", "train_lr")
        check_positive(**{name: value for name in above if (value := getattr(self, name)) is not None})
        check_not_negative(lr_lr=self.lr_lr, momentum=self.momentum)
        if self._last_epoch > self.train_epochs:
            raise InputError(
                f"method.distiller.train_epochs is {self.train_epochs}, but max_start_epoch={self.max_start_epoch} and "
                f"expert_epochs={self.expert_epochs} go on to epoch {self._last_epoch}: train the experts for "
                f"{self._last_epoch} epochs or more"
            )

    @property
    def _last_epoch(self) -> int:
        return self.max_start_epoch - 1 + self.expert_epochs

    def begin(self, task: Task) -> Distillation:
        experts = self._experts(task)
        experts.make()
        return Matching(self, task, experts, initial(task, self.init))

    def rehearse(self, task: Task) -> list[Phase]:
        """The experts that are missing, and iterations: steps of a student between random parameters, scaled."""
        experts, steps = self._experts(task), min(2, self.syn_steps)
        matching = self._rehearsed(task, experts, steps / self.syn_steps)
        start, target = (vector_of(task.network(self.model)).to(task.device) for _ in range(2))
        taken = seconds_per_step(lambda _: matching.match(start, target, steps), steps=1)
        return [*experts.rehearse(), Phase("iterations", self.iterations, taken * self.syn_steps / steps)]

    def _rehearsed(self, task: Task, experts: Experts, share: float) -> Matching:
        """A matching like that of `begin`, before there are experts."""
        return Matching(self, task, experts, initial(task, self.init), share)

    def _recipe(self) -> ExpertRecipe:
        return ExpertRecipe(self.model, self.train_epochs, self.train_batch, self.train_lr, self.mirror)

    def _experts(self, task: Task) -> Experts:
        return Experts(task, self._recipe(), self.experts, last=self._last_epoch)


class Matching(Distillation):
    """Trajectory matching under way, from `images` (N, C, H, W) on the device, with hard labels; its students keep
    graphs in `share` of the room for them."""

    def __init__(self, mtt: MTT, task: Task, experts: Experts, images: Tensor, share: float = 1.0):
        images.requires_grad_()
        lr = torch.tensor(mtt.lr_init, device=task.device).requires_grad_()
        optimizers = [
            torch.optim.SGD([images], mtt.lr_img, momentum=mtt.momentum),
            torch.optim.SGD([lr], mtt.lr_lr, momentum=mtt.momentum),
        ]
        super().__init__({"images": images, "lr": lr}, optimizers)
        self._mtt, self._task, self._experts = mtt, task, experts
        self._seed = int(torch.randint(2**31, (), generator=task.generator))
        self._labels = task.labels.to(task.device)
        self._dsa = DSA(mirror=mtt.mirror)
        self._network = Flat(task.network(mtt.model).to(task.device).train())
        self._unroll = Unroll(self._loss, int(share * room(task.device)))

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        trajectory = self._experts[self._experts.order(iteration, self._seed)]
        epoch = self.start_epoch(iteration)
        ends = trajectory[epoch], trajectory[epoch + self._mtt.expert_epochs]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.match(*(vector.to(self._task.device) for vector in ends), self._mtt.syn_steps)
        self.update(loss)
        lr = float(self.tensors["lr"].detach())
        if lr <= 0:
            raise InputError(
                f"{type(self._mtt).__name__}: the learned rate of the students fell to {lr:.3g} at iteration "
                f"{iteration}: choose a smaller method.distiller.lr_lr or lr_img"
            )
        return {"loss": loss, "lr": lr}

    def update(self, loss: Tensor) -> None:
        """Move what is learned, by the gradients of `loss`."""
        for optimizer in self.optimizers:
            optimizer.step()

    def start_epoch(self, iteration: int) -> int:
        """After how many epochs of the expert the student starts."""
        return int(torch.randint(self._mtt.max_start_epoch, (), generator=self._task.generator))

    def labels(self, index: Tensor) -> Tensor:
        """The labels of the images at `index` (n,): int64 (n,), or probabilities (n, classes)."""
        return self._labels[index]

    def match(self, start: Tensor, target: Tensor, steps: int) -> Tensor:
        """The loss of a student of `steps` steps from `start` (P,) towards `target` (P,), its gradients accumulated."""
        indices = step_indices(len(self._labels), self._mtt.syn_batch, steps, self._task)
        batches = [self._batch(index) for index in indices]
        end = self._unroll(start, self.tensors["lr"], batches)
        loss = trajectory_loss(end, start, target)
        loss.backward()
        return loss.detach()

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self._task.device)
        images = self.tensors["images"][index]
        params = self._dsa.draw(len(index), images.shape[-2:], self._task.generator)
        return apply_dsa(images, params), self.labels(index)

    def _loss(self, parameters: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with self._task.engine.autocast():
            logits = self._network(parameters, images)
        return F.cross_entropy(logits.type_as(parameters), labels)


def trajectory_loss(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """|end - target|^2 / |start - target|^2 (equation 2), each (P,).

    >>> float(trajectory_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])))
    0.10000000149011612
    """
    return (end - target).square().sum() / (start - target).square().sum()


def step_indices(count: int, size: int | None, steps: int, task: Task) -> list[Tensor]:
    """Indices of the images of each of `steps` steps: a permutation of all `count` images cut into chunks of `size`
    (None: one of all), the ragged one first; another permutation when it is used up."""
    drawn: list[Tensor] = []
    while len(drawn) < steps:
        drawn += reversed(torch.randperm(count, generator=task.generator).split(size or count))
    return drawn[:steps]
