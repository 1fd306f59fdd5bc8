"""Removing what nobody needs any more from a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.collect import find
from ddrank.leaderboard.configuration import printable
from ddrank.result import Result
from ddrank.store.listing import row, size
from ddrank.store.lock import FOLDER, clear, clock, gone, holder
from ddrank.store.survey import Entry, File, Selection, Survey, selected, survey
from ddrank.store.verification import UNFINISHED_SECONDS, discard
from ddrank.wording import counted

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
    result below these folders rests on go as well; with `older_than` (seconds), those that nobody has used for so long;
    with both, those for which both is so. The results of runs at work are yet to come, so that entries that no result
    rests on are kept for a day where `older_than` does not say otherwise. Ages are by the clock of the store's file
    system. Of entries, only those in `selection` go, and none that a job has locked.
    """
    found = survey(root)
    used = referred(runs) if runs else None
    locked = {path.stem for path in found.locks if not gone(path)}
    if runs and older_than is None:
        older_than = _DAY
    made = {file.name for file in found.entries if file.folder in ("measurements", "tensors")}
    versions, now, garbage = current_versions(), clock(found.root / FOLDER), []
    for one in selected(found.entries, selection, "reading entries"):
        reason = _superseded(one, versions) or _finished(one, made) or _unwanted(one, used, older_than, now)
        if reason and one.file.name not in locked:
            garbage.append(Garbage(one.file, _named(one), reason))
    left = [file for file in found.unfinished if now - file.touched > UNFINISHED_SECONDS]
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
    from ddrank.data.distilled import FILE, precision_of, read_metadata

    path = folder / FILE
    try:
        metadata = read_metadata(path)
    except InputError:
        return None
    metadata |= {"precision": precision_of(metadata)}
    made = one.key and all(metadata.get(name) == value for name, value in one.key.items())
    return f"{path} has been made" if made else None


def _unwanted(one: Entry, used: Collection[str] | None, older_than: float | None, now: float) -> str | None:
    if one.kind in ("unreadable", "download") or (used is None and older_than is None):
        return None
    reasons = []
    if used is not None:
        if one.file.name in used or one.kind not in _USED_BY_RESULTS:
            return None
        reasons.append("no result rests on it")
    if older_than is not None:
        if now - one.file.touched <= older_than:
            return None
        reasons.append(f"unused for {(now - one.file.touched) / _DAY:.1f} days")
    return ", ".join(reasons)


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
    counts = {"entry": garbage, "incomplete entry": remains, "unfinished file": left, "stale lock": locks}
    print(f"{', '.join(counted(len(those), name) for name, those in counts.items())}: {size(freed)}")


def _remove(found: Survey, garbage: list[Garbage], files: list[File], locks: list[Path]) -> None:
    kept: Counter[str] = Counter()
    for one in garbage:
        if (why := discard(found.root, one.file, wanted=True)) is not None:
            kept[why] += 1
    for path in locks:
        if not clear(path):
            kept[f"{holder(path)} works on it"] += 1
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{file.path} could not be removed ({error.strerror}): make the store writable") from error
    for why, count in kept.items():
        print(f"{count} kept: {why}")
    print("all else was removed" if kept else "removed")
