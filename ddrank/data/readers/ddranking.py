"""`ddranking`: the tensors of that package, images.pt with labels.pt and lr.pt beside it."""

from __future__ import annotations

from pathlib import Path

from ddrank.data.readers.found import Found
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import learning_rate, load_content, load_tensor


def read(path: Path) -> Found:
    """images.pt (N, C, H, W), normalised or whitened: the file does not tell. labels.pt holds class indices (N,) or
    soft labels (N, classes), lr.pt a number; a file of another name is read in the same way."""
    beside = [file for name in ("labels.pt", "lr.pt") if (file := path.parent / name).is_file()]
    tensors = {file.stem: load_tensor(file) for file in beside}
    labels = tensors.get("labels")
    soft = labels is not None and labels.ndim == 2
    return Found(
        format="ddranking",
        images=load_tensor(path),
        labels=None if soft else labels,
        soft_labels=labels if soft else None,
        lr=learning_rate(tensors.get("lr"), path),
        files=(path, *beside),
        path=path,
    )


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / "images.pt"] if (path / "images.pt").is_file() else []
    if path.suffix not in (".pt", ".pth"):
        return []
    return [path] if path.name == "images.pt" or not isinstance(load_content(path), dict) else []


def beside(name: str) -> tuple[str, ...]:
    return ("labels.pt", "lr.pt") if name.endswith((".pt", ".pth")) else ()


READER = Reader("images.pt (with labels.pt and lr.pt)", candidates, read, beside=beside)
