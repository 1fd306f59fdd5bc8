"""Plans for people and for tools: the table of one, the sum over a sweep's, and the file of each."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddrank import atomic
from ddrank.plan.contents import Forecast, Measurement, Preparation, distinct, seconds
from ddrank.progress import duration
from ddrank.wording import counted

FILE, SWEEP_FILE = "plan.json", "sweep-plan.json"
_WIDTH = 120


def save(forecast: Forecast, folder: Path) -> Path:
    """Write plan.json into `folder`. Returns its path."""
    return atomic.write_bytes(
        folder / FILE, (json.dumps(forecast.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    )


def show(forecast: Forecast, folder: Path) -> None:
    """Print one plan, and where its file lies."""
    console, one = _console(), forecast
    seeds = counted(len(one.seeds), "seed")
    console.print(
        f"[bold]{escape(one.method)} on {escape(one.dataset)}, IPC {one.ipc}, {one.model}, labels {one.labels}, "
        f"protocol {one.protocol}, {seeds}: what would be done[/bold]"
    )
    _print(forecast.preparations, forecast.measurements, console)
    side = f", {one.workers} side by side" if any(each.beside for each in one.measurements) else ""
    console.print(
        f"about {duration(seconds([one]))} on this machine{side}; nothing was trained or stored; {folder / FILE}"
    )


def show_sweep(folder: Path, jobs: list[Path]) -> None:
    """Print the sum over the plans of a sweep's `jobs`, what they share counted once, and write it into `folder`."""
    forecasts = [Forecast.from_dict(json.loads((job / FILE).read_bytes())) for job in jobs]
    preparations, measurements = distinct(forecasts)
    asked = sum(len(one.measurements) for one in forecasts)
    found, trained = (sum(getattr(one, what) for one in measurements) for what in ("found", "trains"))
    content = {
        "jobs": len(jobs),
        "measurements": {"asked": asked, "distinct": len(measurements), "found": found, "trained": trained},
        "preparations": len(preparations),
        "steps": sum(one.steps for one in measurements),
        "seconds": round(seconds(forecasts), 1),
        "apart": round(sum(seconds([one]) for one in forecasts), 1),
        "memory": max((one.memory for one in measurements), default=0),
    }
    atomic.write_bytes(folder / SWEEP_FILE, (json.dumps(content, indent=1) + "\n").encode())
    _console().print(
        f"[bold]{counted(len(jobs), 'job')}[/bold], {counted(asked, 'measurement')}, {len(measurements)} of them "
        f"distinct: {found} in the store, {counted(trained, 'student')} to train ({content['steps']:,} steps), "
        f"{len(preparations)} to be made first; "
        f"about {duration(content['seconds'])} on this machine, one job after the other "
        f"({duration(content['apart'])} if they shared nothing); {folder / SWEEP_FILE}"
    )


def _print(preparations: list[Preparation], measurements: list[Measurement], console: Console) -> None:
    if preparations:
        first = Table(title="to be made first", title_justify="left")
        for name in ("", "steps", "each", "together", "memory"):
            first.add_column(name, justify="right" if name else "left")
        for one in preparations:
            memory = "" if one.memory is None else _gib(one.memory)
            first.add_row(one.name, f"{one.steps:,}", _brief(one.seconds), duration(one.steps * one.seconds), memory)
        console.print(first)
    table = Table(title="measurements", title_justify="left")
    for name in ("arm", "measures", "lr", "seeds", "in store", "to train", "to test", "steps", "each", "memory"):
        table.add_column(name, justify="left" if name in ("arm", "measures", "lr", "seeds") else "right")
    for (arms, measures), group in groupby(measurements, key=lambda one: (one.arms, one.measures)):
        members = list(group)
        wanted = [one for one in members if not one.found]
        trained = [one for one in wanted if one.trains]
        longest = max(wanted, key=lambda one: one.seconds, default=None)
        table.add_row(
            ", ".join(arms) + ("" if all(one.known for one in members) else " *"),
            measures,
            ", ".join(dict.fromkeys("one of these" if one.lr is None else f"{one.lr:g}" for one in members)),
            ", ".join(dict.fromkeys(str(one.seed) for one in members)),
            str(len(members) - len(wanted)),
            str(len(trained)),
            str(len(wanted) - len(trained)),
            "" if longest is None else f"{longest.steps:,}",
            "" if longest is None else _brief(longest.seconds),
            "" if longest is None else _gib(longest.memory),
        )
    console.print(table)
    if not all(one.known for one in measurements):
        console.print("* on data or labels that have yet to be made: whether the store has them will be seen then")


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def _gib(memory: int) -> str:
    return f"{memory / 2**30:.2g} GiB"


def _console() -> Console:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=_WIDTH, soft_wrap=True)
