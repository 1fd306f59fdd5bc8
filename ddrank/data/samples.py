"""Images with labels as tensors, and batches of them by index."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

_VIEWED_BYTES = 1 << 26  # subsets of at least this many bytes are views
_CHUNK_BYTES = 1 << 26


class Rows:
    """Some rows of a tensor that stay where they are, in memory or in a mapped file: a subset without a copy.

    Reads as the tensor `base[index]` would; what is asked for is copied, no more.
    """

    def __init__(self, base: Tensor, index: Tensor):
        self.base, self.index = base, index
        self.shape = torch.Size((len(index), *base.shape[1:]))
        self.dtype, self.device = base.dtype, base.device

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        return self.base[self.index[index]]

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.base.element_size()

    def to(self, device: torch.device | str) -> Tensor:
        """All of them on another device."""
        return self.base[self.index].to(device)


@dataclass(frozen=True)
class Samples:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W); uint8 pixels, or float32 in whatever space they are used in. Large ones may be `Rows`, or
            lie in a mapped file, of which only the parts in use are in memory.
        labels: int64 (N,), class indices.
        soft: float32 (N, classes), the logits of soft labels, where there are any.
        mean, std: per-channel constants with which uint8 pixels are normalised as a batch is drawn; empty for float32.
    """

    images: Tensor | Rows
    labels: Tensor
    soft: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.images, self.labels, self.soft) if tensor is not None)

    def numbers(self, batch_size: int) -> int:
        """How many numbers the images of one batch are."""
        return min(batch_size, len(self)) * self.images[0].numel()

    def __getitem__(self, index: Tensor) -> Samples:
        """The samples at `index` (int64 (n,))."""
        soft = None if self.soft is None else self.soft[index]
        return replace(self, images=_subset(self.images, index), labels=self.labels[index], soft=soft)

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

    def batch(self, index: Tensor | slice) -> dict[str, Tensor]:
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
                for chunk in chunks(tensor):
                    digest.update(chunk)
        return digest.hexdigest()


def chunks(tensor: Tensor | Rows) -> Iterator[memoryview]:
    """The bytes of a tensor, in pieces that memory can take."""
    rows = max(1, _CHUNK_BYTES // max(1, tensor.nbytes // max(1, len(tensor))))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows].detach().cpu().contiguous().numpy().data


def _subset(images: Tensor | Rows, index: Tensor) -> Tensor | Rows:
    if len(index) * (images.nbytes // len(images)) < _VIEWED_BYTES:
        return images[index]
    return Rows(images.base, images.index[index]) if isinstance(images, Rows) else Rows(images, index)


class Batches:
    """Training batches of samples as dicts, in a new order at every pass; no worker processes.

    Batches are drawn by index where the samples lie, and pinned for their way to a GPU that does not hold them
    (`pin`). The order comes from torch's global generator on the CPU. The last batch may be smaller; a batch size above
    the number of samples gives one batch of them all. A single sample left over joins the batch before: batch
    normalisation cannot train on one.
    """

    def __init__(self, samples: Samples, batch_size: int, pin: bool = False):
        self.samples, self.pin = samples, pin
        self.batch_size = min(batch_size, len(samples))

    def __len__(self) -> int:
        whole, left = divmod(len(self.samples), self.batch_size)
        return whole + (left > 1)

    @property
    def sizes(self) -> dict[int, int]:
        """How many batches of which size a pass has."""
        last = len(self.samples) - (len(self) - 1) * self.batch_size
        return dict(Counter({self.batch_size: len(self) - 1}) + Counter({last: 1}))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        count = len(self.samples)
        order = torch.randperm(count).to(self.samples.images.device)
        for number in range(len(self)):
            end = count if number == len(self) - 1 else (number + 1) * self.batch_size
            yield _pinned(self.samples.batch(order[number * self.batch_size : end]), self.pin)


class TestBatches:
    """All samples once, in their order, in batches of one size, at most `most`.

    The last batch is filled up with copies of the last image, so that every batch has the same shape; its labels are
    those of the real samples alone.
    """

    __test__ = False  # not one of pytest's

    def __init__(self, samples: Samples, most: int, pin: bool = False):
        self.samples, self.pin = samples, pin
        self._count = -(-len(samples) // most)
        self.batch_size = -(-len(samples) // self._count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.samples), self.batch_size):
            batch = self.samples.batch(slice(start, start + self.batch_size))
            if missing := self.batch_size - len(batch["label"]):
                last = batch["image"][-1:].expand(missing, -1, -1, -1)
                batch["image"] = torch.cat([batch["image"], last])
            yield _pinned(batch, self.pin)


def _pinned(batch: dict[str, Tensor], pin: bool) -> dict[str, Tensor]:
    return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin else batch


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(pixels - mean) / std per channel, for float (N, C, H, W) with pixels in [0, 1]; no constants: unchanged."""
    if not mean:
        return pixels
    shape = (1, -1, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)
