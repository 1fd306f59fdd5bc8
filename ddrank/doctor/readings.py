"""The ways to read the values of images: which space they may be in, and with which constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddrank.data import RealDataset, Space, fit_space
from ddrank.data.files import Files
from ddrank.data.samples import Rows, Samples
from ddrank.store import Store

BELIEVED = "believed"
MOST_NUMBERS = 3 * 32 * 32  # of an image that is whitened without being asked
STATISTICS = 1 << 23  # numbers of images of which statistics are taken: 1,000 images of 3 x 52 x 52
AS_PIXELS = "method.space=pixel"
FROM_BYTES = f"images = images / 255 before saving, and {AS_PIXELS}"
_FEWEST = 64
CONSTANTS = {  # of other data, often left over in code that was written for them
    3: {
        "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "CIFAR-10 (pixelwise)": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "CIFAR-100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "[-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    },
    1: {"MNIST": ((0.1307,), (0.3081,)), "Fashion-MNIST": ((0.2861,), (0.3530,)), "[-1, 1]": ((0.5,), (0.5,))},
}


@dataclass(frozen=True)
class Reading:
    """One way to read the values.

    Attributes:
        name: `normalized`, `zca`, `pixel`, `bytes`, `twice`, or whose constants: `ImageNet`.
        words: what it means, to follow "the values fit".
        space: from pixels in [0, 1] to such values, and back.
        setting: the setting or command with which ddrank reads them so.
    """

    name: str
    words: str
    space: Space
    setting: str


def readings(
    space: str, mean: tuple[float, ...], std: tuple[float, ...], real: RealDataset, store: Store
) -> list[Reading]:
    """All readings that are considered for images said to be in `space`, normalised with `mean` and `std`: the one that
    is believed first."""
    known = [
        Reading("normalized", "normalised images", Space("normalized", mean, std), "method.space=normalized"),
        Reading("pixel", "pixels in [0, 1]", Space("pixel"), AS_PIXELS),
    ]
    if space == "zca" or real.channels * real.size**2 <= MOST_NUMBERS:
        whitened = fit_space("zca", real.train, mean, std, store)
        known.append(Reading("zca", "ZCA-whitened images", whitened, "method.space=zca"))
    count = len(mean)
    known.append(
        Reading(
            "bytes",
            "pixels from 0 to 255",
            Space("normalized", (0.0,) * count, (1 / 255,) * count),
            FROM_BYTES,
        )
    )
    # ((p - m) / s - m) / s = (p - (m + m s)) / s^2
    again = tuple(m * (1 + s) for m, s in zip(mean, std, strict=True)), tuple(s * s for s in std)
    known.append(
        Reading(
            "twice",
            "images that were normalised twice",
            Space("normalized", *again),
            f"images = images * std + mean before saving, once (mean {_text(mean)}, std {_text(std)})",
        )
    )
    taken = [(mean, std)]
    for name, (other_mean, other_std) in {"its own": (real.mean, real.std), **CONSTANTS.get(count, {})}.items():
        if not any(_alike((other_mean, other_std), constants) for constants in taken):
            taken.append((other_mean, other_std))
            known.append(
                Reading(
                    name,
                    f"images normalised with {'the constants of ' if name[0] != '[' else 'mean and std 0.5, to '}{name}"
                    if name != "its own"
                    else "images normalised with the dataset's own constants",
                    Space("normalized", other_mean, other_std),
                    f"method.space=normalized method.mean={_text(other_mean)} method.std={_text(other_std)}",
                )
            )
    return sorted(known, key=lambda reading: reading.name != space)


def real_pixels(samples: Samples, most: int) -> Tensor:
    """Up to `most` of the images of raw `samples`, fewer of large ones, as float pixels (n, C, H, W) in [0, 1]."""
    return as_pixels(samples.images[spread(samples.labels, affordable(samples.images, most))])


def affordable(images: Tensor | Rows | Files, most: int) -> int:
    """Of how many images, at most `most`, statistics are taken: of large ones of fewer, but of some."""
    return min(most, max(_FEWEST, STATISTICS // max(1, images.shape[1:].numel())))


def spread(labels: Tensor, most: int) -> Tensor:
    """Up to `most` places in `labels` (N,), int64, ascending, spread evenly over the classes and within them."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    return labels.argsort(stable=True)[torch.linspace(0, len(labels) - 1, most).round().long()].sort().values


def shrunk(images: Tensor, side: int) -> Tensor:
    """Float `images` (N, C, H, W) of at most `side` x `side` pixels: larger ones by the mean of each part."""
    return nn.functional.adaptive_avg_pool2d(images, side) if images.shape[-1] > side else images


def as_pixels(images: Tensor) -> Tensor:
    """uint8 images as float pixels in [0, 1]; float images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _alike(one: tuple, other: tuple) -> bool:
    return all(abs(a - b) < 0.004 for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True))


def _text(values: tuple[float, ...]) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"
