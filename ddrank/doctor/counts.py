"""Do shape, number, labels and order of the images fit the dataset and the IPC?"""

from __future__ import annotations

import torch
from torch import Tensor

from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed


def check_dataset(said: str | None, dataset: str) -> list[Finding]:
    """A finding where the files say that they were made for another dataset."""
    if said in (None, dataset):
        return []
    return [
        Finding(
            "dataset",
            WRONG,
            f"the file says that it was made for {said}, but dataset={dataset}",
            "its classes are not those of this dataset",
            f"dataset={str(said).split('-')[0]}",
        )
    ]


def check_shape(images: Tensor, channels: int, size: int, resize: bool = False) -> list[Finding]:
    """Findings about the shape of `images`; nothing else can be examined where there is one."""
    shape, expected = tuple(images.shape), ("N", channels, size, size)
    if images.ndim != 4:
        return [
            Finding(
                "shape",
                WRONG,
                f"the images have shape {shape}",
                f"images are {expected}: number, channels, height, width",
                "saving them with that shape",
            )
        ]
    if shape[1] != channels and shape[3] == channels:
        return [
            Finding(
                "channels-last",
                WRONG,
                f"the images have shape {shape}, with the channels last",
                f"networks here expect {expected}, channels first",
                "images = images.permute(0, 3, 1, 2) before saving",
            )
        ]
    if shape[1] != channels:
        return [
            Finding(
                "channels",
                WRONG,
                f"the images have {shape[1]} channels, the dataset has {channels}",
                "they were made for another dataset, or saved in grey or in colour where they are not",
                "dataset=... (the one they were made for), or images of the right number of channels",
            )
        ]
    if shape[2:] != (size, size) and not resize:
        return [
            Finding(
                "size",
                WRONG,
                f"the images are {shape[2]} x {shape[3]} pixels, the dataset's are {size} x {size}",
                "students are tested on images of the dataset's size",
                f"method.resize=true, or dataset.size={shape[2]} if the method was run at that size",
            )
        ]
    return []


def check_count(count: int, num_classes: int, ipc: int | None) -> list[Finding]:
    """Findings about the number of images; `ipc` is None where the files shall tell it."""
    if count and count % num_classes == 0 and ipc in (None, count // num_classes):
        return []
    if count and count % num_classes == 0:
        return [
            Finding(
                "ipc",
                WRONG,
                f"{count} images of {num_classes} classes are {count // num_classes} a class, but ipc={ipc}",
                "random images at another IPC are no fair comparison",
                f"ipc={count // num_classes}",
            )
        ]
    wanted = f"{num_classes} classes x ipc={ipc} are {num_classes * ipc}" if ipc else f"there are {num_classes} classes"
    return [
        Finding(
            "count",
            WRONG,
            f"{count} images are no multiple of the number of classes ({wanted})",
            "images are missing, or the data are of another dataset",
            f"dataset=... with the right classes (now {num_classes}), or all images of every class",
        )
    ]


def check_labels(labels: Tensor | None, count: int, num_classes: int) -> list[Finding]:
    """Findings about the class indices that the files give; none are needed where images are class-major."""
    if labels is None:
        return []
    if problems := check_range(labels, count, num_classes):
        return problems
    counts = labels.long().bincount(minlength=num_classes)
    if int(counts.min()) != int(counts.max()):
        odd = (counts != counts.mode().values).nonzero().flatten().tolist()
        return [
            Finding(
                "labels-uneven",
                WRONG,
                f"classes have from {int(counts.min())} to {int(counts.max())} images (unlike most: class "
                f"{listed(odd)})",
                "IPC means the same number of images for every class",
                "labels that give every class the same number of images",
            )
        ]
    if not torch.equal(labels, labels.sort().values):
        return [
            Finding(
                "not-class-major",
                SUSPECT,
                f"the images are not sorted by class (their labels are {listed(labels.tolist())})",
                "ddrank sorts them by their labels; tools that read images alone take the first of them for class 0",
                "python -m ddrank.distill convert SRC DST, which writes them class by class",
            )
        ]
    return []


def check_range(labels: Tensor, count: int, num_classes: int) -> list[Finding]:
    """Findings about labels that are not `count` class indices of the dataset."""
    if labels.shape != (count,) or not bool((labels.double() % 1 == 0).all()):
        return [
            Finding(
                "labels-count",
                WRONG,
                f"{count} images come with labels of type {labels.dtype} and shape {tuple(labels.shape)}",
                "every image needs one class index",
                f"whole numbers of shape ({count},) as labels",
            )
        ]
    low, high = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if low == 1 and high == num_classes:
        return [
            Finding(
                "labels-from-one",
                WRONG,
                f"the labels run from 1 to {num_classes}",
                "class indices begin at 0: every image would be taught as the class after its own",
                "labels = labels - 1 before saving",
            )
        ]
    if low < 0 or high >= num_classes:
        return [
            Finding(
                "labels-range",
                WRONG,
                f"the labels run from {low} to {high}",
                f"the dataset has the classes 0 to {num_classes - 1}",
                "dataset=... with the classes that they were made for",
            )
        ]
    return []
