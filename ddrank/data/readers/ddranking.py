"""`ddranking`: the tensors of that package, images.pt with labels.pt and lr.pt beside it; or all in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.data.readers.parts import assembled, beside, files_beside, known_parts, told
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import holds_images, load_content, plain
from ddrank.errors import InputError


def read(path: Path) -> Found:
    """images.pt (N, C, H, W), normalised or whitened: the file does not tell; uint8 images are pixels. labels.pt holds
    class indices (N,) or soft labels (N, classes), which soft_labels.pt may hold too, lr.pt a number. A file of another
    name is read in the same way, syn_images.pt with syn_labels.pt where that is there. It may also hold all of them:
    {"images": ..., "labels": ..., "soft_labels": ..., "lr": ...} or (images, labels), which count more than what lies
    beside it."""
    tensors = _parts(load_content(path), path)
    others = {part: file for part, file in files_beside(path).items() if part not in tensors}
    tensors |= {part: _tensor(load_content(file), file) for part, file in others.items()}
    return assembled("ddranking", tensors, path, others)


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / "images.pt"] if (path / "images.pt").is_file() else []
    if path.suffix not in (".pt", ".pth"):
        return []
    return [path] if path.name == "images.pt" or _fits(load_content(path)) else []


def _beside(name: str) -> tuple[str, ...]:
    return beside(name) if name.endswith((".pt", ".pth")) else ()


def _fits(content: Any) -> bool:
    return holds_images(content) or not isinstance(content, dict)


def _parts(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by what they are."""
    if holds_images(content):
        return {name: _tensor(content[key], path) for name, key in known_parts(content, path).items()}
    if isinstance(content, tuple | list) and len(content) == 2 and all(isinstance(part, Tensor) for part in content):
        return {name: plain(part, path) for name, part in zip(("images", "labels"), content, strict=True)}
    if isinstance(content, dict):
        raise InputError(
            f"{path} holds {told(content)}, expected images (or x, data), labels and the like: save it with the keys "
            "images and labels"
        )
    return {"images": plain(content, path)}


def _tensor(content: Any, path: Path) -> Tensor:
    """A tensor, or a plain number as one."""
    return plain(torch.tensor(float(content)) if isinstance(content, int | float) else content, path)


READER = Reader("images.pt (with labels.pt and lr.pt)", candidates, read, beside=_beside)
