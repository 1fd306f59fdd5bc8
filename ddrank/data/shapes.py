"""Procedural images of coloured shapes, any size and number of classes: a stand-in where no photographs are at hand.

A class is a kind of shape, a hue (where there is colour) and a texture; position, scale, rotation, brightness,
background and noise vary.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ddrank.data.mapped import mapped
from ddrank.data.samples import Samples
from ddrank.errors import InputError

KINDS = ("disk", "triangle", "square", "star", "ring", "cross", "hexagon", "flower", "crescent", "bar")
MOST_HUES = 10
_CHUNK_PIXELS = 1 << 21
_LARGE_BYTES = 1 << 30
_VERSION = 1  # of the drawing, for the names of files


def load_shapes(
    root: Path,
    size: int,
    channels: int,
    num_classes: int,
    train_per_class: int,
    test_per_class: int,
    seed: int = 0,
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """`num_classes` classes of `channels` x `size` x `size` uint8 images; the same seed gives the same images.

    Sets of a gibibyte or more are drawn once, into a file under `root`, and read from there as they are used.

    Raises InputError for sizes under 8, other than 1 or 3 channels, or fewer than 2 classes.
    """
    if size < 8 or channels not in (1, 3) or num_classes < 2 or min(train_per_class, test_per_class) < 1:
        raise InputError(
            f"shapes cannot be drawn with size={size}, channels={channels}, num_classes={num_classes}, "
            f"{train_per_class} training and {test_per_class} test images a class: expected size >= 8, "
            "1 or 3 channels, 2 classes or more and 1 image or more a class"
        )
    train = _drawn(root, num_classes, train_per_class, size, channels, seed=2 * seed)
    test = _drawn(root, num_classes, test_per_class, size, channels, seed=2 * seed + 1)
    return train, test, tuple(class_name(label, num_classes, channels) for label in range(num_classes))


def class_name(label: int, num_classes: int, channels: int) -> str:
    kind, hue, texture = (int(value) for value in _meaning(torch.tensor([label]), num_classes, channels))
    return f"{KINDS[kind]}-hue{hue}" + (f"-texture{texture}" if texture else "")


def _meaning(labels: Tensor, num_classes: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, hue and texture of each label: as many kinds as hues, as far as they go; textures when both are used up."""
    kinds, hues = _variety(num_classes, channels)
    return labels % kinds, labels // kinds % hues, labels // (kinds * hues)


def _variety(num_classes: int, channels: int) -> tuple[int, int]:
    """How many kinds and hues there are; grey images have one hue."""
    if channels == 1:
        return min(len(KINDS), num_classes), 1
    kinds = min(len(KINDS), math.ceil(math.sqrt(num_classes)))
    return kinds, min(MOST_HUES, math.ceil(num_classes / kinds))


def _drawn(root: Path, num_classes: int, per_class: int, size: int, channels: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat(per_class)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    shape = (len(labels), channels, size, size)

    def draw(images: Tensor) -> None:
        chunk = max(1, _CHUNK_PIXELS // size**2)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            images[part] = _draw(labels[part], num_classes, size, channels, generator)

    if math.prod(shape) >= _LARGE_BYTES:
        name = f"shapes-{size}px-{channels}-{num_classes}c-{per_class}-seed{seed}-v{_VERSION}.uint8"
        return Samples(mapped(root / name, shape, draw), labels)
    images = torch.empty(shape, dtype=torch.uint8)
    draw(images)
    return Samples(images, labels)


def _draw(labels: Tensor, num_classes: int, size: int, channels: int, generator: torch.Generator) -> Tensor:
    """One image for each label, uint8 (N, channels, size, size)."""
    count = len(labels)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1).uniform_(low, high, generator=generator)

    kind, hue, texture = _meaning(labels, num_classes, channels)
    hues = _variety(num_classes, channels)[1]
    axis = torch.linspace(-1, 1, size)
    x0, y0 = axis.view(1, 1, -1) - uniform(-0.3, 0.3), axis.view(1, -1, 1) - uniform(-0.3, 0.3)
    angle, scale = uniform(-math.pi / 9, math.pi / 9), uniform(0.4, 0.65)
    x = (x0 * angle.cos() + y0 * angle.sin()) / scale
    y = (y0 * angle.cos() - x0 * angle.sin()) / scale
    inside = torch.empty(count, size, size)
    for index in range(len(KINDS)):
        chosen = kind == index
        if chosen.any():
            inside[chosen] = _depth(index, x[chosen], y[chosen])
    coverage = (inside * size * 0.3).add_(0.5).clamp_(0, 1)
    stripes = 1 - 0.5 * (texture.view(-1, 1, 1) > 0) * (torch.sin((1.5 + 1.5 * texture.view(-1, 1, 1)) * (x + y)) > 0)
    tint = hue.view(-1, 1, 1) / hues + uniform(-0.3, 0.3) / hues
    colourful = channels == 3  # without colour, brightness alone sets the shape apart
    colour = _rgb(tint, uniform(0.55, 1.0) * colourful, uniform(0.6, 1.0)) * stripes.unsqueeze(1)
    slope_x, slope_y = uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    shade = slope_x * axis.view(1, 1, -1) + slope_y * axis.view(1, -1, 1)
    ground = _rgb(uniform(0, 1), uniform(0, 0.5) * colourful, uniform(0.2, 0.7)) + shade.unsqueeze(1)
    image = ground.lerp(colour.expand_as(ground), coverage.unsqueeze(1))
    if channels == 1:
        image = image.mean(1, keepdim=True)
    image = image + 0.08 * torch.randn(image.shape, generator=generator)
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _depth(kind: int, x: Tensor, y: Tensor) -> Tensor:
    """How far inside the unit-sized shape each point lies; negative outside."""
    radius, theta = torch.hypot(x, y), torch.atan2(x, -y)
    name = KINDS[kind]
    if name == "disk":
        return 1 - radius
    if name == "triangle":
        return _polygon(3, radius, theta)
    if name == "square":
        return _polygon(4, radius, theta + math.pi / 4)
    if name == "hexagon":
        return _polygon(6, radius, theta)
    if name == "star":
        sector = 2 * math.pi / 5
        return 0.45 + 0.55 * (((theta % sector) / sector - 0.5).abs() * 2) ** 1.5 - radius
    if name == "ring":
        return 0.22 - (radius - 0.75).abs()
    if name == "cross":
        return torch.minimum(0.3 - torch.minimum(x.abs(), y.abs()), 1 - torch.maximum(x.abs(), y.abs()))
    if name == "flower":
        return 0.72 + 0.28 * torch.cos(4 * theta) - radius
    if name == "crescent":
        return torch.minimum(1 - radius, torch.hypot(x - 0.45, y) - 0.75)
    return torch.minimum(0.35 - x.abs(), 1 - y.abs())


def _polygon(sides: int, radius: Tensor, theta: Tensor) -> Tensor:
    sector = 2 * math.pi / sides
    return math.cos(sector / 2) - radius * torch.cos(theta % sector - sector / 2)


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV in [0, 1], each (N, 1, 1), as RGB (N, 3, 1, 1)."""
    offset = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (offset + hue.unsqueeze(1) * 6) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * ramp)
