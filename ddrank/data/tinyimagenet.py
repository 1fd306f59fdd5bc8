"""TinyImageNet (Stanford CS231n): the archive tiny-imagenet-200, as it is unpacked.

    tiny-imagenet-200/
      wnids.txt                          200 synsets, one a line
      words.txt                          synset <tab> words, of all WordNet
      train/<synset>/images/*.JPEG       500 a class, 64 x 64, some of them grey
      train/<synset>/<synset>_boxes.txt
      val/images/val_<number>.JPEG       50 a class
      val/val_annotations.txt            file <tab> synset <tab> four numbers of a box
      test/images/                       without labels, not used

Many have moved the validation images into folders, val/<synset>/ (or val/<synset>/images/), for ImageFolder: that is
read too. Class i is the i-th synset in the order of names, as in the code of MTT, DATM, SRe2L and ddranking, which read
train/ with ImageFolder; wnids.txt has another order.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ddrank.data.classes import ClassNames
from ddrank.data.files import Names, Reading
from ddrank.data.folders import Listing, Loaded, class_folders, existing, listed, read
from ddrank.errors import InputError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def load_tinyimagenet(
    root: Path,
    size: int = 64,
    folder: str = "tiny-imagenet-200",
    resize: int | None = None,
    test_resize: int | None = None,
    squash: bool = False,
    decode_gib: float = 2.0,
) -> Loaded:
    """TinyImageNet: 100,000 training images and, as the test set, 10,000 validation images; 3 x 64 x 64, uint8.

    `folder` is relative to `root`; `size` to `squash` as in `Reading`, `decode_gib` and what is given as in
    `ddrank.data.folders.read`. Raises InputError.
    """
    home = existing(Path(root) / folder, f"put tiny-imagenet-200.zip from {URL} into {root} and unpack it there")
    again = f"unpack tiny-imagenet-200.zip again ({URL})"
    synsets = class_folders(existing(home / "train", again))
    announced = _lines(home / "wnids.txt", again)
    if odd := sorted(set(announced) ^ set(synsets)):
        where = "has no folder in train/" if odd[0] in announced else "has a folder in train/, but is not in wnids.txt"
        raise InputError(f"{home}: the class {odd[0]} {where}: {again}")
    names = ClassNames(_words(home / "words.txt", synsets), folders=synsets)
    train, test = listed(home, synsets, "train"), _validation(home, synsets, again)
    return read(home, train, test, Reading(size, resize, test_resize, squash), root, decode_gib, names)


def _validation(home: Path, synsets: list[str], again: str) -> Listing:
    """Names of the validation images, relative to `home`, and their labels int64 (N,)."""
    folder = existing(home / "val", again)
    if not (folder / "images").is_dir():
        if missing := sorted(set(synsets) - set(class_folders(folder))):
            raise InputError(f"{folder} has neither images/ nor a folder for the class {missing[0]}: {again}")
        return listed(home, synsets, "val")
    path, number = folder / "val_annotations.txt", {synset: label for label, synset in enumerate(synsets)}
    names, labels = [], []
    for line, text in enumerate(_lines(path, again), start=1):
        name, _, rest = text.partition("\t")
        synset = rest.split("\t")[0]
        if synset not in number:
            raise InputError(
                f"{path}, line {line}, gives the class {synset!r}, expected file <tab> synset, one of train/: {again}"
            )
        if "/" in name or not (folder / "images" / name).is_file():
            raise InputError(
                f"{path}, line {line}, names the image {name!r}, which is not in {folder / 'images'}: {again}"
            )
        names.append(f"val/images/{name}")
        labels.append(number[synset])
    if empty := sorted(set(synsets) - {synsets[label] for label in labels}):
        raise InputError(f"{path} names no image of the class {empty[0]}: {again}")
    return Names(names), torch.tensor(labels)


def _words(path: Path, synsets: list[str]) -> tuple[str, ...]:
    """A word for each class; its synset where words.txt is missing or silent: they are for display."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    words = {synset: text.partition(",")[0] for synset, _, text in (line.partition("\t") for line in lines)}
    return tuple(words.get(synset) or synset for synset in synsets)


def _lines(path: Path, again: str) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: {again}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): {again}") from error
    return [line.rstrip() for line in lines if line.strip()]
