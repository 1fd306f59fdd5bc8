"""Readers of distilled data: everybody's files, told apart by looking at them, to one `Found`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ddrank.data.readers import dc, ddranking, folders, huggingface, mtt, npz, ours
from ddrank.data.readers.found import Found, channels_first, class_major, consistent, holds_labels, labelled
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.source import is_url, local, sha256_of
from ddrank.data.readers.tensors import load_content, load_tensor, load_weights_only
from ddrank.errors import InputError

__all__ = [
    "FORMATS",
    "Found",
    "Reader",
    "find",
    "is_url",
    "load_content",
    "load_tensor",
    "load_weights_only",
    "look",
    "sha256_of",
]

# In the order in which they are tried: of two that fit the same files, the first is right.
FORMATS: dict[str, Reader] = {
    "ddrank": ours.READER,
    "dc": dc.READER,
    "datm": mtt.DATM,
    "mtt": mtt.MTT,
    "ddranking": ddranking.READER,
    "npz": npz.READER,
    "huggingface": huggingface.READER,
    "sre2l": folders.SRE2L,
    "rded": folders.RDED,
    "d4m": folders.D4M,
    "imagefolder": folders.IMAGEFOLDER,
}
_SAVED = {".npy": "numpy.save", ".pt": "torch.save", ".pth": "torch.save"}


def find(
    source: Path | str,
    *,
    format: str = "auto",
    num_classes: int | None = None,
    soft_labels: Path | str | None = None,
    cache: Path | str | None = None,
) -> Found:
    """Read a distilled dataset as its files have it, its classes in order.

    `source` is a file, a folder, or an fsspec URL of either (hf://, https://, s3://, ...), which is kept in `cache`
    (default: store/downloads) by its content. `format` is a name of FORMATS where looking is not enough. `soft_labels`
    is a file of its own for the soft labels (images x classes). `num_classes` is how many classes there should be.

    Raises InputError when nothing is there, it is unreadable or unsafe, its parts contradict each other, or could be
    meant in several ways.
    """
    found = consistent(look(source, format=format, soft_labels=soft_labels, cache=cache))
    known = found.num_classes
    if None not in (num_classes, known) and known != num_classes:
        raise InputError(
            f"{found.where} has {known} classes, expected {num_classes}: choose the dataset it was made for"
        )
    return class_major(found)


def look(
    source: Path | str,
    *,
    format: str = "auto",
    soft_labels: Path | str | None = None,
    cache: Path | str | None = None,
) -> Found:
    """What `find` reads, before its parts are checked against each other and brought in order."""
    if format != "auto" and format not in FORMATS:
        raise InputError(f"method.format is {format!r}, expected auto or one of {', '.join(FORMATS)}")
    path = local(source, cache, _beside)
    try:
        found = _laid_out(_read(path, format))
        if soft_labels is not None:
            file = local(soft_labels, cache, _beside)
            found = replace(found, soft_labels=load_tensor(file), soft_kind=None, files=(*found.files, file))
    except InputError as error:
        if not is_url(source):
            raise
        above = str(source).rpartition("/")[0]
        said = str(error).replace(str(path), str(source)).replace(str(path.parent), above if path.is_file() else "")
        raise InputError(said) from error
    found = labelled(replace(found, source=str(source)))
    return replace(found, notes=(*found.notes, *_unlabelled(found)))


def _read(path: Path, format: str) -> Found:
    if not path.exists():
        raise InputError(f"the distilled data {path} do not exist: give a file or folder that does as method.data")
    if format != "auto" and path.is_dir() == FORMATS[format].folder:
        return FORMATS[format].read(path)
    readers = FORMATS if format == "auto" else {format: FORMATS[format]}
    fitting: dict[Path, str] = {}
    for name, reader in readers.items():
        for candidate in reader.candidates(path):
            fitting.setdefault(candidate, name)
        if name == "ddrank" and fitting:
            break  # what was made here wins over what it may have been made from
    if not fitting:
        raise InputError(_nothing(path, readers))
    if len(fitting) > 1:
        several = [f"{candidate.name} ({name})" for candidate, name in fitting.items()]
        told = ", ".join(several[:4]) + (f" and {len(several) - 4} more" if len(several) > 4 else "")
        raise InputError(f"{path} could be read in several ways ({told}): give the file itself, or say method.format")
    ((candidate, name),) = fitting.items()
    return FORMATS[name].read(candidate)


def _laid_out(found: Found) -> Found:
    """`found` with its images channels first, and uint8 images of which the files do not say more as pixels."""
    others = tuple(channels_first(images) for images in found.others)
    pixels = found.space is None and found.images.dtype == torch.uint8
    return replace(found, images=channels_first(found.images), others=others, space="pixels" if pixels else found.space)


def _unlabelled(found: Found) -> tuple[str, ...]:
    """What to say of images that come without labels of any kind."""
    if found.labels is not None or found.soft_labels is not None:
        return ()
    note, path = "no labels beside it: images are taken class by class", found.path
    named = [name for name in FORMATS[found.format].beside(path.name) if name.startswith("labels")]
    left = sorted(file for file in path.parent.iterdir() if holds_labels(file) and file != path and file.is_file())
    if left and named:
        alike = [file for file in left if (file.suffix == ".npy") == named[0].endswith(".npy")]
        told = ", ".join(file.name for file in alike or left)
        mend = f"rename it to {named[0]}" if alike else f"save them as {named[0]}, with {_SAVED[Path(named[0]).suffix]}"
        note += f" ({told} there is not read: if it holds their labels, {mend})"
    return (note,)


def _nothing(path: Path, readers: dict[str, Reader]) -> str:
    if len(readers) == 1:
        ((name, reader),) = readers.items()
        return f"{path} holds no distilled data of method.format={name}, expected {reader.layout}"
    others = "; ".join(
        f"{name}: {reader.layout}" for name, reader in readers.items() if name not in ("ddrank", "ddranking")
    )
    if path.is_file():
        return (
            f"{path} is not of a known kind: expected distilled.safetensors or images.pt, or a folder that holds one, "
            f"or another known layout ({others})"
        )
    return (
        f"the folder {path} holds neither distilled.safetensors nor images.pt, nor another known layout ({others}): "
        "put the distilled images there"
    )


def _beside(name: str) -> tuple[str, ...]:
    """The files that may belong to a file of that name, whatever its format."""
    return next((names for format in ("dc", "mtt", "ddranking", "npz") if (names := FORMATS[format].beside(name))), ())
