"""Differentiable siamese augmentation: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation"
(2021), with the operations and strengths of the authors' code.

Drawing and applying are apart. `DSA.draw` gives every image parameters of its own (the plain mode in which networks are
trained), `DSA.draw_shared` one set for all images of any number of batches (the siamese mode of distillers):

    params = dsa.draw_shared(size=(32, 32))
    loss = distance(apply_dsa(real, params), apply_dsa(synthetic, params))

or one for each of G groups, say classes: `params = dsa.draw_shared(size, groups=G)`, then `apply_dsa(images,
params[group_of])` with `group_of` (N,) the group of each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Generator, Tensor

from ddrank.augment.geometry import affine, erase, window
from ddrank.errors import InputError


@dataclass(frozen=True, eq=False)
class DSAParams:
    """What happens to each of n images; every tensor has n rows and lies on the CPU.

    `active` (n, 6) bool: which OPERATIONS the image undergoes. The parameters of each operation: `color` (n, 3) amount
    added, factor of the distances to the pixel's grey value, factor of the distances to the image's mean; `crop` (n, 2)
    int64 shift down and right of the window, pixels; `cutout` (n, 4) int64 top, left, bottom, right, pixels; `flip`
    (n,) bool; `scale` (n, 2) factors of the sampling grid in x and y; `rotate` (n,) radians.
    """

    active: Tensor
    color: Tensor
    crop: Tensor
    cutout: Tensor
    flip: Tensor
    scale: Tensor
    rotate: Tensor

    def __len__(self) -> int:
        return len(self.active)

    def __getitem__(self, index: Tensor | Sequence[int]) -> DSAParams:
        """The rows `index` (m,) int64: from one row for each group to one for each of m images. Best on the CPU."""
        index = torch.as_tensor(index).cpu()
        return DSAParams(*(getattr(self, field.name)[index] for field in fields(self)))


class DSA(Callback):
    """Draws and applies DSA; as a callback, in its plain mode, on every training batch.

    `mode` "single" draws one of the operations color, crop, cutout, flip, scale, rotate for each batch (or group),
    "multiple" applies them all in this order. Strengths: `flip` the probability; `rotate` the largest angle, degrees;
    `saturation`, `brightness`, `contrast` as in `draw`; `scale` the largest factor; `crop` the largest shift and
    `cutout` the side of the square, fractions of the image's side. An operation of strength 0 is left out, and with
    `mirror` false, for classes that do not survive mirroring, so is flip.
    """

    def __init__(
        self,
        flip: float = 0.5,
        rotate: float = 15.0,
        saturation: float = 2.0,
        brightness: float = 1.0,
        contrast: float = 0.5,
        scale: float = 1.2,
        crop: float = 0.125,
        cutout: float = 0.5,
        mirror: bool = True,
        mode: str = "single",
    ):
        strengths = {"flip": flip, "rotate": rotate, "saturation": saturation, "brightness": brightness}
        strengths |= {"contrast": contrast, "scale": scale, "crop": crop, "cutout": cutout}
        _check(strengths, mode)
        self.flip, self.rotate, self.scale, self.crop, self.cutout = flip, rotate, scale, crop, cutout
        self.saturation, self.brightness, self.contrast = saturation, brightness, contrast
        self.mode = mode
        strengths |= {"color": max(saturation, brightness, contrast), "flip": flip if mirror else 0}
        self.operations = tuple(name for name in OPERATIONS if strengths[name] > 0)
        if not self.operations:
            raise InputError("Every operation of DSA has strength 0, so nothing is left to draw: use aug=none instead.")

    def draw(self, n: int, size: Sequence[int], generator: Generator | None = None) -> DSAParams:
        """Plain mode: one operation for all of n images of `size` (H, W), parameters of its own for each image.

        With u ~ U[0, 1): brightness adds (u - 0.5) * brightness, saturation multiplies by u * saturation, contrast by
        u + contrast. Crop shifts by up to p = floor(crop * side + 0.5) pixels; the square of cutout has side
        floor(cutout * side + 0.5) and its centre anywhere in the image, clipped at the border. Scale is uniform in
        [1 / scale, scale) for each axis, rotation in [-rotate, rotate). `generator`, on the CPU, or torch's global one.
        """
        return self._draw(n, 1, size, generator)

    def draw_shared(self, size: Sequence[int], groups: int = 1, generator: Generator | None = None) -> DSAParams:
        """Siamese mode: one operation and one set of parameters for each of `groups`, distributed as in `draw`."""
        return self._draw(groups, groups, size, generator)

    def __call__(self, images: Tensor) -> Tensor:
        """`images` (N, C, H, W) augmented in plain mode."""
        return apply_dsa(images, self.draw(len(images), images.shape[-2:]))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        batch["image"] = self(batch["image"])

    def _draw(self, n: int, choices: int, size: Sequence[int], generator: Generator | None) -> DSAParams:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(n, *shape, generator=generator)

        def integer(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (n,), generator=generator)

        available = torch.tensor([name in self.operations for name in OPERATIONS])
        if self.mode == "single":
            chosen = torch.randint(len(self.operations), (choices,), generator=generator)
            available = available & (available.cumsum(0) - 1 == chosen[:, None])
        brightness, saturation, contrast = uniform(3).unbind(1)
        color = (
            (brightness - 0.5) * self.brightness,
            saturation * self.saturation if self.saturation else torch.ones(n),
            contrast + self.contrast if self.contrast else torch.ones(n),
        )
        reach = [_rounded(self.crop * side) for side in size]
        squares = [_rounded(self.cutout * side) for side in size]
        starts = [integer(0, side - square % 2) - square // 2 for side, square in zip(size, squares, strict=True)]
        ends = [start + square for start, square in zip(starts, squares, strict=True)]
        low = 1 / self.scale if self.scale else 1.0
        return DSAParams(
            active=available.expand(n, -1),
            color=torch.stack(color, 1),
            crop=torch.stack([integer(-pixels, pixels) for pixels in reach], 1),
            cutout=torch.stack(starts + ends, 1),
            flip=uniform() < self.flip,
            scale=low + uniform(2) * (max(self.scale, low) - low),
            rotate=(2 * uniform() - 1) * math.radians(self.rotate),
        )


def apply_dsa(images: Tensor, params: DSAParams) -> Tensor:
    """`images` (N, C, H, W) under `params` of N rows, or of one row for all; differentiable in the images.

    Only operations that some image undergoes are computed, each once, on those images. Pixels from outside an image are
    0, which in normalised space is the mean colour.
    """
    if len(params) not in (1, len(images)):
        raise ValueError(
            f"{len(params)} rows of DSA parameters do not fit {len(images)} images: give 1 or one for each"
        )
    for column, (name, operation) in enumerate(OPERATIONS.items()):
        active, values = params.active[:, column], getattr(params, name)
        if active.all():
            images = operation(images, _moved(values.expand(len(images), *values.shape[1:]), images))
        elif active.any():
            rows = active.nonzero().squeeze(1)
            index = _moved(rows, images)
            images = images.index_copy(0, index, operation(images[index], _moved(values[rows], images)))
    return images


def _color(images: Tensor, color: Tensor) -> Tensor:
    brightness, saturation, contrast = color[:, :, None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (images - mean)


def _crop(images: Tensor, crop: Tensor) -> Tensor:
    return window(images, crop[:, 0], crop[:, 1], tuple(images.shape[-2:]))


def _flip(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def _scale(images: Tensor, scale: Tensor) -> Tensor:
    across, down, zero = scale[:, 0], scale[:, 1], torch.zeros_like(scale[:, 0])
    return affine(images, torch.stack([across, zero, zero, zero, down, zero], 1).view(-1, 2, 3))


def _rotate(images: Tensor, angle: Tensor) -> Tensor:
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    return affine(images, torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3))


OPERATIONS = {"color": _color, "crop": _crop, "cutout": erase, "flip": _flip, "scale": _scale, "rotate": _rotate}


def _moved(values: Tensor, images: Tensor) -> Tensor:
    """`values` on the images' device, floating point ones in their type, without waiting for the device."""
    dtype = images.dtype if values.is_floating_point() else values.dtype
    return values.to(images.device, dtype, non_blocking=True)


def _rounded(pixels: float) -> int:
    return math.floor(pixels + 0.5)


def _check(strengths: dict[str, float], mode: str) -> None:
    if mode not in ("single", "multiple"):
        raise InputError(f"The mode of DSA is '{mode}', but it is either 'single' or 'multiple': correct aug.dsa.mode.")
    for name, value in strengths.items():
        low, high, expected = 0.0, math.inf, "a number of 0 or more"
        if name in ("flip", "crop", "cutout"):
            high, expected = 1.0, "a fraction in [0, 1]"
        elif name == "scale" and value != 0:
            low, expected = 1.0, "a factor of 1 or more, or 0 to leave it out"
        if not isinstance(value, int | float) or not low <= value <= high:
            raise InputError(f"The strength '{name}' of DSA is {value}, not {expected}: correct aug.dsa.{name}.")
