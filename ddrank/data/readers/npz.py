"""`npz`: arrays of NumPy, without pickles, in one .npz or in .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.data.readers.parts import assembled, beside, files_beside, known_parts
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import reason
from ddrank.errors import InputError


def read(path: Path) -> Found:
    """`images` (or `x`, `data`), `labels` (or `y`), `soft_labels`, `lr`: arrays of one .npz; or images in a .npy, with
    labels.npy, soft_labels.npy and lr.npy beside it. uint8 images are pixels, others are in some space. Two-dimensional
    labels are soft."""
    arrays = _read(path)
    others = files_beside(path) if path.suffix == ".npy" else {}
    arrays |= {part: _array(file) for part, file in others.items()}
    if "images" not in arrays:
        raise InputError(
            f"{path} holds no array 'images' (or x, data; it has {_named(path)}): save it with numpy.savez(FILE, "
            "images=..., labels=...)"
        )
    return assembled("npz", arrays, path, others)


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        named = (file for file in path.iterdir() if file.suffix == ".npz" or file.name == "images.npy")
        return sorted(file for file in named if file.is_file())
    return [path] if path.suffix in (".npz", ".npy") else []


def _beside(name: str) -> tuple[str, ...]:
    return beside(name) if name.endswith(".npy") else ()


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of a .npz, or that of a .npy as `images`."""
    try:
        with path.open("rb") as opened:
            single = opened.read(6) == b"\x93NUMPY"
            opened.seek(0)
            if single:
                return {"images": torch.from_numpy(np.load(opened, allow_pickle=False))}
            with np.load(opened, allow_pickle=False) as file:
                parts = known_parts(file.files, path)
                return {name: torch.from_numpy(np.array(file[key])) for name, key in parts.items()}
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is truncated, or holds more than plain arrays and was not opened for safety ({reason(error)}): "
            "save plain arrays with numpy.savez or numpy.save"
        ) from error


def _named(path: Path) -> str:
    """The first names of the arrays in a .npz."""
    with np.load(path, allow_pickle=False) as file:
        names = list(map(repr, file.files))
    return ", ".join(names[:5] + ["..."] * (len(names) > 5)) or "none"


def _array(path: Path) -> Tensor:
    arrays = _read(path)
    if list(arrays) != ["images"]:
        raise InputError(f"{path} holds several arrays, expected one: save it with numpy.save")
    return arrays["images"]


READER = Reader("FILE.npz with images and labels, or images.npy with labels.npy", candidates, read, beside=_beside)
