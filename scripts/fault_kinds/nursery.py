"""Real processes of ddrank's commands, at the price of a fork.

A server process imports everything once. For each command it forks a child, which leads a session of its own and calls
the command's `main` as `python -m` would. A child can be paused at a moment that is chosen beforehand, after so much
processor time or before so many operations on files: what is done to it, or to its files, then hits it exactly there,
on a busy machine as on an idle one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_IMPORTED = (
    "ddrank.run", "ddrank.evaluation", "ddrank.table", "ddrank.distill.__main__", "ddrank.distill.select",
    "ddrank.distill.dm", "ddrank.store.__main__", "ddrank.store.archive", "ddrank.store.garbage",
    "ddrank.leaderboard.__main__", "ddrank.leaderboard.sweep", "ddrank.data.digits", "ddrank.models",
    "ddrank.criteria", "sklearn.datasets", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image",
    "safetensors.torch",
)  # fmt: skip
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.utime", "os.chmod"}
_UNKNOWN = 255  # the status of a child of which the system does not tell it
_LOOK = 0.002  # seconds between two looks at a child
_LOOKS = 20  # after which a child that was asleep at all of them waits for something


@dataclass(frozen=True)
class Moment:
    """A moment of a process's life: after `seconds` of its processor time, or before its `operation`-th operation on
    files below its folder, counted from 1."""

    seconds: float | None = None
    operation: int | None = None


@dataclass(frozen=True)
class End:
    """How a process ended: its status (negative: killed by that signal), what it printed, the processor time that it
    took (seconds), and how many operations on files it had begun."""

    status: int
    said: str
    seconds: float
    operations: int


class Nursery:
    """The server. Started by the first child; `close` ends it and all children."""

    def __init__(self, logs: Path):
        self._logs, self._count = logs, 0
        self._server: subprocess.Popen | None = None
        self._children: list[Child] = []

    def start(self, command: str, arguments: Sequence[str], folder: Path, moment: Moment | None = None) -> Child:
        """Begin `command` (`module:function`, which reads sys.argv) in `folder`, to be paused at `moment`."""
        self._count += 1
        log = self._logs / f"{self._count}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        pid = self.ask(
            start=command,
            arguments=list(arguments),
            folder=str(folder),
            log=str(log),
            operation=moment and moment.operation,
        )
        child = Child(self, pid, log, moment)
        self._children.append(child)
        return child

    def ask(self, **request: Any) -> Any:
        """What the server answers."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def clear(self) -> None:
        """End the children that have not ended."""
        for child in self._children:
            child.kill_all()
        self._children.clear()

    def close(self) -> None:
        self.clear()
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait()


class Child:
    """A process of the nursery, leader of a session."""

    def __init__(self, nursery: Nursery, pid: int, log: Path, moment: Moment | None):
        self.pid = pid
        self._nursery, self._log, self._moment, self._end = nursery, log, moment, None

    def paused(self) -> bool:
        """Wait for its moment; false where it has ended before."""
        clock = (~self.pid << 3) | 2  # that of a process's time, as clock_getcpuclockid has it
        while (state := _state(self.pid)) not in ("Z", "T"):
            if self._moment.seconds is not None:
                with contextlib.suppress(OSError):
                    if time.clock_gettime(clock) >= self._moment.seconds:
                        os.killpg(self.pid, signal.SIGSTOP)
            time.sleep(_LOOK)
        return state == "T"

    def signal(self, number: int, group: bool = True) -> None:
        """Send a signal, and have it go on where it is paused."""
        (os.killpg if group else os.kill)(self.pid, number)
        if number != signal.SIGKILL:
            os.killpg(self.pid, signal.SIGCONT)

    def end(self, patience: float = 600.0) -> End:
        """Wait for its end, `patience` seconds at most."""
        deadline = time.monotonic() + patience
        while self._end is None and _state(self.pid) != "Z":
            if time.monotonic() > deadline:
                self.kill_all()
            time.sleep(_LOOK)
        if self._end is None:
            answer, said = self._nursery.ask(end=self.pid), self._log.read_text(errors="replace")
            if isinstance(answer, str):
                self._end = End(_UNKNOWN, said, 0.0, 0)
                raise RuntimeError(f"nobody knows how process {self.pid} has ended ({answer}); it said: {said[-300:]}")
            self._end = End(answer[0], said, *answer[1:])
        return self._end

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return _state(self.pid) != "Z"

    def sleeps(self) -> bool:
        """Whether it has nothing to do just now but to wait, at several looks."""
        for _ in range(_LOOKS):
            if _state(self.pid) != "S":
                return False
            time.sleep(_LOOK)
        return True

    def kill_all(self) -> None:
        """End it, if it has not ended, and all that it started."""
        for pid in members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._end is None:
            self.end()


def members(session: int) -> list[int]:
    """The living processes of a session."""
    return [pid for pid, fields in _processes() if int(fields[3]) == session and fields[0] not in "ZX"]


def children(parent: int) -> list[int]:
    """The living processes that a process has started."""
    return [pid for pid, fields in _processes() if int(fields[1]) == parent and fields[0] not in "ZX"]


def _processes() -> Iterator[tuple[int, list[str]]]:
    """All processes, each with what its `stat` says from its state on."""
    for found in os.listdir("/proc"):
        if found.isdigit() and (fields := _stat(int(found))):
            yield int(found), fields


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return (_stat(pid) or ["Z"])[0]


def _serve() -> None:
    """Answer requests, a line each, until there are no more."""
    for name in _IMPORTED:
        importlib.import_module(name)
    importlib.import_module("ddrank.checkpoint").WRITING_SHARE = 0  # short students keep checkpoints on the way, too
    gc.freeze()  # what is shared with the children stays shared
    counts: dict[int, int] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reading)
                _live(request, writing)
            os.close(writing)
            counts[pid] = reading
            answer: Any = pid
        else:
            pid = request["end"]
            try:
                _, status, used = os.wait4(pid, 0)
            except ChildProcessError as error:
                answer = str(error)
            else:
                with open(counts.pop(pid), "rb") as count:
                    operations = len(count.read())
                answer = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, operations
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _live(request: dict[str, Any], counter: int) -> NoReturn:
    """A child's life."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(request["folder"])
    _count_operations(request["folder"], request["operation"], counter)
    module, _, function = request["start"].partition(":")
    sys.argv = [module, *request["arguments"]]
    try:
        status = getattr(importlib.import_module(module), function)()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
        status = 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status or 0)  # the frozen part of memory is left alone


def _count_operations(folder: str, pause_at: int | None, counter: int) -> None:
    """Count the operations on files below `folder`, a byte in a pipe each; pause before that of number `pause_at`."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(folder + os.sep):
            count += 1
            os.write(counter, b".")
            if count == pause_at:
                os.killpg(0, signal.SIGSTOP)

    sys.addaudithook(hook)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _serve()
    os._exit(0)
