"""Images with labels as tensors, and batches of them by index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W); uint8 pixels, or float32 in whatever space they are used in.
        labels: int64 (N,), class indices.
        soft: float32 (N, classes), the logits of soft labels, where there are any.
        mean, std: per-channel constants with which uint8 pixels are normalised as a batch is drawn; empty for float32.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Samples:
        """The samples at `index` (int64 (n,))."""
        soft = None if self.soft is None else self.soft[index]
        return replace(self, images=self.images[index], labels=self.labels[index], soft=soft)

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`."""
        soft = None if self.soft is None else self.soft.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), soft=soft)

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images at `index` as float32 (n, C, H, W): uint8 pixels normalised, float images as they are."""
        images = self.images[index]
        if images.dtype != torch.uint8:
            return images
        return normalize(images.float().div_(255), self.mean, self.std)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """What a training or test step gets: `image`, `label` and, where there are any, `soft_label`."""
        batch = {"image": self.floats(index), "label": self.labels[index]}
        if self.soft is not None:
            batch["soft_label"] = self.soft[index]
        return batch

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that a network trained on these samples could notice."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for tensor in (self.images, self.labels, self.soft):
            if tensor is not None:
                digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


class Batches:
    """Batches of samples as dicts, drawn by index on the device where the samples lie; no worker processes.

    With `shuffle`, every pass draws a new order from torch's global generator on the CPU. The last batch may be
    smaller; a batch size above the number of samples gives one batch of them all. A single sample left over joins the
    batch before: batch normalisation cannot train on one.
    """

    def __init__(self, samples: Samples, batch_size: int, shuffle: bool = False):
        self.samples = samples
        self.batch_size = min(batch_size, len(samples))
        self.shuffle = shuffle

    def __len__(self) -> int:
        whole, left = divmod(len(self.samples), self.batch_size)
        return whole + (left > (1 if self.shuffle else 0))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        count, device = len(self.samples), self.samples.images.device
        if not self.shuffle:
            for start in range(0, count, self.batch_size):
                yield self.samples.batch(slice(start, start + self.batch_size))
            return
        order = torch.randperm(count).to(device)
        for number in range(len(self)):
            end = count if number == len(self) - 1 else (number + 1) * self.batch_size
            yield self.samples.batch(order[number * self.batch_size : end])


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(pixels - mean) / std per channel, for float (N, C, H, W) with pixels in [0, 1]; no constants: unchanged."""
    if not mean:
        return pixels
    shape = (1, -1, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)
