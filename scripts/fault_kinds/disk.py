"""Disks that are full, cannot be written or vanish: a tmpfs of a few megabytes, for which one has to be root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from .jobs import DISTILLATION, RUN, STUDENT
from .stores import COMPUTED
from .trial import Job, Trial

_SIZE, _LARGER = "6m", "24m"


@lru_cache(maxsize=1)
def unmountable() -> str:
    """Why no tmpfs can be mounted here; empty where one can."""
    if os.geteuid():
        return "mounting a tmpfs takes root"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True, check=False)
        if tried.returncode:
            return f"a tmpfs cannot be mounted ({tried.stderr.strip()})"
        subprocess.run(["umount", folder], check=True)
    return ""


def full(*jobs: Job) -> Callable[[Trial], bool]:
    """The disk is full from a random moment of one of `jobs` on; then it is made larger."""

    def fill(folder: Path) -> bool:
        with contextlib.suppress(OSError), folder.joinpath("ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        return True

    return _spoilt(fill, f"size={_LARGER}", "No space left", jobs)


def read_only(*jobs: Job) -> Callable[[Trial], bool]:
    """The disk can only be read from a random moment of one of `jobs` on, but where a file is being written then."""
    return _spoilt(lambda folder: _remount(folder, "ro", check=False), "rw", "Read-only", jobs)


def _spoilt(spoil: Callable[[Path], bool], mended: str, said: str, jobs: Sequence[Job]) -> Callable[[Trial], bool]:
    """One of `jobs` works on a disk of its own, which is spoilt at a random moment, where it can be, and `mended` by
    mounting it anew; the job has to have `said` what it suffered from."""

    def strike(trial: Trial) -> bool:
        job = trial.random.choice(jobs)
        trial.undisturbed(job)
        with _mounted(trial.folder):
            child = trial.begun(job)
            if child is None or not spoil(trial.folder):
                return False
            child.signal(signal.SIGCONT)
            end = child.end()
            trial.ended(job, end)
            _remount(trial.folder, mended)
            trial.completed(job)
            return said in end.said

    return strike


def vanished(name: str, *jobs: Job) -> Callable[[Trial], bool]:
    """The folder `name` vanishes at a random moment of one of `jobs` that then fails, or writes into a new one; it is
    put back afterwards."""

    def strike(trial: Trial) -> bool:
        job = trial.random.choice(jobs)
        child = trial.begun(job)
        if child is None:
            return False
        place, away = trial.folder / name, trial.folder.with_name(f"{trial.folder.name}-away")
        if not place.exists():
            child.signal(signal.SIGKILL)
            return False
        place.rename(away)
        child.signal(signal.SIGCONT)
        end = child.end()
        written = any(path.is_file() for path in place.rglob("*"))
        if name == "store" and written:
            trial.wrong.append("something was written into a store of the same name")
        if place.exists():  # a new folder of the runs is none the worse
            shutil.copytree(place, away, dirs_exist_ok=True)
            shutil.rmtree(place)
        away.rename(place)
        trial.ended(job, end)
        trial.completed(job)
        return end.status != 0 or written

    return strike


@contextlib.contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(folder: Path, options: str, check: bool = True) -> bool:
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    return subprocess.run(command, capture_output=True, check=check).returncode == 0


full_in_a_command = full(RUN, STUDENT, DISTILLATION)
full_in_the_store = full(COMPUTED)
read_only_store = read_only(RUN, COMPUTED)
