"""One fault: a small job in a folder of its own, what is whole when it is struck, and what must hold afterwards."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from result_files import comparable, key

from ddrank.errors import InputError
from ddrank.result import Result
from ddrank.store import entry
from ddrank.store.survey import CHECKPOINTS, File, survey
from ddrank.store.verification import problem_of

from .nursery import Child, End, Moment, Nursery

FINISHED = ("store/measurements/*/*.json", "store/tensors/*/*.safetensors", "distilled/**/*.safetensors")
RESULTS = "runs/**/result.json"
_SUFFERED = (-15, -2, 0, 2, 130, 143)  # the ends that a job may come to that was not killed


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
    results: dict[str, dict[str, Any]]
    end: End


@dataclass
class Trial:
    """One fault. `folder` is where its job works, `aside` where undisturbed ones do.

    A kind begins a job, does to it what it is about, and calls `check` and `completed`; what was lost, is wrong or was
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
            self.known[job.name] = Undisturbed(folder, entries(folder), dict(results(folder)[0]), end)
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

    def suffered(self, end: End) -> bool:
        """Whether a job that was not killed has ended because of the fault; note where it did not say why."""
        if end.status not in _SUFFERED or "Traceback" in end.said:
            self.wrong.append(f"it ended with status {end.status}, and said: {_tail(end.said)}")
        return end.status != 0

    def check(self, job: Job | None = None, corrupt: Sequence[Path] = ()) -> None:
        """What was whole is there, and all that is there is right, but for the entries that the fault has made
        `corrupt`: those, and no others, are found."""
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
        for path in self.folder.rglob("*.png"):
            if not path.name.startswith(".") and not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
                self.wrong.append(f"{path.relative_to(self.folder)} is half a picture")
        if job is not None:
            self._compare(job, aside=set(corrupt), complete=False)

    def completed(self, job: Job) -> End:
        """Run `job` again: it ends with status 0 and with all that an undisturbed one leaves."""
        end = self.nursery.start(job.command, job.arguments, self.folder).end()
        if end.status:
            self.unfinished.append(f"status {end.status}: {_tail(end.said)}")
            return end
        self.check(job)
        self._compare(job, aside=set(), complete=True)
        for file in entry_files(self.folder):
            if file.folder in CHECKPOINTS or (file.folder == "tensors" and _waits(file.path)):
                self.wrong.append(f"{file.path.relative_to(self.folder)} was left behind")
        return end

    def _compare(self, job: Job, aside: Set[Path], complete: bool) -> None:
        """Compare what is there with what the undisturbed `job` has left."""
        undisturbed = self.undisturbed(job)
        before = self.undisturbed(job.after).entries if job.after and not complete else {}
        for name, content in entries(self.folder, aside).items():
            if before.get(name) == content:
                continue
            if name not in undisturbed.entries:
                self.wrong.append(f"{name} is none of the undisturbed job's")
            elif undisturbed.entries[name] != content:
                self.wrong.append(f"{name} differs from the undisturbed job's")
        found, wrong = results(self.folder, aside)
        self.wrong += wrong
        for name, result in found:
            if result != undisturbed.results.get(name):
                self.wrong.append(f"the result of {name} differs: {_difference(result, undisturbed.results.get(name))}")
        if complete:
            missing = [*(undisturbed.entries.keys() - entries(self.folder).keys())]
            missing += undisturbed.results.keys() - dict(found).keys()
            self.unfinished += [f"{name} was not made" for name in missing]


def whole(folder: Path) -> dict[str, str]:
    """The finished files in the folder of a job, by name, each with its sha256."""
    paths = [*_finished(folder), *folder.glob(RESULTS)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def entries(folder: Path, aside: Set[Path] = frozenset()) -> dict[str, Any]:
    """What lies in the store and as distilled data in the folder of a job, but for the files `aside`, by name, without
    how long it took."""
    found = {}
    for path in _finished(folder):
        if path in aside:
            continue
        if path.suffix == ".json":
            told = entry.look(path)
            content = told.key, told.about, {name: part for name, part in told.value.items() if name != "seconds"}
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = content
    return found


def _finished(folder: Path) -> list[Path]:
    """Entries of the store and distilled data; the weights of students that wait for their test are none."""
    paths = [path for pattern in FINISHED for path in folder.glob(pattern) if not path.name.startswith(".")]
    return [path for path in paths if path.parts[-3] != "tensors" or not _waits(path)]


def _waits(path: Path) -> bool:
    try:
        return entry.look(path).key.get("kind") == "student"
    except (OSError, ValueError):
        return False


def results(folder: Path, aside: Set[Path] = frozenset()) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """The results in the folder of a job but for the files `aside`, as they are compared, each with its `key`; and what
    is wrong with the files that hold none."""
    found, wrong = [], []
    for path in folder.glob(RESULTS):
        if path in aside:
            continue
        try:
            result = Result.load(path).to_dict()
            found.append((key(result), comparable(result)))
        except InputError as error:
            wrong.append(str(error))
    return found, wrong


def trained(said: str) -> int:
    """How many students evaluations say that they have trained."""
    return sum(int(count) for count in re.findall(r"trained (\d+) students", said))


def entry_files(folder: Path) -> list[File]:
    """The entries of the store in the folder of a job, in the order of their names."""
    root = folder / "store"
    return sorted(survey(root).entries, key=lambda file: file.path) if root.is_dir() else []


def _difference(one: Any, other: Any, place: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                return _difference(one.get(name), other.get(name), f"{place}.{name}")
    return f"{place} is {one}, not {other}"[:200]


def _tail(said: str) -> str:
    return " | ".join(line for line in said.splitlines()[-3:] if line.strip())[-400:]
