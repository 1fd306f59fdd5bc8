"""`ddranking`: the tensors of that package, images.pt with labels.pt and lr.pt beside it; or all in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.data.readers.npz import known_parts
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import holds_images, learning_rate, load_content, plain
from ddrank.errors import InputError

_BESIDE = ("labels", "lr")


def read(path: Path) -> Found:
    """images.pt (N, C, H, W), normalised or whitened: the file does not tell; uint8 images are pixels. labels.pt holds
    class indices (N,) or soft labels (N, classes), lr.pt a number. A file of another name is read in the same way. It
    may also hold all of them: {"images": ..., "labels": ..., "soft_labels": ..., "lr": ...} or (images, labels), which
    count more than what lies beside it."""
    tensors = _parts(load_content(path), path)
    files = [
        file
        for name in _BESIDE
        if name not in tensors and (file := path.parent / f"{name}.pt").is_file() and file != path
    ]
    tensors |= {file.stem: _tensor(load_content(file), file) for file in files}
    labels, soft = tensors.get("labels"), tensors.get("soft_labels")
    if labels is not None and labels.ndim == 2:
        if soft is not None:
            raise InputError(f"{path} comes with soft labels twice, as labels and as soft_labels: keep one")
        labels, soft = None, labels
    return Found(
        format="ddranking",
        images=tensors["images"],
        labels=labels,
        soft_labels=soft,
        lr=learning_rate(tensors.get("lr"), path),
        files=(path, *files),
        path=path,
    )


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / "images.pt"] if (path / "images.pt").is_file() else []
    if path.suffix not in (".pt", ".pth"):
        return []
    return [path] if path.name == "images.pt" or _fits(load_content(path)) else []


def beside(name: str) -> tuple[str, ...]:
    return tuple(f"{other}.pt" for other in _BESIDE) if name.endswith((".pt", ".pth")) else ()


def _fits(content: Any) -> bool:
    return holds_images(content) or not isinstance(content, dict)


def _parts(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by what they are."""
    if holds_images(content):
        return {name: _tensor(content[key], path) for name, key in known_parts(content, path).items()}
    if isinstance(content, tuple | list) and len(content) == 2 and all(isinstance(part, Tensor) for part in content):
        return {name: plain(part, path) for name, part in zip(("images", "labels"), content, strict=True)}
    return {"images": plain(content, path)}


def _tensor(content: Any, path: Path) -> Tensor:
    """A tensor, or a plain number as one."""
    return plain(torch.tensor(float(content)) if isinstance(content, int | float) else content, path)


READER = Reader("images.pt (with labels.pt and lr.pt)", candidates, read, beside=beside)
