"""Where curves and scores go besides result.json: CSV, Weights & Biases, TensorBoard, or nowhere.

A logger is told when the evaluation starts, when an arm is measured, and when all is done. There is one log for each
evaluation, not one for each student.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig

from ddrank import atomic
from ddrank.build import plain
from ddrank.errors import InputError
from ddrank.measure import Fit
from ddrank.result import Result


class Nothing:
    """Logs nothing; the base of the others."""

    def start(self, config: DictConfig, folder: Path) -> None:
        """Before the first student: `config` is the evaluation's, `folder` its run directory."""

    def arm(self, fits: Sequence[Fit]) -> None:
        """One arm is measured: its tested students."""

    def finish(self, result: Result, pictures: Sequence[Path]) -> None:
        """All arms are measured."""

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
    """One W&B run for each evaluation, grouped by dataset, IPC and model, tagged by method.

    Arms (mean and std), learning rates and scores are in the summary, curves under `curve/<arm>/seed<k>/...`, pictures
    under their names. Offline unless WANDB_API_KEY is set or `offline` says so.
    """

    def __init__(self, project: str, entity: str | None, offline: bool | None, tags: Sequence[str]):
        self._project, self._entity, self._tags = project, entity, list(tags)
        self._offline = not os.environ.get("WANDB_API_KEY") if offline is None else offline

    def start(self, config: DictConfig, folder: Path) -> None:
        import wandb

        try:
            self._run = wandb.init(
                project=self._project,
                entity=self._entity,
                dir=str(folder),
                mode="offline" if self._offline else "online",
                group=f"{config.dataset.name}-ipc{config.ipc}-{config.model.name}",
                name=f"{config.method.name}-{config.dataset.name}-ipc{config.ipc}-seed{config.seed}",
                tags=[config.method.name, *self._tags],
                config=plain(config),
                settings=wandb.Settings(silent=True),
            )
        except Exception as error:
            raise InputError(f"W&B could not be started ({error}): choose logger.offline=true or logger=csv") from error

    def arm(self, fits: Sequence[Fit]) -> None:
        for fit in fits:
            prefix = f"curve/{fit.arm}/seed{fit.seed}"
            self._run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
            for epoch, loss in fit.losses:
                self._run.log({f"{prefix}/epoch": epoch, f"{prefix}/training_loss": loss})
            for epoch, accuracy in fit.tests:
                self._run.log({f"{prefix}/epoch": epoch, f"{prefix}/test_accuracy": accuracy})

    def finish(self, result: Result, pictures: Sequence[Path]) -> None:
        import wandb

        self._run.log({picture.stem: wandb.Image(str(picture)) for picture in pictures})
        self._run.summary.update(summary(result))
        self._run.finish()

    def iteration(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log({"iteration": iteration, **{f"distillation/{name}": value for name, value in values.items()}})

    def close(self, rows: Sequence[Mapping[str, float]], pictures: Sequence[Path]) -> None:
        import wandb

        self._run.log({picture.stem: wandb.Image(str(picture)) for picture in pictures})
        self._run.finish()


class TensorBoard(Nothing):
    """TensorBoard events under `tensorboard/` in the run's folder: curves, arms, scores and pictures."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("logger=tensorboard needs TensorBoard: pip install 'ddrank[tensorboard]'") from error
        self._open = SummaryWriter

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
