"""The parts of a distilled dataset that lie as plain tensors in one file, or in files beside that of the images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.data.readers.tensors import learning_rate
from ddrank.errors import InputError

_KEYS = {
    "images": ("images", "x", "data"),
    "labels": ("labels", "y"),
    "soft_labels": ("soft_labels",),
    "lr": ("lr",),
}
_BESIDE = ("labels", "soft_labels", "lr")


def known_parts(keys: Collection[str], path: Path) -> dict[str, str]:
    """By what each part of a dataset (`images`, `labels`, `soft_labels`, `lr`) is called among `keys`, where it is.

    Raises InputError where one is there by two names.
    """
    parts = {}
    for name, known in _KEYS.items():
        there = [key for key in known if key in keys]
        if len(there) > 1:
            raise InputError(f"{path} holds both {there[0]} and {there[1]}: keep one, named {name}")
        if there:
            parts[name] = there[0]
    return parts


def beside(name: str) -> tuple[str, ...]:
    """The files that may hold the other parts of the images in a file of that name (.pt, .pth or .npy): of
    syn_images.pt, syn_labels.pt rather than labels.pt."""
    return tuple(other for part in _BESIDE for other in _called(part, name))


def files_beside(path: Path) -> dict[str, Path]:
    """The files beside the images at `path` that hold its other parts, by part."""
    files = {}
    for part in _BESIDE:
        there = [file for name in _called(part, path.name) if (file := path.parent / name).is_file() and file != path]
        files |= {part: there[0]} if there else {}
    return files


def assembled(format: str, tensors: Mapping[str, Tensor], path: Path, others: Mapping[str, Path]) -> Found:
    """The dataset of these `tensors`, by part, of the file at `path` and of `others` beside it, by part. Labels of two
    dimensions are soft."""
    labels, soft = tensors.get("labels"), tensors.get("soft_labels")
    if labels is not None and labels.ndim == 2:
        if soft is not None:
            raise InputError(f"{path} comes with soft labels twice, as labels and as soft_labels: keep one")
        labels, soft = None, labels
    return Found(
        format=format,
        images=tensors["images"],
        labels=labels,
        soft_labels=soft,
        lr=learning_rate(tensors.get("lr"), path),
        files=(path, *others.values()),
        notes=tuple(
            f"{file.name} beside it is taken for its {part.replace('_', ' ')}"
            for part, file in others.items()
            if file.stem != part
        ),
        path=path,
    )


def told(content: Any) -> str:
    """What a file holds that was not expected, in words: its type, of a dict its keys."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dict of {', '.join(map(str, content)) or 'nothing'}"[:200]


def _called(part: str, name: str) -> tuple[str, ...]:
    """What files with that part of the images in a file of that `name` are called, the surest first."""
    usual = part + (".npy" if name.endswith(".npy") else ".pt")
    return tuple(dict.fromkeys((name.replace("images", part), usual))) if "images" in name else (usual,)
