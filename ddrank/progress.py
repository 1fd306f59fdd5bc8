"""What is going on and how long it will take: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
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
        self._expected = self._done = self._worked = self._spent = 0.0
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
        """Count one announced activity as done: its outcome was there already."""
        self._finished += 1
        self._done += work
        self._refresh(0.0)

    @contextmanager
    def activity(self, name: str, steps: int, work: float = 0.0) -> Iterator[Callable[..., None]]:
        """Show one activity. Yields `advance(note="")`, to be called after each step.

        With `work`, it is one of the announced activities.
        """
        started = spoken = time.monotonic()
        task = self._bars.add_task(name, total=steps, note="")
        done = 0

        def advance(note: str = "") -> None:
            nonlocal done, spoken
            done += 1
            now = time.monotonic()
            if self._live:
                text = f"{done}/{steps}"
                if not work:
                    text += f", {_duration((now - started) / done * (steps - done))} left"
                self._bars.update(task, advance=1, note=f"{text} {note}".rstrip())
                self._refresh(work * done / steps, now - started)
            elif now - spoken > _QUIET_SECONDS:
                spoken = now
                left = _duration((now - started) / done * (steps - done))
                self.say(f"  {name}: {done} of {steps}, {left} left {note}".rstrip())

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
        if work:
            self._finished += 1
            self._done += work
            self._worked += work
            self._spent += time.monotonic() - started
            self._refresh(0.0)

    def finished(self, line: str) -> None:
        """Print the outcome of an announced activity, with the count and the time left."""
        width = len(str(self._count))
        left = self._left(0.0, 0.0)
        self.say(f"[{self._finished:>{width}}/{self._count}] {line}" + (f"  ({left} left)" if left else ""))

    def _refresh(self, within: float, seconds: float = 0.0) -> None:
        if self._total is None or not self._live:
            return
        left = self._left(within, seconds)
        note = f"{self._finished}/{self._count}" + (f", {left} left" if left else "")
        self._bars.update(self._total, completed=self._done + within, note=note)

    def _left(self, within: float, seconds: float) -> str:
        """The time left, from the rate of the work done in this process; empty while there is no telling."""
        worked, remaining = self._worked + within, self._expected - self._done - within
        if worked <= 0 or remaining <= 0:
            return ""
        return _duration((self._spent + seconds) / worked * remaining)


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
