"""Removing what nobody needs any more from a store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddrank.errors import InputError
from ddrank.leaderboard.collect import find
from ddrank.leaderboard.configuration import printable
from ddrank.result import Result
from ddrank.store.entry import digest
from ddrank.store.listing import row, size
from ddrank.store.lock import gone, holder
from ddrank.store.survey import Entry, File, Selection, Survey, selected, survey
from ddrank.store.verification import UNFINISHED_SECONDS, discard

_DAY = 86400.0
_USED_BY_RESULTS = ("measurement", "teacher", "zca", "student")  # what the results of runs can refer to


@dataclass(frozen=True)
class Garbage:
    """An entry that can go, and why."""

    file: File
    what: str
    reason: str


def collect(root: Path, selection: Selection, runs: Collection[Path], older_than: float | None, remove: bool) -> None:
    """Print what can go and what that frees; with `remove`, remove it.

    These go in any case: entries of a version that is never asked for any more, checkpoints of what has been finished,
    parts of entries, unfinished files and locks of jobs that are gone. With `runs`, those entries that no
    result below these folders rests on go as well; with `older_than` (seconds), those written longer ago; with both,
    those for which both is so. Runs at work may use what they have found already, so that entries that no result rests
    on are kept for a day where `older_than` does not say otherwise. Of entries, only those in `selection` go, and none
    that a job has locked.
    """
    found = survey(root)
    used = referred(runs) if runs else None
    locked = {path.stem for path in found.locks if not gone(path)}
    if runs and older_than is None:
        older_than = _DAY
    made = {file.name for file in found.entries if file.folder in ("measurements", "tensors")}
    versions, now, garbage = current_versions(), time.time(), []
    for one in selected(found.entries, selection, "reading entries"):
        reason = _superseded(one, versions) or _finished(one, made) or _unwanted(one, used, older_than, now)
        if reason and not _locked(one, locked):
            garbage.append(Garbage(one.file, _named(one), reason))
    left = [file for file in found.unfinished if now - file.written > UNFINISHED_SECONDS]
    locks = [path for path in found.locks if path.stem not in locked]
    _report(garbage, found.remains, left, locks)
    if remove:
        _remove(found, garbage, [*found.remains, *left], locks)
    elif garbage or left or locks or found.remains:
        print("nothing was removed; say --remove to do so")


def referred(runs: Collection[Path]) -> set[str]:
    """The digests of all entries that the results in `runs` rest on.

    Raises InputError for a result that cannot be read or does not say it: what it rests on would be lost.
    """
    files, apart = find(runs)
    if apart:
        raise InputError(apart[0].sentence)
    if not files:
        raise InputError(f"there are no results below {', '.join(map(str, runs))}: give folders that hold some")
    used: set[str] = set()
    for file in files:
        result = Result.load(file)
        if not result.store:
            raise InputError(
                f"{file} does not say which entries of the store it rests on, as earlier versions left it: evaluate it "
                "again, which trains nothing that is still there, or take it out of --runs"
            )
        used.update(result.store)
    return used


def current_versions() -> dict[str, int]:
    """The version in the keys that are asked for now, by the keys' kinds."""
    from ddrank import measure, teacher
    from ddrank.distill import experts, small_diffusion
    from ddrank.doctor import judge

    return {
        "accuracy": measure.VERSION,
        "student": measure.VERSION,
        "teacher": teacher.VERSION,
        "expert": experts.VERSION,
        "autoencoder": small_diffusion.VERSION,
        "latent diffusion": small_diffusion.VERSION,
        "judge": judge.VERSION,
    }


def _superseded(one: Entry, versions: Mapping[str, int]) -> str | None:
    version, current = one.key.get("version"), versions.get(str(one.key.get("kind")))
    if type(version) is int and current is not None and version < current:
        return f"of version {version}; {current} is asked for now"
    return None


def _finished(one: Entry, made: Collection[str]) -> str | None:
    """Whether what a checkpoint is for is there: an entry, one of `made`, or a distilled dataset."""
    if one.kind == "training":
        return "what it was for is in the store" if one.file.name in made else None
    if (folder := _folder(one)) is None:
        return None
    from ddrank.data.distilled import FILE, read_metadata

    path = folder / FILE
    try:
        metadata = read_metadata(path)
    except InputError:
        return None
    wanted: dict[str, Any] = {name: value for name, value in one.about.items() if name != "folder"}
    return f"{path} has been made" if all(metadata.get(name) == value for name, value in wanted.items()) else None


def _unwanted(one: Entry, used: Collection[str] | None, older_than: float | None, now: float) -> str | None:
    if one.kind in ("unreadable", "download") or (used is None and older_than is None):
        return None
    reasons = []
    if used is not None:
        if one.file.name in used or one.kind not in _USED_BY_RESULTS:
            return None
        reasons.append("no result rests on it")
    if older_than is not None:
        if now - one.file.written <= older_than:
            return None
        reasons.append(f"{(now - one.file.written) / _DAY:.1f} days old")
    return ", ".join(reasons)


def _locked(one: Entry, locked: Collection[str]) -> bool:
    """Whether a job works on an entry, or may."""
    if one.kind != "distillation":
        return one.file.name in locked
    if (folder := _folder(one)) is None:
        return bool(locked)
    from ddrank.distill.make import lock_key

    return digest(lock_key(folder)) in locked


def _folder(one: Entry) -> Path | None:
    """Where the distilled dataset goes that a checkpoint is for, if it says so."""
    folder = one.about.get("folder") if one.kind == "distillation" else None
    return Path(folder) if isinstance(folder, str) and folder.isprintable() else None


def _named(one: Entry) -> str:
    told = row(one)
    seed = None if told["seed"] is None else f"seed {told['seed']}"
    return ", ".join(str(part) for part in (one.kind, told["dataset"], told["what"], seed) if part)


def _report(garbage: list[Garbage], remains: list[File], left: list[File], locks: list[Path]) -> None:
    for one in garbage:
        print(printable(f"{one.what} ({one.reason}), {size(one.file.bytes)}: {one.file.path}"))
    for file in remains:
        print(f"incomplete, {size(file.bytes)}: {file.path}")
    for file in left:
        print(f"unfinished, {size(file.bytes)}: {file.path}")
    for who, count in Counter(map(holder, locks)).items():
        print(f"stale locks of {who}: {count}")
    freed = sum(file.bytes for file in (*(one.file for one in garbage), *remains, *left))
    counts = {"entries": len(garbage), "parts of entries": len(remains), "unfinished files": len(left)}
    counts["stale locks"] = len(locks)
    print(f"{', '.join(f'{count} {name}' for name, count in counts.items())}: {size(freed)}")


def _remove(found: Survey, garbage: list[Garbage], files: list[File], locks: list[Path]) -> None:
    kept: Counter[str] = Counter()
    for one in garbage:
        if (why := discard(found.root, one.file, wanted=True)) is not None:
            kept[why] += 1
    for path in [*(file.path for file in files), *locks]:
        if path in locks and not gone(path):
            kept[f"{holder(path)} works on it"] += 1
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path} could not be removed ({error.strerror}): make the store writable") from error
    for why, count in kept.items():
        print(f"{count} kept: {why}")
    print("all else was removed" if kept else "removed")
