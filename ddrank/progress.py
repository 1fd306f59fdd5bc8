"""What is going on and how long it will take: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

_QUIET_SECONDS = 20.0


class Display:
    """One display for a whole job, on standard error.

    A job is a number of activities (fits, distillations), each of a number of steps. `expect` announces the work of
    all activities together, in any unit proportional to time; the time left follows from the work done so far.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._total: TaskID | None = None
        self._expected = self._done = self._worked = 0.0
        self._began: float | None = None
        self._at_work: set[Activity] = set()
        self._count = self._finished = 0

    def __enter__(self) -> Display:
        self._bars.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._bars.__exit__(*exception)

    def expect(self, count: int, work: float) -> None:
        """Announce `count` activities that are `work` units together."""
        self._count, self._expected = count, work
        self._total = self._bars.add_task("students", total=max(work, 1e-9), note="")

    def say(self, line: str) -> None:
        """Print one line."""
        if self._live:
            self._bars.console.print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def skip(self, work: float) -> None:
        """Count one announced activity of `work` as done: its outcome was there already."""
        self._finished += 1
        self._done += work
        self._refresh()

    def begin(self, name: str, steps: int, work: float = 0.0) -> Activity:
        """Show one activity of `steps` steps, until it ends; with `work`, it is one of the announced ones."""
        if work and self._began is None:
            self._began = time.monotonic()
        activity = Activity(self, name, steps, work)
        self._at_work.add(activity)
        return activity

    @contextmanager
    def activity(self, name: str, steps: int, work: float = 0.0) -> Iterator[Activity]:
        """Show one activity for the length of a block. Yields it, to be called after each step."""
        activity = self.begin(name, steps, work)
        try:
            yield activity
        except BaseException:
            activity.drop()
            raise
        activity.end()

    def finished(self, line: str) -> None:
        """Print the outcome of an announced activity, with the count and the time left."""
        width = len(str(self._count))
        left = self._left()
        self.say(f"[{self._finished:>{width}}/{self._count}] {line}" + (f"  ({left} left)" if left else ""))

    def _refresh(self) -> None:
        if self._total is None or not self._live:
            return
        left = self._left()
        note = f"{self._finished}/{self._count}" + (f", {left} left" if left else "")
        self._bars.update(self._total, completed=self._done + self._within(), note=note)

    def _within(self) -> float:
        return sum(activity.work * activity.done / activity.steps for activity in self._at_work)

    def _resumed(self) -> float:
        return sum(activity.work * activity.resumed / activity.steps for activity in self._at_work)

    def _left(self) -> str:
        """The time left, from the rate of the work done in this process; empty while there is no telling."""
        within = self._within()
        worked, remaining = self._worked + within - self._resumed(), self._expected - self._done - within
        if worked <= 0 or remaining <= 0:
            return ""
        return duration((time.monotonic() - self._began) / worked * remaining)


class Activity:
    """One bar of a display, or, where there is no terminal, a line now and then."""

    def __init__(self, display: Display, name: str, steps: int, work: float):
        self.name, self.steps, self.work, self.done, self.resumed = name, steps, work, 0, 0
        self._display = display
        self._started = self._spoken = time.monotonic()
        self._bar = display._bars.add_task(name, total=steps, note="")

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Some steps are done."""
        self.done += steps
        now = time.monotonic()
        rate = (now - self._started) / max(1, self.done - self.resumed)
        left = duration(rate * max(0, self.steps - self.done))
        if self._display._live:
            text = f"{self.done}/{self.steps}" + ("" if self.work else f", {left} left")
            self._display._bars.update(self._bar, completed=self.done, note=f"{text} {note}".rstrip())
            self._display._refresh()
        elif now - self._spoken > _QUIET_SECONDS:
            self._spoken = now
            self._display.say(f"  {self.name}: {self.done} of {self.steps}, {left} left {note}".rstrip())

    def resume(self, epoch: int) -> None:
        """Count the epochs before `epoch` as done: a fit, whose steps are epochs, goes on from a checkpoint."""
        self.done = self.resumed = epoch
        self._display._bars.update(self._bar, completed=epoch)
        self._display.say(f"{self.name}: going on in epoch {epoch + 1} of {self.steps}")

    __call__ = advance

    def end(self) -> None:
        """All is done."""
        self.drop()
        if self.work:
            self._display._worked += self.work * (1 - self.resumed / self.steps)
            self._display.skip(self.work)

    def drop(self) -> None:
        """Stop showing it, done or not."""
        self._display._at_work.discard(self)
        self._display._bars.remove_task(self._bar)


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
