"""Images decoded by worker processes, in the order in which they are asked for, with bounded memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddrank import crew
from ddrank.errors import InputError, LostError

if TYPE_CHECKING:
    from ddrank.data.files import Format

_PIECE_BYTES = 1 << 22  # of pixels, that a worker decodes at a time
_MOST_IMAGES = 64  # in such a piece
_AHEAD_BYTES = 1 << 28  # of pixels, decoded ahead of their use


class Stream:
    """Worker processes that decode files, one for each core; they stay from one pass to the next, until `close`.

    Pixels come through memory that is shared with the workers and used again and again, as much as `ahead` images
    take, at most 256 MiB or two pieces a worker. In a process that may have no children, images are decoded there.
    """

    def __init__(self, format: Format, ahead: int, workers: int | None = None):
        one = int(np.prod(format.shape))
        self.piece = max(1, min(_MOST_IMAGES, _PIECE_BYTES // one))
        if multiprocessing.current_process().daemon:
            workers = 0
        self._format = format
        self._workers = crew.cores() if workers is None else workers
        most = max(1, min(ahead, _AHEAD_BYTES // one) // self.piece)
        self._prefetch = max(2, -(-most // max(1, self._workers)))
        self._loader: DataLoader | None = None

    def pieces(self, requests: Iterable[list[str]]) -> Iterator[Tensor]:
        """The pixels of each request's files, uint8 (n, C, H, W); a request has `piece` files at most.

        What was yielded holds until the next is asked for. Raises InputError for a file that cannot be read.
        """
        if self._workers == 0:
            for paths in requests:
                yield torch.from_numpy(np.stack([self._format.read(path) for path in paths]))
            return
        if self._loader is None:
            self._start()
        self._orders.requests = enumerate(requests)
        try:
            with crew.script_hidden():
                answers = iter(self._loader)  # starts the workers
            for answer in answers:
                if isinstance(answer, str):
                    raise InputError(answer)
                slot, count = answer
                yield self._pixels[slot, :count]
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise LostError(
                "a process that decodes images has ended unexpectedly; if memory was short, choose a smaller batch size"
            ) from error

    def close(self) -> None:
        """End the workers."""
        if self._loader is not None and self._loader._iterator is not None:
            self._loader._iterator._shutdown_workers()
        self._loader = None

    def _start(self) -> None:
        context = _context()
        slots = self._workers * self._prefetch + 2  # those on their way, and that in use
        shape = (slots, self.piece, *self._format.shape)
        memory = context.RawArray("B", int(np.prod(shape)))
        self._pixels = torch.from_numpy(np.frombuffer(memory, np.uint8).reshape(shape))
        self._orders = _Orders(slots)
        self._loader = DataLoader(
            _Decoder(self._format, memory, shape),
            batch_size=None,
            sampler=self._orders,
            num_workers=self._workers,
            prefetch_factor=self._prefetch,
            persistent_workers=True,
            collate_fn=_as_it_is,
            multiprocessing_context=context,
            generator=torch.Generator(),  # the global one is the student's
        )


class _Orders:
    """What the workers are asked for, each with the place for its pixels."""

    def __init__(self, slots: int):
        self._slots, self.requests = slots, iter(())

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        return ((number % self._slots, paths) for number, paths in self.requests)


class _Decoder(Dataset):
    """The workers' part. Errors go back as sentences: the loader would add a traceback to an exception."""

    def __init__(self, format: Format, memory: Any, shape: tuple[int, ...]):
        self._format, self._memory, self._shape = format, memory, shape

    def __getitem__(self, order: tuple[int, list[str]]) -> tuple[int, int] | str:
        slot, paths = order
        pixels = np.frombuffer(self._memory, np.uint8).reshape(self._shape)[slot]
        try:
            for number, path in enumerate(paths):
                pixels[number] = self._format.read(path)
        except InputError as error:
            return str(error)
        return slot, len(paths)


def _as_it_is(answer: Any) -> Any:
    return answer


def _context() -> Any:
    """Workers come from the server that students' workers come from, where there can be one."""
    if not crew.possible():
        return multiprocessing.get_context()
    crew.prepare(2)
    return multiprocessing.get_context("forkserver")
