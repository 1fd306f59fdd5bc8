"""`npz`: arrays of NumPy, without pickles."""

from __future__ import annotations

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


def read(path: Path) -> Found:
    """`images` (or `x`, `data`), `labels` (or `y`), `soft_labels`, `lr`. uint8 images are pixels, (N, C, H, W), or
    channels last (N, H, W, C) or without channels (N, H, W); others are in some space, (N, C, H, W). Two-dimensional
    labels are soft."""
    arrays = _arrays(path)
    if "images" not in arrays:
        names = ", ".join(arrays) or "nothing that is known"
        raise InputError(f"{path} holds no array 'images' (or x, data; it has {names}): save it with numpy.savez")
    images = arrays["images"]
    if images.dtype == torch.uint8:
        images = channels_first(images)
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
        space="pixels" if images.dtype == torch.uint8 else None,
        files=(path,),
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
        return sorted(file for file in path.iterdir() if file.suffix == ".npz" and file.is_file())
    return [path] if path.suffix == ".npz" else []


def _arrays(path: Path) -> dict[str, Tensor]:
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name, known in _NAMES.items():
                there = [key for key in known if key in file.files]
                if len(there) > 1:
                    raise InputError(f"{path} holds both {there[0]} and {there[1]}: keep one, named {name}")
                if there:
                    arrays[name] = torch.from_numpy(np.array(file[there[0]]))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is truncated, or holds more than plain arrays and was not opened for safety ({reason(error)}): "
            "save plain arrays with numpy.savez"
        ) from error
    return arrays


READER = Reader("FILE.npz with images and labels", candidates, read)
