"""The package's evaluators: its arguments, its results and its CSV; everything is measured by `ddrank.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ddrank.ddranking import table
from ddrank.ddranking.config import Config
from ddrank.ddranking.settings import DEFAULTS, checked
from ddrank.ddranking.translation import labels_of, translated
from ddrank.errors import InputError
from ddrank.result import Result


class Evaluator:
    """One of the package's evaluators.

    `config` holds settings by the package's names, as do the keyword arguments, which win. `overrides` are settings of
    ours by their names on the command line, which win over both: `overrides={"protocol": "strict"}`. After
    `compute_metrics`, `result` is our whole result.

    Raises InputError for settings that are unknown or cannot be meant.
    """

    FILE = "obj_scores.csv"
    SOFT: ClassVar[bool] = False
    BATCH_SIZE = "syn_batch_size"
    DEFAULTS: ClassVar[Mapping[str, Any]] = DEFAULTS
    FROM_CONFIG: ClassVar[Mapping[str, Any]] = {"data_aug_func": None}  # defaults where a Config leaves something out

    def __init__(
        self, config: Config | None = None, *places: Any, overrides: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        if places:
            raise InputError(f"{self._name} is given settings without names: write {self._name}(dataset=..., ipc=...)")
        if not isinstance(config, Config | None):
            raise InputError(f"{self._name} is given {config!r}, expected a Config and settings by keyword")
        defaults = dict(self.DEFAULTS) if config is None else {**self.DEFAULTS, **self.FROM_CONFIG}
        given = {} if config is None else dict(config.config)
        self.config = config
        self.settings = checked({**given, **settings}, defaults, self._name)
        self.labels = labels_of(self.settings, self._soft())
        self.overrides = dict(overrides or {})
        self.result: Result | None = None
        self.translation = translated(self.settings, self.labels, self.BATCH_SIZE)
        place = "./results/{dataset}/{model_name}/ipc{ipc}/".format(**self.settings) + self.FILE
        self.save_path = table.place(self.settings.get("save_path"), place, self.FILE)

    def _soft(self) -> bool:
        return self.SOFT

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _measure(
        self, image_tensor: Any, image_path: Any, labels: Any, soft_labels: Any, syn_lr: Any, **more: Any
    ) -> Result:
        """Our evaluation of the images, `more` being further settings of ours."""
        if image_tensor is None and image_path is None:
            image_path = self.settings.get("image_path")
        if (image_tensor is None) == (image_path is None):
            raise InputError(f"{self._name} needs one of image_tensor and image_path: give the images as either")
        if self.labels == "single" and soft_labels is None:
            raise InputError(f"{self._name} has soft_label_mode=S, but no soft_labels: give one for each image")
        notes = list(self.translation.notes)
        if self.labels == "multi" and soft_labels is not None:
            notes.append("soft_labels (with soft_label_mode=M the teachers label every view)")
            soft_labels = None
        if labels is not None and image_path is not None:
            notes.append("hard_labels (folders have their classes by their names)")
            labels = None
        _say(notes)
        settings = {**self.translation.overrides, **more, **self.overrides}
        given = checked({"syn_lr": syn_lr}, {}, self._name)
        dataset, ipc, method = (settings.pop(key) for key in ("dataset", "ipc", "method"))
        lr = given.get("syn_lr", settings.pop("method.lr", None))
        settings.pop("method.data", None)
        images = image_tensor if image_path is None else Path(image_path)
        from ddrank.api import evaluate

        self.result = evaluate(images, labels, soft_labels, dataset=dataset, ipc=ipc, method=method, lr=lr, **settings)
        return self.result

    def _report(
        self, columns: Mapping[str, list[float]], names: Mapping[str, tuple[str, ...]], titles: Mapping[str, str]
    ) -> dict[str, float]:
        """Write the CSV, print a line for each column, return the means and deviations."""
        table.write(self.save_path, columns)
        found = table.means(columns, names)
        for column, title in titles.items():
            mean, deviation = (found[f"{names[column][0]}_{which}"] for which in ("mean", "std"))
            print(f"{title} Mean: {mean:.4g}  Std: {deviation:.4g}")
        return found


class LabelRobustScoreHard(Evaluator):
    """Hard-label recovery, improvement over random and the label-robust score of data with hard labels."""

    def compute_metrics(
        self,
        image_tensor: Any = None,
        image_path: str | Path | None = None,
        hard_labels: Any = None,
        syn_lr: Any = None,
        lrs_lambda: float | None = None,
    ) -> dict[str, float]:
        """Means and standard deviations over `num_eval` runs: HLR and IOR in percent, LRS in [0, 1].

        `image_tensor` (classes x IPC, C, H, W) in the space of the test images, or `image_path`, a folder of class
        folders; `hard_labels` (images,); `syn_lr` a learning rate, searched where there is none.
        """
        return self._label_robust(image_tensor, image_path, hard_labels, None, syn_lr, lrs_lambda)

    def _label_robust(
        self, image_tensor: Any, image_path: Any, labels: Any, soft_labels: Any, syn_lr: Any, weight: Any
    ) -> dict[str, float]:
        weight = _weight("score.w", "lrs_lambda", weight, self.settings)
        scores = self._measure(image_tensor, image_path, labels, soft_labels, syn_lr, **weight).scores
        columns = {
            "hard_label_recovery": _percent(scores["hlr"].per_seed),
            "improvement_over_random": _percent(scores["ior"].per_seed),
            "lrs": list(scores["ddrs"].per_seed),
        }
        names = {column: (column,) for column in columns} | {"lrs": ("label_robust_score",)}
        titles = {
            "hard_label_recovery": "Hard Label Recovery (%)",
            "improvement_over_random": "Improvement Over Random (%)",
            "lrs": "Label-Robust Score",
        }
        return self._report(columns, names, titles)


class LabelRobustScoreSoft(LabelRobustScoreHard):
    """The same of data with soft labels: one stored with each image (mode S), or the teachers' of each view (M)."""

    SOFT = True

    def compute_metrics(
        self,
        image_tensor: Any = None,
        image_path: str | Path | None = None,
        soft_labels: Any = None,
        syn_lr: Any = None,
        lrs_lambda: float | None = None,
    ) -> dict[str, float]:
        """As `LabelRobustScoreHard.compute_metrics`, with `soft_labels` (images, classes), logits, in mode S."""
        return self._label_robust(image_tensor, image_path, None, soft_labels, syn_lr, lrs_lambda)


class HardLabelEvaluator(LabelRobustScoreHard):
    """`LabelRobustScoreHard` by its name before 0.2.0."""


class SoftLabelEvaluator(LabelRobustScoreSoft):
    """`LabelRobustScoreSoft` by its name before 0.2.0."""


class AugmentationRobustScore(Evaluator):
    """The gains over random images with and without augmentation, and the augmentation-robust score."""

    FILE = "aug_scores.csv"
    BATCH_SIZE = "batch_size"

    def _soft(self) -> bool:
        return self.settings["label_type"] == "soft"

    def compute_metrics(
        self,
        image_tensor: Any = None,
        image_path: str | Path | None = None,
        soft_labels: Any = None,
        syn_lr: Any = None,
        ars_lambda: float | None = None,
    ) -> dict[str, float]:
        """Means and standard deviations over `num_eval` runs: both gains in percent, ARS in [0, 1]."""
        weight = _weight("score.g", "ars_lambda", ars_lambda, self.settings)
        result = self._measure(
            image_tensor, image_path, None, soft_labels, syn_lr, **{"protocol.test_every.hard": 20}, **weight
        )
        arms = {name: _percent(arm.accuracy) for name, arm in result.arms.items()}
        columns = {
            "with_aug_scores": _difference(arms["syn_any"], arms["rdm_any"]),
            "without_aug_scores": _difference(arms["syn_any_noaug"], arms["rdm_any_noaug"]),
            "ars_list": list(result.scores["ars"].per_seed),
        }
        names = {
            "with_aug_scores": ("with_aug_scores", "with_aug"),  # as its source has it, and as its documentation
            "without_aug_scores": ("without_aug_scores", "without_aug"),
            "ars_list": ("augmentation_robust_score",),
        }
        titles = {
            "with_aug_scores": "With Augmentation (%)",
            "without_aug_scores": "Without Augmentation (%)",
            "ars_list": "Augmentation-Robust Score",
        }
        return self._report(columns, names, titles)


class GeneralEvaluator(Evaluator):
    """The test accuracy of students trained on the distilled data."""

    FILE = "eval_scores.csv"
    BATCH_SIZE = "batch_size"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        **DEFAULTS,
        "optimizer": "adamw",
        "lr_scheduler": "cosine",
        "weight_decay": 0.01,
        "data_aug_func": "dsa",
        "soft_label_mode": "M",
    }
    FROM_CONFIG: ClassVar[Mapping[str, Any]] = {"soft_label_criterion": "sce"}

    def _soft(self) -> bool:
        return self.settings.get("use_soft_label", False)

    def compute_metrics(
        self,
        image_tensor: Any = None,
        image_path: str | Path | None = None,
        labels: Any = None,
        syn_lr: Any = None,
    ) -> dict[str, float]:
        """`acc_mean` and `acc_std` over `num_eval` runs, in percent; `labels` are class indices or soft labels."""
        hard, soft = (None, labels) if self.labels == "single" else (labels, None)
        result = self._measure(image_tensor, image_path, hard, soft, syn_lr)
        arm = result.arms["syn_any"]
        columns = {"accs": _percent(arm.accuracy), "lrs": list(arm.lr)}
        return self._report(columns, {"accs": ("acc",), "lrs": ()}, {"accs": "Acc. (%)"})


def _percent(fractions: Any) -> list[float]:
    return [100 * fraction for fraction in fractions]


def _difference(first: list[float], second: list[float]) -> list[float]:
    return [one - other for one, other in zip(first, second, strict=True)]


def _weight(ours: str, name: str, weight: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """The score's weight: the argument's, else the settings', else a half."""
    given = settings.get(name, 0.5) if weight is None else weight
    return {ours: checked({name: given}, {}, "compute_metrics")[name]}


def _say(notes: list[str]) -> None:
    if notes:
        print(f"ddrank: of ddranking's settings, these are not as there: {'; '.join(notes)}", file=sys.stderr)
