"""The settings of the ddranking package: their names, what they may be, and their defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddrank.errors import InputError

DATASETS = ("CIFAR10", "CIFAR100", "TinyImageNet", "ImageNet1K", "ImageNette", "ImageWoof", "ImageFruit", "ImageYellow")
DATASETS += ("ImageMeow", "ImageSquawk")
WHOLE = ("ipc", "num_eval", "num_epochs", "syn_batch_size", "real_batch_size", "batch_size", "step_size")
NUMBERS = ("weight_decay", "temperature", "syn_lr", "lrs_lambda", "ars_lambda")
FLAGS = ("use_zca", "use_aug_for_hard", "use_torchvision", "stu_use_torchvision", "tea_use_torchvision")
FLAGS += ("eval_full_data", "use_soft_label")
CHOICES = {
    "dataset": DATASETS,
    "label_type": ("hard", "soft"),
    "soft_label_mode": ("S", "M"),
    "soft_label_criterion": ("kl", "sce", "mse_gt"),
    "data_aug_func": ("dsa", "cutmix", "mixup", "none"),
    "optimizer": ("sgd", "adam", "adamw"),
    "lr_scheduler": ("step", "cosine", "cosineannealing", "lambda_cos"),
}
PATHS = ("real_data_path", "teacher_dir", "save_path", "image_path")
MAPPINGS = ("aug_params", "loss_fn_kwargs")
OTHERS = ("model_name", "momentum", "im_size", "teacher_model_names", "custom_train_trans", "custom_val_trans")
# What plays no part here, and why.
IGNORED = {
    "num_workers": "",
    "device": "",
    "default_lr": "real data is trained at dataset.real.lr",
    "dist": "one process does all the work",
    "random_data_format": "",
    "random_data_path": "random images are drawn anew for each seed and not written",
}
KNOWN = (*WHOLE, *NUMBERS, *FLAGS, *CHOICES, *PATHS, *MAPPINGS, *OTHERS, *IGNORED)
ALIASES = {"teacher_model_name": "teacher_model_names"}  # so in its demonstration

DEFAULTS: dict[str, Any] = {
    "dataset": "CIFAR10",
    "real_data_path": "./dataset/",
    "ipc": 10,
    "model_name": "ConvNet-3",
    "data_aug_func": "cutmix",
    "aug_params": {},
    "soft_label_mode": "S",
    "soft_label_criterion": "kl",
    "loss_fn_kwargs": {"temperature": 1.0},
    "label_type": "soft",
    "optimizer": "sgd",
    "lr_scheduler": "step",
    "weight_decay": 0.0005,
    "momentum": 0.9,
    "num_eval": 5,
    "num_epochs": 300,
    "syn_batch_size": 256,
    "real_batch_size": 256,
    "batch_size": 256,
    "teacher_dir": "./teacher_models",
}
NULLABLE = ("data_aug_func", "teacher_dir")  # None means none of it; elsewhere it means the default


def checked(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The package's settings with `defaults` for those not given, each of the type it should have; `where` they stand.

    Raises InputError for an unknown name or a value that cannot be meant.
    """
    settings = dict(defaults)
    for name, value in given.items():
        name = ALIASES.get(name, name)
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/coming-from-ddranking.md lists them"
            raise InputError(f"{where} has no setting {name!r} of the ddranking package: {hint}")
        if value is not None:
            settings[name] = _value(name, value)
        elif name in NULLABLE:
            settings[name] = None
    return settings


def _value(name: str, value: Any) -> Any:
    """One setting's value, checked; numbers may be written as text, as YAML reads 1e-3."""
    if name in WHOLE:
        whole = number(name, value)
        if whole != int(whole) or whole < 1:
            raise InputError(f"{name} is {value!r}, expected a whole number of 1 or more")
        return int(whole)
    if name in NUMBERS:
        return number(name, value)
    if name == "momentum":
        return tuple(number(name, part) for part in value) if isinstance(value, list | tuple) else number(name, value)
    if name in FLAGS and not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected true or false")
    if name in CHOICES:
        return _choice(name, value)
    if name in PATHS:
        if not isinstance(value, str | Path):
            raise InputError(f"{name} is {value!r}, expected a path")
        return str(value)
    if name in MAPPINGS:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} is {value!r}, expected a mapping of names to numbers")
        return dict(value)
    return value


def number(name: str, value: Any) -> float:
    """`value` as a finite number. Raises InputError."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {value!r}, expected a number") from error
    if not -float("inf") < found < float("inf"):
        raise InputError(f"{name} is {value!r}, expected a finite number")
    return found


def _choice(name: str, value: Any) -> str:
    known = CHOICES[name]
    for choice in known:
        if str(value).casefold() == choice.casefold():
            return choice
    near = difflib.get_close_matches(str(value), known, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise InputError(f"{name} is {value!r}{guess}, expected one of {', '.join(known)}")
