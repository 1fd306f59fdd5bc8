"""DM, distribution matching: Zhao and Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023).

Synthetic images are moved until their mean embedding, under many untrained networks and augmentations, is that of the
real images of their class (equation 4 and algorithm 1). All classes go through a network in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import vector_to_parameters

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.distill.base import Distillation, Iterative, Phase, Task, initial, seconds_per_step
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.settings import check_not_negative, check_positive, one_of
from ddrank.models import embed

INITS = ("real", "noise")
NETWORKS = ("random", "mixed")
_TOGETHER = 128  # images in one pass: more would leave a core's cache, and take memory


@dataclass
class DM(Iterative):
    """Distribution matching.

    Args:
        model: a name of `conf/model`; another network gives the embedding at every iteration.
        iterations: steps on the synthetic images.
        lr, momentum: of SGD on the pixels. The rate belongs to sums over features and classes.
        real_batch: real images of each class at every step (all of the class where it has fewer).
        init: `real` (random real images) or `noise` (standard normal).
        augment: apply siamese DSA, one draw for each class, to real and synthetic images alike.
        mirror: whether DSA may flip.
        networks: `random` (freshly initialised, never trained) or `mixed` (as after any epoch of a training on the
            real data, before the first included: all the parameter distributions of the paper's section 4.4 together).
        experts, train_epochs, train_batch, train_lr: of those trainings, whose trajectories the store keeps.
    """

    model: str = "convnet"
    iterations: int = 20000
    lr: float = 1.0
    momentum: float = 0.5
    real_batch: int = 256
    init: str = "real"
    augment: bool = True
    mirror: bool = True
    networks: str = "random"
    experts: int = 10
    train_epochs: int = 20
    train_batch: int = 256
    train_lr: float = 0.01

    def __post_init__(self):
        one_of("init", self.init, INITS)
        one_of("networks", self.networks, NETWORKS)
        check_positive(iterations=self.iterations, lr=self.lr, real_batch=self.real_batch, experts=self.experts)
        check_positive(train_epochs=self.train_epochs, train_batch=self.train_batch, train_lr=self.train_lr)
        check_not_negative(momentum=self.momentum)

    def unused(self) -> Sequence[str]:
        return ("experts", "train_epochs", "train_batch", "train_lr") if self.networks == "random" else ()

    def begin(self, task: Task) -> Distillation:
        if experts := self._experts(task):
            experts.make()
        return _Matching(self, task, experts)

    def rehearse(self, task: Task) -> list[Phase]:
        """The experts that are missing, and iterations: their cost is that of networks that nobody has trained."""
        experts = self._experts(task)
        taken = seconds_per_step(_Matching(self, task, None).step)
        return [*(experts.rehearse() if experts else ()), Phase("iterations", self.iterations, taken)]

    def _experts(self, task: Task) -> Experts | None:
        if self.networks == "random":
            return None
        recipe = ExpertRecipe(self.model, self.train_epochs, self.train_batch, self.train_lr, self.mirror)
        return Experts(task, recipe, self.experts, last=self.train_epochs)


class _Matching(Distillation):
    """All networks are one module that takes over the weights of new ones, so that one compilation serves them all."""

    def __init__(self, dm: DM, task: Task, experts: Experts | None):
        images = initial(task, dm.init).requires_grad_()
        super().__init__({"images": images}, [torch.optim.SGD([images], dm.lr, momentum=dm.momentum)])
        self._dm, self._task, self._experts = dm, task, experts
        self._members = [task.members(label) for label in range(task.real.num_classes)]
        self._dsa = DSA(mirror=dm.mirror) if dm.augment else None
        with torch.random.fork_rng(devices=[]):
            self._network = task.network(dm.model).to(task.device).train().requires_grad_(False)
        whole = any(isinstance(module, _BatchNorm) for module in self._network.modules())
        self._most = len(task.samples) if whole else _TOGETHER  # a batch's statistics need the batch as a whole
        self._embedding = task.engine.forward(_Embedding(self._network))
        real = sum(min(len(members), dm.real_batch) for members in self._members)
        for count in (real, len(images)):
            size = min(count, self._most)
            self._embedding.expect((size, *images.shape[1:]), dm.iterations * (count // size), training=True)

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        task, (optimizer,) = self._task, self.optimizers
        drawn = [self._draw(members) for members in self._members]
        real = task.samples.floats(torch.cat(drawn)).to(task.device)
        self._change_network()
        loss = dm_loss(self._embed, real, [len(part) for part in drawn], self.tensors["images"], task, self._dsa)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach() / len(drawn)}

    def _change_network(self) -> None:
        if self._experts is None:
            self._network.load_state_dict(self._task.network(self._dm.model).state_dict())
            return
        expert, epoch = (
            int(torch.randint(count, (), generator=self._task.generator))
            for count in (self._dm.experts, self._dm.train_epochs + 1)
        )
        vector_to_parameters(self._experts[expert][epoch].to(self._task.device), self._network.parameters())

    def _draw(self, members: Tensor) -> Tensor:
        return members[torch.randperm(len(members), generator=self._task.generator)[: self._dm.real_batch]]

    def _embed(self, images: Tensor) -> Tensor:
        with self._task.engine.autocast():
            return torch.cat([self._embedding(part) for part in images.split(self._most)]).float()


class _Embedding(nn.Module):
    """A network up to its embedding, (N, C, H, W) to (N, D)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return embed(self.network, images)


def dm_loss(
    embedding: Callable[[Tensor], Tensor],
    real: Tensor,
    sizes: list[int],
    images: Tensor,
    task: Task,
    dsa: DSA | None,
) -> Tensor:
    """The loss of one step; see `matching_loss`. Real images are class-major, `sizes` of each class; `embedding` maps
    (N, C, H, W) to (N, D)."""
    count = len(sizes)
    real_of = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
    if dsa is not None:
        shared = dsa.draw_shared(real.shape[-2:], groups=count, generator=task.generator)
        real, images = apply_dsa(real, shared[real_of]), apply_dsa(images, shared[task.labels])
    with torch.no_grad():
        real_features = embedding(real)
    return matching_loss(
        class_means(real_features, real_of.to(real.device), count),
        class_means(embedding(images), task.labels.to(images.device), count),
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
