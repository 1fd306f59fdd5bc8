"""The layers that architectures choose by name, and the checks of what a config may ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ddrank.errors import InputError

NORMS = ("instance", "batch", "group", "layer", "none")
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid")
POOLS = ("avg", "max", "none")


def norm_layer(norm: str, channels: int, side: int = 0) -> nn.Module | None:
    """The normalisation `norm`, of NORMS, of maps (N, channels, side, side), affine; None for "none".

    "instance" is a GroupNorm of one channel a group, "group" one of four groups, "layer" a LayerNorm over channels and
    pixels with a scale and a shift for each (only this one needs `side`). Raises InputError when four groups do not
    divide the channels.
    """
    if norm == "group" and channels % 4:
        raise InputError(f"model.norm=group makes 4 groups of {channels} channels: choose a model.width divisible by 4")
    makers = {
        "instance": lambda: nn.GroupNorm(channels, channels),
        "batch": lambda: nn.BatchNorm2d(channels),
        "group": lambda: nn.GroupNorm(4, channels),
        "layer": lambda: nn.LayerNorm((channels, side, side)),
        "none": lambda: None,
    }
    return makers[one_of("norm", norm, NORMS)]()


def activation(act: str) -> nn.Module:
    """The activation `act`, of ACTIVATIONS; "leaky_relu" has slope 0.01."""
    makers = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky_relu": lambda: nn.LeakyReLU(0.01),
        "sigmoid": nn.Sigmoid,
    }
    return makers[one_of("act", act, ACTIVATIONS)]()


def pooling(pool: str) -> nn.Module | None:
    """The 2 x 2 pooling of stride 2 called `pool`, of POOLS; None for "none"."""
    makers = {"avg": lambda: nn.AvgPool2d(2), "max": lambda: nn.MaxPool2d(2), "none": lambda: None}
    return makers[one_of("pool", pool, POOLS)]()


def one_of(key: str, value: Any, known: Sequence[Any]) -> Any:
    """`value`, if it is one of `known`. Raises InputError."""
    if value not in known:
        raise InputError(f"model.{key} is {value!r}, expected one of {', '.join(map(str, known))}")
    return value


def whole(key: str, value: Any) -> int:
    """`value`, if it is a whole number of 1 or more. Raises InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"model.{key} is {value!r}, expected a whole number of 1 or more")
    return value


def check_size(network: str, size: int, smallest: int) -> None:
    """Raise InputError when images of `size` pixels a side are too small for `network`."""
    if size < smallest:
        raise InputError(
            f"{network} cannot process images of {size} x {size} pixels: the smallest size that works is {smallest}; "
            "choose another model or larger images"
        )
