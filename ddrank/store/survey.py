"""What lies in a store: its entries, whatever their kind, and what jobs that were killed have left."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ddrank.errors import InputError
from ddrank.store import entry, lock

# Where entries lie, and how the names of their files end. Downloads lie under the sha256 of their content.
FOLDERS = {
    "measurements": ".json",
    "tensors": ".safetensors",
    "training": ".pt",
    "distillations": ".pt",
    "downloads/files": "",
}
CHECKPOINTS = ("training", "distillations")
_OF_FOLDER = {
    "measurements": "measurement",
    "training": "training",
    "distillations": "distillation",
    "downloads/files": "download",
}
_NAME = re.compile("[0-9a-f]{64}")
_SHOWN_SECONDS = 0.2  # between two updates of a bar
_BLOCK = 4096


@dataclass(frozen=True)
class File:
    """An entry's file, unread: the folder of `FOLDERS`, the entry's digest, its size in bytes with all that belongs to
    it, and when it was written or last used, to the hour, seconds since 1970."""

    path: Path
    folder: str
    name: str
    bytes: int
    touched: float


@dataclass(frozen=True)
class Entry:
    """What is known of an entry without reading all of it.

    `kind` is `measurement`, that of its key (`teacher`, `expert`, ...), `training` or `distillation` (checkpoints),
    `download`, or `unreadable`.
    """

    file: File
    kind: str
    key: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    value: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The name of its architecture's config where that is known, else the architecture's."""
        if "model" in self.about:
            return str(self.about["model"])
        described = self.key.get("model")
        target = described.get("_target_") if isinstance(described, Mapping) else None
        return str(target).rpartition(".")[2] if target else None

    def told(self, name: str) -> Any:
        """What it says of itself under `name`, or None."""
        return self.about.get(name, self.key.get(name))


@dataclass(frozen=True)
class Survey:
    """The files of a store: its entries, by folder and digest; parts of entries that are no more; unfinished files of
    writers; locks."""

    root: Path
    entries: list[File]
    remains: list[File]
    unfinished: list[File]
    locks: list[Path]


@dataclass(frozen=True)
class Selection:
    """Which entries are meant: those that are one of each of these, where there are any."""

    kind: Sequence[str] = ()
    dataset: Sequence[str] = ()
    model: Sequence[str] = ()
    arm: Sequence[str] = ()
    key: Sequence[str] = ()  # first digits of the digest

    def __contains__(self, one: Entry) -> bool:
        named = {"kind": one.kind, "dataset": one.told("dataset"), "model": one.model, "arm": one.told("arm")}
        wanted = all(not getattr(self, name) or value in getattr(self, name) for name, value in named.items())
        return wanted and self.may_hold(one.file)

    def may_hold(self, file: File) -> bool:
        """Whether an unread entry may be meant, by its folder and its digest."""
        kinds = {kind if kind in _OF_FOLDER.values() else None for kind in self.kind}
        possible = not kinds or "unreadable" in self.kind or _OF_FOLDER.get(file.folder) in kinds
        return possible and (not self.key or file.name.startswith(tuple(self.key)))


def survey(root: Path | str) -> Survey:
    """All files of the store `root`. Raises InputError where there is none, or it cannot be read."""
    root = Path(root)
    try:
        if not root.is_dir():
            raise InputError(f"there is no store {root}: name it with --store, as paths.store of the runs has it")
        entries, remains, unfinished = [], [], []
        for folder, suffix in FOLDERS.items():
            parts: dict[tuple[str, str], list[tuple[str, os.DirEntry]]] = {}
            for found in _files(root / folder):
                stem, ending = (found.name, "") if not suffix else os.path.splitext(found.name)
                if found.name.startswith("."):
                    unfinished.append(_file([found], folder))
                elif _NAME.fullmatch(stem):
                    parts.setdefault((os.path.dirname(found.path), stem), []).append((ending, found))
            for place, of_one in sorted(parts.items()):
                of_one.sort(key=lambda part: part[0] != suffix)
                whole = of_one[0][0] == suffix
                (entries if whole else remains).append(_file([found for _, found in of_one], folder, place[1]))
        locks = sorted(Path(found.path) for found in _files(root / lock.FOLDER))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): make the store readable") from error
    return Survey(root, entries, remains, unfinished, locks)


def describe(file: File) -> Entry:
    """What an entry is of."""
    if file.folder == "downloads/files":
        return Entry(file, _OF_FOLDER[file.folder])
    try:
        content = entry.look(file.path)
        key, *rest = ((one if isinstance(one, dict) else {}) for one in (content.key, content.about, content.value))
        return Entry(file, _OF_FOLDER.get(file.folder) or str(key["kind"]), key, *rest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Entry(file, _OF_FOLDER[file.folder] if file.folder in CHECKPOINTS else "unreadable")


_Item = TypeVar("_Item")


def watched(items: Sequence[_Item], name: str, size: Callable[[_Item], int]) -> Iterator[_Item]:
    """`items`, with a bar, or a line now and then, that shows how many of their bytes have been dealt with."""
    from ddrank.progress import Display

    blocks = [1 + size(item) // _BLOCK for item in items]
    with Display() as display, display.activity(f"{name} (blocks of 4 KiB)", max(1, sum(blocks))) as advance:
        done, shown = 0, time.monotonic()
        for item, more in zip(items, blocks, strict=True):
            yield item
            done += more
            if time.monotonic() - shown > _SHOWN_SECONDS:
                advance(steps=done)
                done, shown = 0, time.monotonic()


def selected(files: Iterable[File], selection: Selection, name: str) -> Iterator[Entry]:
    """The entries of `files` that are meant."""
    possible = [file for file in files if selection.may_hold(file)]
    # Of tensors only the first bytes are read.
    for file in watched(possible, name, lambda file: file.bytes if file.folder == "measurements" else 0):
        if (found := describe(file)) in selection:
            yield found


def _files(folder: Path | str) -> Iterator[os.DirEntry]:
    """All plain files below a folder; links are not followed."""
    try:
        with os.scandir(folder) as found:
            listed = list(found)
    except FileNotFoundError:
        return
    for one in listed:
        if one.is_dir(follow_symlinks=False):
            yield from _files(one.path)
        elif one.is_file(follow_symlinks=False):
            yield one


def _file(parts: list[os.DirEntry], folder: str, name: str = "") -> File:
    sizes, touched = 0, 0.0
    for part in parts:
        try:
            status = part.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # a running job has finished with it
        if stat.S_ISREG(status.st_mode):
            sizes, touched = sizes + status.st_size, max(touched, status.st_mtime)
    return File(Path(parts[0].path), folder, name or parts[0].name, sizes, touched)
