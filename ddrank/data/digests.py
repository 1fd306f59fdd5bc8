"""sha256 of many files, computed once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddrank import atomic
from ddrank.crew import cores
from ddrank.errors import InputError
from ddrank.progress import Display

_BLOCK = 1 << 20
_PART = 4096  # files between two reports of progress
_KEPT_AFTER = 1 << 16  # files after which the digests are written down on the way


def of_files(folder: str, names: Sequence[str], cache: Path) -> np.ndarray:
    """sha256 of the contents of the files `names` below `folder`, uint8 (N, 32).

    Reading a large dataset takes minutes to hours, so that digests are kept in `cache`, with a signature of each file:
    its name, size and times of last change (of its content, which programs may set as they like, and of itself, which
    none can). A file is read again where its signature is new. Where `cache` cannot be written, nothing is kept.
    Raises InputError for a file that cannot be read.
    """
    signatures = np.empty((len(names), 16), np.uint8)
    for start in range(0, len(names), _PART):
        part = slice(start, start + _PART)
        signatures[part] = [_signature(folder, names[number]) for number in range(len(names))[part]]
    known = _kept(cache)
    digests = np.zeros((len(names), 32), np.uint8)
    missing = []
    for number, signature in enumerate(signatures):
        if (digest := known.get(signature.tobytes())) is None:
            missing.append(number)
        else:
            digests[number] = np.frombuffer(digest, np.uint8)
    if not missing:
        return digests
    kept = 0
    with ThreadPoolExecutor(cores()) as threads, Display() as display:
        reading = display.begin(f"checksums of {len(missing)} files", len(missing))
        for start in range(0, len(missing), _PART):
            part = missing[start : start + _PART]
            found = threads.map(lambda number: _digest(os.path.join(folder, names[number])), part)
            digests[part] = np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)
            reading.advance(steps=len(part))
            done = start + len(part)
            if done - kept >= _KEPT_AFTER or done == len(missing):
                ready = np.ones(len(names), bool)
                ready[missing[done:]] = False
                _keep(cache, signatures[ready], digests[ready])
                kept = done
        reading.end()
    return digests


def _signature(folder: str, name: str) -> np.ndarray:
    path = os.path.join(folder, name)
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    text = os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}".encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint8)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.digest()


def _kept(cache: Path) -> dict[bytes, bytes]:
    """Digests by signature; none where the file is absent or broken."""
    try:
        with np.load(cache, allow_pickle=False) as content:
            signatures, digests = content["signatures"], content["digests"]
        if (signatures.dtype, digests.dtype) != (np.uint8, np.uint8) or digests.shape[1:] != (32,):
            return {}
        return dict(zip(map(bytes, signatures), map(bytes, digests), strict=True))
    except Exception:  # whatever a broken file makes of it; its content is only ever a shortcut
        return {}


def _keep(cache: Path, signatures: np.ndarray, digests: np.ndarray) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, signatures=signatures, digests=digests)

    with contextlib.suppress(InputError):  # a read-only place: they are computed again next time
        atomic.write_with(cache, write)


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror or error}): put it back, or start anew without it")
