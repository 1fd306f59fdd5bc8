"""DM, distribution matching: Zhao and Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023).

Synthetic images are moved until their mean embedding, under many untrained networks and augmentations, is that of the
real images of their class (equation 4 and algorithm 1). All classes go through a network in one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.distill.base import Distillation, Iterative, Task, initial
from ddrank.distill.settings import check_positive, one_of
from ddrank.models import embed

INITS = ("real", "noise")


class DM(Iterative):
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
        one_of("init", init, INITS)
        check_positive(iterations=iterations, lr=lr, real_batch=real_batch)
        self.model, self.iterations, self.lr, self.momentum = model, iterations, lr, momentum
        self.real_batch, self.init, self.augment, self.mirror = real_batch, init, augment, mirror

    def begin(self, task: Task) -> Distillation:
        return _Matching(self, task)


class _Matching(Distillation):
    def __init__(self, dm: DM, task: Task):
        images = initial(task, dm.init).requires_grad_()
        super().__init__({"images": images}, [torch.optim.SGD([images], dm.lr, momentum=dm.momentum)])
        self._dm, self._task = dm, task
        self._members = [task.members(label) for label in range(task.real.num_classes)]
        self._dsa = DSA(mirror=dm.mirror) if dm.augment else None

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        task, (optimizer,) = self._task, self.optimizers
        drawn = [self._draw(members) for members in self._members]
        real = task.samples.floats(torch.cat(drawn)).to(task.device)
        network = task.network(self._dm.model).to(task.device).train().requires_grad_(False)
        loss = dm_loss(network, real, [len(part) for part in drawn], self.tensors["images"], task, self._dsa)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach() / len(drawn)}

    def _draw(self, members: Tensor) -> Tensor:
        return members[torch.randperm(len(members), generator=self._task.generator)[: self._dm.real_batch]]


def dm_loss(network: nn.Module, real: Tensor, sizes: list[int], images: Tensor, task: Task, dsa: DSA | None) -> Tensor:
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
