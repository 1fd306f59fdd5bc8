"""One fault: a small job in a folder of its own, what is whole when it is struck, and what must hold afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ddrank.store.lock import FOLDER
from ddrank.store.verification import problem_of

from .contents import Made, entries, entry_files, half_pictures, left_behind, results, resumptions, whole
from .nursery import Child, End, Moment, Nursery

SUFFERED = (0, 2, 130, 143)  # the statuses with which a command may end that something happened to


@dataclass(frozen=True)
class Job:
    """A command that is disturbed, and with the same arguments completed; `after` another one has been done."""

    name: str
    command: str
    arguments: tuple[str, ...]
    after: Job | None = None


@dataclass(frozen=True)
class Undisturbed:
    """What a job leaves and takes that nothing happens to: what a job leaves is compared with it."""

    folder: Path
    entries: dict[str, Any]
    results: dict[str, Made]
    end: End


@dataclass
class Trial:
    """One fault. `folder` is where its job works, `aside` where undisturbed ones do.

    A kind begins a job, does to it what it is about, and calls `ended` and `completed`; what was lost, is wrong or was
    not completed is noted here.
    """

    folder: Path
    random: Random
    nursery: Nursery
    known: dict[str, Undisturbed]
    aside: Path
    hit: bool = False
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    _whole: dict[str, str] = field(default_factory=dict)

    def undisturbed(self, job: Job) -> Undisturbed:
        """What `job` comes to where nothing happens."""
        if job.name not in self.known:
            folder = self.aside / job.name
            folder.mkdir(parents=True)
            self._do_before(job, folder)
            end = self.nursery.start(job.command, job.arguments, folder).end()
            if end.status:
                raise RuntimeError(f"{job.name} fails undisturbed, with status {end.status}:\n{end.said}")
            made = {one.key: one for one in results(folder)[0]}
            self.known[job.name] = Undisturbed(folder, entries(folder), made, end)
        return self.known[job.name]

    def a_moment(self, job: Job) -> Moment:
        """One of the moments of `job`: of its processor time, or before one of its operations on files."""
        end = self.undisturbed(job).end
        if self.random.random() < 0.5:
            return Moment(seconds=self.random.uniform(0, end.seconds))
        return Moment(operation=self.random.randint(1, end.operations))

    def begun(self, job: Job) -> Child | None:
        """`job`, paused at a random moment, and what is whole at that moment noted; None where it had ended before."""
        moment = self.a_moment(job)
        self._do_before(job, self.folder)
        child = self.nursery.start(job.command, job.arguments, self.folder, moment)
        if not child.paused():
            child.end()
            return None
        self.note_whole()
        return child

    def killed(self, job: Job) -> bool:
        """Kill `job` at a random moment; whether it had not ended before."""
        child = self.begun(job)
        if child is None:
            return False
        child.signal(signal.SIGKILL)
        return child.end().status == -signal.SIGKILL

    def _do_before(self, job: Job, folder: Path) -> None:
        if job.after is not None:
            shutil.copytree(self.undisturbed(job.after).folder, folder, dirs_exist_ok=True)

    def finished_before(self, job: Job) -> Undisturbed:
        """Put what `job` leaves undisturbed into this trial's folder."""
        undisturbed = self.undisturbed(job)
        shutil.copytree(undisturbed.folder, self.folder, dirs_exist_ok=True)
        self.note_whole()
        return undisturbed

    def note_whole(self) -> None:
        """Note what is there and must stay as it is."""
        self._whole |= whole(self.folder)

    def forget(self, path: Path) -> None:
        """`path` is what the fault itself has spoilt."""
        self._whole.pop(str(path.relative_to(self.folder)), None)

    def ended(self, job: Job, *ends: End, allowed: Sequence[int] = SUFFERED) -> None:
        """The processes of the disturbed `job` have come to `ends`: with statuses that are `allowed`, without a
        traceback; and where one says 0, all that it should have made is there before anything is done again."""
        for end in ends:
            if end.status not in allowed or "Traceback" in end.said:
                self.wrong.append(f"it ended with status {end.status}, and said: {tail(end.said)}")
        self.check(job, done=sum(end.status == 0 for end in ends))

    def check(self, job: Job | None = None, corrupt: Sequence[Path] = (), done: int = 0) -> None:
        """What was whole is there, and all that is there is right, but for the entries that the fault has made
        `corrupt`: those, and no others, are found. And what `job` makes is there, if it was `done`; results that often.
        """
        now = whole(self.folder)
        for name, content in self._whole.items():
            if name not in now and job is not None and job.after and name not in self.undisturbed(job).entries:
                continue  # what the job is there to remove
            if name not in now:
                self.lost.append(name)
            elif now[name] != content:
                self.lost.append(f"{name} (its content is another)")
        found = {file.path for file in entry_files(self.folder) if problem_of(file) is not None}
        for path in sorted(found ^ set(corrupt)):
            self.wrong.append(f"{path.relative_to(self.folder)} is {'' if path in found else 'not found '}corrupt")
        self.wrong += [f"{path.relative_to(self.folder)} is half a picture" for path in half_pictures(self.folder)]
        if job is not None:
            self._compare(job, set(corrupt), done)

    def completed(self, job: Job) -> End:
        """Run `job` again, some time later: it goes on where checkpoints are left, and ends with status 0 and with all
        that an undisturbed one leaves."""
        for lock in (self.folder / "store" / FOLDER).glob("*.lock"):
            if not lock.stat().st_size:  # made and not yet written: some seconds later, nobody's
                os.utime(lock, (0, 0))
        due = Counter(resumptions(self.folder))
        end = self.nursery.start(job.command, job.arguments, self.folder).end()
        if end.status:
            self.unfinished.append(f"status {end.status}: {tail(end.said)}")
            return end
        for sentence, times in due.items():
            if end.said.count(sentence) < times:
                self.wrong.append(f"there was a checkpoint, but it never said: {sentence}")
        self.check(job, done=1)
        self.wrong += [f"{path.relative_to(self.folder)} was left behind" for path in left_behind(self.folder)]
        return end

    def _compare(self, job: Job, aside: Set[Path], done: int) -> None:
        """Compare what is there with what the undisturbed `job` has left."""
        undisturbed = self.undisturbed(job)
        before = self.undisturbed(job.after).entries if job.after and not done else {}
        there = entries(self.folder, aside)
        for name, content in there.items():
            if before.get(name) == content:
                continue
            if name not in undisturbed.entries:
                self.wrong.append(f"{name} is none of the undisturbed job's")
            elif undisturbed.entries[name] != content:
                self.wrong.append(f"{name} differs from the undisturbed job's")
        found, wrong = results(self.folder, aside)
        self.wrong += wrong
        for one in found:
            right = undisturbed.results.get(one.key)
            if right is None:
                self.wrong.append(f"the result of {one.key} is none of the undisturbed job's")
            elif one.content != right.content:
                self.wrong.append(f"the result of {one.key} differs: {_difference(one.content, right.content)}")
        if not done:
            return
        if missing := [name for name in undisturbed.entries if name not in there]:
            self.unfinished.append(
                f"{missing[-1]} was not made" + f", nor {len(missing) - 1} more" * (len(missing) > 1)
            )
        for right in undisturbed.results.values():
            times = sum(one.key == right.key and one.pictures >= right.pictures for one in found)
            if times < done:
                self.unfinished.append(
                    f"the result of {right.key} was made {times} times with its pictures, not {done}"
                )


def trained(said: str) -> int:
    """How many students evaluations say that they have trained."""
    return sum(int(count) for count in re.findall(r"trained (\d+) students", said))


def tail(said: str) -> str:
    """The end of what a command said, in a line."""
    return " | ".join(line for line in said.splitlines()[-3:] if line.strip())[-400:]


def _difference(one: Any, other: Any, place: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                return _difference(one.get(name), other.get(name), f"{place}.{name}")
    return f"{place} is {one}, not {other}"[:200]
