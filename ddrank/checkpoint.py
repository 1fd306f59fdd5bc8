"""Checkpoints: the state of a long computation in a file, by which it goes on after a kill.

A file is a sha256 in hexadecimal and what torch.save makes of tensors, numbers and strings in lists and dicts. It is
written whole or not at all, read with `weights_only=True`, and precious to nobody: one that cannot be written or read
costs time, and that is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddrank import __version__, atomic
from ddrank.errors import InputError, StoreWarning

_DIGITS = 64  # of the sha256
_MADE_BY = {"ddrank": __version__, "torch": str(torch.__version__)}


def keep(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`; where that cannot be, say so and go on."""
    content = io.BytesIO()
    torch.save({"made_by": _MADE_BY, "state": state}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest().encode()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(digest)
            file.write(content.getbuffer())

    try:
        atomic.write_with(path, write)
    except InputError as error:
        warnings.warn(f"no checkpoint was kept ({error}): going on without", StoreWarning, stacklevel=2)


def saved(path: Path) -> dict[str, Any] | None:
    """The state in `path`, or None; one that is corrupt or of another version is reported and counts as none."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(memoryview(content)[_DIGITS:]).hexdigest().encode() != content[:_DIGITS]:
            raise ValueError("its checksum does not fit")
        found = torch.load(io.BytesIO(content[_DIGITS:]), map_location="cpu", weights_only=True)
        made_by, state = found["made_by"], found["state"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f"the checkpoint {path} is corrupt ({reason}): starting anew", StoreWarning, stacklevel=2)
        return None
    if made_by != _MADE_BY:
        versions = ", ".join(f"{name} {version}" for name, version in made_by.items())
        warnings.warn(f"the checkpoint {path} was made by {versions}: starting anew", StoreWarning, stacklevel=2)
        return None
    return state


def remove(path: Path) -> None:
    """Remove `path`, if it is there, and what writers that were killed have left beside it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        atomic.sweep(path)


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
