"""Students side by side: worker processes, each fitting one student at a time.

The workers are forked from a server process (multiprocessing's `forkserver`) that has imported what a fit needs while
the evaluation was still reading its data. Assignments come to them through a pipe, large samples through memory that
all of them map, and outcomes go back through the pipe; what they keep saves time, and decides nothing. This module
imports torch only where a process needs it.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, forkserver, reduction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from ddrank import build
from ddrank.errors import EngineWarning, InputError, StoreWarning

if TYPE_CHECKING:
    from ddrank.data.samples import Samples
    from ddrank.engine import Engine
    from ddrank.fit import Assignment

_SHARED_BYTES = 1 << 20  # samples from this size on are mapped by the workers, not copied
_SHARED_FILES = 64
_IDLE = 1.0  # seconds without work after which a worker gives its memory back
_TICK = 0.2  # seconds between a worker's reports of progress
_PATIENCE = 5.0  # seconds for a dead process to be buried
SHARE = "DDRANK_CORES"  # in the environment: how many cores this process may use, of those it could


@dataclass(frozen=True)
class Message:
    """What a worker reports about the assignment it was given with `ticket`: `kind` is

    `advance` (content: epochs since the last report), `resumed` (the epoch in which it goes on), `done` (its Outcome),
    `said` (a sentence for people), `lost` (the worker died; content: how), `refused` (an InputError's sentence) or
    `failed` (a traceback).
    """

    ticket: Hashable
    kind: str
    content: Any


def prepare(workers: int | str) -> None:
    """Start the server that workers are forked from, where there will be any: it imports what they need meanwhile."""
    if possible() and (cores() > 1 if workers == "auto" else workers > 1):
        multiprocessing.get_context("forkserver").set_forkserver_preload(["ddrank.fit", "ddrank.teacher"])
        # Inherited: an interrupt is for the evaluation, and its end that of the workers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def script_hidden() -> Iterator[None]:
    """Start processes without having them run the user's script again, as multiprocessing would where it has no
    `if __name__ == "__main__"`."""
    main = sys.modules["__main__"]
    before = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update({"__spec__": None} | before)


def end_at_once(status: int) -> NoReturn:
    """End this process and those that it has started, whatever they are doing."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def possible() -> bool:
    """Whether this process can have workers: where the system has fork servers, and this is no worker itself."""
    return "forkserver" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def cores() -> int:
    """The cores that this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if share := os.environ.get(SHARE):
        available = min(available, int(share))
    try:  # a container's share
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(available, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return available


def ending(code: int | None) -> str:
    """How a process with this exit code has ended."""
    with contextlib.suppress(ValueError):
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


class Crew:
    """Up to `most` workers, started when there is work for them, kept until `close`."""

    def __init__(self, engine: Engine, most: int):
        prepare(most)
        self._engine, self._most = engine, most
        self._idle: list[_Worker] = []
        self._busy: dict[Hashable, _Worker] = {}
        self._shared: dict[str, _Shared] = {}

    @property
    def busy(self) -> int:
        """How many assignments are in work."""
        return len(self._busy)

    @property
    def free(self) -> bool:
        """Whether another assignment can be started."""
        return len(self._busy) < self._most

    def start(self, ticket: Hashable, assignment: Assignment, work: Callable[..., Any] | None = None) -> None:
        """Give `assignment` to a free worker, to be fitted and tested; or for `work`, a function like `fit.run`."""
        worker = self._idle.pop() if self._idle else _Worker(self._engine)
        self._busy[ticket] = worker
        with contextlib.suppress(ConnectionError):  # it died while it had nothing to do: `wait` finds out
            worker.give(assignment, work, self._share)

    def wait(self, timeout: float | None = None) -> list[Message]:
        """What the workers report, as soon as one does or after `timeout` seconds."""
        tickets = {worker.connection: ticket for ticket, worker in self._busy.items()}
        messages = []
        for channel in connection.wait(list(tickets), timeout):
            ticket = tickets[channel]
            worker = self._busy[ticket]
            try:
                kind, content = pickle.loads(channel.recv_bytes())
            except (EOFError, OSError):
                kind, content = "lost", worker.epitaph()
                del self._busy[ticket]
            if kind in ("done", "refused", "failed"):
                self._idle.append(self._busy.pop(ticket))
            messages.append(Message(ticket, kind, content))
        return messages

    def rest(self) -> None:
        """Drop the assignments in work, if there are any, and all shared samples; the other workers stay."""
        for worker in self._busy.values():
            worker.kill()
        self._busy.clear()
        for worker in self._idle:
            with contextlib.suppress(ConnectionError):
                worker.forget()
        self._shared.clear()

    def close(self) -> None:
        """End all workers."""
        self.rest()
        for worker in self._idle:
            worker.kill()
        self._idle.clear()

    def _share(self, samples: Samples) -> _Shared:
        shared = self._shared.pop(samples.fingerprint, None) or _Shared(samples)
        self._shared[samples.fingerprint] = shared  # the latest last
        if len(self._shared) > _SHARED_FILES:
            del self._shared[next(iter(self._shared))]
        return shared


class _Worker:
    """One worker process, seen from outside."""

    def __init__(self, engine: Engine):
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, engine), daemon=True)
        with script_hidden():
            self.process.start()
        theirs.close()
        self._knows: set[str] = set()

    def give(
        self, assignment: Assignment, work: Callable[..., Any] | None, share: Callable[[Samples], _Shared]
    ) -> None:
        content, parts = packed(assignment, work)
        if len(self._knows) > _SHARED_FILES:
            self.forget()
        for name, part in parts.items():
            if name in self._knows:
                continue
            if name.startswith("teachers"):
                self._send("teachers", (name, saved(part)))
            else:
                shared = share(part)
                self._send("samples", (name, shared.header))
                reduction.send_handle(self.connection, shared.file.fileno(), self.process.pid)
            self._knows.add(name)
        self._send("assignment", content)

    def forget(self) -> None:
        """Have it drop the samples and teachers that it keeps."""
        self._send("forget", None)
        self._knows.clear()

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()

    def epitaph(self) -> str:
        """How a worker whose end of the channel is closed has ended."""
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        self.kill()
        return ending(code)

    def _send(self, kind: str, content: Any) -> None:
        self.connection.send_bytes(pickle.dumps((kind, content)))


class _Shared:
    """Samples in memory that other processes can map."""

    def __init__(self, samples: Samples):
        from ddrank.data.samples import chunks

        self.file: BinaryIO = _anonymous_file()
        tensors = []
        for tensor in (samples.images, samples.labels, samples.soft):
            if tensor is not None:
                self.file.seek(-(-self.file.tell() // 64) * 64)
                tensors.append((self.file.tell(), tensor.dtype, tuple(tensor.shape)))
                for chunk in chunks(tensor):
                    self.file.write(chunk)
        self.file.flush()
        self.header = (tensors, samples.mean, samples.std, samples.views)


def _mapped(descriptor: int, header: tuple) -> Samples:
    """The samples behind a file descriptor, without copying them."""
    import torch

    from ddrank.data.samples import Samples

    tensors, *rest = header
    memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    os.close(descriptor)
    views = []
    for offset, dtype, shape in tensors:
        count = int(torch.Size(shape).numel())
        views.append(torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape))
    images, labels, *soft = views
    return Samples(images, labels, soft[0] if soft else None, *rest)


def _anonymous_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ddrank"), "w+b")
    return tempfile.TemporaryFile()


def packed(assignment: Assignment, work: Callable[..., Any] | None = None) -> tuple[bytes, dict[str, Any]]:
    """An assignment and what is to be done with it as bytes, and by name what it refers to that workers keep from one
    to the next."""
    from ddrank.data.samples import Samples
    from ddrank.teacher import Teachers

    parts: dict[str, Any] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> str | None:
            if isinstance(part, Samples) and part.nbytes >= _SHARED_BYTES:
                name = f"samples {part.fingerprint}"
            elif isinstance(part, Teachers):
                name = f"teachers {part.fingerprint}"
            else:
                return None
            parts[name] = part
            return name

    content = io.BytesIO()
    Pickler(content).dump((assignment, work, build.codes([assignment.model, assignment.criterion, assignment.aug])))
    return content.getvalue(), parts


def saved(part: Any) -> bytes:
    """Samples or teachers as bytes, for torch.load."""
    import torch

    content = io.BytesIO()
    torch.save(part, content)
    return content.getvalue()


def _work(channel: connection.Connection, engine: Engine) -> None:
    """A worker's life: one assignment after the other, until the other end of the channel is closed."""
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()
    import torch

    from ddrank.fit import run

    def send(kind: str, content: Any) -> None:
        try:
            channel.send_bytes(pickle.dumps((kind, content)))
        except OSError:
            os._exit(0)  # nobody is there any more

    _report_warnings(send)
    torch.set_num_threads(1)
    engine.settle()
    parts: dict[str, Any] = {}
    while True:
        if not channel.poll(_IDLE):
            engine.trim()
        try:
            kind, content = pickle.loads(channel.recv_bytes())
        except (EOFError, OSError):
            return
        if kind == "forget":
            parts.clear()
        elif kind == "samples":
            name, header = content
            parts[name] = _mapped(reduction.recv_handle(channel), header)
        elif kind == "teachers":
            name, saved = content
            parts[name] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=False)
        else:
            try:
                assignment, work = unpacked(content, parts)
                send("done", (work or run)(assignment, engine, _Ticker(send), partial(send, "resumed")))
            except InputError as error:
                send("refused", str(error))
            except Exception:
                send("failed", traceback.format_exc())


def _follow(evaluation: Any) -> None:
    """End with the process that this one works for, in the middle of a training if need be."""
    connection.wait([evaluation.sentinel])
    os._exit(0)


def unpacked(content: bytes, parts: dict[str, Any]) -> tuple[Assignment, Callable[..., Any] | None]:
    """What `packed` made bytes of, with the parts that it refers to.

    Raises InputError where this process has other code of a component than the one that packed it.
    """

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: str) -> Any:
            return parts[name]

    assignment, work, codes = Unpickler(io.BytesIO(content)).load()
    build.check_codes(codes)
    return assignment, work


class _Ticker:
    """Reports epochs, not each of them."""

    def __init__(self, send: Callable[[str, Any], None]):
        self._send, self._epochs, self._last = send, 0, 0.0

    def __call__(self, note: str = "") -> None:
        self._epochs += 1
        if (now := time.monotonic()) - self._last >= _TICK:
            self._send("advance", self._epochs)
            self._epochs, self._last = 0, now


def _report_warnings(send: Callable[[str, Any], None]) -> None:
    show = warnings.showwarning

    def report(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, EngineWarning | StoreWarning):
            send("said", str(message))
        else:
            show(message, category, *rest, **more)

    warnings.showwarning = report
