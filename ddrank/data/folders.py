"""Real images in folders of classes: <split>/<class>/.../<image>, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddrank.data.files import Files, Format, Names, Reading
from ddrank.data.mapped import decoded_once
from ddrank.data.real import stratified_test_split
from ddrank.data.samples import Samples
from ddrank.errors import InputError

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_SPLITS = ("test", "val", "valid")
Listing = tuple[Names, Tensor]  # images and their labels
Loaded = tuple[Samples, Samples, Sequence[str]] | tuple[Samples, Samples, Sequence[str], Samples]


def load_imagefolder(
    root: Path,
    path: str,
    size: int,
    channels: int = 3,
    resize: int | None = None,
    test_resize: int | None = None,
    squash: bool = False,
    test_fraction: float = 0.2,
    decode_gib: float = 2.0,
) -> Loaded:
    """Any folder of one's own: `path`/train/<class>/ and `path`/test/<class>/ (or val/ or valid/), or `path`/<class>/
    alone, of which a fixed stratified `test_fraction` of the images is the test set.

    Class i is the i-th folder in the order of names, as in ImageFolder. `path` is relative to where the command is
    called. `size` to `squash` as in `Reading`, `decode_gib` as in `read`, which also says what is given. Raises
    InputError.
    """
    folder = existing(Path(path), "give a folder of classes as dataset.loader.path=...")
    reading = Reading(size, resize, test_resize, squash, channels)
    inside = "train" if (folder / "train").is_dir() else ""
    splits = [split for split in TEST_SPLITS if (folder / split).is_dir()]
    if splits and not inside:
        raise InputError(f"{folder} has a folder {splits[0]}/ but no train/: put the training classes into train/")
    if len(splits) > 1:
        raise InputError(f"{folder} has test images in {' and in '.join(f'{split}/' for split in splits)}: keep one")
    classes = class_folders(folder / inside)
    train = listed(folder, classes, inside)
    if not splits:
        train, test = _split(folder, *train, test_fraction, classes)
        return read(folder, train, test, reading, root, decode_gib, tuple(classes))
    if (others := class_folders(folder / splits[0])) != classes:
        odd = sorted(set(others) ^ set(classes))[0]
        where = "train" if odd in classes else splits[0]
        raise InputError(
            f"the class {odd!r} is in {folder / where} alone: give train/ and {splits[0]}/ the same folders of classes"
        )
    return read(folder, train, listed(folder, classes, splits[0]), reading, root, decode_gib, tuple(classes))


def read(
    folder: Path,
    train: Listing,
    test: Listing,
    reading: Reading,
    root: Path,
    decode_gib: float,
    class_names: Sequence[str],
) -> Loaded:
    """What a loader gives for the training and test images listed, all below `folder`: both as samples, `class_names`,
    and, where test images are read otherwise than training images, the training images as those are.

    Images that take at most `decode_gib` GiB are decoded now, once (see `ddrank.data.mapped`); others, and those of
    the fourth item, are decoded as they are used. What is kept of them is under `root`/decoded. Raises InputError.
    """
    if not decode_gib >= 0:
        raise InputError(f"dataset.loader.decode_gib is {decode_gib}, expected 0 or more GiB")
    found = (
        _samples(folder, *train, reading.train, root, "train", decode_gib),
        _samples(folder, *test, reading.test, root, "test", decode_gib),
        class_names,
    )
    if reading.test == reading.train:
        return found
    return *found, _samples(folder, *train, reading.test, root, "train", 0)


def _samples(
    folder: Path, names: Names, labels: Tensor, format: Format, root: Path, split: str, decode_gib: float
) -> Samples:
    kind = "grey" if format.channels == 1 else "rgb"
    resize = "whole" if format.resize is None else format.resize
    place = Path(root) / "decoded" / f"{folder.resolve().name}-{split}-{resize}-{format.size}px-{kind}"
    files = Files(folder, names, format, digests=place.with_name(f"{folder.resolve().name}-{split}.sha256.npz"))
    return Samples(decoded_once(files, place, decode_gib), labels)


def class_folders(folder: Path) -> list[str]:
    """The names of the classes' folders, in the order of names. Raises InputError where there are fewer than two."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        found = f"only {names[0]}/" if names else "no folders"
        raise InputError(f"{folder} holds {found}, expected a folder of images for each of two classes or more")
    return names


def listed(folder: Path, classes: Sequence[str], split: str) -> Listing:
    """The images in `folder`/`split`/<class>/ and below, relative to `folder`, in ImageFolder's order, with class
    indices int64 (N,). Raises InputError for a class without images."""
    labels = array("q")

    def names() -> Iterator[str]:
        for label, name in enumerate(classes):
            before = len(labels)
            for image in _images(folder, Path(split, name)):
                labels.append(label)
                yield image
            if len(labels) == before:
                raise InputError(
                    f"{folder / split / name} holds no images ({', '.join(IMAGES)}): put the images of this class "
                    "there, or remove the folder"
                )

    found = Names(names())
    return found, torch.from_numpy(np.frombuffer(labels, np.int64).copy())


def images_in(folder: Path, split: str) -> list[str]:
    """The images in `folder`/`split` and below, relative to `folder`."""
    return list(_images(folder, Path(split)))


def existing(folder: Path, hint: str) -> Path:
    """`folder`, where it is there; else an InputError with the `hint`."""
    if not folder.is_dir():
        found = "is a file, expected a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {found}: {hint}")
    return folder


def _images(folder: Path, inside: Path) -> Iterator[str]:
    for place, _, files in sorted(os.walk(folder / inside, followlinks=True)):
        relative = os.path.relpath(place, folder)
        for name in sorted(files):
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                yield os.path.join(relative, name)


def _split(
    folder: Path, names: Names, labels: Tensor, test_fraction: float, classes: Sequence[str]
) -> tuple[Listing, Listing]:
    """The training and the test images of a folder that has no test split."""
    if not 0 < test_fraction < 1:
        raise InputError(f"dataset.loader.test_fraction is {test_fraction}, expected a part above 0 and below 1")
    count = max(len(classes), round(len(names) * test_fraction))
    least = int(labels.bincount().argmin())
    if (few := int((labels == least).sum())) < 2 or len(names) - count < len(classes):
        raise InputError(
            f"{folder} has no test images (test/, val/ or valid/) and its {len(names)} images cannot be split: its "
            f"class {classes[least]!r} has {few}; give a test split, or more images of each class"
        )
    train, test = stratified_test_split(labels, count)
    return (_chosen(names, train), labels[train]), (_chosen(names, test), labels[test])


def _chosen(names: Names, index: Tensor) -> Names:
    chosen: Iterable[str] = (names[number] for number in index.tolist())
    return Names(chosen)
