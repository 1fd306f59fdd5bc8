"""The table at the end of an evaluation."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddrank.result import Result

_MEANING = {
    "real_hard": "real training set, hard labels",
    "syn_hard": "distilled images, hard labels",
    "syn_any": "distilled images, their own way",
    "rdm_any": "random images, the same way",
    "syn_any_noaug": "syn_any without augmentation",
    "rdm_any_noaug": "rdm_any without augmentation",
}
_SCORES = {
    "hlr": ("HLR", "real_hard - syn_hard, lower is better"),
    "ior": ("IOR", "syn_any - rdm_any, higher is better"),
    "ddrs": ("DDRS", "from both, w = {w:g}"),
    "ars": ("ARS", "gains over random, g = {g:g}"),
}


def print_result(result: Result, folder: Path) -> None:
    """Print arms and scores as mean and standard deviation over the seeds, and where the files lie."""
    console = Console(file=sys.stdout, highlight=False)
    seeds = f"{len(result.seeds)} seed" + ("s" if len(result.seeds) > 1 else "")
    title = (
        f"{result.method} on {result.dataset}, IPC {result.ipc}, {result.model}, labels {result.labels}, "
        f"protocol {result.protocol}, {seeds}"
    )
    arms = Table(title=escape(title), title_justify="left", title_style="bold", expand=False)
    for name, justify in (("arm", "left"), ("accuracy", "right"), ("std", "right"), ("lr", "right"), ("", "left")):
        arms.add_column(name, justify=justify, no_wrap=name != "", style="dim" if not name else None)
    for name, arm in result.arms.items():
        spread = f"{stdev(arm.accuracy):.4f}" if len(arm.accuracy) > 1 else "-"
        rates = ", ".join(f"{lr:g}" for lr in dict.fromkeys(arm.lr) if lr is not None)
        arms.add_row(name, f"{fmean(arm.accuracy):.4f}", spread, rates, _MEANING.get(name, ""))
    scores = Table(expand=False)
    for name, justify in (("score", "left"), ("mean", "right"), ("std", "right"), ("", "left")):
        scores.add_column(name, justify=justify, no_wrap=name != "", style="dim" if not name else None)
    for name, statistic in result.scores.items():
        label, meaning = _SCORES[name]
        spread = f"{statistic.std:.4f}" if statistic.n > 1 else "-"
        scores.add_row(label, f"{statistic.mean:.4f}", spread, meaning.format(w=result.w, g=result.g))
    console.print(arms)
    console.print(scores)
    console.print(f"accuracies are fractions of the test set; files: {escape(str(_shown(folder)))}", soft_wrap=True)


def _shown(folder: Path) -> Path:
    try:
        return folder.resolve().relative_to(Path.cwd())
    except ValueError:
        return folder
