"""Whole files or none: a temporary file beside the target, flushed to the disk, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ddrank.errors import InputError


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write `content` to `path` so that a reader, a crash or a full disk never leaves half of it. Returns the path."""
    return write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path | str, write: Callable[[Path], object], flush: bool = True, root: Path | None = None) -> Path:
    """Let `write` fill a temporary file beside `path` (same suffix), then put it in the place of `path`.

    Without `flush`, a machine that crashes may leave half of it: for files that carry a checksum, many at a time, and
    `os.sync` after the last. Folders that are missing are made; with `root`, a parent of `path`, only those below it:
    where it has vanished, nothing is written.
    """
    path = Path(path)
    temporary = None
    try:
        if root is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            for folder in reversed(path.parents[: len(path.relative_to(root).parts) - 1]):
                folder.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        if flush:
            _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        if flush:
            _flush(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): make room, or choose a writable place"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return path


def sweep(path: Path | str) -> None:
    """Remove what writers of `path` that were killed have left beside it; only where nobody writes it now."""
    path = Path(path)
    for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
