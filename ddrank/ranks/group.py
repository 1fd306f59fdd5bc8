"""The leader's side: finding its followers, or starting them; giving them assignments; knowing when one is lost."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddrank import crew
from ddrank.errors import InputError, LostError
from ddrank.ranks.channel import Channel, listener
from ddrank.ranks.place import JOIN, LEADER, LOOPBACK, Place, divide_cores, place

if TYPE_CHECKING:
    from ddrank.engine import Engine
    from ddrank.fit import Assignment
    from ddrank.ranks.team import Team

_LEAVE = 30.0  # seconds for those to come that are still being started, before they are told that it is over
_LAST_WORDS = 3.0  # seconds to hear why a collective operation has failed
_GRACE = 30.0  # seconds for one to notice that a rank is gone
_MOST_KNOWN = 16  # large samples and teachers that followers keep
_MEND = "what was finished is in the store and will not be computed again"


@contextmanager
def led() -> Iterator[None]:
    """The block of a command. In a follower it is never entered: that follows, and ends the process. The leader tells
    the others when it is over, whatever has become of it."""
    of_this = place()
    if of_this is not None and of_this.rank:
        from ddrank.ranks.follow import follow

        follow(of_this)
    try:
        yield
    finally:
        if of_this is not None and of_this.ranks > 1 and _group is None:
            with suppress(InputError):  # said already
                _open(of_this)
        _dismiss()


def expect(devices: int, nodes: int) -> None:
    """Check that the processes that were started are those of an engine with `devices` on each of `nodes`; where others
    wait for this one, let them come. Raises InputError."""
    ranks, of_this = devices * nodes, place()
    asked = f"engine.devices={devices}" + (f" x engine.nodes={nodes}" if nodes > 1 else "")
    if of_this is None:
        if nodes > 1:
            raise InputError(
                f"engine.nodes={nodes}, but this process was started alone: start one for each device, with srun or "
                "torchrun (docs/scale.md shows how)"
            )
        if _group is not None and _group.ranks != ranks:
            _dismiss()
        divide_cores(ranks)
        return
    if of_this.ranks != ranks:
        raise InputError(
            f"{of_this.ranks} processes were started, but {asked} is {ranks}: start {ranks}, or give engine.devices "
            "(of each machine) and engine.nodes (machines) as they are; if none were, unset RANK and WORLD_SIZE, or "
            "leave the job step of Slurm"
        )
    if of_this.rank:
        raise InputError(
            f"this is process {of_this.rank} of {ranks}, and has nothing to do here: start `python -m ddrank.run` with "
            f"torchrun or srun, or this program once, with engine.devices={devices}"
        )
    divide_cores(of_this.beside)
    if ranks > 1 and _group is None:
        _open(of_this)


@contextmanager
def together(assignment: Assignment, engine: Engine) -> Iterator[None]:
    """Have the followers do with `assignment` what the leader does in the block; starts them where nobody has. Raises
    InputError or RuntimeError where one of them fails or is lost."""
    if engine.ranks == 1:
        yield
        return
    if _group is None:
        _open(Place(0, engine.ranks, 0, engine.ranks, LOOPBACK, 0), own=True)
    with _group.at_work(assignment, engine):
        yield


_group: _Group | None = None  # of this process


def _open(of_this: Place, own: bool = False) -> None:
    global _group
    try:
        _group = _Group(of_this, own)
    except (RuntimeError, OSError) as error:  # torch's for a port
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the processes cannot meet at {of_this.address}, port {of_this.port} ({reason}): choose another port as "
            "MASTER_PORT"
        ) from error


@atexit.register
def _dismiss() -> None:
    global _group
    if _group is not None:
        _group.dismiss()
        _group = None


class _Group:
    """The ranks of `of_this`; started here, as processes of this machine, if they are the leader's `own`."""

    def __init__(self, of_this: Place, own: bool):
        from ddrank.ranks.team import addresses

        self.ranks, self._own, self._busy, self._over = of_this.ranks, own, False, False
        self._channels: dict[int, Channel] = {}
        self._said: dict[int, dict[str, str]] = {}
        self._gone: list[int] = []
        self._known: set[str] = set()
        self._team: Team | None = None
        self._store, port = addresses(of_this)
        self._place = replace(of_this, port=port)
        self._door = listener(of_this.address)
        self._store.set("leader", str(self._door.getsockname()[1]))
        threading.Thread(target=self._let_in, daemon=True).start()
        self._processes = {rank: self._start(rank) for rank in range(1, self.ranks)} if own else {}

    @contextmanager
    def at_work(self, assignment: Assignment, engine: Engine) -> Iterator[None]:
        """Have the followers work on `assignment`, while the block does."""
        try:
            self._busy = True
            if self._over:
                raise LostError(
                    f"{assignment.name}: the other processes ended with an earlier student: the same command goes on"
                )
            if self._gone:
                raise self._loss(assignment.name)
            if self._team is None:
                self._team = self._gathered(engine.device)
            self._team.told(self._order(assignment, engine))
            yield
        except BaseException as error:
            loss = None
            if isinstance(error, Exception) and not isinstance(error, InputError):
                loss = self._heard_of(assignment.name)
            if loss is None:
                self._tell_over()  # it is no fault of theirs
            self._abandon()
            if loss is None:
                raise
            raise loss from None
        finally:
            self._busy = False

    def dismiss(self) -> None:
        """Tell the followers that it is over."""
        self._over = True
        if not self._own and not self._gone:  # others may be on their way here
            until = time.monotonic() + _LEAVE
            if absent := self.ranks - 1 - len(self._channels):
                print(
                    f"ddrank: {absent} of {self.ranks} processes are not here yet, and are waited for", file=sys.stderr
                )
            while len(self._channels) < self.ranks - 1 and time.monotonic() < until:
                time.sleep(0.02)
        self._tell_over()
        self._abandon()

    def _tell_over(self) -> None:
        self._over = True
        for channel in list(self._channels.values()):
            channel.send(kind="over")

    def _abandon(self) -> None:
        """End all connections, and thereby all followers."""
        global _group
        self._over = True
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits at it
        self._door.close()
        for channel in list(self._channels.values()):
            channel.close()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0 if self._channels else 0.0)
            process.kill()
        from ddrank.ranks.team import leave

        with suppress(RuntimeError):  # with a rank that is gone
            leave()
        if self._own:  # the next student has new ones
            _group = None

    def _start(self, rank: int) -> subprocess.Popen:
        there = replace(self._place, rank=rank, local_rank=rank).environment()
        host, port = self._door.getsockname()[:2]
        paths = os.pathsep.join(path for path in sys.path if path)
        # Inherited: an interrupt is for the leader, and its end that of the followers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "ddrank.ranks.follow"],
                env=os.environ | there | {LEADER: f"{host}:{port}", "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _let_in(self) -> None:
        while True:
            try:
                self._welcome(Channel(self._door.accept()[0]))
            except OSError:  # closed
                return

    def _welcome(self, channel: Channel) -> None:
        rank: int | None = None

        def told(message: dict[str, Any] | None) -> None:
            nonlocal rank
            if rank is None:
                if isinstance((message or {}).get("rank"), int):
                    rank = message["rank"]
                    self._channels[rank] = channel
            elif message is not None:
                self._said[rank] = message
            else:
                self._lose(rank)

        channel.watch(told)

    def _lose(self, rank: int) -> None:
        self._gone.append(rank)
        time.sleep(_GRACE)
        if self._busy and not self._over:  # NCCL waits for ever
            print(f"ddrank: {self._loss('a student')}", file=sys.stderr, flush=True)
            crew.end_at_once(LostError.status)

    def _gathered(self, device: str) -> Team:
        until = time.monotonic() + JOIN
        while len(self._channels) < self.ranks - 1:
            for rank, process in self._processes.items():
                if process.poll() is not None and rank not in self._channels:
                    how = crew.ending(process.returncode)
                    raise InputError(f"rank {rank} of {self.ranks} ended at its start ({how})")
            if time.monotonic() > until:
                raise InputError(
                    f"only {1 + len(self._channels)} of {self.ranks} processes were there after {JOIN:g} seconds: see "
                    "what the others say"
                )
            time.sleep(0.02)
        from ddrank.ranks.team import gather

        self._store.set("device", device)
        return gather(self._place, self._store, device)

    def _order(self, assignment: Assignment, engine: Engine) -> tuple[Engine, bytes, dict[str, bytes], bool]:
        """What followers are told: the assignment, what it refers to and they do not have yet, and whether they are to
        forget what they have."""
        content, parts = crew.packed(assignment)
        if forget := len(self._known | set(parts)) > _MOST_KNOWN:
            self._known.clear()
        new = {name: crew.saved(part) for name, part in parts.items() if name not in self._known}
        self._known.update(new)
        return engine, content, new, forget

    def _heard_of(self, name: str) -> Exception | None:
        """Why a follower was lost, if one was; after giving all of them time to say so."""
        until = time.monotonic() + _LAST_WORDS
        while not self._gone and time.monotonic() < until:
            time.sleep(0.02)
        if not self._gone:
            return None
        time.sleep(0.5)  # the first to be heard may only have noticed the end of another
        return self._loss(name)

    def _loss(self, name: str) -> Exception:
        """What to raise for the followers that are gone: what one refused, else the end of one that said nothing, else
        what one raised."""
        gone = list(self._gone)
        for rank in gone:
            if self._said.get(rank, {}).get("kind") == "refused":
                return InputError(f"rank {rank}: {self._said[rank]['said']}")
        for rank in gone:
            if rank not in self._said:
                how = "its process ended"
                if process := self._processes.get(rank):
                    with suppress(subprocess.TimeoutExpired):
                        how += f" ({crew.ending(process.wait(5.0))})"
                return LostError(f"{name} was lost with rank {rank} of {self.ranks}: {how}; {_MEND}")
        return RuntimeError(f"{name} failed in rank {gone[0]} of {self.ranks}:\n{self._said[gone[0]]['said']}")
