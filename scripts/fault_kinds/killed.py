"""Commands that are killed, ended or interrupted, whole or in part, or that lack memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .contents import resumptions
from .jobs import RUN, WORKERS
from .nursery import Child, children, members
from .trial import SUFFERED, Job, Trial, trained

_PATIENCE = 120.0  # seconds for a process to show itself, or to end
_SPARE = 1 << 20  # bytes


def sent(number: signal.Signals, *jobs: Job, under_way: bool = False) -> Callable[[Trial], bool]:
    """One of `jobs` is sent a signal at a random moment, all its processes or its first alone; with `under_way`, at one
    that leaves a checkpoint to go on from."""

    def strike(trial: Trial) -> bool:
        job = trial.random.choice(jobs)
        child = trial.begun(job)
        if child is None:
            return False
        child.signal(number, group=trial.random.random() < 0.5)
        end = child.end()
        if under_way and not resumptions(trial.folder):
            return False
        trial.ended(job, end, allowed=(-number,) if number == signal.SIGKILL else (-number, *SUFFERED))
        trial.completed(job)
        return end.status != 0

    return strike


def without_memory(trial: Trial) -> bool:
    """A run gets no more memory from a random moment on."""
    child = trial.begun(RUN)
    if child is None:
        return False
    most = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * resource.getpagesize() + _SPARE
    resource.prlimit(child.pid, resource.RLIMIT_AS, (most, most))
    child.signal(signal.SIGCONT)
    end = child.end()
    trial.check(RUN, done=end.status == 0)  # it may end in whatever way
    trial.completed(RUN)
    return end.status != 0


def worker_killed(trial: Trial) -> bool:
    """A worker is killed, as the kernel does where memory is short: its student is trained once more."""
    child, workers = _at_work(trial)
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(trial.random.choice(workers), signal.SIGKILL)
    end = child.end()
    trial.ended(WORKERS, end, allowed=(0,))
    if trained(trial.completed(WORKERS).said):
        trial.wrong.append("what was finished was trained again")
    return "trying once more" in end.said


def leader_killed(trial: Trial) -> bool:
    """A run is killed that has workers: they end too, and the next run goes on where they were."""
    child, workers = _at_work(trial)
    if not workers or not child.alive:
        return False
    child.signal(signal.SIGKILL, group=False)
    end = child.end()
    deadline = time.monotonic() + _PATIENCE
    while members(child.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if outlived := members(child.pid):
        trial.wrong.append(f"{len(outlived)} of its processes outlived it")
    trial.ended(WORKERS, end, allowed=(-signal.SIGKILL,))
    trial.completed(WORKERS)
    return True


def _at_work(trial: Trial) -> tuple[Child, list[int]]:
    """A run with workers a random time after it has started some, and those; none where it ends before."""
    trial.undisturbed(WORKERS)
    child, workers = trial.nursery.start(WORKERS.command, WORKERS.arguments, trial.folder), []
    deadline = time.monotonic() + _PATIENCE
    while not workers and time.monotonic() < deadline and child.alive:
        time.sleep(0.02)
        workers = [pid for server in children(child.pid) for pid in children(server)]
    time.sleep(trial.random.uniform(0, 1))
    trial.note_whole()
    return child, workers
