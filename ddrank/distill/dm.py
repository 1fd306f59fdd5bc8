"""DM, distribution matching: Zhao and Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023).

Synthetic images are moved until their mean embedding, under many untrained networks and augmentations, is that of the
real images of their class (equation 4 and algorithm 1). All classes go through a network in one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.distill.base import Distilled, Distiller, Task
from ddrank.errors import InputError
from ddrank.models import embed

INITS = ("real", "noise")


class DM(Distiller):
    """Distribution matching.

    Args:
        model: a name of `conf/model`; a new, untrained one gives the embedding at every iteration.
        iterations: steps on the synthetic images.
        lr, momentum: of SGD on the pixels. The rate belongs to sums over features and classes.
        real_batch: real images of each class at every step (all of the class where it has fewer).
        init: `real` (random real images) or `noise` (standard normal).
        augment: apply siamese DSA, one draw for each class, to real and synthetic images alike.
        mirror: whether DSA may flip.
    """

    def __init__(
        self,
        model: str = "convnet",
        iterations: int = 20000,
        lr: float = 1.0,
        momentum: float = 0.5,
        real_batch: int = 256,
        init: str = "real",
        augment: bool = True,
        mirror: bool = True,
    ):
        if init not in INITS:
            raise InputError(f"method.distiller.init is {init!r}, expected one of {', '.join(INITS)}")
        for name, value in (("iterations", iterations), ("lr", lr), ("real_batch", real_batch)):
            if value <= 0:
                raise InputError(f"method.distiller.{name} is {value}, expected a number above 0")
        self.model, self.iterations, self.lr, self.momentum = model, iterations, lr, momentum
        self.real_batch, self.init, self.augment, self.mirror = real_batch, init, augment, mirror

    def distill(self, task: Task) -> Distilled:
        images = self._start(task).to(task.device).requires_grad_()
        optimizer = torch.optim.SGD([images], self.lr, momentum=self.momentum)
        members = [task.members(label) for label in range(task.real.num_classes)]
        dsa = DSA(mirror=self.mirror) if self.augment else None
        with task.display.activity(f"DM on {task.real.name}, IPC {task.ipc}", self.iterations) as advance:
            for step in range(self.iterations):
                drawn = [self._draw(of_class, task.generator) for of_class in members]
                real = task.samples.floats(torch.cat(drawn)).to(task.device)
                sizes = [len(indices) for indices in drawn]
                network = task.network(self.model).to(task.device).train().requires_grad_(False)
                loss = self._loss(network, real, sizes, images, task, dsa)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 10 == 0:  # reading it makes a GPU wait
                    note = f"loss {float(loss.detach()) / len(members):.4g}"
                advance(note)
        return Distilled(images.detach().cpu())

    def _start(self, task: Task) -> Tensor:
        if self.init == "noise":
            shape = (len(task.labels), *task.samples.images.shape[1:])
            return torch.randn(shape, generator=task.generator)
        return task.real.draw(task.ipc, task.generator, task.samples).floats().clone()

    def _draw(self, members: Tensor, generator: torch.Generator) -> Tensor:
        return members[torch.randperm(len(members), generator=generator)[: self.real_batch]]

    def _loss(
        self, network: nn.Module, real: Tensor, sizes: list[int], images: Tensor, task: Task, dsa: DSA | None
    ) -> Tensor:
        """The loss of one step; see `matching_loss`. Real images are class-major, `sizes` of each class."""
        count = len(sizes)
        real_of = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
        if dsa is not None:
            shared = dsa.draw_shared(real.shape[-2:], groups=count, generator=task.generator)
            real, images = apply_dsa(real, shared[real_of]), apply_dsa(images, shared[task.labels])
        with torch.no_grad():
            real_features = embed(network, real)
        return matching_loss(
            class_means(real_features, real_of.to(real.device), count),
            class_means(embed(network, images), task.labels.to(images.device), count),
        )


def matching_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared distance of the class means, summed over features and classes; both (classes, D).

    >>> float(matching_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])))
    14.0
    """
    return (real - synthetic).square().sum()


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean of `features` (N, D) over each class of `labels` (N,), as (classes, D)."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    return sums / torch.bincount(labels, minlength=num_classes).clamp_min(1)[:, None]
