"""What a reader finds in the files of a distilled dataset, before anything is checked or changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddrank.data.readers.source import is_url
from ddrank.errors import InputError

Data = TypeVar("Data")
MOST_CLASSES = 1_000_000  # more than any dataset has: a label from here on is no class index


@dataclass(frozen=True, eq=False, repr=False)
class Found:
    """A distilled dataset as its files have it.

    Attributes:
        format: the reader's name in `ddrank.data.readers.FORMATS`.
        images: (N, C, H, W), float32 in some space, or uint8: pixels from 0 to 255.
        labels: int64 (N,), class indices, where the files tell.
        soft_labels: float32 (N, classes), or None.
        lr: a learning rate, or None.
        space: what the files say the images' space is: `normalized`, `zca`, `pixel`, `pixels` (float32 pixels in [0, 1]
            that are yet to be brought into the space of training; uint8 images are that always), or None.
        soft_kind: what the files say the soft labels are, `logits` or `probabilities`, or None.
        others: further sets of images (see `DistilledDataset.others`).
        class_names: of the folders, in the order of the labels, where there are any.
        constants: (mean, std), with which the files say that `normalized` images were normalised, or None.
        notes: what was concluded about the data that the files do not say, in words.
        metadata: what else the files say.
        files: everything that was read, in order; small text included.
        source: where the user said it lies (a path or URL).
        path: the file, or the folder of pictures, that holds the images on this machine.
    """

    format: str
    images: Tensor
    labels: Tensor | None = None
    soft_labels: Tensor | None = None
    lr: float | None = None
    space: str | None = None
    soft_kind: str | None = None
    others: tuple[Tensor, ...] = ()
    class_names: tuple[str, ...] = ()
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    source: str = ""
    path: Path | None = None

    @property
    def where(self) -> Path | str | None:
        """What messages call it: the URL, or the file or folder."""
        return self.source if is_url(self.source) else self.path

    @property
    def where_labels(self) -> Path | str | None:
        """What messages call the place of the class indices: a file of their own, or that of the images."""
        for file in self.files:
            if holds_labels(file) and "soft" not in file.name and file != self.path:
                return f"{file.name} beside {self.source}" if is_url(self.source) else file
        return self.where

    @property
    def num_classes(self) -> int | None:
        """How many classes the files speak of: by names, else by soft labels, else by the highest label."""
        if self.class_names:
            return len(self.class_names)
        if self.soft_labels is not None:
            return self.soft_labels.shape[1]
        return None if self.labels is None else int(self.labels.max()) + 1

    @property
    def ipc(self) -> int | None:
        """Images per class; None where classes differ in number, or where the files do not tell."""
        classes = self.num_classes
        if classes is None:
            return None
        if self.labels is None:
            return len(self.images) // classes if len(self.images) % classes == 0 else None
        counts = torch.bincount(self.labels, minlength=classes)
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    def __repr__(self) -> str:
        shape, kind = " x ".join(map(str, self.images.shape[1:])), str(self.images.dtype).removeprefix("torch.")
        parts = [f"{len(self.images)} images of {shape} ({kind})"]
        if self.num_classes is not None:
            parts.append(f"{self.num_classes} classes" + (f" x ipc {self.ipc}" if self.ipc else ""))
        if self.others:
            parts.append(f"{len(self.others)} further sets")
        if self.soft_labels is not None:
            parts.append("soft labels" + (f" ({self.soft_kind})" if self.soft_kind else ""))
        if self.lr is not None:
            parts.append(f"lr {self.lr:g}")
        if self.space is not None:
            parts.append(f"space {self.space}")
        return f"Found({self.format}: {', '.join(parts)})"


def holds_labels(file: Path) -> bool:
    """Whether a file is called as one of labels is: pictures and tables may be called so for what they show."""
    return "label" in file.name.lower() and file.suffix in (".pt", ".pth", ".npy")


def consistent(found: Found) -> Found:
    """`found` with class indices as int64 and soft labels as float32, if its parts fit each other.

    Raises InputError where they do not, whatever dataset they may be for.
    """
    for images in (found.images, *found.others):
        if images.ndim != 4 or not images.numel():
            raise InputError(
                f"{found.where} holds images of shape {tuple(images.shape)}, expected four dimensions (images, "
                "channels, height, width), none of them 0: save the images as one such tensor"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(
                f"{found.where} holds images of type {images.dtype}, expected floating point or uint8 pixels"
            )
        if images.shape != found.images.shape:
            raise InputError(
                f"{found.where} holds sets of images of shape {tuple(found.images.shape)} and {tuple(images.shape)}, "
                "expected one shape: save sets of the same distillation"
            )
    labels = None if found.labels is None else whole_numbers(found.labels, found.where_labels, len(found.images))
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise InputError(
            f"the labels of {found.where_labels} run from {int(labels.min())} to {int(labels.max())}, expected class "
            "indices from 0: number the classes so"
        )
    soft = found.soft_labels
    if soft is not None and (
        soft.ndim != 2 or len(soft) != len(found.images) or not soft.shape[1] or soft.is_complex()
    ):
        raise InputError(
            f"the soft labels of {found.where} have shape {tuple(soft.shape)}, expected "
            f"({len(found.images)}, classes): give one row for each image"
        )
    return replace(found, labels=labels, soft_labels=None if soft is None else soft.float())


def channels_first(images: Tensor) -> Tensor:
    """Images (N, H, W, C) with one or three channels, or (N, H, W), as (N, C, H, W); others as they are."""
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        return images.permute(0, 3, 1, 2).contiguous()
    return images


def labelled(found: Found) -> Found:
    """`found` with class indices where only its soft labels tell them.

    One-hot rows are class indices written out. Where other soft labels are highest at every class equally often, but
    not class by class, the images are in that order. Otherwise they are taken class by class, which is noted where the
    soft labels do not say so.
    """
    soft = found.soft_labels
    if found.labels is not None or soft is None or soft.ndim != 2 or not soft.numel() or soft.is_complex():
        return found
    top = soft.float().argmax(1)
    if is_one_hot(soft):
        return replace(found, labels=top)
    counts = top.bincount(minlength=soft.shape[1])
    if not bool((counts == counts[0]).all()):
        note = "the highest entries of its soft labels do not tell the classes: images are taken class by class"
        return replace(found, notes=(*found.notes, note))
    if not bool((top.diff() < 0).any()):
        return found
    note = "the images are not class by class by their soft labels, whose highest entries are taken for the classes"
    return replace(found, labels=top, notes=(*found.notes, note))


def is_one_hot(soft: Tensor) -> bool:
    """Whether the rows of `soft` (N, classes) are exactly one 1 and otherwise 0."""
    return bool(((soft == 0) | (soft == 1)).all()) and bool(((soft == 1).sum(1) == 1).all())


def whole_numbers(labels: Tensor, path: Path | str | None, expected: int) -> Tensor:
    """`labels` as int64 (`expected`,). Raises InputError if they are not that many whole numbers."""
    if labels.shape != (expected,) or labels.is_complex() or not bool((labels.double() % 1 == 0).all()):
        raise InputError(
            f"the labels of {path} are {labels.dtype} of shape {tuple(labels.shape)}, expected {expected} class "
            "indices: save one whole number for each image, in the order of the images"
        )
    return labels.long()


def class_major(data: Data) -> Data:
    """`data` (a Found or DistilledDataset) with its classes in order; within a class, images keep theirs."""
    if data.labels is None or not bool((data.labels.diff() < 0).any()):
        return data
    order = data.labels.argsort(stable=True)
    return replace(
        data,
        images=data.images[order],
        others=tuple(images[order] for images in data.others),
        labels=data.labels[order],
        soft_labels=None if data.soft_labels is None else data.soft_labels[order],
    )
