"""The scheduler: which student is trained when and where.

A plan is a generator that measures one arm: it yields the tasks that it needs next and is sent their values. All plans
go on together. Small students go to worker processes, as many as there are; large ones are trained in this process,
with all cores, once no small one is left. This process alone reads and writes the store's entries, and holds a key's
lock for as long as its student is at work, wherever that is; a worker writes no more than its student's checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ddrank import forward
from ddrank.crew import Crew, Message
from ddrank.engine import Engine
from ddrank.errors import InputError, LostError
from ddrank.fit import Assignment, Outcome, run
from ddrank.progress import Activity, Display
from ddrank.store import Lock, Store, digest
from ddrank.wording import counted

_LIVES = 2  # a student whose worker dies is trained once more
_PATIENCE = 0.2  # seconds until another job's lock is tried again
_SILENCE = 5.0  # seconds of nothing but such locks, after which it is said


@dataclass(eq=False)
class Task:
    """One measurement.

    Attributes:
        key: its key in the store.
        name: for people.
        assignment: describes the student, once it is known that there is none in the store.
        value: of an outcome what the store keeps; called once, before the entry is written.
        numbers, total: how many numbers the images of a training batch are, and all of them, those tested on included.
        work: of its training, in any unit proportional to time.
        trains: false for the test of a student that is trained for another task.
        about: what the store's entry says for people; `arm` and `what` is measured among it.
    """

    key: Mapping[str, Any]
    name: str
    assignment: Callable[[], Assignment]
    value: Callable[[Outcome], dict[str, Any]]
    numbers: int
    total: int
    work: float
    trains: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)


Plan = Generator[list[Task], list[dict[str, Any]], Any]


@dataclass(eq=False)
class _Entry:
    """A task on its way, and the plans that wait for it, each with the place of its value."""

    task: Task
    digest: str
    waiting: list[tuple[_Running, int]] = field(default_factory=list)
    lock: Lock | None = None
    looked: bool = False
    again_at: float = 0.0
    lives: int = _LIVES
    activity: Activity | None = None


@dataclass(eq=False)
class _Running:
    """A plan, and the values of the tasks that it last asked for."""

    name: str
    plan: Plan
    values: list[dict[str, Any] | None] = field(default_factory=list)
    missing: int = 0


class Scheduler:
    """Runs plans to their ends.

    `trained` counts the students trained here, `found` those that came from the store; `outcomes` are those of this
    run, in the order of their ends.
    """

    def __init__(self, store: Store, engine: Engine, display: Display, crew: Crew | None):
        self._store, self._engine, self._display, self._crew = store, engine, display, crew
        self._ready: deque[_Entry] = deque()
        self._known: dict[str, dict[str, Any]] = {}
        self._on_their_way: dict[str, _Entry] = {}
        self._results: dict[str, Any] = {}
        self._said: set[str] = set()
        self._waited = 0.0
        self.trained = self.found = 0
        self.outcomes: list[Outcome] = []

    def run(self, plans: Mapping[str, Plan], finished: Callable[[str, Any], None] = lambda name, result: None) -> dict:
        """What the plans return, by name; `finished` is called for each of them, in their order."""
        try:
            for name, plan in plans.items():
                self._resume(_Running(name, plan), None)
            told = iter(plans)
            waiting = next(told, None)
            while waiting is not None:
                if waiting in self._results:
                    finished(waiting, self._results[waiting])
                    waiting = next(told, None)
                elif not self._begin_one():
                    self._wait()
        finally:
            if self._crew is not None:
                self._crew.rest()
            for entry in self._on_their_way.values():
                if entry.lock is not None:
                    entry.lock.release()
        return self._results

    def _resume(self, running: _Running, values: list[dict[str, Any]] | None) -> None:
        """Let a plan go on, to its next tasks or its end."""
        try:
            tasks = running.plan.send(values)
        except StopIteration as stop:
            self._results[running.name] = stop.value
            return
        running.values, running.missing = [None] * len(tasks), len(tasks)
        for place, task in enumerate(tasks):
            self._ask(task, running, place)

    def _ask(self, task: Task, running: _Running, place: int) -> None:
        name = digest(task.key)
        if name in self._known:
            self._give(running, place, self._known[name])
        elif name in self._on_their_way:
            self._on_their_way[name].waiting.append((running, place))
        else:
            entry = self._on_their_way[name] = _Entry(task, name, [(running, place)])
            self._ready.append(entry)

    def _give(self, running: _Running, place: int, value: dict[str, Any]) -> None:
        running.values[place] = value
        running.missing -= 1
        if not running.missing:
            self._resume(running, running.values)

    def _begin_one(self) -> bool:
        """Find or begin one of the tasks that are ready; False where there is none for now."""
        for entry in self._ready:
            if not entry.looked:
                entry.looked = True
                if (value := self._store.lookup(entry.task.key)) is not None:
                    return self._found(entry, value)
        crew = self._crew
        if crew is not None and crew.free and self._begin_among(beside=True):
            return True
        return (crew is None or not crew.busy) and self._begin_among(beside=False)

    def _begin_among(self, beside: bool) -> bool:
        now = time.monotonic()
        for entry in self._ready:
            if now < entry.again_at or self._beside(entry) != beside:
                continue
            if entry.lock is None:
                entry.lock = self._store.claim(entry.task.key)
            if entry.lock is None:
                entry.again_at, entry.looked = now + _PATIENCE, False
                continue
            if (value := self._store.lookup(entry.task.key, report=False)) is not None:
                return self._found(entry, value)
            self._ready.remove(entry)
            self._begin(entry, beside)
            return True
        return False

    def _beside(self, entry: _Entry) -> bool:
        return self._crew is not None and self._engine.beside(entry.task.numbers, entry.task.total)

    def _found(self, entry: _Entry, value: dict[str, Any]) -> bool:
        self._ready.remove(entry)
        self._store.checkpoint(entry.task.key).remove()  # of a job that was killed once the entry was there
        self.found += entry.task.trains
        self._display.skip(entry.task.work if entry.task.trains else 0.0)
        self._settle(entry, value)
        return True

    def _begin(self, entry: _Entry, beside: bool) -> None:
        checkpoint = self._store.checkpoint(entry.task.key, entry.task.about)
        assignment = replace(entry.task.assignment(), checkpoint=checkpoint)
        epochs = assignment.training.epochs if assignment.weights is None else 1
        entry.activity = self._display.begin(assignment.name, epochs, entry.task.work if entry.task.trains else 0.0)
        if beside:
            self._crew.start(entry, assignment)
        else:
            self._done(entry, run(assignment, self._engine, entry.activity.advance, entry.activity.resume))

    def _wait(self) -> None:
        if self._crew is None or not self._crew.busy:
            time.sleep(_PATIENCE)  # another job has the locks of all that is left
            self._waited += _PATIENCE
            if self._waited >= _SILENCE and "waiting" not in self._said:
                self._said.add("waiting")
                self._display.say(f"waiting for {counted(len(self._ready), 'measurement')} that another job is making")
            return
        # What has ended is stored before anything that ends the run is heeded.
        for message in sorted(self._crew.wait(_PATIENCE if self._ready else None), key=lambda one: one.kind != "done"):
            self._heed(message)

    def _heed(self, message: Message) -> None:
        entry: _Entry = message.ticket
        if message.kind == "advance":
            entry.activity.advance(steps=message.content)
        elif message.kind == "resumed":
            entry.activity.resume(message.content)
        elif message.kind == "done":
            self._done(entry, message.content)
        elif message.kind == "said":
            if message.content not in self._said | forward.said:
                self._said.add(message.content)
                self._display.say(f"ddrank: {message.content}")
        elif message.kind == "refused":
            raise InputError(message.content)
        elif message.kind == "failed":
            raise RuntimeError(f"{entry.task.name} failed in its worker process:\n{message.content}")
        else:
            self._lost(entry, message.content)

    def _lost(self, entry: _Entry, how: str) -> None:
        entry.lives -= 1
        entry.activity.drop()
        if not entry.lives:
            raise LostError(
                f"{entry.task.name} was lost twice: its worker process ended ({how}); if memory was short, choose a "
                "smaller engine.workers; what was finished is in the store and will not be computed again"
            )
        self._display.say(f"{entry.task.name}: its worker process ended ({how}); trying once more")
        self._ready.appendleft(entry)

    def _done(self, entry: _Entry, outcome: Outcome) -> None:
        entry.activity.end()
        value = self._store.keep(entry.task.key, entry.task.value(outcome), entry.task.about)
        self._store.checkpoint(entry.task.key).remove()
        self.outcomes.append(replace(outcome, weights=None))
        if not entry.task.trains:
            self._display.skip(0.0)
        if outcome.first_step is not None:
            self.trained += 1
            self._display.finished(f"{entry.task.name} {value['accuracy']:.4f}  {outcome.seconds:.1f} s")
        self._settle(entry, value)

    def _settle(self, entry: _Entry, value: dict[str, Any]) -> None:
        if entry.lock is not None:
            entry.lock.release()
        del self._on_their_way[entry.digest]
        self._known[entry.digest] = value
        for running, place in entry.waiting:
            self._give(running, place, value)
