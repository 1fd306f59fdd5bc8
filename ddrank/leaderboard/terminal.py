"""A ranking as tables for a terminal, with as many columns as it has room for. Names are data, never markup."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.leaderboard.tables import SCORES, accuracy, first, legend, number, places, span
from ddrank.score import ARMS

_UNBOUNDED = 10_000


@dataclass(frozen=True)
class _Layout:
    """Which columns a table shows: scores, those of them with their spread, the interval of the DDRS, those of the
    ranks with the chance of being first, the arms' accuracies."""

    scores: tuple[str, ...] = SCORES
    spread: tuple[str, ...] = ("ddrs",)
    interval: bool = False
    places: bool = False
    arms: bool = False


_LAYOUTS = (  # the first that fits the terminal is taken
    _Layout(spread=SCORES, interval=True, places=True, arms=True),
    _Layout(spread=SCORES, places=True, arms=True),
    _Layout(interval=True, places=True, arms=True),
    _Layout(places=True, arms=True),
    _Layout(arms=True),
    _Layout(spread=SCORES, interval=True, places=True),
    _Layout(interval=True, places=True),
    _Layout(places=True),
    _Layout(),
    _Layout(spread=()),
    _Layout(scores=("ddrs",), spread=()),
)


def show(ranking: Ranking, console: Console) -> None:
    """Print one table a group."""
    layout = next(
        (layout for layout in _LAYOUTS if all(_fits(group, layout, console) for group in ranking.groups)), _LAYOUTS[-1]
    )
    for group in ranking.groups:
        console.print(Text(group.title, style="bold"))
        console.print(_table(group, layout, console))
        console.print()
    console.print(Text(legend(ranking, _sign(console), layout.interval, layout.places), style="dim"))


def _fits(group: Group, layout: _Layout, console: Console) -> bool:
    # A fifth of the line is enough for names: longer ones are folded.
    table = _table(group, layout, console, widest_name=max(16, console.width // 5))
    return Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum <= console.width


def _table(group: Group, layout: _Layout, console: Console, widest_name: int | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold", max_width=widest_name)
    headings = [score.upper() for score in layout.scores]
    if layout.interval:
        headings.append("DDRS, 95 %")
    if layout.places:
        headings += ["ranks", "first"]
    if layout.arms:
        headings += ["\n".join(arm.split("_", 1)) for arm in ARMS]
    for heading in (*headings, "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in group.entries:
        table.add_row(*_cells(group, entry, layout, console))
    return table


def _cells(group: Group, entry: Entry, layout: _Layout, console: Console) -> list[str | Text]:
    sign = _sign(console)
    cells: list[str | Text] = [str(entry.rank), Text(entry.name)]
    for score in layout.scores:
        text = number(entry.scores.get(score), sign if score in layout.spread else None)
        cells.append(Text(text, style="bold" if group.is_best(entry, score) else ""))
    if layout.interval:
        cells.append(span(entry.interval("ddrs")))
    if layout.places:
        cells += [places(entry, "-" if console.options.ascii_only else "–"), first(entry)]
    if layout.arms:
        cells += [accuracy(entry, arm) for arm in ARMS]
    return [*cells, str(len(entry.result.seeds))]


def _sign(console: Console) -> str:
    return "+/-" if console.options.ascii_only else "±"
