"""What lies in the folder of a job: entries of the store, distilled data, results, pictures and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_files import comparable, key

from ddrank.errors import InputError
from ddrank.result import Result
from ddrank.store import entry
from ddrank.store.survey import CHECKPOINTS, File, survey
from ddrank.store.verification import problem_of

_DISTILLED = "distilled/**/*.safetensors"
_FINISHED = ("store/measurements/*/*.json", "store/tensors/*/*.safetensors", _DISTILLED)
_RESULTS = "runs/**/result.json"
_PICTURES = {".png": b"IEND\xaeB`\x82", ".gif": b";"}  # and how whole ones end


@dataclass(frozen=True)
class Made:
    """A result: what tells it from others, what of it is compared, and the names of the pictures beside it."""

    key: str
    content: dict[str, Any]
    pictures: frozenset[str]


def whole(folder: Path) -> dict[str, str]:
    """The finished files, by name, each with its sha256."""
    paths = [*_finished(folder), *folder.glob(_RESULTS)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def entries(folder: Path, aside: Set[Path] = frozenset()) -> dict[str, Any]:
    """What lies in the store and as distilled data, but for the files `aside`, by name, without how long it took; of
    pictures of distilled data only that they are there."""
    found: dict[str, Any] = {}
    for path in _finished(folder):
        if path in aside:
            continue
        if path.suffix == ".json":
            told = entry.look(path)
            content = told.key, told.about, {name: part for name, part in told.value.items() if name != "seconds"}
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = content
    return found | {str(path.relative_to(folder)): "a picture" for path in pictures(folder / "distilled")}


def results(folder: Path, aside: Set[Path] = frozenset()) -> tuple[list[Made], list[str]]:
    """The results but for the files `aside`, and what is wrong with the files that hold none."""
    found, wrong = [], []
    for path in folder.glob(_RESULTS):
        if path in aside:
            continue
        try:
            result = Result.load(path).to_dict()
        except InputError as error:
            wrong.append(str(error))
            continue
        beside = frozenset(picture.name for picture in pictures(path.parent))
        found.append(Made(key(result), comparable(result), beside))
    return found, wrong


def pictures(folder: Path) -> list[Path]:
    """All pictures below a folder."""
    return [path for path in folder.rglob("*") if path.suffix in _PICTURES and not path.name.startswith(".")]


def half_pictures(folder: Path) -> list[Path]:
    """Those that are not whole."""
    return [path for path in pictures(folder) if not path.read_bytes().endswith(_PICTURES[path.suffix])]


def entry_files(folder: Path) -> list[File]:
    """The entries of the store, in the order of their names."""
    root = folder / "store"
    return sorted(survey(root).entries, key=lambda file: file.path) if root.is_dir() else []


def left_behind(folder: Path) -> list[Path]:
    """What only jobs under way have in a store: checkpoints, and the weights of students that wait for their test."""
    return [
        file.path
        for file in entry_files(folder)
        if file.folder in CHECKPOINTS or (file.folder == "tensors" and _waits(file.path))
    ]


def resumptions(folder: Path) -> list[str]:
    """What the next run has to say, a part of a sentence for each checkpoint of something unfinished: where it goes on,
    or that it is corrupt. Nothing of those from before a first step, which save nothing."""
    files = entry_files(folder)
    made = {file.name for file in files if file.folder not in CHECKPOINTS}
    distilled = any(folder.glob(_DISTILLED))
    said = []
    for file in files:
        if file.folder not in CHECKPOINTS or (distilled if file.folder == "distillations" else file.name in made):
            continue
        if problem_of(file) is not None:
            said.append(f"{file.path.name} is corrupt")
        elif (state := _state(file.path)).get("done"):
            said.append(f"going on at iteration {state['done']} of")
        elif state.get("epoch") or state.get("batch"):
            said.append(f"going on in epoch {state['epoch'] + 1} of")
    return said


def _state(path: Path) -> dict[str, Any]:
    """What a checkpoint has kept, read without the code that is under test; empty where torch cannot read it."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)["state"]
    except Exception:
        return {}  # whatever torch raises where a bit was flipped that no checksum covers


def _finished(folder: Path) -> list[Path]:
    """Entries of the store and distilled data; the weights of students that wait for their test are none."""
    paths = [path for pattern in _FINISHED for path in folder.glob(pattern) if not path.name.startswith(".")]
    return [path for path in paths if path.parts[-3] != "tensors" or not _waits(path)]


def _waits(path: Path) -> bool:
    try:
        return entry.look(path).key.get("kind") == "student"
    except (OSError, ValueError):
        return False
