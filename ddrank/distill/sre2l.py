"""SRe2L: Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
Perspective" (NeurIPS 2023).

A teacher with batch normalisation holds what the real data taught it. Noise is moved until the teacher classifies it as
its class, and until the inputs of its normalisation layers have the statistics that they kept of the real data. The
real images are not looked at again; labels come from the teacher, during evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ddrank.augment.geometry import resized_crop
from ddrank.augment.views import draw_boxes
from ddrank.data import Space
from ddrank.distill.base import Distillation, InParts, Iterative, Phase, Task, seconds_per_step
from ddrank.distill.settings import check_area, check_not_negative, check_positive, pixelwise
from ddrank.errors import InputError

_RATIO = 3 / 4, 4 / 3  # of a crop's width to its height, torchvision's


@dataclass
class SRe2L(Iterative):
    """Recovering images from a teacher, one of each of `batch` classes at a time.

    Args:
        model: a name of `conf/model`, with batch normalisation; trained on the real data, it is the teacher.
        iterations: steps on every batch of images.
        batch: classes of which an image each is recovered together; the last batch has what is left.
        lr: of Adam on the pixels (betas 0.5 and 0.9), at first; down to 0 in a cosine.
        alpha_bn: weight of the distance of statistics.
        first_bn: weight of the first layer's, among the layers.
        alpha_tv, alpha_l2: weights of the priors, total variation and norm of the images.
        crop: areas that a view's crop may have, parts of the image; null for whole images.
        crop_each: every image has a crop of its own, else one is drawn for the batch.
        mirror: whether views may be flipped.
        roll: by how many pixels views are rolled down and to the right, from and to.
    """

    wants_trained: ClassVar = True

    model: str = "resnet18"
    iterations: int = 4000
    batch: int = 100
    lr: float = 0.25
    alpha_bn: float = 0.01
    first_bn: float = 10.0
    alpha_tv: float = 0.0
    alpha_l2: float = 0.0
    crop: Sequence[float] | None = (0.08, 1.0)
    crop_each: bool = False
    mirror: bool = True
    roll: Sequence[int] = (0, 32)

    def __post_init__(self):
        check_positive(iterations=self.iterations, batch=self.batch, lr=self.lr)
        check_not_negative(alpha_bn=self.alpha_bn, first_bn=self.first_bn)
        check_not_negative(alpha_tv=self.alpha_tv, alpha_l2=self.alpha_l2)
        if self.crop is not None:
            check_area("crop", self.crop)
        if len(self.roll) != 2 or self.roll[0] > self.roll[1]:
            raise InputError(f"method.distiller.roll is {list(self.roll)}, expected two numbers of pixels, from and to")

    def length(self, task: Task) -> int:
        return self.iterations * len(self.batches(task))

    def batches(self, task: Task) -> list[Tensor]:
        """The images (their indices, class-major) that are recovered together, one batch after the other: the first
        images of all classes, then the second ones."""
        classes = torch.arange(task.real.num_classes) * task.ipc
        return [part + image for image in range(task.ipc) for part in classes.split(self.batch)]

    def begin(self, task: Task) -> Distillation:
        return Recovery(self, task, task.trained(self.model))

    def rehearse(self, task: Task) -> list[Phase]:
        """The teacher, where it is missing, and the first step of the first batch, which is the largest."""
        recovery = Recovery(self, task, task.network(self.model).to(task.device))
        taken = seconds_per_step(lambda _: recovery.step(0))
        return [*task.training(self.model), Phase("iterations", self.length(task), taken)]


class Recovery(InParts):
    """Images that are recovered batch by batch."""

    def __init__(self, sre2l: SRe2L, task: Task, teacher: nn.Module):
        super().__init__(task, sre2l.batches(task))
        pixelwise(task.space)
        self._sre2l = sre2l
        self._shape = task.samples.images.shape[1:]
        self._teacher = teacher.eval().requires_grad_(False)
        self._statistics = Statistics(self._teacher, sre2l.first_bn)
        if not len(self._statistics):
            raise InputError(
                f"the model {sre2l.model!r} of method.distiller.model has no batch normalisation with running "
                "statistics, from which SRe2L recovers images: choose one that has, such as convnet_bn or resnet18"
            )
        self._bounds = bounds(task.space, self._shape[0], task.device)

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        sre2l, task = self._sre2l, self.task
        number, step = divmod(iteration, sre2l.iterations)
        if step == 0:
            self._start(torch.randn((len(self.parts[number]), *self._shape), generator=task.generator))
        images, (adam,) = self.tensors["images"], self.optimizers
        adam.param_groups[0]["lr"] = cosine(sre2l.lr, step, sre2l.iterations)
        seen = view(images, sre2l, task.generator)
        with task.engine.autocast(), self._statistics as statistics:
            logits = self._teacher(seen)
        labels = (self.parts[number] // task.ipc).to(task.device)
        ce, bn = F.cross_entropy(logits.float(), labels), statistics.distance()
        loss = ce + sre2l.alpha_bn * bn
        if sre2l.alpha_tv or sre2l.alpha_l2:
            loss = loss + sre2l.alpha_tv * total_variation(seen) + sre2l.alpha_l2 * seen.flatten(1).norm(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            images.clamp_(*self._bounds)
        if step + 1 == sre2l.iterations:
            self.finished.append(images.detach().cpu())
            self.tensors, self.optimizers = {}, []
        return {"loss": loss.detach(), "ce": ce.detach(), "bn": bn.detach()}

    def at_work(self) -> list[Tensor]:
        return list(self.tensors.values())

    def restore(self, state: dict[str, Any]) -> None:
        if "images" in state["tensors"]:
            self._start(state["tensors"]["images"])
        super().restore(state)

    def _start(self, images: Tensor) -> None:
        """Move `images` from now on."""
        leaf = images.detach().to(self.task.device, copy=True).requires_grad_()
        self.tensors = {"images": leaf}
        self.optimizers = [torch.optim.Adam([leaf], self._sre2l.lr, betas=(0.5, 0.9))]


class Statistics:
    """The inputs of a network's batch normalisations, while it is called within the context: how far their mean and
    (biased) variance are from the running ones.

    Args:
        first: weight of the first layer; the others have 1.
    """

    def __init__(self, network: nn.Module, first: float = 10.0):
        self._layers = [
            module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        self._first, self._hooks = first, []
        self._distances: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._layers)

    def __enter__(self) -> Statistics:
        self._distances = []
        self._hooks = [layer.register_forward_pre_hook(self._compare) for layer in self._layers]
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()

    def distance(self) -> Tensor:
        """The sum over layers of |mean - running mean| + |variance - running variance|, norms over channels."""
        return sum(self._distances[1:], self._first * self._distances[0])

    def _compare(self, layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0].float()
        across = [axis for axis in range(features.dim()) if axis != 1]
        variance, mean = torch.var_mean(features, across, correction=0)
        self._distances.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())


def view(images: Tensor, sre2l: SRe2L, generator: torch.Generator) -> Tensor:
    """A random view of `images` (N, C, H, W): crop, flip and roll, drawn once for all of them (see `crop_each`)."""
    count, size = len(images), tuple(images.shape[-2:])
    if sre2l.crop is not None:
        drawn = draw_boxes(count if sre2l.crop_each else 1, size, tuple(sre2l.crop), _RATIO, generator=generator)
        images = resized_crop(images, drawn.expand(count, -1).to(images.device), size)
    if sre2l.mirror and torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
    low, high = sre2l.roll
    shifts = torch.randint(low, high + 1, (2,), generator=generator).tolist()
    return images.roll(shifts, (2, 3))


def cosine(lr: float, step: int, steps: int) -> float:
    """lr * (1 + cos(pi * step / steps)) / 2.

    >>> cosine(0.5, 0, 8), cosine(0.5, 4, 8)
    (0.5, 0.25)
    """
    return lr * (1 + math.cos(math.pi * step / steps)) / 2


def total_variation(images: Tensor) -> Tensor:
    """The norms over the whole batch of the differences between neighbours: across, down, and on both diagonals."""
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., :-1, :-1] - images[..., 1:, 1:]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    return across.norm() + down.norm() + falling.norm() + rising.norm()


def bounds(space: Space, channels: int, device: str) -> tuple[Tensor, Tensor]:
    """Black and white in `space`, (1, channels, 1, 1) each: between them lie the pixels of an image."""
    black, white = (space.forward(torch.full((1, channels, 1, 1), level)).to(device) for level in (0.0, 1.0))
    return black, white
