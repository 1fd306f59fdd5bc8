"""Faults of the store by itself: its operations are killed, its locks left behind, its keys wanted by several."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ddrank.store.archive import take_in
from ddrank.store.entry import digest
from ddrank.store.lock import FOLDER, SILENCE, lock_of

from .contents import entries, entry_files
from .nursery import Child
from .operations import COUNT, tensor_key, value_key
from .trial import Job, Trial, trained

_COMMAND = "ddrank.store.__main__:main"
COMPUTED = Job("entries", "fault_kinds.operations:compute", ())
FILLED = Job("store", "fault_kinds.operations:fill", ())
COLLECTED = Job("gc", _COMMAND, ("gc", "--remove"), after=FILLED)
EXPORTED = Job("export", _COMMAND, ("export", "entries.tar"), after=FILLED)
IMPORTED = Job("import", _COMMAND, ("import", f"../{EXPORTED.name}/entries.tar"))
_PATIENCE = 60.0  # seconds until processes must be waiting for a lock
_SOON = 1.5  # seconds until a silent holder counts as gone


def exporting_killed(trial: Trial) -> bool:
    """An export is killed: there is no archive then, or a whole one."""
    if not trial.killed(EXPORTED):
        return False
    trial.check(EXPORTED)
    archive = trial.folder / "entries.tar"
    if archive.exists():
        _import(trial, archive)
        archive.unlink()
    trial.completed(EXPORTED)
    _import(trial, archive)
    return True


def importing_killed(trial: Trial) -> bool:
    """An import is killed: each entry is there as it was exported, or not at all."""
    trial.undisturbed(EXPORTED)
    if not trial.killed(IMPORTED):
        return False
    trial.check(IMPORTED)
    trial.completed(IMPORTED)
    if entries(trial.folder) != trial.undisturbed(FILLED).entries:
        trial.wrong.append("what was imported is not what was exported")
    return True


def _import(trial: Trial, archive: Path) -> None:
    """All entries are in an archive."""
    folder = trial.folder / f"imported-{secrets.token_hex(4)}"
    folder.mkdir()
    with contextlib.redirect_stdout(None):
        whole = take_in(folder / "store", archive)
    if not whole or entries(folder) != trial.undisturbed(FILLED).entries:
        trial.wrong.append("the archive lacks entries")


def wanted_by(count: int, job: Job) -> Callable[[Trial], bool]:
    """`count` processes do the same job on one store at once; the first has some of it left when the others begin."""

    def strike(trial: Trial) -> bool:
        undisturbed = trial.undisturbed(job)
        first = trial.begun(job)
        if first is None or not undisturbed.entries.keys() - entries(trial.folder).keys():
            return False
        others = _more(trial, job, count - 1)
        first.signal(signal.SIGCONT)
        ends = [child.end() for child in (first, *others)]
        trial.ended(job, *ends, allowed=(0,))
        done = sum(trained(end.said) for end in ends), trained(undisturbed.end.said)
        if done[0] != done[1]:
            trial.wrong.append(f"trained {done[0]} students in all, not {done[1]}")
        trial.completed(job)
        return True

    return strike


def holder_killed(trial: Trial) -> bool:
    """Of three processes that want the same entries the one is killed that has a lock, once the others wait for it."""
    locks = trial.folder / "store" / FOLDER
    first = trial.begun(COMPUTED)
    if first is None or not (held := _held(locks, first.pid)):
        return False
    others = _more(trial, COMPUTED, 2)
    deadline, waiting = time.monotonic() + _PATIENCE, False
    while not waiting and time.monotonic() < deadline and all(child.alive for child in others):
        time.sleep(0.02)
        waiting = all(child.sleeps() for child in others) and {path.stem for path in locks.glob("*.lock")} == held
    first.signal(signal.SIGKILL)
    first.end()
    ends = [child.end() for child in others]
    trial.ended(COMPUTED, *ends, allowed=(0,))
    counts = Counter(line for end in ends for line in end.said.splitlines() if line.startswith("computed "))
    trial.wrong += [f"{what}, {times} times" for what, times in counts.items() if times > 1]
    trial.completed(COMPUTED)
    return waiting


def _more(trial: Trial, job: Job, count: int) -> list[Child]:
    return [trial.nursery.start(job.command, job.arguments, trial.folder) for _ in range(count)]


def _held(locks: Path, pid: int) -> set[str]:
    """The digests of the entries that a process has locked, and not kept yet."""
    held = set()
    for path in locks.glob("*.lock"):
        with contextlib.suppress(ValueError):  # it is being written
            if json.loads(path.read_bytes())["process"] == pid:
                held.add(path.stem)
    return held - {file.name for file in entry_files(locks.parents[1])}


def locks_left(trial: Trial) -> bool:
    """Locks of holders that are gone: of another machine, silent; half-written; of a process whose number lives on."""
    root = trial.folder / "store"
    root.joinpath(FOLDER).mkdir(parents=True)
    for number in trial.random.sample(range(COUNT), 4):
        lock = lock_of(root, digest(trial.random.choice((value_key, tensor_key))(number)))
        with lock:
            record = json.loads(lock.path.read_bytes())
        holder, silent = trial.random.choice((({"machine": "another"}, SILENCE), ({"started": "1"}, 0.0), (None, 10.0)))
        text = json.dumps(record | (holder or {}))
        lock.path.write_text(text if holder else text[: trial.random.randrange(len(text))])
        last = time.time() - silent + (_SOON if silent else 0)
        os.utime(lock.path, (last, last))
    trial.completed(COMPUTED)
    trial.wrong += [f"{path.name} is still there" for path in root.joinpath(FOLDER).iterdir()]
    return True
