"""The store: finished measurements, and networks that several of them need, kept by content.

Everything lies under a key that is a hash of what can change it. An entry is written whole or not at all, carries a
checksum, and two jobs that want the same key wait for one computation. Nothing in the store is precious: a corrupt
entry is reported and computed again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from ddrank import atomic
from ddrank.errors import InputError, StoreWarning


def digest(key: Mapping[str, Any]) -> str:
    """sha256 of a key: a JSON-like mapping, its order of no account."""
    return hashlib.sha256(_canonical(key)).hexdigest()


class Store:
    """Entries under `root`: `measurements/` (JSON) and `tensors/` (safetensors), foldered by the key's first digits."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the store {self.root} cannot be used ({error.strerror}): choose a writable folder as paths.store"
            ) from error

    def lookup(self, key: Mapping[str, Any], report: bool = True) -> dict[str, Any] | None:
        """The value stored under `key`, or None; a corrupt entry is reported and counts as none."""
        return self._sound(self._path("measurements", key, ".json"), _entry_value, report)

    def value(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The value stored under `key`; computed, checked in and returned where there is none yet."""
        path = self._path("measurements", key, ".json")
        if (found := self._sound(path, _entry_value)) is not None:
            return found
        with self._lock(key):
            if (found := self._sound(path, _entry_value, report=False)) is not None:
                return found
            return self.keep(key, compute())

    def claim(self, key: Mapping[str, Any]) -> FileLock | None:
        """The right to compute what `key` stands for, to be released afterwards; None while another job has it."""
        lock = self._lock(key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    def keep(self, key: Mapping[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        """Check in the value of a key that this job has claimed; returns it as it will be read."""
        entry = {"key": key, "value": value, "sha256": hashlib.sha256(_canonical(value)).hexdigest()}
        content = json.dumps(entry, indent=1, allow_nan=False)
        atomic.write_bytes(self._path("measurements", key, ".json"), content.encode())
        return json.loads(content)["value"]

    def checkpoint(self, key: Mapping[str, Any]) -> Path:
        """Where the state of a training lies while it is under way to what `key` stands for (see `ddrank.checkpoint`);
        for the job that has claimed it."""
        return self._path("training", key, ".pt")

    def has_tensors(self, key: Mapping[str, Any]) -> bool:
        """Whether there are tensors under `key`, without reading them: they may turn out to be corrupt."""
        return self._path("tensors", key, ".sha256").exists()

    def find_tensors(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors stored under `key`, or None; a corrupt entry is reported and counts as none."""
        return self._sound(self._path("tensors", key, ".safetensors"), _entry_tensors)

    def tensors(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors stored under `key`; computed, checked in and returned where there are none yet."""
        path = self._path("tensors", key, ".safetensors")
        if (found := self._sound(path, _entry_tensors)) is not None:
            return found
        with self._lock(key):
            if (found := self._sound(path, _entry_tensors, report=False)) is not None:
                return found
            self.keep_tensors(key, compute())
            found = self._sound(path, _entry_tensors)
            if found is None:
                raise InputError(f"the store {self.root} does not keep what is written to it: check the disk")
            return found

    def keep_tensors(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Store `tensors` under `key`."""
        from safetensors.torch import save

        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        path = self._path("tensors", key, ".safetensors")
        atomic.write_bytes(path, content)
        atomic.write_bytes(path.with_suffix(".json"), json.dumps(key, indent=1).encode())
        atomic.write_bytes(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())

    def drop_tensors(self, key: Mapping[str, Any]) -> None:
        """Forget the tensors under `key`, if there are any."""
        path = self._path("tensors", key, ".safetensors")
        for suffix in (".sha256", ".json", ".safetensors"):
            path.with_suffix(suffix).unlink(missing_ok=True)

    def _sound(self, path: Path, read: Callable[[Path], Any], report: bool = True) -> Any:
        """What `read` finds at `path`; None where there is nothing, or nothing sound, which is reported."""
        try:
            return read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if report:
                sentence = f"the store's entry {path} is corrupt ({error}): computing it again"
                warnings.warn(sentence, StoreWarning, stacklevel=3)
            return None

    def _path(self, kind: str, key: Mapping[str, Any], suffix: str) -> Path:
        name = digest(key)
        return self.root / kind / name[:2] / (name + suffix)

    def _lock(self, key: Mapping[str, Any]) -> FileLock:
        return FileLock(self.root / "locks" / f"{digest(key)}.lock")


def _entry_value(path: Path) -> dict[str, Any]:
    entry = json.loads(path.read_bytes())
    if entry["sha256"] != hashlib.sha256(_canonical(entry["value"])).hexdigest():
        raise ValueError("its checksum does not fit")
    return entry["value"]


def _entry_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.with_suffix(".sha256").read_text(encoding="ascii").strip():
        raise ValueError("its checksum does not fit")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
