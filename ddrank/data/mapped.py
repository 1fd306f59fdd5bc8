"""Images in a file that is mapped into memory: only the parts in use take up memory, and all processes share them."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from ddrank import atomic
from ddrank.data.files import Files
from ddrank.data.stream import Stream
from ddrank.errors import InputError
from ddrank.progress import Display

_SMALL_BYTES = 1 << 26


def mapped(path: Path, shape: tuple[int, ...], fill: Callable[[Tensor], None]) -> Tensor:
    """The uint8 tensor of `shape` that the file `path` holds; where there is no such file, `fill` makes its content.

    The file appears when it is complete, and one of another length is made anew. Raises InputError where it cannot be
    written.
    """
    size = math.prod(shape)
    if not path.exists() or path.stat().st_size != size:
        print(f"making {path} ({size / 2**30:.1f} GiB), once", file=sys.stderr, flush=True)

        def write(unfinished: Path) -> None:
            with unfinished.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found out here, not half-way
                file.truncate(size)
            fill(torch.from_file(str(unfinished), shared=True, size=size, dtype=torch.uint8).view(shape))

        atomic.write_with(path, write)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)


def decoded_once(files: Files, place: Path, most_gib: float) -> Tensor | Files:
    """The images of `files` as a tensor, where they take at most `most_gib` GiB; else `files`, to be read as they are
    used.

    A small tensor is in memory. A larger one lies in a mapped file beside `place` whose name says what the files are
    (their names, sizes and times of last change) and how they are read, so that it is made anew after a change.
    """
    if files.nbytes > most_gib * 2**30:
        return files
    if files.nbytes < _SMALL_BYTES:
        return files[:]
    path = place.with_name(f"{place.name}-{_key(files)}.uint8")
    try:
        with FileLock(_folder(path) / f".{path.name}.lock"):
            return mapped(path, tuple(files.shape), lambda images: _decode(files, images))
    except (OSError, InputError) as error:
        if isinstance(error, InputError) and str(path) not in str(error):
            raise
        raise InputError(
            f"{path} could not be written ({error}); or have the images decoded anew for every pass, without such a "
            "file: dataset.loader.decode_gib=0"
        ) from error


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _decode(files: Files, images: Tensor) -> None:
    """Read all of `files` into `images`."""
    stream = Stream(files.format, ahead=1024)
    with Display() as display:
        decoding = display.begin(f"decoding {len(files)} images", len(files))
        parts = [slice(start, start + stream.piece) for start in range(0, len(files), stream.piece)]
        try:
            for part, pixels in zip(parts, stream.pieces(map(files.paths, parts)), strict=True):
                images[part] = pixels
                decoding.advance(steps=len(pixels))
        finally:
            stream.close()
        decoding.end()


def _key(files: Files) -> str:
    digest = hashlib.sha256(repr(files.format).encode())
    for number in range(len(files)):
        path = files.path(number)
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): put it back, or start anew") from error
        signature = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0"
        digest.update(os.fsencode(files.names[number]) + signature.encode())
    return digest.hexdigest()[:16]
