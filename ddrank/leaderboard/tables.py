"""A ranking as a terminal table, Markdown, CSV and JSON. Names are data everywhere, never markup."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ddrank import atomic
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.score import ARMS, Statistic

SCHEMA = "ddrank/ranking/1"
SCORES = ("ddrs", "ior", "hlr", "ars")
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class _Layout:
    """Which columns a terminal table shows: scores, those of them with their spread, the arms' accuracies."""

    scores: tuple[str, ...] = SCORES
    spread: tuple[str, ...] = SCORES
    arms: bool = False


_LAYOUTS = (  # the first that fits the terminal is taken
    _Layout(arms=True),
    _Layout(spread=("ddrs",), arms=True),
    _Layout(),
    _Layout(spread=("ddrs",)),
    _Layout(spread=()),
    _Layout(scores=("ddrs",), spread=()),
)


def show(ranking: Ranking, console: Console) -> None:
    """Print one table a group, with as many columns as the terminal has room for."""
    layout = next(
        (layout for layout in _LAYOUTS if all(_fits(group, layout, console) for group in ranking.groups)), _LAYOUTS[-1]
    )
    for group in ranking.groups:
        console.print(Text(group.title, style="bold"))
        console.print(_table(group, layout, console))
        console.print()
    console.print(Text(_legend(ranking, _sign(console)), style="dim"))


def write(ranking: Ranking, folder: Path | str) -> list[Path]:
    """Write ranking.csv, ranking.json and ranking.md into `folder`. Returns their paths.

    Raises InputError when one cannot be written.
    """
    contents = {"ranking.csv": to_csv, "ranking.json": to_json, "ranking.md": to_markdown}
    return [atomic.write_bytes(Path(folder) / name, make(ranking).encode()) for name, make in contents.items()]


def to_csv(ranking: Ranking) -> str:
    """One row an entry, all columns, numbers at full precision; what an entry does not have is empty."""
    rows = [_row(ranking, group, entry) for group in ranking.groups for entry in group.entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(ranking: Ranking) -> str:
    """The ranking with each entry's scores and accuracies per seed (schema ddrank/ranking/1)."""
    content = {
        "schema": SCHEMA,
        "w": ranking.w,
        "g": ranking.g,
        "groups": [
            {
                "dataset": group.dataset,
                "ipc": group.ipc,
                "model": group.model,
                "protocol": group.protocol,
                "entries": [_entry(entry) for entry in group.entries],
            }
            for group in ranking.groups
        ],
        "set_apart": [{"files": [str(file) for file in apart.files], "why": apart.sentence} for apart in ranking.apart],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_markdown(ranking: Ranking) -> str:
    """One table a group; the best of each score in bold."""
    parts = ["# Ranking", _legend(ranking, "±"), *(_markdown_table(group) for group in ranking.groups)]
    return "\n\n".join(parts) + "\n"


def _fits(group: Group, layout: _Layout, console: Console) -> bool:
    # A fifth of the line is enough for names: longer ones are folded.
    table = _table(group, layout, console, widest_name=max(16, console.width // 5))
    return Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).maximum <= console.width


def _table(group: Group, layout: _Layout, console: Console, widest_name: int | None = None) -> Table:
    sign = _sign(console)
    table = Table(box=box.SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold", max_width=widest_name)
    for score in layout.scores:
        table.add_column(score.upper(), justify="right", no_wrap=True)
    arms = ARMS if layout.arms else ()
    for arm in arms:
        table.add_column("\n".join(arm.split("_", 1)), justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for entry in group.entries:
        table.add_row(
            str(entry.rank),
            Text(entry.name),
            *(_score_cell(group, entry, score, sign if score in layout.spread else None) for score in layout.scores),
            *(_accuracy(entry, arm) for arm in arms),
            str(len(entry.result.seeds)),
        )
    return table


def _score_cell(group: Group, entry: Entry, score: str, sign: str | None) -> Text:
    return Text(_number(entry.scores.get(score), sign), style="bold" if group.is_best(entry, score) else "")


def _markdown_table(group: Group) -> str:
    header = ["rank", "method", *(score.upper() for score in SCORES), *ARMS, "n"]
    rows = [
        [
            str(entry.rank),
            _escaped(entry.name),
            *(_markdown_score(group, entry, score) for score in SCORES),
            *(_accuracy(entry, arm) for arm in ARMS),
            str(len(entry.result.seeds)),
        ]
        for entry in group.entries
    ]
    rule = ["---:", "---", *["---:"] * (len(header) - 2)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
    return "\n".join([f"## {_escaped(group.title)}", "", *lines])


def _markdown_score(group: Group, entry: Entry, score: str) -> str:
    text = _number(entry.scores.get(score), "±")
    return f"**{text}**" if group.is_best(entry, score) else text


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", html.escape(text, quote=False))


def _number(statistic: Statistic | None, sign: str | None) -> str:
    if statistic is None:
        return "-"
    spread = f" {sign} {statistic.std:.4f}" if sign and statistic.n > 1 else ""
    return f"{statistic.mean:.4f}{spread}"


def _accuracy(entry: Entry, arm: str) -> str:
    if arm not in entry.result.arms:
        return "-"
    found = entry.result.arms[arm]
    return f"{fmean(found.accuracy):.4f}" + ("" if found.source == "measured" else "*")


def _legend(ranking: Ranking, sign: str) -> str:
    return (
        f"DDRS at w = {ranking.w:g}, ARS at g = {ranking.g:g}; mean {sign} sample standard deviation over n seeds; "
        "accuracies are fractions. HLR: lower is better; all others: higher is better."
        + (" *: a published reference, not measured." if _has_reference(ranking) else "")
    )


def _has_reference(ranking: Ranking) -> bool:
    entries = (entry for group in ranking.groups for entry in group.entries)
    return any(arm.source == "reference" for entry in entries for arm in entry.result.arms.values())


def _sign(console: Console) -> str:
    return "+/-" if console.options.ascii_only else "±"


def _row(ranking: Ranking, group: Group, entry: Entry) -> dict[str, Any]:
    result = entry.result
    row = {
        "dataset": group.dataset,
        "ipc": group.ipc,
        "model": group.model,
        "protocol": group.protocol,
        "rank": entry.rank,
        "name": entry.name,
        **_fields(entry),
        "n": len(result.seeds),
        "seeds": " ".join(map(str, result.seeds)),
        "w": ranking.w,
        "g": ranking.g,
    }
    arms = {name: Statistic.of(arm.accuracy) for name, arm in result.arms.items()}
    row["references"] = " ".join(name for name, arm in result.arms.items() if arm.source == "reference")
    for name, statistic in _all(SCORES, entry.scores) + _all(ARMS, arms):
        row[f"{name}_mean"] = "" if statistic is None else statistic.mean
        row[f"{name}_std"] = "" if statistic is None else statistic.std
    return row


def _all(names: Sequence[str], statistics: dict[str, Statistic]) -> list[tuple[str, Statistic | None]]:
    return [(name, statistics.get(name)) for name in names]


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "rank": entry.rank,
        "name": entry.name,
        **_fields(entry),
        "seeds": entry.result.seeds,
        "scores": {score: asdict(entry.scores[score]) for score in SCORES if score in entry.scores},
        "arms": {name: asdict(arm) for name, arm in entry.result.arms.items()},
        "files": [str(file) for file in entry.files],
    }


def _fields(entry: Entry) -> dict[str, Any]:
    result = entry.result
    return {
        "method": result.method,
        "aug": result.aug,
        "criterion": result.criterion,
        "labels": result.labels,
        "distilled_sha256": result.distilled["sha256"],
    }
