"""`dc`: result files of the DC, DSA and DM code (Zhao and Bilen), and of what is built on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ddrank.data.readers.found import Found
from ddrank.data.readers.parts import told
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import holds_images, load_content, load_tensor, plain
from ddrank.errors import InputError

_RESULT = re.compile(r"res_.+_\d+ipc\.pt")  # res_{METHOD}_{DATASET}_{MODEL}_{IPC}ipc.pt
_BEST = re.compile(r"images_(.+_\d+_best\.pt)")  # images_{METHOD}_{DATASET}_{IPC}_best.pt of a fork


def read(path: Path) -> Found:
    """A dict whose `data` is a list of runs [images (N, C, H, W), labels (N,)], mean/std-normalised by that code, and
    `accs_all_exps`, accuracies by model. The first run's images are `images`; those of runs with the same labels are
    `others`. The fork's images_..._best.pt is one tensor, with labels_..._best.pt beside it."""
    if _BEST.fullmatch(path.name):
        return _best(path)
    content = load_content(path)
    runs = content.get("data") if isinstance(content, dict) else None
    pairs = isinstance(runs, list) and all(isinstance(run, (list, tuple)) and len(run) == 2 for run in runs)
    if not runs or not pairs:
        raise InputError(
            f"{path} holds {told(content)}, expected a dict with `data`, a list of runs [images, labels], as the DC "
            "code writes it, or with the keys images and labels: save it with these, or say method.format"
        )
    images, labels = zip(*((plain(images, path), plain(labels, path)) for images, labels in runs), strict=True)
    return Found(
        format="dc",
        images=images[0],
        others=tuple(more for more, own in zip(images[1:], labels[1:], strict=True) if torch.equal(own, labels[0])),
        labels=labels[0],
        metadata={"accuracies": _accuracies(content.get("accs_all_exps"))},
        files=(path,),
        path=path,
    )


def candidates(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if _named(file.name) and file.is_file())
    if _named(path.name):
        return [path]
    unnamed = path.suffix in (".pt", ".pth") and path.name != "images.pt"
    content = load_content(path) if unnamed else None
    return [path] if isinstance(content, dict) and not holds_images(content) else []


def beside(name: str) -> tuple[str, ...]:
    best = _BEST.fullmatch(name)
    return (f"labels_{best[1]}",) if best else ()


def _best(path: Path) -> Found:
    labels = path.parent / beside(path.name)[0]
    known = labels.is_file()
    return Found(
        format="dc",
        images=load_tensor(path),
        labels=load_tensor(labels) if known else None,
        files=(path, labels) if known else (path,),
        path=path,
    )


def _named(name: str) -> bool:
    return bool(_RESULT.fullmatch(name) or _BEST.fullmatch(name))


def _accuracies(content: Any) -> dict[str, list[float]]:
    """Accuracies by model, as far as they are what that code writes."""
    if not isinstance(content, dict):
        return {}
    return {
        str(model): list(values)
        for model, values in content.items()
        if isinstance(values, list) and all(isinstance(value, float) for value in values)
    }


READER = Reader("res_METHOD_DATASET_MODEL_IPCipc.pt", candidates, read, beside=beside)
