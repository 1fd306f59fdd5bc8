"""One result as a table: for a terminal, for a notebook, for a paper."""

from __future__ import annotations

import html
import io
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddrank.errors import InputError
from ddrank.result import Arm, Result
from ddrank.wording import counted

_MEANING = {
    "real_hard": "real training set, hard labels",
    "syn_hard": "distilled images, hard labels",
    "syn_any": "distilled images, their own way",
    "rdm_any": "random images, the same way",
    "syn_any_noaug": "syn_any without augmentation",
    "rdm_any_noaug": "rdm_any without augmentation",
}
_REFERENCE = "a published reference, not measured"
_OF_REAL = ("hlr", "ddrs")  # scores that real_hard is part of
_SCORES = {
    "hlr": ("HLR", "real_hard - syn_hard, lower is better"),
    "ior": ("IOR", "syn_any - rdm_any, higher is better"),
    "ddrs": ("DDRS", "from both, w = {w:g}"),
    "ars": ("ARS", "gains over random, g = {g:g}"),
}
_WIDTH = 100


def print_result(result: Result, folder: Path) -> None:
    """Print arms and scores as mean and standard deviation over the seeds, and where the files lie."""
    console = Console(file=sys.stdout, highlight=False)
    _show(result, console)
    console.print(f"accuracies are fractions of the test set; files: {escape(str(_shown(folder)))}", soft_wrap=True)


def table(result: Result, style: str = "text") -> str:
    """The arms and scores of `result`: as plain `text`, or as a table in `markdown`, `latex` or `html`.

    Raises InputError for another style.
    """
    if style not in _STYLES:
        raise InputError(f"there is no table style {style!r}: choose one of {', '.join(_STYLES)}")
    return _STYLES[style](result)


def _show(result: Result, console: Console) -> None:
    arms = Table(title=escape(_title(result)), title_justify="left", title_style="bold", expand=False)
    for name, justify in (("arm", "left"), ("accuracy", "right"), ("std", "right"), ("lr", "right"), ("", "left")):
        arms.add_column(name, justify=justify, no_wrap=name != "", style="dim" if not name else None)
    for row in _arm_rows(result):
        arms.add_row(*row)
    scores = Table(expand=False)
    for name, justify in (("score", "left"), ("mean", "right"), ("std", "right"), ("", "left")):
        scores.add_column(name, justify=justify, no_wrap=name != "", style="dim" if not name else None)
    for row in _score_rows(result):
        scores.add_row(*row)
    console.print(arms)
    console.print(scores)


def _text(result: Result) -> str:
    text = io.StringIO()
    _show(result, Console(file=text, highlight=False, width=_WIDTH))
    return text.getvalue()


def _markdown(result: Result) -> str:
    lines = ["| | mean | std | lr | |", "| --- | ---: | ---: | ---: | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in _rows(result)]) + "\n"


def _latex(result: Result) -> str:
    rows, marked = [], False
    for name, mean, std, _, meaning in _rows(result):
        mark = "$^{*}$" if _REFERENCE in meaning else ""
        marked |= bool(mark)
        rows.append(" & ".join([name.replace("_", r"\_") + mark, mean, std]) + r" \\")
    if marked:
        rows.append(rf"\multicolumn{{3}}{{l}}{{\footnotesize $^{{*}}$ {_REFERENCE}}} \\")
    count = len(result.arms)
    lines = [r"\begin{tabular}{lrr}", r"\hline", r" & mean & std \\", r"\hline", *rows[:count], r"\hline"]
    return "\n".join([*lines, *rows[count:], r"\hline", r"\end{tabular}"]) + "\n"


def _html(result: Result) -> str:
    head = "<tr><th></th><th>mean</th><th>std</th><th>lr</th><th></th></tr>"
    body = "".join(
        "<tr><th style='text-align:left'>"
        + f"{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:4])
        + f"<td style='text-align:left;opacity:.6'>{html.escape(row[4])}</td></tr>"
        for row in _rows(result)
    )
    title = html.escape(_title(result))
    return f"<table><caption style='text-align:left;font-weight:bold'>{title}</caption>{head}{body}</table>"


_STYLES: dict[str, Callable[[Result], str]] = {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}


def _title(result: Result) -> str:
    seeds = counted(len(result.seeds), "seed")
    return (
        f"{result.method} on {result.dataset}, IPC {result.ipc}, {result.model}, labels {result.labels}, "
        f"protocol {result.protocol}, {seeds}"
    )


def _rows(result: Result) -> list[tuple[str, str, str, str, str]]:
    """Arms, then scores, each: name, mean, standard deviation, learning rates, meaning."""
    scores = [(name, mean, std, "", meaning) for name, mean, std, meaning in _score_rows(result)]
    return [*_arm_rows(result), *scores]


def _arm_rows(result: Result) -> list[tuple[str, str, str, str, str]]:
    return [(name, *_numbers(arm), _about(name, arm)) for name, arm in result.arms.items()]


def _numbers(arm: Arm) -> tuple[str, str, str]:
    measured = arm.source == "measured" and len(arm.accuracy) > 1
    rates = ", ".join(f"{lr:g}" for lr in dict.fromkeys(arm.lr) if lr is not None)
    return f"{fmean(arm.accuracy):.4f}", f"{stdev(arm.accuracy):.4f}" if measured else "-", rates


def _about(name: str, arm: Arm) -> str:
    return _MEANING.get(name, "") if arm.source == "measured" else _REFERENCE


def _score_rows(result: Result) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, statistic in result.scores.items():
        label, meaning = _SCORES[name]
        spread = f"{statistic.std:.4f}" if statistic.n > 1 else "-"
        meaning = meaning.format(w=result.w, g=result.g)
        if name in _OF_REAL and result.arms["real_hard"].source != "measured":
            meaning += f"; real_hard is {_REFERENCE}"
        rows.append((label, f"{statistic.mean:.4f}", spread, meaning))
    return rows


def _shown(folder: Path) -> Path:
    try:
        return folder.resolve().relative_to(Path.cwd())
    except ValueError:
        return folder
