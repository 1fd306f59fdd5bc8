"""Checking every entry of a store."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

from ddrank.errors import InputError
from ddrank.store import entry
from ddrank.store.lock import gone, holder, lock_of
from ddrank.store.survey import File, Survey, survey, watched

UNFINISHED_SECONDS = 3600.0  # after which a temporary file that nobody has written to was left by a killed job


def verify(root: Path, remove: bool) -> bool:
    """Read all of every entry and print which are corrupt; remove them where asked. Returns whether all are sound."""
    found, corrupt, removed = survey(root), 0, 0
    for file in watched(found.entries, "verifying", lambda file: file.bytes):
        if (problem := problem_of(file)) is None:
            continue
        corrupt += 1
        print(f"corrupt: {file.path} ({problem})")
        if remove and (kept := discard(root, file)) is not None:
            print(f"  kept: {kept}")
        else:
            removed += remove
    for part in found.remains:
        print(f"incomplete: {part.path} (its entry was never finished, or is gone; gc removes it)")
    _report_left(found)
    print(f"{len(found.entries) - corrupt} of {len(found.entries)} entries are sound; {corrupt} corrupt", end="")
    print(f", {removed} of them removed: the next run computes them again" if removed else "")
    return not corrupt


def problem_of(file: File) -> str | None:
    """What is wrong with an entry; None where all of it was read and is sound, or where it is gone."""
    try:
        entry.current(lambda: _check(file))
    except FileNotFoundError as error:
        return None if error.filename == str(file.path) or not file.path.exists() else f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _check(file: File) -> None:
    if file.folder != "downloads/files":
        entry.check(file.path)
    elif entry.sha256_of(file.path) != file.name:
        raise ValueError("its content is not that of its name")


def discard(root: Path, file: File, wanted: bool = False) -> str | None:
    """Remove an entry under its lock, unless it has become sound meanwhile; with `wanted`, a sound one too that no job
    has used since it was surveyed.

    Returns why it was kept, if it was. Raises InputError where it cannot be removed.
    """
    lock = lock_of(root, file.name)
    try:
        if not lock.acquire(wait=False):
            return f"{holder(lock.path)} works on it"
    except InputError as error:
        # On a full disk nobody can lock what is free, and removing it is what helps.
        if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            raise
    try:
        if not wanted and problem_of(file) is None:
            return "it has been computed again meanwhile"
        if wanted and _touched(file) > file.touched:
            return "a job has used it meanwhile"
        suffixes = entry.SUFFIXES if file.folder == "tensors" else (file.path.suffix,)
        for suffix in suffixes:
            file.path.with_suffix(suffix).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{file.path} could not be removed ({error.strerror}): make the store writable") from error
    finally:
        lock.release()
    return None


def _touched(file: File) -> float:
    try:
        return file.path.stat().st_mtime
    except FileNotFoundError:
        return file.touched


def _report_left(found: Survey) -> None:
    stale = Counter(holder(path) for path in found.locks if gone(path))
    for who, count in stale.items():
        print(f"stale locks: {count} of {who} (whoever wants one takes it over; gc removes them)")
    for file in found.unfinished:
        print(f"unfinished: {file.path} (of a job that is writing, or was killed; gc removes it when it is old)")
