"""A ranking as one run of Weights & Biases: its table, its figures, and its numbers in the summary."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ddrank.errors import InputError
from ddrank.leaderboard import figures, tables
from ddrank.leaderboard.configuration import printable, slugs
from ddrank.leaderboard.rank import Entry, Ranking
from ddrank.leaderboard.statistics import LEVEL, RESAMPLES
from ddrank.wandb_run import Account, group_name, one_line

JOB_TYPE = "ranking"
TABLE = "ranking"  # the key of the table
FIGURES = "figures"  # and of the figures: 'figures/plane', one step a group


def log(ranking: Ranking, account: Account, folder: Path, drawn: bool = True) -> None:
    """Log `ranking`, with its figures if they are to be `drawn`, to one run, and print where it is.

    Its files lie in `folder`/wandb. It is in the group of the evaluations that it ranks, if these are all in one.
    Raises InputError when W&B fails.
    """
    groups = {group_name(group.dataset, group.ipc, group.model) for group in ranking.groups}
    with tempfile.TemporaryDirectory() as place:
        pictures = figures.write(ranking, place, formats=("png",)) if drawn else []
        run = account.open(
            folder,
            name=JOB_TYPE,
            config={"w": ranking.w, "g": ranking.g, "level": LEVEL, "resamples": RESAMPLES},
            group=groups.pop() if len(groups) == 1 else None,
            job_type=JOB_TYPE,
        )
        try:
            _fill(run, ranking, pictures)
            run.finish()
        except Exception as error:
            with contextlib.suppress(Exception):  # it says no more than the first
                run.finish(exit_code=1)
            raise InputError(f"the ranking could not be logged to W&B: {one_line(error)}") from error
    if where := run.settings.sync_dir if run.offline else run.url:  # nowhere with WANDB_MODE=disabled
        print(f"logged to W&B: {printable(where)}")


def summary(ranking: Ranking) -> dict[str, float]:
    """All entries' ranks and scores as flat keys: `ranking/digits-ipc1-convnet3-strict/dm/ddrs`, `.../ddrs_low`."""
    flat: dict[str, float] = {}
    for key, group in zip(figures.group_names(ranking.groups), ranking.groups, strict=True):
        methods = slugs([entry.name for entry in group.entries], "method")
        for method, entry in zip(methods, group.entries, strict=True):
            flat |= {f"ranking/{key}/{method}/{name}": value for name, value in _numbers(entry)}
    return flat


def _numbers(entry: Entry) -> Iterator[tuple[str, float]]:
    yield from (("rank", entry.rank), ("rank_low", entry.places[0]), ("rank_high", entry.places[1]))
    if entry.first is not None:
        yield "first", entry.first
    for score, statistic in entry.scores.items():
        yield score, statistic.mean
        if interval := entry.interval(score):
            yield from zip((f"{score}_low", f"{score}_high"), interval, strict=True)


def _fill(run: Any, ranking: Ranking, pictures: Sequence[Path]) -> None:
    import wandb

    rows = tables.rows(ranking)
    run.log({TABLE: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
    shown: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        group, _, kind = picture.stem.rpartition("-")
        shown.setdefault(group, {})[f"{FIGURES}/{kind}"] = wandb.Image(str(picture), caption=group)
    for images in shown.values():
        run.log(images)
    run.summary.update(summary(ranking))
