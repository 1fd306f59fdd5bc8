"""`mtt` and `datm`: the files of trajectory matching (Cazenavette et al.; Guo et al.)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import torch

from ddrank.data.readers.found import Found
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import learning_rate, load_tensor
from ddrank.errors import InputError

_IMAGES = re.compile(r"images_(best|\d+)(?:_(\d+))?\.pt")  # images_{it}.pt, images_best.pt, images_best_{part}.pt
_PIXELS = re.compile(r"images_zca_(best|\d+)\.pt")


def read(path: Path, format: str = "mtt") -> Found:
    """images_TAG.pt (N, C, H, W) in the space of training, whitened or normalised: the files do not tell which;
    images_zca_TAG.pt are the same un-whitened, hence pixels. labels_TAG.pt holds class indices (N,), or DATM's learned
    logits (N, classes); lr_TAG.pt the learned step size. Parts images_best_0.pt, ... are one after another."""
    tag, part = _tag(path)
    if part is not None and path.name != f"images_{tag}_0.pt":
        raise InputError(f"{path} is one part of a split set: give its first part, images_{tag}_0.pt, or the folder")
    images = _parts(path, "images", tag) if part is not None else [path]
    labels = _parts(path, "labels", tag) if part is not None else [path.parent / f"labels_{tag}.pt"]
    labels = [file for file in labels if file.is_file()]
    lr = path.parent / f"lr_{tag}.pt"
    if labels and len(labels) != len(images):
        raise InputError(f"{path.parent} holds {len(images)} parts of images_{tag} and {len(labels)} of labels_{tag}")
    found_labels = _joined(labels) if labels else None
    soft = found_labels is not None and found_labels.ndim == 2
    if found_labels is not None and soft != (format == "datm"):
        has, other = ("soft labels (images x classes)", "datm") if soft else ("class indices", "mtt")
        raise InputError(
            f"{labels[0]} holds {has}, which method.format={format} does not have: say method.format={other}"
        )
    return Found(
        format=format,
        images=_joined(images),
        labels=None if soft else found_labels,
        soft_labels=found_labels if soft else None,
        lr=learning_rate(load_tensor(lr), path) if lr.is_file() else None,
        space="pixels" if _PIXELS.fullmatch(path.name) else None,
        files=(*images, *labels, *([lr] if lr.is_file() else [])),
        path=path,
    )


def candidates(path: Path, format: str) -> list[Path]:
    """A file of such a name; of a folder's, the best, else the one of the highest iteration, in the space of training
    rather than un-whitened."""
    if path.is_dir():
        names = [file.name for file in path.iterdir() if file.is_file()]
        named = [name for name in names if _IMAGES.fullmatch(name)] or [
            name for name in names if _PIXELS.fullmatch(name)
        ]
        whole = [name for name in named if _tag(Path(name))[1] is None] or named
        if not whole:
            return []
        latest = max(whole, key=_later)
        path = path / re.sub(r"_\d+\.pt$", "_0.pt", latest) if _tag(Path(latest))[1] is not None else path / latest
    elif not (_IMAGES.fullmatch(path.name) or _PIXELS.fullmatch(path.name)):
        return []
    return [path] if _format(path) == format else []


def beside(name: str) -> tuple[str, ...]:
    if not (_IMAGES.fullmatch(name) or _PIXELS.fullmatch(name)):
        return ()
    tag, part = _tag(Path(name))
    if part is None:
        return (f"labels_{tag}.pt", f"lr_{tag}.pt")
    parts = [f"{kind}_{tag}_{number}.pt" for number in range(_MOST_PARTS) for kind in ("images", "labels")]
    return (*parts, f"lr_{tag}.pt")


_MOST_PARTS = 20  # asked for beside a URL


def _tag(path: Path) -> tuple[str, str | None]:
    """`best` or an iteration, and the number of a part."""
    if match := _IMAGES.fullmatch(path.name):
        return match[1], match[2]
    if match := _PIXELS.fullmatch(path.name):
        return match[1], None
    raise InputError(
        f"{path} is not named as trajectory matching names its files: expected images_best.pt or images_1000.pt"
    )


def _later(name: str) -> float:
    tag = _tag(Path(name))[0]
    return float("inf") if tag == "best" else int(tag)


def _format(path: Path) -> str:
    tag, part = _tag(path)
    labels = path.parent / (f"labels_{tag}.pt" if part is None else f"labels_{tag}_{part}.pt")
    if labels.is_file():
        return "datm" if load_tensor(labels).ndim == 2 else "mtt"
    return "datm" if (path.parent / f"lr_{tag}.pt").is_file() else "mtt"


def _parts(path: Path, kind: str, tag: str) -> list[Path]:
    """images_best_0.pt, images_best_1.pt, ...: all that there are, without a gap."""
    found = {
        int(match[1])
        for file in path.parent.iterdir()
        if (match := re.fullmatch(rf"{kind}_{tag}_(\d+)\.pt", file.name))
    }
    if found != set(range(len(found))):
        gap = min(set(range(max(found))) - found)
        raise InputError(f"{path.parent} lacks {kind}_{tag}_{gap}.pt, a part of a split set: copy it there too")
    return [path.parent / f"{kind}_{tag}_{number}.pt" for number in sorted(found)]


def _joined(files: list[Path]) -> torch.Tensor:
    tensors = [load_tensor(file) for file in files]
    if len(tensors) == 1:
        return tensors[0]
    for file, tensor in zip(files, tensors, strict=True):
        if not tensor.ndim or tensor.shape[1:] != tensors[0].shape[1:] or tensor.dtype != tensors[0].dtype:
            raise InputError(
                f"{file} is {tensor.dtype} of shape {tuple(tensor.shape)}, unlike the first part ({tensors[0].dtype}, "
                f"{tuple(tensors[0].shape)}): give parts of one set"
            )
    return torch.cat(tensors)


def _reader(layout: str, format: str) -> Reader:
    return Reader(layout, partial(candidates, format=format), partial(read, format=format), beside=beside)


MTT = _reader("images_best.pt with labels_best.pt", "mtt")
DATM = _reader("images_best.pt with labels_best.pt (images x classes) and lr_best.pt", "datm")
