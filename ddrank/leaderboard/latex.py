"""A ranking as LaTeX tables (package booktabs), to be read by \\input. Names are data, never commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ddrank.leaderboard.architectures import Architectures, architectures
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.leaderboard.tables import SCORES, has_reference, places

_HEADINGS = {score: f"{score.upper()} $\\{'down' if score == 'hlr' else 'up'}arrow$" for score in SCORES}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_latex(ranking: Ranking) -> str:
    """A table a group and a cross-architecture table where there are several models: means, 95 % intervals as +- half
    their width, the best in bold, intervals of the ranks."""
    parts = [r"% needs \usepackage{booktabs}; \textquotedbl needs \usepackage[T1]{fontenc}"]
    parts += [_group(ranking, group) for group in ranking.groups]
    parts += [_architectures(table) for table in architectures(ranking)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """`text` as it is, for LaTeX: special characters escaped, unprintable ones replaced."""
    return re.sub(r"[\\~^<>|`\"±&%$#_{}]", lambda found: _SPECIAL[found[0]], printable(text))


def _group(ranking: Ranking, group: Group) -> str:
    headings = ["Method", *_HEADINGS.values(), "Rank", "Seeds"]
    rows = [
        [
            escaped(entry.name) + _marked(entry),
            *(_score(group, entry, score) for score in SCORES),
            places(entry, "--").replace(" =", "$^{=}$"),
            str(len(entry.result.seeds)),
        ]
        for entry in group.entries
    ]
    caption = (
        f"{escaped(group.title)}. DDRS at $w = {ranking.w:g}$, ARS at $g = {ranking.g:g}$; means over seeds $\\pm$ "
        "half the 95\\,\\% interval (Student's $t$). Rank: its 95\\,\\% interval; $^{=}$: tied with the first."
        + (r" $^{*}$: with a published accuracy of the full data." if has_reference(ranking) else "")
    )
    return _table(caption, headings, rows)


def _score(group: Group, entry: Entry, score: str) -> str:
    if score not in entry.scores:
        return "--"
    return _cell(entry.scores[score].mean, entry.interval(score), group.is_best(entry, score))


def _architectures(table: Architectures) -> str:
    columns = [[row.models[index] for row in table.rows] for index in range(len(table.models))]
    columns += [[row.mean for row in table.rows], [row.worst for row in table.rows]]
    best = [max((value for value in column if value is not None), default=None) for column in columns]
    rows = []
    for row in table.rows:
        intervals = [None] * len(table.models) + [row.interval, None]
        values = zip((*row.models, row.mean, row.worst), intervals, best, strict=True)
        cells = ["--" if value is None else _cell(value, interval, value == top) for value, interval, top in values]
        rows.append([escaped(row.name), *cells])
    caption = (
        f"{escaped(table.title)}; mean over models $\\pm$ half its 95\\,\\% interval over seeds, and the worst of them."
    )
    return _table(caption, ["Method", *map(escaped, table.models), "Mean", "Worst"], rows)


def _cell(value: float, interval: tuple[float, float] | None, best: bool) -> str:
    text = f"{value:.4f}".replace("-", "$-$")
    half = "" if interval is None else rf" {{\scriptsize$\pm${(interval[1] - interval[0]) / 2:.4f}}}"
    return (rf"\textbf{{{text}}}" if best else text) + half


def _marked(entry: Entry) -> str:
    return "$^{*}$" if any(arm.source == "reference" for arm in entry.result.arms.values()) else ""


def _table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)
