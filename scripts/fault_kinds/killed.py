"""Commands that are killed, ended or interrupted, whole or in part, or that lack memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .jobs import RUN, WORKERS
from .nursery import Child, children
from .trial import Job, Trial, trained

_PATIENCE = 120.0  # seconds for a process to show itself
_SPARE = 1 << 20  # bytes


def sent(number: signal.Signals, *jobs: Job) -> Callable[[Trial], bool]:
    """One of `jobs` is sent a signal at a random moment, all its processes or its first alone."""

    def strike(trial: Trial) -> bool:
        job = trial.random.choice(jobs)
        child = trial.begun(job)
        if child is None:
            return False
        child.signal(number, group=trial.random.random() < 0.5)
        end = child.end()
        hit = end.status == -number if number == signal.SIGKILL else trial.suffered(end)
        trial.check(job)
        trial.completed(job)
        return hit

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
    trial.check(RUN)
    trial.completed(RUN)
    return end.status != 0


def worker_killed(trial: Trial) -> bool:
    """A worker is killed, as the kernel does where memory is short: its student is trained once more."""
    trial.undisturbed(WORKERS)
    child = trial.nursery.start(WORKERS.command, WORKERS.arguments, trial.folder)
    workers = _workers(child)
    time.sleep(trial.random.uniform(0, 1))
    trial.note_whole()
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(trial.random.choice(workers), signal.SIGKILL)
    end = child.end()
    if end.status:
        trial.unfinished.append(f"status {end.status} after one worker was lost: {end.said[-300:]}")
    trial.check(WORKERS)
    if trained(trial.completed(WORKERS).said):
        trial.wrong.append("what was finished was trained again")
    return "trying once more" in end.said


def _workers(child: Child) -> list[int]:
    """The workers of a run, as soon as there are any; none where it ends before."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and child.alive:
        for server in children(child.pid):
            if found := children(server):
                return found
        time.sleep(0.02)
    return []
