"""A lock that several machines respect on any file system: a file that only one job can create.

The file names its holder, who touches it as long as it works (a heartbeat). Where the holder is a process of this
machine that has ended, or where the file has not been touched for some minutes, the holder is gone, and whoever wants
the lock takes it over. flock is not used: on some network file systems it holds on one machine only, or nowhere.

A holder that was only slow loses its lock in this way, and two jobs may then compute the same entry. Nothing worse can
happen: entries are written whole, and both are right.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from ddrank.errors import InputError

FOLDER = "locks"  # of a store
BEAT = 20.0  # seconds between two heartbeats
SILENCE = 180.0  # seconds without one after which a holder is gone; a network file system may show it a minute late
_NAMELESS = 10.0  # seconds after which a file that names no holder was left by one that died while writing it
_POLLS = 0.02, 1.0  # seconds between two looks at a lock that is held: at first, and at most


def lock_of(root: Path, name: str) -> Lock:
    """The lock of the entry with the digest `name` in the store `root`: for whoever makes, brings or removes it."""
    return Lock(root / FOLDER / f"{name}.lock")


class Lock:
    """The lock whose file is `path`. Held from `acquire` to `release`, or for the length of a with block."""

    def __init__(self, path: Path):
        self.path = path
        self._record = b""
        self._released = threading.Event()

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock, and say whether that was possible: with `wait`, it is in the end.

        Raises InputError where the file cannot be written.
        """
        pause, most = _POLLS
        while not self._create():
            if gone(self.path):
                clear(self.path)
            elif not wait:
                return False
            else:
                time.sleep(pause)
                pause = min(2 * pause, most)
        self._released.clear()
        threading.Thread(target=self._beat, args=(self._record,), daemon=True).start()
        return True

    def release(self) -> None:
        """Give the lock back, unless it was taken over meanwhile."""
        self._released.set()
        with contextlib.suppress(OSError):
            if self.path.read_bytes() == self._record:
                self.path.unlink()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *exception) -> None:
        self.release()

    def _create(self) -> bool:
        record = json.dumps(_here() | {"since": int(time.time()), "token": secrets.token_hex(8)}).encode()
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            with open(handle, "wb") as file:
                file.write(record)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise _unwritable(self.path, error) from error
        self._record = record
        return True

    def _beat(self, record: bytes) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):
                if self.path.read_bytes() != record:
                    return
                os.utime(self.path)


def clear(path: Path) -> bool:
    """Remove the lock file `path` if its holder is gone, but for what another job has put in its place just now; false
    where there is a holder. Raises InputError where it cannot be removed."""
    aside = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    try:
        seen = path.read_bytes()
        if not gone(path):
            return False
        os.rename(path, aside)
        taken = aside.read_bytes() != seen
        if taken:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        return not taken
    except OSError as error:
        if vanished(error):
            return True
        raise _unwritable(path, error) from error


def gone(path: Path) -> bool:
    """Whether the holder of the lock file `path` is gone; false where there is no such file."""
    try:
        holder = _holder(path)
        if holder is None:
            return _untouched(path, _NAMELESS)
        here = _here()
        if holder["machine"] == here["machine"] and not _alive(holder["process"], holder["started"]):
            return True
        return _untouched(path, SILENCE)
    except OSError as error:
        if vanished(error):
            return False
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable, or remove it") from error


def holder(path: Path) -> str:
    """Who holds the lock file `path`, in words."""
    with contextlib.suppress(OSError):
        if found := _holder(path):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(found["since"]))
            return f"process {found['process']} on {found['host']} since {since}"
    return "a job that has not said its name"


def vanished(error: OSError) -> bool:
    """Whether a file is gone: one that another machine removes while it is read is stale on a network file system."""
    return isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE


def clock(folder: Path) -> float:
    """The time by the clock of the file system of `folder`, seconds since 1970; by this machine's where nothing can be
    written there."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".now-", dir=folder) as probe:
            return os.stat(probe.name).st_mtime
    except OSError:
        return time.time()


def _holder(path: Path) -> dict[str, Any] | None:
    """The content of a lock file, or None where it names no holder."""
    try:
        found = json.loads(path.read_bytes())
        numbers = found["process"], found["since"]
        if all(type(number) is int and 0 < number < 2**40 for number in numbers) and {"machine", "started"} <= {*found}:
            return found | {"host": "".join(c for c in str(found["host"]) if c.isprintable())}
    except (ValueError, TypeError, KeyError):
        pass
    return None


def _untouched(path: Path, seconds: float) -> bool:
    """Whether a file was last touched more than `seconds` ago, by the clock of its file system."""
    touched = path.stat().st_mtime
    return abs(time.time() - touched) > seconds and clock(path.parent) - touched > seconds


def _here() -> dict[str, Any]:
    """What tells this process from all others."""
    return _machine() | {"process": os.getpid(), "started": _started(os.getpid())}


@lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    """This machine, as long as it runs: a container with process numbers of its own is one by itself."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return {"host": platform.node(), "machine": " ".join(parts)}


def _alive(process: int, started: str | None) -> bool:
    """Whether a process of this machine still runs: that number, begun at that time."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another user's
    return started is None or _started(process) in (None, started)  # hidden, as other users' may be: it lives


def _started(process: int) -> str | None:
    """When a process began, in ticks since the machine did; None where the system does not tell, `ended` for a process
    that only waits for its parent to notice its end."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in "ZX" else fields[19]


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} could not be written ({error.strerror or error}): make room, or choose another, writable paths.store"
    )
