"""RDED: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm" (CVPR 2024).

Of random real images the crop is taken that an observer, a network trained on the real data, is surest of; the images
with the best of these crops give them as patches, which are put together to new images. Nothing is optimised. Labels
come from the teacher, during evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddrank.augment.geometry import resized_crop
from ddrank.augment.views import draw_boxes
from ddrank.distill.base import Distillation, InParts, Iterative, Phase, Task, seconds_per_step
from ddrank.distill.settings import check_area, check_positive, pixelwise
from ddrank.errors import InputError

_TOGETHER = 100  # patches in one pass of the observer


@dataclass
class RDED(Iterative):
    """Realistic, diverse and efficient distillation.

    Patches are cut out of images as the dataset's loader gives them, at its size; the authors cut them out of files at
    their full resolution.

    Args:
        model: a name of `conf/model`; trained on the real data, it is the observer.
        mipc: random images of each class that patches are cut out of (all of the class where it has fewer).
        num_crop: crops of each, of which the one with the lowest cross entropy is its key patch.
        factor: an image is made of factor x factor key patches.
        area: areas that a crop may have, parts of the image; crops are square.
    """

    wants_trained: ClassVar = True
    takes_gradients: ClassVar = False

    model: str = "resnet18"
    mipc: int = 300
    num_crop: int = 5
    factor: int = 1
    area: Sequence[float] = (0.08, 1.0)

    def __post_init__(self):
        check_positive(mipc=self.mipc, num_crop=self.num_crop, factor=self.factor)
        check_area("area", self.area)

    def length(self, task: Task) -> int:
        return task.real.num_classes

    def begin(self, task: Task) -> Distillation:
        return Patchwork(self, task, task.trained(self.model))

    def rehearse(self, task: Task) -> list[Phase]:
        """The observer, where it is missing, and one class with a network that nobody has trained."""
        patchwork = Patchwork(self, task, task.network(self.model).to(task.device))
        taken = seconds_per_step(lambda _: patchwork.step(0), steps=1)
        return [*task.training(self.model), Phase("classes", task.real.num_classes, taken)]


class Patchwork(InParts):
    """Images that are put together class by class.

    Raises InputError where there are not enough images, or pixels, for the patches.
    """

    def __init__(self, rded: RDED, task: Task, observer: nn.Module):
        super().__init__(task, torch.arange(len(task.labels)).split(task.ipc))
        pixelwise(task.space)
        self._rded, self._observer = rded, observer.eval().requires_grad_(False)
        self._check(task)

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        """One class; the loss is the mean score of the patches that are used."""
        rded, task, label = self._rded, self.task, iteration
        members = task.members(label)
        drawn = members[torch.randperm(len(members), generator=task.generator)[: rded.mipc]]
        real = task.samples.floats(drawn).to(task.device)
        patches, scores = key_patches(real, label, self._observe, rded, task.generator)
        if not bool(scores.isfinite().all()):
            raise InputError(
                f"the observer {rded.model!r} of method.distiller.model gives NaN on images of {task.real.name}: give "
                "other method.teacher_weights, or remove it from the store so that it is trained anew"
            )
        best = scores.argsort(stable=True)[: task.ipc * rded.factor**2]
        self.finished.append(stitched(patches[best], rded.factor, real.shape[-1]).cpu())
        return {"loss": scores[best].mean()}

    def _observe(self, images: Tensor) -> Tensor:
        with self.task.engine.autocast():
            return self._observer(images).float()

    def _check(self, task: Task) -> None:
        rded = self._rded
        if rded.factor > task.real.size:
            raise InputError(
                f"method.distiller.factor is {rded.factor}, but images of {task.real.name} are {task.real.size} pixels "
                "wide: choose 1 or 2"
            )
        needed = task.ipc * rded.factor**2
        for label, name in enumerate(task.real.class_names):
            available = min(rded.mipc, len(task.members(label)))
            if available < needed:
                raise InputError(
                    f"ipc={task.ipc} with method.distiller.factor={rded.factor} takes {needed} patches of class "
                    f"{name!r} of {task.real.name}, each from another image, but there are {available} (the smaller of "
                    "method.distiller.mipc and its training images): choose a smaller ipc or factor, or a larger mipc"
                )


def key_patches(
    real: Tensor, label: int, observer: Callable[[Tensor], Tensor], rded: RDED, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The best of `num_crop` random square crops of each of `real` (n, C, S, S), resized to s = S // factor.

    Returns them, (n, C, s, s), and their scores (n,): see `patch_scores`; lower is better.
    """
    size = real.shape[-1]
    side = size // rded.factor
    patches, scores = None, torch.full((len(real),), torch.inf, device=real.device)
    for _ in range(rded.num_crop):
        boxes = draw_boxes(len(real), (size, size), tuple(rded.area), (1.0, 1.0), generator=generator)
        crops = resized_crop(real, boxes.to(real.device), (side, side))
        found = patch_scores(crops, label, observer, size)
        better = found < scores
        patches = crops if patches is None else torch.where(better.view(-1, 1, 1, 1), crops, patches)
        scores = torch.where(better, found, scores)
    return patches, scores


@torch.no_grad()
def patch_scores(patches: Tensor, label: int, observer: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The cross entropy (n,) of `observer` with `label` for `patches` (n, C, s, s), padded with zeros to `size`."""
    before = (size - patches.shape[-1]) // 2
    after = size - patches.shape[-1] - before
    scores = [
        -observer(F.pad(part, (before, after, before, after))).log_softmax(1)[:, label]
        for part in patches.split(_TOGETHER)
    ]
    return torch.cat(scores)


def stitched(patches: Tensor, factor: int, size: int) -> Tensor:
    """Images of factor x factor patches each, (n, C, size, size), from n * factor^2 `patches` (C, s, s), best first.

    The best n patches are the upper left ones of all images, the next n those to their right, and so on: image r has
    the ranks r, r + n, r + 2 n, ... Where `factor` does not divide `size`, the first cells are a pixel larger, and
    patches are brought to their size by the nearest pixels.
    """
    cells = patches.unflatten(0, (factor, factor, -1))
    sides = [size // factor + (number < size % factor) for number in range(factor)]
    rows = [
        torch.cat([_resized(cells[row, column], sides[row], sides[column]) for column in range(factor)], 3)
        for row in range(factor)
    ]
    return torch.cat(rows, 2)


def _resized(patches: Tensor, height: int, width: int) -> Tensor:
    return patches if patches.shape[-2:] == (height, width) else F.interpolate(patches, (height, width), mode="nearest")
