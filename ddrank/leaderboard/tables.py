"""A ranking as CSV, JSON and Markdown, and the words that all its tables share. Names are data, never markup."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddrank import atomic
from ddrank.leaderboard.architectures import Architectures, architectures
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.leaderboard.statistics import LEVEL, RESAMPLES
from ddrank.score import ARMS, Statistic

SCHEMA = "ddrank/ranking/1"
SCORES = ("ddrs", "ior", "hlr", "ars")
_STEP = 10  # every tenth weight of a sweep is enough for a file


def write(ranking: Ranking, folder: Path | str) -> list[Path]:
    """Write ranking.csv, ranking.json, ranking.md and ranking.tex into `folder`. Returns their paths.

    Raises InputError when one cannot be written.
    """
    from ddrank.leaderboard.latex import to_latex

    contents = {
        "ranking.csv": to_csv,
        "ranking.json": to_json,
        "ranking.md": to_markdown,
        "ranking.tex": to_latex,
    }
    return [atomic.write_bytes(Path(folder) / name, make(ranking).encode()) for name, make in contents.items()]


def to_csv(ranking: Ranking) -> str:
    """One row an entry, all columns, numbers at full precision; what an entry does not have is empty."""
    found = rows(ranking)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def to_json(ranking: Ranking) -> str:
    """The ranking with each entry's scores and accuracies per seed, intervals, ties, the sweep over w and the
    cross-architecture tables (schema ddrank/ranking/1)."""
    return json.dumps(to_dict(ranking), indent=1, allow_nan=False) + "\n"


def to_dict(ranking: Ranking) -> dict[str, Any]:
    """What ranking.json holds, as plain dicts, lists, strings and finite numbers."""
    return {
        "schema": SCHEMA,
        "w": ranking.w,
        "g": ranking.g,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "groups": [
            {
                "dataset": group.dataset,
                "ipc": group.ipc,
                "model": group.model,
                "protocol": group.protocol,
                "variant": group.variant,
                "entries": [_entry(ranking, entry) for entry in group.entries],
                "sweep": _sweep(group),
            }
            for group in ranking.groups
        ],
        "architectures": [asdict(table) for table in architectures(ranking)],
        "notes": list(ranking.notes),
        "set_apart": ranking.set_apart(),
    }


def to_markdown(ranking: Ranking) -> str:
    """One table a group; the best of each score in bold."""
    parts = ["# Ranking", legend(ranking, "±"), *map(_escaped, ranking.notes)]
    parts += [_markdown_table(ranking, group) for group in ranking.groups]
    parts += [_markdown_architectures(table) for table in architectures(ranking)]
    return "\n\n".join(parts) + "\n"


def rows(ranking: Ranking) -> list[dict[str, Any]]:
    """One flat dict an entry, all with the same keys; what an entry does not have is None."""
    return [_row(ranking, group, entry) for group in ranking.groups for entry in group.entries]


def number(statistic: Statistic | None, sign: str | None) -> str:
    """Mean and, with a sign, standard deviation: '0.3067 ± 0.0041'."""
    if statistic is None:
        return "-"
    spread = f" {sign} {statistic.std:.4f}" if sign and statistic.n > 1 else ""
    return f"{statistic.mean:.4f}{spread}"


def span(interval: tuple[float, float] | None) -> str:
    """An interval: '[0.3016, 0.3118]'."""
    return "-" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def places(entry: Entry, dash: str = "–") -> str:
    """The interval of the rank: '1–3'; with '=' where the entry is tied with the first."""
    low, high = entry.places
    return (str(low) if low == high else f"{low}{dash}{high}") + (" =" if entry.tied else "")


def first(entry: Entry) -> str:
    """The probability of being first."""
    return "-" if entry.first is None else f"{entry.first:.2f}"


def accuracy(entry: Entry, arm: str) -> str:
    """An arm's mean accuracy; a published one with an asterisk."""
    if arm not in entry.result.arms:
        return "-"
    return f"{entry.accuracies[arm].mean:.4f}" + ("" if entry.result.arms[arm].source == "measured" else "*")


def legend(ranking: Ranking, sign: str, interval: bool = True, ranks: bool = True) -> str:
    """What the columns mean; of those of the intervals, if they are shown."""
    return (
        f"DDRS at w = {ranking.w:g}, ARS at g = {ranking.g:g}; mean {sign} sample standard deviation over n seeds; "
        "accuracies are fractions. HLR: lower is better; all others: higher is better."
        + (" 95 %: Student's interval of the mean over seeds." * interval)
        + (" ranks: the 95 % interval of the rank; =: seeds do not tell it apart from the first." * ranks)
        + (" first: the probability of being first by resampling seeds; too high where entries are tied." * ranks)
        + (" *: a published reference, not measured." if has_reference(ranking) else "")
    )


def agreement(ranking: Ranking, group: Group) -> str | None:
    """One sentence on how the ranking agrees with that by plain accuracy; None where there is nothing to order."""
    index = round(ranking.w * (len(group.sweep.weights) - 1))
    tau = group.sweep.tau[index]
    if math.isnan(tau):
        return None
    weight = group.sweep.weights[index]
    return f"Kendall's tau between this ranking (w = {weight:g}) and that by plain accuracy (syn_any): {tau:.2f}."


def has_reference(ranking: Ranking) -> bool:
    entries = (entry for group in ranking.groups for entry in group.entries)
    return any(arm.source == "reference" for entry in entries for arm in entry.result.arms.values())


def _markdown_table(ranking: Ranking, group: Group) -> str:
    header = ["rank", "method", *map(str.upper, SCORES), "DDRS, 95 %", "ranks", "first", *ARMS, "n"]
    cells = [
        [
            str(entry.rank),
            _escaped(entry.name),
            *(_bold(number(entry.scores.get(score), "±"), group.is_best(entry, score)) for score in SCORES),
            span(entry.interval("ddrs")).replace("[", r"\[").replace("]", r"\]"),
            places(entry),
            first(entry),
            *(accuracy(entry, arm) for arm in ARMS),
            str(len(entry.result.seeds)),
        ]
        for entry in group.entries
    ]
    sentence = agreement(ranking, group)
    return _section(group.title, header, cells) + ("" if sentence is None else "\n\n" + _escaped(sentence))


def _markdown_architectures(table: Architectures) -> str:
    header = ["method", *map(_escaped, table.models), "mean", "95 %", "worst"]
    columns = [[row.models[index] for row in table.rows] for index in range(len(table.models))]
    columns += [[row.mean for row in table.rows], [row.worst for row in table.rows]]
    *models, means, worsts = ([_mean(value, column) for value in column] for column in columns)
    spans = [span(row.interval).replace("[", r"\[").replace("]", r"\]") for row in table.rows]
    names = [_escaped(row.name) for row in table.rows]
    return _section(table.title, header, zip(names, *models, means, spans, worsts, strict=True), left=1)


def _mean(value: float | None, column: Sequence[float | None]) -> str:
    if value is None:
        return "-"
    return _bold(f"{value:.4f}", value == max(other for other in column if other is not None))


def _section(title: str, header: Sequence[str], cells: Any, left: int = 2) -> str:
    rule = ["---:", "---"][2 - left :] + ["---:"] * (len(header) - left)
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *cells)]
    return "\n".join([f"## {_escaped(title)}", "", *lines])


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", html.escape(text, quote=False))


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
        "references": " ".join(name for name, arm in result.arms.items() if arm.source == "reference"),
        "variant": group.variant,
        "rank_low": entry.places[0],
        "rank_high": entry.places[1],
        "first": entry.first,
        "tied": entry.tied,
    }
    statistics = {**entry.scores, **entry.accuracies}
    for name in (*SCORES, *ARMS):
        statistic = statistics.get(name)
        row[f"{name}_mean"] = None if statistic is None else statistic.mean
        row[f"{name}_std"] = None if statistic is None else statistic.std
        row[f"{name}_low"], row[f"{name}_high"] = entry.interval(name) or (None, None)
    return row


def _entry(ranking: Ranking, entry: Entry) -> dict[str, Any]:
    return {
        "rank": entry.rank,
        "name": entry.name,
        **_fields(entry),
        "seeds": entry.result.seeds,
        "rank_interval": list(entry.places),
        "first": entry.first,
        "tied": entry.tied,
        "scores": {score: asdict(entry.scores[score]) for score in SCORES if score in entry.scores},
        "arms": {name: asdict(arm) for name, arm in entry.result.arms.items()},
        "intervals": {name: entry.interval(name) for name in (*SCORES, *ARMS) if entry.interval(name)},
        "files": list(map(ranking.place, entry.files)),
    }


def _sweep(group: Group) -> dict[str, Any]:
    sweep = group.sweep
    return {
        "w": sweep.weights[::_STEP].tolist(),
        "ranks": sweep.ranks[::_STEP].tolist(),
        "accuracy_ranks": sweep.accuracy.tolist(),
        "tau": [None if math.isnan(tau) else tau for tau in sweep.tau[::_STEP].tolist()],
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
