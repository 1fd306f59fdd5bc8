"""Mixing augmentations: every image of a batch is mixed with a partner from the same batch.

Both callbacks put `batch["partner"]` (N,) int64, each image's partner, and `batch["lam"]`, the image's own share, a
float in [0, 1], into the batch beside the mixed images. `mixed_loss` mixes the labels accordingly. (A part of a stored
batch has partners beyond itself, and their class indices as `partner_label`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from ddrank.errors import InputError


@dataclass(frozen=True)
class Mix:
    """How a batch of n images is mixed: `partner` int64 (n,), each image's partner; `share`, the image's own, a float
    in [0, 1]; `box` = top, left, bottom, right of what is pasted from the partner; of mixup, which adds both, None."""

    partner: Tensor
    share: float
    box: tuple[int, int, int, int] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """`images` (n, C, H, W), mixed."""
        partner = self.partner.to(images.device, non_blocking=True)
        if self.box is None:
            return mixup(images, partner, self.share)
        return cutmix(images, partner, self.box)


class MixUp(Callback):
    """Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); one share ~ Beta(lam, lam) a batch."""

    def __init__(self, lam: float = 0.8):
        self.lam = _positive(lam, "lam", "MixUp")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        _mix(batch, self)

    def draw(self, n: int, size: tuple[int, int]) -> Mix:
        """How n images of `size` (H, W) are mixed."""
        lam = _beta(self.lam)
        return Mix(torch.randperm(n), lam)


class CutMix(Callback):
    """CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (2019); one box a batch.

    A share lam ~ Beta(beta, beta) gives a box with sides int(side * sqrt(1 - lam)) around a uniform pixel, clipped to
    the image; then `batch["lam"]` is the exact share of the image outside it.
    """

    def __init__(self, beta: float = 1.0):
        self.beta = _positive(beta, "beta", "CutMix")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        _mix(batch, self)

    def draw(self, n: int, size: tuple[int, int]) -> Mix:
        """How n images of `size` (H, W) are mixed."""
        lam = _beta(self.beta)
        centre = int(torch.randint(size[0], ())), int(torch.randint(size[1], ()))
        box = cut_box(lam, centre, size)
        return Mix(torch.randperm(n), kept_share(box, size), box)


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
    """Top, left, bottom, right of a box of about 1 - lam of an image of `size` (H, W), clipped to it; pixels. As in the
    code of CutMix (Yun et al., ICCV 2019), a box has its centre in the middle, hence even sides.

    >>> cut_box(0.75, centre=(4, 7), size=(8, 8))
    (2, 5, 6, 8)
    """
    halves = [int(length * math.sqrt(1 - lam)) // 2 for length in size]
    top, left = (max(middle - half, 0) for middle, half in zip(centre, halves, strict=True))
    bottom, right = (min(middle + half, length) for middle, half, length in zip(centre, halves, size, strict=True))
    return top, left, bottom, right


def kept_share(box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
    """The share of an image of `size` (H, W) outside `box`.

    >>> kept_share((0, 0, 4, 2), size=(8, 8))
    0.875
    """
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / (size[0] * size[1])


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
    partner_label = None if label is None else batch["partner_label"] if "partner_label" in batch else label[partner]
    return lam * loss(target, label) + (1 - lam) * loss(partner_target, partner_label)


def _beta(concentration: float) -> float:
    return torch.distributions.Beta(concentration, concentration).sample().item()


def _mix(batch: dict[str, Any], kind: MixUp | CutMix) -> None:
    if "partner" in batch:
        raise InputError("The batch is mixed already: an aug config may hold one of mixup and cutmix, so remove one.")
    images = batch["image"]
    mix = kind.draw(len(images), tuple(images.shape[-2:]))
    mix = replace(mix, partner=mix.partner.to(images.device, non_blocking=True))
    batch.update(image=mix(images), partner=mix.partner, lam=mix.share)


def _positive(value: float, argument: str, name: str) -> float:
    if not isinstance(value, int | float) or not value > 0:
        raise InputError(
            f"The argument '{argument}' of {name} is {value}, but a Beta distribution needs a number above 0: "
            "correct it in the aug config."
        )
    return value
