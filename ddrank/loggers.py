"""Where curves and scores go besides result.json: CSV, Weights & Biases, TensorBoard, or nowhere.

A logger is told when the evaluation starts, when an arm is measured, and when all is done. There is one log for each
evaluation, not one for each student; and one more for a sweep's ranking.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ddrank import atomic
from ddrank.build import plain
from ddrank.errors import InputError
from ddrank.result import Result
from ddrank.wandb_run import Account, group_name

if TYPE_CHECKING:
    from ddrank.leaderboard import Ranking
    from ddrank.measure import Fit  # it needs torch, which a sweep's own process does not


class Nothing:
    """Logs nothing; the base of the others."""

    def start(self, config: DictConfig, folder: Path) -> None:
        """Before the first student: `config` is the evaluation's, `folder` its run directory."""

    def arm(self, fits: Sequence[Fit]) -> None:
        """One arm is measured: its tested students."""

    def finish(self, result: Result, pictures: Sequence[Path]) -> None:
        """All arms are measured."""

    def ranking(self, ranking: Ranking, folder: Path) -> None:
        """A sweep of evaluations is ranked; `folder` is the sweep's."""

    def iteration(self, iteration: int, values: Mapping[str, float]) -> None:
        """One iteration of a distillation gave these."""

    def close(self, rows: Sequence[Mapping[str, float]], pictures: Sequence[Path]) -> None:
        """A distillation is over: all that it logged, over all processes that worked on it, each with `iteration`."""


class Csv(Nothing):
    """`fits.csv`: one row for each tested student; `curves.csv`: one row for each point of its curves."""

    def start(self, config: DictConfig, folder: Path) -> None:
        self._folder, self._fits = folder, []

    def arm(self, fits: Sequence[Fit]) -> None:
        self._fits += fits
        students = ((fit.arm, fit.seed, fit.lr, fit.accuracy, fit.seconds) for fit in self._fits)
        self._write("fits.csv", ("arm", "seed", "lr", "accuracy", "seconds"), students)
        points = (
            (fit.arm, fit.seed, fit.lr, epoch, what, value)
            for fit in self._fits
            for what, curve in (("training_loss", fit.losses), ("test_accuracy", fit.tests))
            for epoch, value in curve
        )
        self._write("curves.csv", ("arm", "seed", "lr", "epoch", "quantity", "value"), points)

    def close(self, rows: Sequence[Mapping[str, float]], pictures: Sequence[Path]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        self._write("iterations.csv", names, ([row.get(name, "") for name in names] for row in rows))

    def _write(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        atomic.write_bytes(self._folder / name, text.getvalue().encode())


class Wandb(Nothing):
    """One W&B run for each evaluation, grouped by dataset, IPC and model, tagged by method; one for a sweep's ranking.

    Scores, mean accuracies and learning rates are in the summary, curves under `curve/<arm>/seed<k>/...` over
    `curve/epoch`, pictures under their names. Offline as `Account` says.
    """

    def __init__(self, project: str, entity: str | None, offline: bool | None, tags: Sequence[str]):
        self._account = Account(project, entity, offline, tuple(tags))

    def start(self, config: DictConfig, folder: Path) -> None:
        self._run = self._account.open(
            folder,
            name=f"{config.method.name}-{config.dataset.name}-ipc{config.ipc}-seed{config.seed}",
            config=plain(config),
            group=group_name(config.dataset.name, config.ipc, config.model.name),
            tags=[config.method.name],
        )
        self._run.define_metric("curve/*", step_metric="curve/epoch")

    def arm(self, fits: Sequence[Fit]) -> None:
        for fit in fits:
            prefix = f"curve/{fit.arm}/seed{fit.seed}"
            for epoch, loss in fit.losses:
                self._run.log({"curve/epoch": epoch, f"{prefix}/training_loss": loss})
            for epoch, accuracy in fit.tests:
                self._run.log({"curve/epoch": epoch, f"{prefix}/test_accuracy": accuracy})

    def finish(self, result: Result, pictures: Sequence[Path]) -> None:
        import wandb

        self._run.log({picture.stem: wandb.Image(str(picture)) for picture in pictures})
        self._run.summary.update(summary(result))
        self._run.finish()

    def ranking(self, ranking: Ranking, folder: Path) -> None:
        from ddrank.leaderboard import wandb_ranking

        wandb_ranking.log(ranking, self._account, folder)

    def iteration(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log({"iteration": iteration, **{f"distillation/{name}": value for name, value in values.items()}})

    def close(self, rows: Sequence[Mapping[str, float]], pictures: Sequence[Path]) -> None:
        import wandb

        self._run.log({picture.stem: wandb.Image(str(picture)) for picture in pictures})
        self._run.finish()


class TensorBoard(Nothing):
    """TensorBoard events under `tensorboard/` in the run's folder: curves, arms, scores, pictures, and, for the HPARAMS
    tab, what was evaluated."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams as hparams_summary
        except ImportError as error:
            raise InputError("logger=tensorboard needs TensorBoard: pip install 'ddrank[tensorboard]'") from error
        self._open, self._hparams = SummaryWriter, hparams_summary

    def start(self, config: DictConfig, folder: Path) -> None:
        self._writer = self._open(str(folder / "tensorboard"))

    def arm(self, fits: Sequence[Fit]) -> None:
        for fit in fits:
            for epoch, loss in fit.losses:
                if loss is not None:
                    self._writer.add_scalar(f"{fit.arm}/seed{fit.seed}/training_loss", loss, epoch)
            for epoch, accuracy in fit.tests:
                self._writer.add_scalar(f"{fit.arm}/seed{fit.seed}/test_accuracy", accuracy, epoch)

    def finish(self, result: Result, pictures: Sequence[Path]) -> None:
        for key, value in summary(result).items():
            self._writer.add_scalar(key, value, 0)
        for part in self._hparams(hparams(result), dict.fromkeys(_metrics(result))):
            self._writer.file_writer.add_summary(part)
        self._end(pictures)

    def iteration(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"distillation/{name}", value, iteration)

    def close(self, rows: Sequence[Mapping[str, float]], pictures: Sequence[Path]) -> None:
        self._end(pictures)

    def _end(self, pictures: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image

        for picture in pictures:
            with Image.open(picture) as image:
                self._writer.add_image(picture.stem, np.asarray(image.convert("RGB")), 0, dataformats="HWC")
        self._writer.close()


def hparams(result: Result) -> dict[str, str | float]:
    """What was evaluated, and how: the columns of TensorBoard's HPARAMS tab, beside those of `summary`."""
    names = ("method", "dataset", "ipc", "model", "aug", "criterion", "labels", "protocol", "w", "g")
    return {name: getattr(result, name) for name in names} | {"seeds": " ".join(map(str, result.seeds))}


def _metrics(result: Result) -> list[str]:
    """Scores and arms, as `summary` names them."""
    return [key for key in summary(result) if not key.startswith("lr/") and not key.endswith("_std")]


def summary(result: Result) -> dict[str, float]:
    """Scores, arms and learning rates as flat keys: `score/ddrs`, `score/ddrs_std`, `arm/syn_any`, `lr/syn_any`; an arm
    that is a published accuracy is `reference/real_hard`."""
    flat: dict[str, float] = {}
    for name, statistic in result.scores.items():
        flat |= {f"score/{name}": statistic.mean, f"score/{name}_std": statistic.std}
    for name, arm in result.arms.items():
        rates = [lr for lr in arm.lr if lr is not None]
        kind = "arm" if arm.source == "measured" else arm.source
        flat |= {f"{kind}/{name}": fmean(arm.accuracy)} | ({f"lr/{name}": fmean(rates)} if rates else {})
    return flat
