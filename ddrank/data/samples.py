"""Images with labels as tensors, and batches of them by index."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddrank.data.files import Files, moved
from ddrank.data.stream import Stream
from ddrank.ranks.team import ALONE, Team

if TYPE_CHECKING:
    from ddrank.data.stored_views import StoredViews

_VIEWED_BYTES = 1 << 26  # subsets of at least this many bytes are views
_CHUNK_BYTES = 1 << 26
_CACHED_NUMBERS = 1 << 18  # that are normalised at a time, so that they stay in a core's cache


class Rows:
    """Some rows of a tensor that stay where they are, in memory, in a mapped file or in files that are decoded when
    they are asked for: a subset without a copy.

    Reads as the tensor `base[index]` would; what is asked for is copied, no more.
    """

    def __init__(self, base: Tensor | Files, index: Tensor):
        self.base, self.index = base, index
        self.shape = torch.Size((len(index), *base.shape[1:]))
        self.dtype, self.device = base.dtype, base.device

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        return self.base[self.index[index]]

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def to(self, device: torch.device | str) -> Tensor:
        """All of them on another device."""
        return moved(self, device)

    def __reduce__(self) -> tuple[Callable, tuple]:
        """Another process gets these rows and no others, but files are where they are."""
        return (Rows, (self.base, self.index)) if isinstance(self.base, Files) else (_itself, (self[:],))


def _itself(rows: Tensor) -> Tensor:
    return rows


@dataclass(frozen=True)
class Samples:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W); uint8 pixels, or float32 in whatever space they are used in. Large ones may be `Rows`, or
            lie in a mapped file, of which only the parts in use are in memory, or in `Files` that are decoded when they
            are used.
        labels: int64 (N,), class indices.
        soft: float32 (N, classes), the logits of soft labels, where there are any.
        mean, std: per-channel constants with which uint8 pixels are normalised as a batch is drawn; empty for float32.
        views: those that a network is trained on, batch by batch and with labels of their own, where they are stored.
        images_from, soft_from: what the images, or the soft labels, were computed from, where their last digits are the
            machine's (number of threads, device): in words that stand for them in the fingerprint.
    """

    images: Tensor | Rows | Files
    labels: Tensor
    soft: Tensor | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    views: StoredViews | None = None
    images_from: str | None = None
    soft_from: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.images, self.labels, self.soft) if tensor is not None)

    def numbers(self, batch_size: int) -> int:
        """How many numbers the images of one batch are."""
        return min(batch_size, len(self)) * self.images.shape[1:].numel()

    def __getitem__(self, index: Tensor) -> Samples:
        """The samples at `index` (int64 (n,))."""
        soft = None if self.soft is None else self.soft[index]
        return Samples(_subset(self.images, index), self.labels[index], soft, self.mean, self.std)

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`."""
        soft = None if self.soft is None else self.soft.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), soft=soft)

    def read(self) -> Samples:
        """The same samples, images that are in files decoded into memory."""
        return self if _files(self.images) is None else replace(self, images=self.images.to("cpu"))

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images at `index` as float32 (n, C, H, W): uint8 pixels normalised, float images as they are."""
        images = self.images[index]
        if images.dtype != torch.uint8:
            return images
        return self.normalized(images, torch.empty(images.shape, device=images.device))

    def normalized(self, pixels: Tensor, floats: Tensor) -> Tensor:
        """`pixels`, uint8 (n, C, H, W), normalised, in `floats`, float32 of the same shape.

        (pixels / 255 - mean) / std, in this order, a few images at a time.
        """
        few = _CACHED_NUMBERS // max(1, pixels.shape[1:].numel()) if pixels.device.type == "cpu" else len(pixels)
        mean, std = (floats.new_tensor(constants).view(-1, 1, 1) for constants in (self.mean, self.std))
        for raw, part in zip(pixels.split(max(1, few)), floats.split(max(1, few)), strict=True):
            torch.div(raw, 255, out=part)
            if self.mean:
                part.sub_(mean).div_(std)
        return floats

    def batch(self, index: Tensor | slice, images: Tensor | None = None) -> dict[str, Tensor]:
        """What a training or test step gets: `image`, `label` and, where there are any, `soft_label`.

        `images` are those at `index`, where they have been read already.
        """
        batch = {"image": self.floats(index) if images is None else images, "label": self.labels[index]}
        if self.soft is not None:
            batch["soft_label"] = self.soft[index]
        return batch

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that a network trained on these samples could notice.

        Of images in files, these are the contents of the files and how they are read. The contents are read once: their
        checksums are kept under the data folder, each with the file's name, size and time of last change.
        """
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        parts = ((self.images, self.images_from), (self.labels, None), (self.soft, self.soft_from))
        for tensor, computed_from in parts:
            if tensor is not None:
                digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
                for chunk in _content(tensor) if computed_from is None else [computed_from.encode()]:
                    digest.update(chunk)
        if self.views is not None:
            digest.update(self.views.sha256.encode())
        return digest.hexdigest()


def chunks(tensor: Tensor | Rows | Files) -> Iterator[memoryview]:
    """The bytes of a tensor, in pieces that memory can take."""
    rows = max(1, _CHUNK_BYTES // max(1, tensor.nbytes // max(1, len(tensor))))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows].detach().cpu().contiguous().numpy().data


def _content(tensor: Tensor | Rows | Files) -> Iterator[memoryview | bytes]:
    """What stands for a tensor in a fingerprint."""
    if (files := _files(tensor)) is None:
        yield from chunks(tensor)
    else:
        yield repr(files.format).encode()
        yield np.ascontiguousarray(files.digests[_numbers(tensor)]).data


def _files(images: Tensor | Rows | Files) -> Files | None:
    """The files that the images are in, if they are."""
    base = images.base if isinstance(images, Rows) else images
    return base if isinstance(base, Files) else None


def _numbers(images: Rows | Files, index: Tensor | slice = slice(None)) -> np.ndarray:
    """Which of the files the images at `index` are."""
    if isinstance(images, Rows):
        return images.index[index].numpy()
    return index.numpy() if isinstance(index, Tensor) else np.arange(len(images))[index]


def _subset(images: Tensor | Rows | Files, index: Tensor) -> Tensor | Rows:
    if _files(images) is None and len(index) * (images.nbytes // len(images)) < _VIEWED_BYTES:
        return images[index]
    return Rows(images.base, images.index[index]) if isinstance(images, Rows) else Rows(images, index)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Passes:
    """Batches of samples as dicts, pass after pass. Images in files are decoded by worker processes, which are started
    with the first pass and end with `close`, or with the block of a `with`."""

    def __init__(self, samples: Samples, batch_size: int, pin: bool):
        self.samples, self.batch_size, self.pin = samples, batch_size, pin
        files = _files(samples.images)
        self._stream = None if files is None else Stream(files.format, ahead=2 * batch_size)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> _Passes:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _drawn(self, parts: Sequence[Tensor | slice]) -> Iterator[dict[str, Tensor]]:
        """The batches of the samples at `parts`."""
        if self._stream is None:
            yield from map(self.samples.batch, parts)
            return
        images, files, most = self.samples.images, _files(self.samples.images), self._stream.piece
        numbers = [_numbers(images, part) for part in parts]
        requests = (
            [files.path(number) for number in of_batch[start : start + most]]
            for of_batch in numbers
            for start in range(0, len(of_batch), most)
        )
        pieces = self._stream.pieces(requests)
        for part, of_batch in zip(parts, numbers, strict=True):
            floats, done = torch.empty((len(of_batch), *images.shape[1:])), 0
            with _one_thread():  # the workers have the other cores
                while done < len(of_batch):
                    pixels = next(pieces)
                    self.samples.normalized(pixels, floats[done : done + len(pixels)])
                    done += len(pixels)
            yield self.samples.batch(part, floats)


class Batches(_Passes):
    """Training batches of samples as dicts, in a new order at every pass.

    Batches are drawn by index where the samples lie, and pinned for their way to a GPU that does not hold them
    (`pin`). The order comes from torch's global generator on the CPU, wherever the images are. The last batch may be
    smaller; a batch size above the number of samples gives one batch of them all. A single sample left over joins the
    batch before: batch normalisation cannot train on one.

    A rank of a `team` gets its part of every batch, with the `weight` of that part. The order is the leader's, and what
    is left over joins the batch before where it has fewer than two samples for each rank.
    """

    def __init__(self, samples: Samples, batch_size: int, pin: bool = False, team: Team = ALONE):
        super().__init__(samples, min(batch_size, len(samples)), pin)
        self._team = team
        self._order = torch.empty(0, dtype=torch.int64)
        self._going_on, self._done = False, 0

    def __len__(self) -> int:
        whole, left = divmod(len(self.samples), self.batch_size)
        return whole + (left >= 2 * self._team.ranks)

    @property
    def sizes(self) -> dict[int, int]:
        """How many batches of which size a pass has."""
        return dict(Counter(len(self._team.part(batch)) for batch in self._divided(torch.arange(len(self.samples)))))

    def __iter__(self) -> Iterator[dict[str, Tensor] | None]:
        if not self._going_on:
            self._order, self._done = self._team.told(torch.randperm(len(self.samples))), 0
        self._going_on = False
        wholes = self._divided(self._order.to(self.samples.images.device))[self._done :]
        yield from [None] * self._done
        parts = [self._team.part(whole) for whole in wholes]
        for batch, part, whole in zip(self._drawn(parts), parts, wholes, strict=True):
            batch = _pinned(batch, self.pin)
            if self._team.ranks > 1:
                batch["weight"] = self._team.weight(len(part), len(whole))
            yield batch

    def _divided(self, order: Tensor) -> tuple[Tensor, ...]:
        """The batches of a pass, before they are divided between ranks."""
        return order.tensor_split([number * self.batch_size for number in range(1, len(self))])

    def state(self) -> dict[str, Tensor]:
        """What fixes the batches of the pass that has begun."""
        return {"order": self._order}

    def resume(self, state: dict[str, Tensor], done: int) -> None:
        """Have the next pass be that of `state`, with None for the first `done` of its batches."""
        self._order, self._going_on, self._done = state["order"], True, done


class TestBatches(_Passes):
    """All samples once, in their order, in batches of one size, at most `most`.

    The last batch is filled up with copies of the last image, so that every batch has the same shape; its labels are
    those of the real samples alone. The ranks of a `team` take turns at the batches; where the last turn is not
    everyone's, the others have a batch of fillings, without labels: all take the same number of steps.
    """

    __test__ = False  # not one of pytest's

    def __init__(self, samples: Samples, most: int, pin: bool = False, team: Team = ALONE):
        self._team, self._count = team, -(-len(samples) // most)
        super().__init__(samples, -(-len(samples) // self._count), pin)

    def __len__(self) -> int:
        return -(-self._count // self._team.ranks)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        size, last = self.batch_size, len(self.samples) - 1
        numbers = range(self._team.rank, len(self) * self._team.ranks, self._team.ranks)
        parts = [slice(min(number * size, last), (number + 1) * size) for number in numbers]
        for number, batch in zip(numbers, self._drawn(parts), strict=True):
            if number * size > last:
                batch["label"] = batch["label"][:0]
            if missing := size - len(batch["image"]):
                filling = batch["image"][-1:].expand(missing, -1, -1, -1)
                batch["image"] = torch.cat([batch["image"], filling])
            yield _pinned(batch, self.pin)


def _pinned(batch: dict[str, Tensor], pin: bool) -> dict[str, Tensor]:
    return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin else batch


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(pixels - mean) / std per channel, for float (N, C, H, W) with pixels in [0, 1]; no constants: unchanged."""
    if not mean:
        return pixels
    shape = (1, -1, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)
