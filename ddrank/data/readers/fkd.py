"""Stored views of other projects: the FKD folders of SRe2L and D4M, `epoch_E/batch_B.tar`.

Each file is a list of torch.save: crop boxes float32 (n, 4) = top, left, height, width as fractions of the image's
sides, flips bool (n,), partners int64 (n,) or None, the share or None, rows and columns [top, left, bottom, right] of
what is pasted or None, and logits (n, classes) of the finished view. No file names its images: they are in the order of
torch's RandomSampler with one generator, seeded 42, for all epochs, over the files as ImageFolder sorts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from ddrank.augment.mix import Mix, kept_share
from ddrank.augment.replay import Drawn, Frame
from ddrank.data.readers.tensors import load_content
from ddrank.data.stored_views import LabelledBatch
from ddrank.errors import InputError

SEED = 42


class FKD:
    """The stored views in an FKD folder, for `images` images of `size` x `size` pixels in `num_classes` classes;
    `positions` int64 (N,) is where the images are kept, in the order of their sorted files.

    Raises InputError for a folder that is none, or for other images.
    """

    def __init__(self, folder: Path | str, positions: Tensor, size: int, num_classes: int):
        self._folder, self._positions, self._size, self._classes = Path(folder), positions, size, num_classes
        self.count = len(_numbered(self._folder, "epoch_{}", "an FKD folder of SRe2L"))
        self.frame = Frame((size, size), resized=True)
        self._kind: tuple[Any, ...] | None = None

    def epochs(self) -> Iterator[list[LabelledBatch]]:
        """Epoch after epoch."""
        # RandomSampler draws and drops a permutation at the end of each epoch: bare permutations would not do.
        sampler = RandomSampler(range(len(self._positions)), generator=torch.Generator().manual_seed(SEED))
        for epoch in range(self.count):
            folder = self._folder / f"epoch_{epoch}"
            files = _numbered(folder, "batch_{}.tar", "a folder of FKD batches")
            contents = [_content(file, self._classes) for file in files]
            if (views := sum(len(content[5]) for content in contents)) != len(self._positions):
                raise InputError(
                    f"{folder} holds labels of {views} images, but there are {len(self._positions)} images: give the "
                    "FKD folder that was made for them"
                )
            order = self._positions[torch.tensor(list(sampler))].split([len(content[5]) for content in contents])
            batches = [
                self._batch(index, content, file) for index, content, file in zip(order, contents, files, strict=True)
            ]
            self._check_kind(batches, folder)
            yield batches

    def _batch(self, index: Tensor, content: Sequence[Any], file: Path) -> LabelledBatch:
        coordinates, flips, partners, share, pasted, logits = content
        boxes = (coordinates.double() * self._size).round().long()
        corners = boxes[:, :2] + boxes[:, 2:]
        if bool((boxes[:, :2] < 0).any() or (boxes[:, 2:] < 1).any() or (corners > self._size).any()):
            raise InputError(f"{file} has crops beyond the image, expected fractions of its sides: make it again")
        return LabelledBatch(index, Drawn(boxes, flips.bool(), self._mix(partners, share, pasted, file)), logits)

    def _mix(self, partners: Tensor | None, share: Any, pasted: Any, file: Path) -> Mix | None:
        if partners is None:
            return None
        if pasted is None:
            return Mix(partners, float(share))
        box = tuple(int(edge) for edge in pasted)
        if len(box) != 4 or not (0 <= box[0] <= box[2] <= self._size and 0 <= box[1] <= box[3] <= self._size):
            raise InputError(f"{file} pastes the box {box}, which is not in images of {self._size} pixels")
        # The share that was drawn is a little larger than that of a box that was clipped to the image.
        return Mix(partners, kept_share(box, (self._size, self._size)), box)

    def _check_kind(self, batches: Sequence[LabelledBatch], folder: Path) -> None:
        mixes = {None if batch.drawn.mix is None else batch.drawn.mix.box is None for batch in batches}
        kind = (mixes, [len(batch.index) for batch in batches])
        self._kind = self._kind or kind
        if kind != self._kind or len(mixes) > 1:
            raise InputError(f"{folder} has batches of other sizes, or mixed otherwise, than those before: one run's")


def _content(file: Path, classes: int) -> Sequence[Any]:
    """The six items of a file, each checked against the others."""
    content = load_content(file)
    if not (isinstance(content, list | tuple) and len(content) == 6 and isinstance(content[5], Tensor)):
        raise InputError(f"{file} is no FKD file: expected a list of boxes, flips, partners, share, pasted box, logits")
    coordinates, flips, partners, share, pasted, logits = content
    n = len(logits) if logits.ndim else 0
    fits = isinstance(coordinates, Tensor) and tuple(coordinates.shape) == (n, 4) and coordinates.is_floating_point()
    fits = fits and isinstance(flips, Tensor) and tuple(flips.shape) == (n,) and n > 0
    if partners is not None:
        fits = fits and isinstance(partners, Tensor) and tuple(partners.shape) == (n,)
        fits = fits and 0 <= int(partners.min()) <= int(partners.max()) < n
        fits = fits and (isinstance(pasted, list | tuple) or (isinstance(share, float | int) and 0 <= share <= 1))
    if not fits:
        raise InputError(f"{file} holds boxes, flips, partners or a share that do not fit its {n} logits")
    if tuple(logits.shape) != (n, classes) or not logits.is_floating_point():
        raise InputError(
            f"{file} holds logits of shape {tuple(logits.shape)}, expected {classes} classes: choose the dataset that "
            "they were made for"
        )
    return content


def _numbered(folder: Path, pattern: str, what: str) -> list[Path]:
    """What is named by `pattern` with numbers from 0, in their order."""
    named = re.compile(re.escape(pattern).replace(r"\{\}", "([0-9]+)"))
    numbers = [int(match[1]) for entry in _entries(folder, what) if (match := named.fullmatch(entry.name))]
    if not numbers or sorted(numbers) != list(range(len(numbers))):
        first = pattern.format(0)
        raise InputError(
            f"{folder} is not {what}: expected {first}, {pattern.format(1)} and so on without gaps, found "
            f"{len(numbers)} of them"
        )
    return [folder / pattern.format(number) for number in range(len(numbers))]


def _entries(folder: Path, what: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not {what}: there is no such folder")
    return list(folder.iterdir())
