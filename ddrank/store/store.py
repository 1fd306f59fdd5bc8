"""What jobs ask of the store: is it there, keep it, compute it once."""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddrank import atomic
from ddrank.errors import InputError, StoreWarning
from ddrank.store import entry
from ddrank.store.lock import FOLDER, Lock, lock_of

if TYPE_CHECKING:
    from torch import Tensor

    from ddrank.checkpoint import Checkpoint

_TOUCHED_SECONDS = 3600.0  # after which an entry that is used is touched again: its age is that of its last use


class Store:
    """Entries under `root`: `measurements/` (JSON) and `tensors/` (safetensors), foldered by the key's first digits.
    In `training/` are the checkpoints of those that are under way.

    Wherever something is kept, `about` may say for people what it is of; it is no part of the key.

    Attributes:
        used: the digests of the values, and of the networks and the like, that were asked for through this object.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.used: set[str] = set()
        try:
            (self.root / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the store {self.root} cannot be used ({error.strerror}): choose a writable folder as paths.store"
            ) from error

    def lookup(self, key: Mapping[str, Any], report: bool = True) -> dict[str, Any] | None:
        """The value stored under `key`, or None; a corrupt entry is reported and counts as none."""
        path = self._path("measurements", key, ".json")
        self.used.add(path.stem)
        return self._sound(path, _value, report)

    def value(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The value stored under `key`; computed, checked in and returned where there is none yet."""
        if (found := self.lookup(key)) is not None:
            return found
        with self.lock(key):
            if (found := self.lookup(key, report=False)) is not None:
                return found
            return self.keep(key, compute())

    def claim(self, key: Mapping[str, Any]) -> Lock | None:
        """The right to compute what `key` stands for, to be released afterwards; None while another job has it."""
        lock = self.lock(key)
        return lock if lock.acquire(wait=False) else None

    def lock(self, key: Mapping[str, Any]) -> Lock:
        """The lock of what `key` stands for."""
        return lock_of(self.root, entry.digest(key))

    def keep(
        self, key: Mapping[str, Any], value: dict[str, Any], about: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Check in the value of a key that this job has claimed; returns it as it will be read."""
        content = entry.value_file(key, value, about or {})
        self._write(self._path("measurements", key, ".json"), content)
        return json.loads(content)["value"]

    def checkpoint(self, key: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> Checkpoint:
        """Of the training that leads to what `key` stands for; for the job that has claimed it."""
        from ddrank.checkpoint import Checkpoint

        return Checkpoint(self._path("training", key, ".pt"), key, about or {}, self.root)

    def has_tensors(self, key: Mapping[str, Any]) -> bool:
        """Whether there are tensors under `key`, without reading them: they may turn out to be corrupt."""
        return self._path("tensors", key, ".safetensors").exists()

    def find_tensors(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors stored under `key`, or None; a corrupt entry is reported and counts as none."""
        return self._sound(self._path("tensors", key, ".safetensors"), _tensors)

    def tensors(
        self,
        key: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Tensor]],
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The tensors stored under `key`; computed, checked in and returned where there are none yet."""
        path = self._path("tensors", key, ".safetensors")
        self.used.add(path.stem)
        if (found := self._sound(path, _tensors)) is not None:
            return found
        with self.lock(key):
            if (found := self._sound(path, _tensors, report=False)) is not None:
                return found
            self.keep_tensors(key, compute(), about)
            found = self._sound(path, _tensors)
            if found is None:
                raise InputError(f"the store {self.root} does not keep what is written to it: check the disk")
            return found

    def keep_tensors(
        self, key: Mapping[str, Any], tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
    ) -> None:
        """Store `tensors` under `key`."""
        from safetensors.torch import save

        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self._write(self._path("tensors", key, ".safetensors"), *entry.tensor_file(content, key, about or {}))

    def drop_tensors(self, key: Mapping[str, Any]) -> None:
        """Forget the tensors under `key`, if there are any."""
        path = self._path("tensors", key, ".safetensors")
        for suffix in entry.SUFFIXES:
            path.with_suffix(suffix).unlink(missing_ok=True)

    def _sound(self, path: Path, read: Callable[[Path], Any], report: bool = True) -> Any:
        """What `read` finds at `path`; None where there is nothing, or nothing sound, which is reported."""
        try:
            found = entry.current(lambda: read(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if report:
                sentence = f"the store's entry {path} is corrupt ({error}): computing it again"
                warnings.warn(sentence, StoreWarning, stacklevel=3)
            return None
        _touch(path)
        return found

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        if not self.root.is_dir():
            raise InputError(
                f"the store {self.root} has vanished: put it back, or choose another folder as paths.store"
            )

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)

        atomic.write_with(path, write, root=self.root)

    def _path(self, folder: str, key: Mapping[str, Any], suffix: str) -> Path:
        return entry.place(self.root, folder, entry.digest(key), suffix)


def _touch(path: Path) -> None:
    """Note that an entry is used, for `gc`."""
    with contextlib.suppress(OSError):  # another user's, or gone by now
        if abs(time.time() - path.stat().st_mtime) > _TOUCHED_SECONDS:
            os.utime(path)


def _value(path: Path) -> dict[str, Any]:
    return entry.read_value(path).value


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(entry.read_tensors(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
