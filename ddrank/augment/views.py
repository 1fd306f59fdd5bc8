"""Random views of images: torchvision's transforms by name, on whole batches with draws of its own for every image.

What treats every image alike (Resize, CenterCrop) is torchvision's; the flip is kornia's. The crops are written here:
kornia's random crops sample between other pixel centres than torchvision's and take several times as long.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from kornia.augmentation import RandomHorizontalFlip
from lightning.pytorch import Callback
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ddrank.augment.geometry import resized_crop, shuffle_patches, window
from ddrank.errors import InputError


class Views(Callback):
    """Applies `transforms` in order to every training batch.

    `transforms` is a list of one-key mappings, {name: arguments}, names and arguments as in TRANSFORMS. The images are
    in training space already, so decoding steps (ToTensor, Normalize) are errors. With `mirror` false, for classes that
    do not survive mirroring, RandomHorizontalFlip is left out. RandomCrop pads with `black`, one number a channel: what
    a black pixel is in training space (`Space.black`); without it 0.
    """

    def __init__(
        self,
        transforms: Sequence[Mapping[str, Mapping[str, Any] | None]],
        mirror: bool = True,
        black: Sequence[float] | None = None,
    ):
        defaults = {} if black is None else {"RandomCrop": {"fill": list(black)}}
        self.steps = [
            _built(name, defaults.get(name, {}) | arguments)
            for name, arguments in map(_step, transforms)
            if mirror or name != "RandomHorizontalFlip"
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """A view of each of `images` (N, C, H, W), (N, C, h, w)."""
        for step in self.steps:
            images = step(images)
        return images

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        batch["image"] = self(batch["image"])


class RandomResizedCrop:
    """A box of `scale` times the image's area and of width / height in `ratio`, resized to `size`, bilinear."""

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        antialias: bool = True,
    ):
        self.size, self.antialias = _pair(size), antialias
        self.scale, self.ratio = _range(scale, "scale"), _range(ratio, "ratio")

    def __call__(self, images: Tensor) -> Tensor:
        boxes = self.draw(len(images), images.shape[1:])
        return resized_crop(images, boxes.to(images.device, non_blocking=True), self.size, self.antialias)

    def draw(self, n: int, shape: Sequence[int]) -> Tensor:
        """n boxes, int64 (n, 4), in images of `shape` (C, H, W): see `draw_boxes`."""
        return draw_boxes(n, tuple(shape[1:]), self.scale, self.ratio)


def draw_boxes(
    n: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    attempts: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n boxes, int64 (n, 4) = top, left, height, width, in images of `size` (H, W), as torchvision draws them.

    The area is uniform in `scale`, the logarithm of width / height uniform in that of `ratio`; the first of the
    attempts that fits counts, else the largest central box with a ratio in range.
    """
    height, width = size
    area = height * width * (scale[0] + torch.rand(n, attempts, generator=generator) * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + torch.rand(n, attempts, generator=generator) * (high - low)).exp()
    shapes = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], 2).round().long()
    fits = ((shapes > 0) & (shapes <= torch.tensor(size))).all(2)
    shape = shapes[torch.arange(n), fits.int().argmax(1)]
    room = torch.tensor(size) - shape + 1
    corner = (torch.rand(n, 2, generator=generator) * room).long().minimum(room - 1)
    largest = torch.tensor([min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))])
    centred = (torch.tensor(size) - largest) // 2
    found = fits.any(1)[:, None]
    return torch.cat([torch.where(found, corner, centred), torch.where(found, shape, largest)], 1)


class RandomCrop:
    """A window of `size` anywhere in the image with `padding` pixels of `fill`, one number or one a channel, around."""

    def __init__(self, size: int | Sequence[int], padding: int = 0, fill: float | Sequence[float] = 0.0):
        self.size, self.padding = _pair(size), int(padding)
        self.fill = torch.tensor(fill if isinstance(fill, int | float) else [float(value) for value in fill])
        if self.padding < 0:
            raise ValueError(f"padding is {padding}")

    def __call__(self, images: Tensor) -> Tensor:
        top, left = self.draw(len(images), images.shape[1:]).T.to(images.device, non_blocking=True)
        return window(images, top, left, self.size, self.fill.to(images.device, images.dtype, non_blocking=True))

    def draw(self, n: int, shape: Sequence[int]) -> Tensor:
        """n upper left corners, int64 (n, 2), in images of `shape` (C, H, W); in the padding they are below 0."""
        channels, *size = shape
        room = [side + 2 * self.padding - crop for side, crop in zip(size, self.size, strict=True)]
        if min(room) < 0 or self.fill.numel() not in (1, channels):
            raise InputError(
                f"RandomCrop to {self.size} with padding {self.padding} and {self.fill.numel()} channels of fill does "
                f"not fit images of shape {tuple(shape)}: correct size, padding, mean and std of the view."
            )
        return torch.stack([torch.randint(-self.padding, side - self.padding + 1, (n,)) for side in room], 1)


class ShufflePatches:
    """The width cut into `factor` strips which are shuffled, then the height: Sun et al., "On the Diversity and Realism
    of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (RDED, 2024), as their code trains students."""

    def __init__(self, factor: int):
        self.factor = int(factor)
        if self.factor < 1:
            raise ValueError(f"factor is {factor}")

    def __call__(self, images: Tensor) -> Tensor:
        if self.factor == 1:
            return images
        ranks = torch.rand(2, len(images), self.factor).argsort(2).to(images.device, non_blocking=True)
        return shuffle_patches(images, *ranks)


class GaussianNoise:
    """Adds noise ~ N(mean, sigma^2) to every value. There is no clipping: training space has no natural bounds."""

    def __init__(self, mean: float = 0.0, sigma: float = 0.1, clip: bool = False):
        if clip or sigma < 0:
            raise ValueError(f"clip is {clip} and sigma {sigma}")
        self.mean, self.sigma = float(mean), float(sigma)

    def __call__(self, images: Tensor) -> Tensor:
        return images + self.mean + self.sigma * torch.randn_like(images)


def random_horizontal_flip(p: float = 0.5) -> Callable[[Tensor], Tensor]:
    """Mirrors each image with probability `p`."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, not a probability")
    return RandomHorizontalFlip(p=float(p))


def resize(size: int | Sequence[int], antialias: bool = True) -> Callable[[Tensor], Tensor]:
    """Resizes bilinearly to `size` (h, w), or the shorter side to `size`."""
    return partial(tv.resize, size=[size] if isinstance(size, int) else list(_pair(size)), antialias=antialias)


def center_crop(size: int | Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The central window of `size`."""
    return partial(tv.center_crop, output_size=list(_pair(size)))


TRANSFORMS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "RandomResizedCrop": RandomResizedCrop,
    "RandomCrop": RandomCrop,
    "RandomHorizontalFlip": random_horizontal_flip,
    "ShufflePatches": ShufflePatches,
    "GaussianNoise": GaussianNoise,
    "Resize": resize,
    "CenterCrop": center_crop,
}
DECODING = ("ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "Normalize")


def _step(transform: Mapping[str, Mapping[str, Any] | None]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of one entry of a list of transforms, checked against TRANSFORMS."""
    if not isinstance(transform, Mapping) or len(transform) != 1:
        raise InputError(
            f"A view transform is {transform}, but must be one 'Name: {{arguments}}': correct the aug config."
        )
    name, arguments = next(iter(transform.items()))
    if name in DECODING:
        raise InputError(
            f"The view transform {name} is a decoding step, but the images are already normalised tensors: remove it."
        )
    if name not in TRANSFORMS:
        raise InputError(f"The view transform {name} is unknown: use one of {', '.join(TRANSFORMS)}.")
    if not isinstance(arguments, Mapping | None):
        raise InputError(f"The arguments of the view transform {name} are {arguments}: write them as {{key: value}}.")
    known = inspect.signature(TRANSFORMS[name]).parameters
    for argument in arguments or {}:
        if argument not in known:
            raise InputError(f"The view transform {name} has no argument '{argument}': it has {', '.join(known)}.")
    return name, dict(arguments or {})


def _built(name: str, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    try:
        return TRANSFORMS[name](**arguments)
    except (TypeError, ValueError) as error:
        written = ", ".join(f"{key}: {value}" for key, value in arguments.items())
        raise InputError(
            f"The view transform {name} cannot have {{{written}}} ({error}): correct the aug config."
        ) from error


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError(f"size is {size}, not one or two whole numbers above 0")
    return height, width


def _range(bounds: Sequence[float], name: str) -> tuple[float, float]:
    low, high = (float(bound) for bound in bounds)
    if not 0 < low <= high:
        raise ValueError(f"{name} is {bounds}, not a range [low, high] above 0")
    return low, high
