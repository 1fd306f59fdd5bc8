"""`npz`: arrays of NumPy, without pickles, in one .npz or in .npy files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import learning_rate, reason
from ddrank.errors import InputError

_NAMES = {
    "images": ("images", "x", "data"),
    "labels": ("labels", "y"),
    "soft_labels": ("soft_labels",),
    "lr": ("lr",),
}
_BESIDE = ("labels", "soft_labels", "lr")


def read(path: Path) -> Found:
    """`images` (or `x`, `data`), `labels` (or `y`), `soft_labels`, `lr`: arrays of one .npz; or images in a .npy, with
    labels.npy, soft_labels.npy and lr.npy beside it. uint8 images are pixels, others are in some space; (N, C, H, W),
    or channels last (N, H, W, C), or without channels (N, H, W). Two-dimensional labels are soft."""
    arrays, files = _read(path), (path,)
    if path.suffix == ".npy":
        files = (path, *(file for name in beside(path.name) if (file := path.parent / name).is_file()))
        arrays |= {file.stem: _array(file) for file in files[1:]}
    if "images" not in arrays:
        names = ", ".join(arrays) or "nothing that is known"
        raise InputError(f"{path} holds no array 'images' (or x, data; it has {names}): save it with numpy.savez")
    images = channels_first(arrays["images"])
    labels, soft = arrays.get("labels"), arrays.get("soft_labels")
    if labels is not None and labels.ndim == 2:
        if soft is not None:
            raise InputError(f"{path} holds soft labels twice, as labels and as soft_labels: keep one")
        labels, soft = None, labels
    return Found(
        format="npz",
        images=images,
        labels=labels,
        soft_labels=soft,
        lr=learning_rate(arrays.get("lr"), path),
        files=files,
        path=path,
    )


def channels_first(images: Tensor) -> Tensor:
    """Images (N, H, W, C) with one or three channels, or (N, H, W), as (N, C, H, W); others as they are."""
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        return images.permute(0, 3, 1, 2).contiguous()
    return images


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        named = (file for file in path.iterdir() if file.suffix == ".npz" or file.name == "images.npy")
        return sorted(file for file in named if file.is_file())
    return [path] if path.suffix in (".npz", ".npy") else []


def beside(name: str) -> tuple[str, ...]:
    return tuple(f"{other}.npy" for other in _BESIDE) if name.endswith(".npy") else ()


def known_parts(keys: Collection[str], path: Path) -> dict[str, str]:
    """By what each part of a dataset (`images`, `labels`, `soft_labels`, `lr`) is called among `keys`, where it is.

    Raises InputError where one is there by two names.
    """
    parts = {}
    for name, known in _NAMES.items():
        there = [key for key in known if key in keys]
        if len(there) > 1:
            raise InputError(f"{path} holds both {there[0]} and {there[1]}: keep one, named {name}")
        if there:
            parts[name] = there[0]
    return parts


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


def _array(path: Path) -> Tensor:
    arrays = _read(path)
    if list(arrays) != ["images"]:
        raise InputError(f"{path} holds several arrays, expected one: save it with numpy.save")
    return arrays["images"]


READER = Reader("FILE.npz with images and labels, or images.npy with labels.npy", candidates, read, beside=beside)
