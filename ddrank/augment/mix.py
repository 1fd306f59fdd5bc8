"""Mixing augmentations: every image of a batch is mixed with a partner from the same batch.

Both callbacks put `batch["partner"]` (N,) int64, each image's partner, and `batch["lam"]`, the image's own share, a
float in [0, 1], into the batch beside the mixed images. `mixed_loss` mixes the labels accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from ddrank.errors import InputError


class MixUp(Callback):
    """Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); one share ~ Beta(lam, lam) a batch."""

    def __init__(self, lam: float = 0.8):
        self.lam = _positive(lam, "lam", "MixUp")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        images, lam = batch["image"], _beta(self.lam)
        partner = _partner(images)
        _put(batch, mixup(images, partner, lam), partner, lam)


class CutMix(Callback):
    """CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (2019); one box a batch.

    A share lam ~ Beta(beta, beta) gives a box with sides int(side * sqrt(1 - lam)) around a uniform pixel, clipped to
    the image; then `batch["lam"]` is the exact share of the image outside it.
    """

    def __init__(self, beta: float = 1.0):
        self.beta = _positive(beta, "beta", "CutMix")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        images, lam = batch["image"], _beta(self.beta)
        height, width = images.shape[-2:]
        centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
        top, left, bottom, right = box = cut_box(lam, centre, (height, width))
        partner = _partner(images)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        _put(batch, cutmix(images, partner, box), partner, kept)


def mixup(images: Tensor, partner: Tensor, lam: float) -> Tensor:
    """lam * images + (1 - lam) * images[partner]; `images` (N, C, H, W), `partner` (N,) int64."""
    return lam * images + (1 - lam) * images[partner]


def cutmix(images: Tensor, partner: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """`images` (N, C, H, W) with `box` = top, left, bottom, right pasted from images[partner], `partner` (N,) int64."""
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed


def cut_box(lam: float, centre: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a box of about 1 - lam of an image of `size` (H, W), clipped to it; pixels.

    >>> cut_box(0.75, centre=(4, 7), size=(8, 8))
    (2, 5, 6, 8)
    """
    sides = [int(length * math.sqrt(1 - lam)) for length in size]
    starts = [middle - side // 2 for middle, side in zip(centre, sides, strict=True)]
    ends = [min(start + side, length) for start, side, length in zip(starts, sides, size, strict=True)]
    return max(starts[0], 0), max(starts[1], 0), ends[0], ends[1]


def mixed_loss(
    loss: Callable[[Tensor | None, Tensor | None], Tensor],
    target: Tensor | None,
    label: Tensor | None,
    batch: Mapping[str, Any],
    fixed_target: bool,
) -> Tensor:
    """The loss of a batch whose images may be mixed: lam * loss(own labels) + (1 - lam) * loss(the partners').

    `loss(target, label)` is a criterion with the student's logits already in it, `target` (N, C) soft labels and
    `label` (N,) class indices, either None. `fixed_target` says that the soft labels belong to the images before mixing
    (stored ones); where a teacher has labelled the mixed view it is false, and only the class indices are mixed.
    For a criterion linear in the target this is the loss on mixed labels; for KL and squared error it is that plus a
    constant without gradient. Unmixed batches have the plain loss.
    """
    if "lam" not in batch or (label is None and not fixed_target):
        return loss(target, label)
    lam, partner = batch["lam"], batch["partner"]
    partner_target = target[partner] if fixed_target and target is not None else target
    partner_label = None if label is None else label[partner]
    return lam * loss(target, label) + (1 - lam) * loss(partner_target, partner_label)


def _beta(concentration: float) -> float:
    return torch.distributions.Beta(concentration, concentration).sample().item()


def _partner(images: Tensor) -> Tensor:
    return torch.randperm(len(images)).to(images.device, non_blocking=True)


def _put(batch: dict[str, Any], images: Tensor, partner: Tensor, lam: float) -> None:
    if "partner" in batch:
        raise InputError("The batch is mixed already: an aug config may hold one of mixup and cutmix, so remove one.")
    batch.update(image=images, partner=partner, lam=lam)


def _positive(value: float, argument: str, name: str) -> float:
    if not isinstance(value, int | float) or not value > 0:
        raise InputError(
            f"The argument '{argument}' of {name} is {value}, but a Beta distribution needs a number above 0: "
            "correct it in the aug config."
        )
    return value
