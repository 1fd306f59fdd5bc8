"""How good what has been made so far is: students of the method's recipe, tested on the held-out validation split.

For people to look at, and to choose a distiller's settings by; no distiller sees it.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from omegaconf import DictConfig

from ddrank import build, fit
from ddrank.arms import CROSS_ENTROPY
from ddrank.data import Samples
from ddrank.data.distilled import given_lr
from ddrank.distill.base import Distilled, Task
from ddrank.student import Training

_LRS = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}  # as published, where none belongs to the images


def validation_accuracy(config: DictConfig, task: Task, students: int, made: Distilled) -> float:
    """The mean accuracy (fraction) on the validation split of `students` students trained on `made`: with its soft
    labels and the method's criterion where it has any, else with hard labels."""
    soft, lr = made.soft_labels is not None, given_lr(config, made.lr)
    assignment = fit.Assignment(
        name="validation",
        model=build.plain(config.model),
        num_classes=task.real.num_classes,
        training=Training.of(config.train),
        criterion=build.unnamed(config.criterion) if soft else CROSS_ENTROPY,
        aug=build.unnamed(config.aug),
        black=task.space.black(task.real.channels, task.real.size),
        lr=_LRS[config.train.optimizer] if lr is None else lr,
        seed=0,
        samples=Samples(made.images, task.labels, made.soft_labels),
        tests=task.space.samples(task.real.validation),
    )
    seeds = [replace(assignment, seed=seed) for seed in range(students)]
    with task.display.activity("validation", students * assignment.training.epochs) as advance:
        return fmean(fit.run(student, task.engine, advance).accuracy for student in seeds)
