"""`sre2l`, `rded`, `d4m` and `imagefolder`: a folder of pictures for each class."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ddrank.data.readers.decode import SUFFIXES, decode
from ddrank.data.readers.found import Found
from ddrank.data.readers.reader import Reader
from ddrank.errors import InputError

# The class index of a folder is the group of the first pattern; of a file, that of the second, followed by its number.
_LAYOUTS = {
    "sre2l": (re.compile(r"new(\d{3,})"), re.compile(r"class(\d{3,})_id(\d{3,})\.\w+")),
    "rded": (re.compile(r"(\d{5})"), re.compile(r"class(\d{5})_id(\d{5})\.\w+")),
    "d4m": (re.compile(r"(\d+)"), re.compile(r"(\d+)-image(\d+)\.\w+")),
}


def read_numbered(path: Path, format: str) -> Found:
    """Folders and files whose names hold the class index: images in order of class, then of number. The index is what
    the names say, never the place in an alphabetic order (D4M's folders are 0, 1, 10, 11, ...)."""
    folder_name, file_name = _LAYOUTS[format]
    pictures = []
    for folder in _class_folders(path, format):
        label = folder_name.fullmatch(folder.name)
        if not label:
            raise InputError(f"{folder} is not named as {format} names its folders: say method.format=imagefolder")
        for file in _pictures(folder):
            match = file_name.fullmatch(file.name)
            if not match or int(match[1]) != int(label[1]):
                raise InputError(
                    f"{file} is not named as {format} names its files, or for another class than its folder: mend the "
                    "name, or say method.format=imagefolder"
                )
            pictures.append((int(label[1]), int(match[2]), file))
    pictures.sort(key=lambda picture: picture[:2])
    return _found(path, format, [(label, file) for label, _, file in pictures])


def read_folder(path: Path) -> Found:
    """Any folder of class folders, in the order of their names, which are sorted as numbers where all are numbers;
    images in the order of theirs, likewise."""
    folders = _in_order(_class_folders(path, "imagefolder"))
    pictures = [(label, file) for label, folder in enumerate(folders) for file in _in_order(_pictures(folder))]
    return _found(path, "imagefolder", pictures, tuple(folder.name for folder in folders))


def numbered(path: Path, format: str) -> list[Path]:
    folder_name, file_name = _LAYOUTS[format]
    folders = _folders(path)
    fit = folders and all(folder_name.fullmatch(folder.name) for folder in folders)
    first = next((file for folder in folders for file in _pictures(folder)), None) if fit else None
    return [path] if first and file_name.fullmatch(first.name) else []


def any_folder(path: Path) -> list[Path]:
    folders = _folders(path)
    return [path] if len(folders) > 1 and any(_pictures(folder) for folder in folders) else []


def _found(path: Path, format: str, pictures: list[tuple[int, Path]], class_names: tuple[str, ...] = ()) -> Found:
    files = [file for _, file in pictures]
    return Found(
        format=format,
        images=decode(files, [str(file) for file in files]),
        labels=torch.tensor([label for label, _ in pictures]),
        space="pixels",
        class_names=class_names,
        files=tuple(files),
        path=path,
    )


def _class_folders(path: Path, format: str) -> list[Path]:
    folders = _folders(path)
    if not folders:
        raise InputError(f"{path} holds no class folders, expected one for each class: give the folder above them")
    for folder in folders:
        if not _pictures(folder):
            raise InputError(f"the class folder {folder} holds no images ({', '.join(SUFFIXES)}): put them there")
    return folders


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _in_order(paths: list[Path]) -> list[Path]:
    numbers = all(re.fullmatch(r"[0-9]+", path.stem) for path in paths)
    return sorted(paths, key=(lambda path: (int(path.stem), path.name)) if numbers else (lambda path: path.name))


def _reader(layout: str, format: str) -> Reader:
    read: Callable[[Path], Found] = partial(read_numbered, format=format)
    return Reader(layout, partial(numbered, format=format), read, folder=True)


SRE2L = _reader("newCCC/classCCC_idIII.jpg", "sre2l")
RDED = _reader("CCCCC/classCCCCC_idIIIII.jpg", "rded")
D4M = _reader("CLASS/CLASS-imageIJ.png", "d4m")
IMAGEFOLDER = Reader("a folder of images for each class", any_folder, read_folder, folder=True)
