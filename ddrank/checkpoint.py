"""Checkpoints: the state of a long computation in a file, by which it goes on after a kill.

A file is what torch.save makes of tensors, numbers and strings in lists and dicts: a zip file, whose checksums are
checked before anything in it is used. It is written whole or not at all, read with `weights_only=True`, and precious to
nobody: one that cannot be written or read costs time, and that is said.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddrank import __version__, atomic
from ddrank.errors import InputError, StoreWarning
from ddrank.store.entry import check_archive, digest

WRITING_SHARE = 20  # times what writing a checkpoint takes lie between two, at least
_DEVICE_ERRORS = tuple(
    getattr(torch, name) for name in ("OutOfMemoryError", "AcceleratorError") if hasattr(torch, name)
)
_MOST_SAID = 200  # letters of why a state does not fit
_MADE_BY = {"ddrank": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True)
class Checkpoint:
    """Where a computation keeps its state while it is under way; for the job that has its lock.

    `key` is that of what is being computed, where it has one, and `about` what is said of it, both JSON-like: the file
    repeats them, by which a state of something else is told, also by whoever looks at the store. Its folder is `root`:
    where that has vanished, none is made.
    """

    path: Path
    key: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None

    def keep(self, state: dict[str, Any]) -> None:
        """Write `state`; where that cannot be, say so and go on."""
        told = {"key": json.dumps(self.key), "about": json.dumps(self.about)}
        content = {**told, "made_by": _MADE_BY, "state": state}
        try:
            atomic.write_with(self.path, lambda temporary: torch.save(content, temporary), root=self.root)
        except (InputError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"no checkpoint was kept ({reason}): going on without", StoreWarning, stacklevel=2)

    def saved(self) -> dict[str, Any] | None:
        """The state, or None; one that is corrupt, of another version or another key is reported and counts as none."""
        try:
            check_archive(self.path)  # torch looks at no checksum
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            made_by, state = found["made_by"], found["state"]
            other = bool(self.key) and digest(json.loads(found["key"])) != digest(self.key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return self._anew(f"is corrupt ({reason})")
        if made_by != _MADE_BY:
            versions = ", ".join(f"{name} {version}" for name, version in made_by.items())
            return self._anew(f"was made by {versions}")
        if other:
            return self._anew("is of something else: its key is not that of its name")
        return state

    def refuse(self, why: str) -> None:
        """Say that the state that was found does not fit, and remove it."""
        self._anew(f"does not fit ({why})")
        self.remove()

    def remove(self) -> None:
        """Remove the file, if it is there, and what writers that were killed have left beside it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            atomic.sweep(self.path)

    def _anew(self, why: str) -> None:
        warnings.warn(f"the checkpoint {self.path} {why}: starting anew", StoreWarning, stacklevel=3)


def misfit(restore: Callable[[], None]) -> str | None:
    """Call `restore`, which takes up a saved state. Returns why the state does not fit, if it does not."""
    try:
        restore()
    except _DEVICE_ERRORS:  # no fault of the state
        raise
    except (RuntimeError, KeyError, ValueError) as error:
        return textwrap.shorten(f"{type(error).__name__}: {error}", _MOST_SAID, placeholder=" …")
    return None


class Pace:
    """When the next checkpoint is due: `seconds` after the last, or later, where writing one takes long."""

    def __init__(self, seconds: float):
        self._seconds = self._between = seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._last >= self._between

    def timed(self, keep: Callable[[], None]) -> None:
        """Call `keep`, which writes a checkpoint."""
        began = time.monotonic()
        keep()
        self._last = time.monotonic()
        self._between = max(self._seconds, WRITING_SHARE * (self._last - began))


def random_state(device: str) -> dict[str, Any]:
    """The states of all global generators: torch's on the CPU and on `device`, NumPy's and Python's."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if device == "cuda" else {})


def set_random_state(state: dict[str, Any], device: str) -> None:
    """Set all global generators to what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(state["numpy"] | {"state": state["numpy"]["state"] | {"key": key}})
    random.setstate(state["python"])
    if device == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
