"""Views that are drawn once and seen again: what an augmentation drew for a batch, and the same images from it.

As FKD keeps them (Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022), and
SRe2L with it: a crop and a flip of each image, then mixup or CutMix of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kornia.augmentation import RandomHorizontalFlip
from lightning.pytorch import Callback
from torch import Tensor

from ddrank.augment.geometry import resized_crop, window
from ddrank.augment.mix import CutMix, Mix, MixUp
from ddrank.augment.views import RandomCrop, RandomResizedCrop, ShufflePatches, Views
from ddrank.errors import InputError


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a batch of n images: `boxes` int64 (n, 4) = top, left, height, width in pixels; `flips` bool
    (n,); `mix`, how the batch is mixed, if it is."""

    boxes: Tensor
    flips: Tensor
    mix: Mix | None


@dataclass(frozen=True)
class Frame:
    """What becomes of the boxes: `resized` to `size` (h, w) bilinearly, with or without `antialias`; or, of that size
    already, taken as they are, with `fill` (one number a channel, or one) beyond the image."""

    size: tuple[int, int]
    resized: bool
    antialias: bool = True
    fill: tuple[float, ...] = (0.0,)

    def view(self, images: Tensor, drawn: Drawn) -> Tensor:
        """The view (n, C, h, w) of `images` (n, C, H, W) that was drawn."""
        boxes = drawn.boxes.to(images.device, non_blocking=True)
        if self.resized:
            views = resized_crop(images, boxes, self.size, self.antialias)
        else:
            views = window(images, boxes[:, 0], boxes[:, 1], self.size, images.new_tensor(self.fill))
        flips = drawn.flips.to(images.device, non_blocking=True)
        views = torch.where(flips[:, None, None, None], views.flip(3), views)
        return views if drawn.mix is None else drawn.mix(views)


class Draws:
    """Draws, batch by batch, what the augmentation `parts` would do to images of `shape` (C, H, W), from torch's global
    generator; `frame` says what becomes of the boxes. Raises InputError for parts that are no crop, flip or mix, in
    this order."""

    def __init__(self, parts: Sequence[Callback], shape: Sequence[int]):
        self._shape = tuple(shape)
        steps = [step for part in parts for step in (part.steps if isinstance(part, Views) else [part])]
        steps = [step for step in steps if not (isinstance(step, ShufflePatches) and step.factor == 1)]
        self._crop = _taken(steps, RandomResizedCrop, RandomCrop)
        self._flip = _taken(steps, RandomHorizontalFlip)
        self._mix = _taken(steps, MixUp, CutMix)
        if steps:
            raise InputError(
                "stored views are a crop and a flip of each image, then mixup or cutmix, in this order, but aug has "
                f"{_name(steps[0])} in a place of its own: choose aug=rrc_cutmix, crop_mixup, cutmix or the like"
            )
        size = self._shape[1:] if self._crop is None else self._crop.size
        resized = isinstance(self._crop, RandomResizedCrop)
        fill = tuple(self._crop.fill.flatten().tolist()) if isinstance(self._crop, RandomCrop) else (0.0,)
        self.frame = Frame(size, resized, self._crop.antialias if resized else True, fill)

    def draw(self, n: int) -> Drawn:
        """For the next batch, of n images."""
        if self._crop is None:
            boxes = torch.tensor([0, 0, *self.frame.size]).expand(n, 4)
        else:
            boxes = self._crop.draw(n, self._shape)
        if boxes.shape[1] == 2:  # corners alone
            boxes = torch.cat([boxes, torch.tensor(self.frame.size).expand(n, 2)], 1)
        flips = torch.zeros(n, dtype=torch.bool) if self._flip is None else torch.rand(n) < self._flip.p
        return Drawn(boxes, flips, None if self._mix is None else self._mix.draw(n, self.frame.size))


def _taken(steps: list[Callable[..., Any]], *kinds: type) -> Any:
    """The first of `steps`, taken out, if it is of one of `kinds`."""
    return steps.pop(0) if steps and isinstance(steps[0], kinds) else None


def _name(step: Any) -> str:
    return getattr(step, "func", type(step)).__name__
