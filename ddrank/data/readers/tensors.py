"""Tensors out of files of torch.save, with nothing in them ever run."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank.errors import InputError

_ALONE = "save its tensors alone, as torch.save({'images': images, 'labels': labels}, PATH)"


def load_tensor(path: Path) -> Tensor:
    """The one tensor that a file holds (a plain number becomes one). Raises InputError otherwise."""
    content = load_content(path)
    if isinstance(content, (int, float)):
        content = torch.tensor(float(content))
    return plain(content, path)


def load_content(path: Path) -> Any:
    """What a file of torch.save holds, if that is tensors, numbers, text and containers of them alone.

    Raises InputError for a file that is missing, damaged, or holds anything else; nothing in it is run.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file that holds one tensor")
    try:
        with path.open("rb") as opened:
            head = opened.read(2)
        if not head:
            raise InputError(f"{path} is empty (0 bytes): save or copy it again")
        if not head.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle
            raise InputError(f"{path} is no file of torch.save: save the tensors with torch.save")
        _refuse_other_archives(path)
        return load_weights_only(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): mend that, or give another file") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors and was not opened for safety: {_ALONE}") from error
    except Exception as error:
        raise InputError(f"{path} is truncated or damaged ({reason(error)}): save or copy it again") from error


def load_weights_only(path: Path) -> Any:
    """What a file of torch.save holds, if that is data alone; anything that could run code raises.

    NumPy's numbers, which result files of the DC code hold beside their tensors, become Python floats without NumPy.
    """
    with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMBERS):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_other_archives(path: Path) -> None:
    """Say what a zip archive is that is whole, but none of torch.save."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(f"{path} is a program of TorchScript and was not opened for safety: {_ALONE}")
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            f"{path} is an .npz file of NumPy: rename it to {path.with_suffix('.npz').name}, if it holds images and "
            "labels, or save its arrays as tensors with torch.save"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise InputError(f"{path} is a zip archive, but none of torch.save: save the tensors with torch.save")


def plain(content: Any, path: Path) -> Tensor:
    """`content` if it is a tensor whose values lie in the file. Raises InputError otherwise."""
    if not isinstance(content, Tensor):
        raise InputError(f"{path} holds a {type(content).__name__}, expected one tensor: save it with torch.save")
    if content.layout != torch.strided or content.is_meta or content.is_quantized:
        raise InputError(
            f"{path} holds a sparse, quantized or empty-bodied tensor, expected a plain one: save its values"
        )
    content = content.detach()
    if content.numel() * content.element_size() > max(2**20, content.untyped_storage().nbytes()):
        raise InputError(
            f"{path} holds a tensor of shape {tuple(content.shape)} with fewer values than that, expected all of them: "
            "save its .clone()"
        )
    return content


def holds_images(content: Any) -> bool:
    """Whether a dict is one of tensors with images among them, {"images": ..., "labels": ...}."""
    return isinstance(content, dict) and any(isinstance(content.get(key), Tensor) for key in ("images", "x", "data"))


def learning_rate(value: Tensor | None, path: Path) -> float | None:
    """The learning rate that was found with the images at `path`. Raises InputError if it is none."""
    if value is None:
        return None
    found = value.item() if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
    if value.numel() != 1 or value.is_complex() or not 0 < found < float("inf"):
        raise InputError(f"the learning rate beside {path} is {found}, expected one positive number")
    return float(found)


def reason(error: Exception) -> str:
    """The first line of what an error says, without its colours; of a refusal of torch its first sentence, since others
    tell how to open the file unsafely."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line.partition(". ")[0] if re.search("weights.only", line, re.IGNORECASE) else line


class _NumberType:
    """Stands in for numpy.dtype while unpickling: of numbers alone."""

    def __init__(self, code: str, *_: Any):
        if code not in ("f8", "f4", "i8", "i4"):
            raise ValueError(f"a NumPy value of type {str(code)[:20]!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _NumberType, content: bytes) -> float:
    """Stands in for NumPy's function that rebuilds a number from its bytes."""
    formats = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}
    return struct.unpack(kind.order + formats[kind.code], content)[0]


_NUMBERS = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),  # up to NumPy 1
    (_number, "numpy._core.multiarray.scalar"),
]
