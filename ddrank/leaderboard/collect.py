"""Finds result files and submissions, reads them, and merges those that are one configuration with different seeds."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddrank.errors import InputError
from ddrank.leaderboard import submission
from ddrank.leaderboard.about import UNKNOWN, About, together
from ddrank.leaderboard.configuration import configuration
from ddrank.result import Arm, Result

FILE = "result.json"
SUBMISSIONS = "submissions"  # every JSON file in a folder of this name is a submission
NEEDED = ("real_hard", "syn_hard", "syn_any", "rdm_any")  # the arms of DDRS; ARS is left out where its arms are missing

_SUBMISSION = re.compile(r".+-ipc\d+-.+-[0-9a-f]{8}\.json")  # as `submit` names them

_CONFIGURED = {  # where a result's config says what its fields say
    "method": "method.name",
    "dataset": "dataset.name",
    "ipc": "ipc",
    "model": "model.name",
    "aug": "aug.name",
    "criterion": "criterion.name",
    "labels": "method.labels",
    "protocol": "protocol.name",
}


@dataclass(frozen=True)
class Run:
    """One configuration: its result over all seeds, in seed order, the files it came from, and what is known of it."""

    result: Result
    files: tuple[Path, ...]
    about: About = UNKNOWN


@dataclass(frozen=True)
class Apart:
    """Files that cannot be ranked, and one sentence that says why; `others` are ranked files that it may name."""

    files: tuple[Path, ...]
    sentence: str
    others: tuple[Path, ...] = ()


def collect(paths: Iterable[Path | str]) -> tuple[list[Run], list[Apart]]:
    """All runs in the given result files, submissions and folders (at any nesting), and what had to be set apart.

    Raises InputError for a path that does not exist.
    """
    files, apart = find(paths)
    results: list[tuple[Path, Result]] = []
    abouts: dict[Path, About] = {}
    for file in files:
        try:
            result, abouts[file] = load(file)
            results.append((file, result))
        except InputError as error:
            apart.append(Apart((file,), str(error)))
    submitted = {file for file, about in abouts.items() if about != UNKNOWN}
    runs, conflicting = merge(results, submitted)
    runs = [replace(run, about=together([abouts[file] for file in run.files])) for run in runs]
    return runs, apart + conflicting


def find(paths: Iterable[Path | str]) -> tuple[list[Path], list[Apart]]:
    """The given files, whatever their names, and every result.json and submission under the given folders; each once.

    Links to folders are followed. Folders that cannot be listed are set apart. Raises InputError for a path that does
    not exist.
    """
    found: dict[str, Path] = {}
    apart: list[Apart] = []
    for path in map(Path, paths):
        if not os.path.exists(path):
            raise InputError(f"{path} does not exist: give result files or folders that hold some")
        for file in _below(path, apart) if os.path.isdir(path) else [path]:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values()), apart


def load(file: Path) -> tuple[Result, About]:
    """The result in a result file or a submission, and what is told with it. Raises InputError where it cannot be
    read or ranked."""
    if _is_submission(file):
        submitted = submission.read(file)
        result, about = submitted.result, submitted.about
    else:
        result, about = Result.load(file), UNKNOWN
    check_rankable(result, file)
    return result, about


def check_rankable(result: Result, file: Path) -> None:
    """Raise InputError where a result lacks an arm that DDRS needs, or contradicts its configuration."""
    if missing := [name for name in NEEDED if name not in result.arms]:
        raise InputError(f"{file} lacks the arm {missing[0]}, without which there is no DDRS: run the evaluation again")
    for name, key in _CONFIGURED.items():
        configured = _configured(result.config, key)
        if configured not in (None, getattr(result, name)):
            raise InputError(
                f"{file} mixes two evaluations: its {name} is {getattr(result, name)!r}, and {configured!r} in its "
                f"config ({key}); give the file as the evaluation wrote it"
            )


def merge(results: Iterable[tuple[Path, Result]], submitted: Collection[Path] = ()) -> tuple[list[Run], list[Apart]]:
    """One run for each configuration, over the seeds of all its files.

    A seed that occurs twice with the same accuracies counts once; with different ones, its configuration is set apart.
    Of one with submissions that agree, only other files are: another machine may round otherwise. Whatever is not of a
    seed (environment, seconds, config) is the first file's.
    """
    groups: dict[frozenset[tuple[str, str]], list[tuple[Path, Result]]] = {}
    for file, result in results:
        groups.setdefault(frozenset(configuration(result).items()), []).append((file, result))
    runs, apart = [], []
    for group in groups.values():
        kept, conflicting = _without_conflicts(group, submitted)
        if kept:
            runs.append(Run(_merged(kept), tuple(file for file, _ in kept)))
        apart += conflicting
    return runs, apart


def _without_conflicts(
    group: Sequence[tuple[Path, Result]], submitted: Collection[Path]
) -> tuple[list[tuple[Path, Result]], list[Apart]]:
    """The files of one configuration that agree with each other, and what is set apart for that."""
    published = [(file, result) for file, result in group if file in submitted]
    if _conflict(published):
        published = []
    kept, apart = [], []
    for file, result in group:
        if published and (sentence := _conflict([*published, (file, result)])):
            sentence = f"{sentence}: the submission is ranked, and the other left out"
            apart.append(Apart((file,), sentence, tuple(other for other, _ in published)))
        else:
            kept.append((file, result))
    if sentence := _conflict(kept):
        files = tuple(file for file, _ in kept if not published or file not in submitted)
        others = tuple(file for file, _ in published)
        return published, [*apart, Apart(files, f"{sentence}: give only the right one", others)]
    return kept, apart


def _conflict(group: Sequence[tuple[Path, Result]]) -> str | None:
    """Which two files of one configuration first hold different accuracies for a seed."""
    seeds: dict[int, tuple[Path, Result, int]] = {}
    for file, result in group:
        for index, seed in enumerate(result.seeds):
            other_file, other, position = seeds.setdefault(seed, (file, result, index))
            if any(arm.accuracy[index] != other.arms[name].accuracy[position] for name, arm in result.arms.items()):
                return (
                    f"{other_file} and {file} hold different accuracies for seed {seed} of one configuration "
                    f"({result.method}, {result.dataset}, IPC {result.ipc}, {result.model})"
                )
    return None


def _merged(group: Sequence[tuple[Path, Result]]) -> Result:
    """One result over all seeds of files that agree."""
    first = group[0][1]
    seeds: dict[int, tuple[Result, int]] = {}
    for _, result in group:
        for index, seed in enumerate(result.seeds):
            seeds.setdefault(seed, (result, index))
    places = [found for _, found in sorted(seeds.items())]
    arms = {
        name: Arm(
            accuracy=[result.arms[name].accuracy[index] for result, index in places],
            lr=[result.arms[name].lr[index] for result, index in places],
            source=arm.source,
        )
        for name, arm in first.arms.items()
    }
    return replace(first, seeds=sorted(seeds), arms=arms)


def _is_submission(file: Path) -> bool:
    if file.name != FILE and _submitted(file.parent, file.name):
        return True
    try:
        return submission.SCHEMA in file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # Result.load says it
        return False


def _configured(config: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _below(folder: Path, apart: list[Apart]) -> Iterable[Path]:
    def unlisted(error: OSError) -> None:
        sentence = f"the folder {error.filename} cannot be listed ({error.strerror}): make it readable"
        apart.append(Apart((Path(error.filename),), sentence))

    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders.sort()
        yield from (Path(place) / name for name in sorted(files) if name == FILE or _submitted(Path(place), name))


def _submitted(place: Path, name: str) -> bool:
    """Whether a file lies where submissions are kept, or is called like one."""
    kept = place.absolute().name == SUBMISSIONS and name.endswith(".json") and not name.startswith(".")
    return kept or _SUBMISSION.fullmatch(name) is not None
