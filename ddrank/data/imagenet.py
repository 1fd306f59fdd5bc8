"""ImageNet-1K (ILSVRC 2012) and its ten-class subsets, from folders of synsets: train/n01440764/, val/n01440764/."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ddrank.data.classes import ClassNames
from ddrank.data.files import Reading
from ddrank.data.folders import Listing, Loaded, class_folders, existing, images_in, listed, read
from ddrank.errors import InputError

SPLITS = ("train", "val")


def load_imagenet(
    root: Path,
    folder: str,
    size: int,
    class_indices: Sequence[int] | None = None,
    resize: int | None = None,
    test_resize: int | None = None,
    squash: bool = False,
    decode_gib: float = 2.0,
) -> Loaded:
    """ImageNet-1K, or the classes `class_indices` of it: label i is the class with the index class_indices[i].

    `folder` (relative to `root`) holds train/<synset>/ and val/<synset>/: all of ImageNet, or just the classes asked
    for (imagenette2, imagewoof2). An index counts the 1,000 synsets in the order of their names, as ImageFolder and
    torchvision's pretrained networks do. `size` to `squash` as in `Reading`, `decode_gib` and what is given as in
    `ddrank.data.folders.read`. Raises InputError.
    """
    home = existing(
        Path(root) / folder, f"unpack the images there, as {folder}/train/n01440764/... and {folder}/val/..."
    )
    synsets, words = _classes()
    for index in class_indices or ():
        if not 0 <= index < len(synsets):
            raise InputError(f"dataset.loader.class_indices has {index}, expected indices from 0 to {len(synsets) - 1}")
    if class_indices and len(set(class_indices)) < len(class_indices):
        raise InputError(f"dataset.loader.class_indices names a class twice: {list(class_indices)}")
    indices = range(len(synsets)) if class_indices is None else class_indices
    wanted = [synsets[index] for index in indices]
    train, test = (_split(home, split, wanted, class_indices is None) for split in SPLITS)
    names = ClassNames((words[index] for index in indices), folders=wanted)
    return read(home, train, test, Reading(size, resize, test_resize, squash), root, decode_gib, names)


def _split(home: Path, split: str, wanted: list[str], complete: bool) -> Listing:
    """The images of one split."""
    folder = existing(home / split, f"{home} needs train/ and val/ with a folder for each synset")
    if not any(entry.is_dir() for entry in folder.iterdir()) and images_in(home, split):
        raise InputError(
            f"{folder} holds images without folders of classes: sort them into {split}/<synset>/ (n01440764, ...), as "
            "the valprep script of the PyTorch examples does"
        )
    there = class_folders(folder)
    if missing := [synset for synset in wanted if synset not in set(there)]:
        raise InputError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} classes, {missing[0]} among them: unpack the archive "
            "again, or name another folder as dataset.loader.folder=..."
        )
    if complete and (odd := sorted(set(there) - set(wanted))):
        raise InputError(f"{folder} has a folder {odd[0]}, which is no class of ImageNet-1K: remove it")
    return listed(home, wanted, split)


@lru_cache(maxsize=1)
def _classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1,000 synsets in their order, and a word for each."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words = (info.index_to_description(index).partition(",")[0] for index in range(info.num_classes()))
    return tuple(info.label_names()), tuple(words)
