"""What the types of the schema cannot say: keys, values and combinations that cannot be meant."""

from __future__ import annotations

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddrank.config.options import model_named
from ddrank.config.schema import LABELS, OPTIMIZERS, SCHEDULES, SOFT_KINDS, SPACES, Distillation, Examination
from ddrank.errors import InputError
from ddrank.wording import counted


def check(config: DictConfig) -> None:
    """Refuse keys, values and combinations that cannot be meant, before any work begins. Raises InputError."""
    if missing := _missing(OmegaConf.to_container(config)):
        raise InputError(no_value(missing[0]))
    _check_keys(config)
    for group in ("model", "aug", "criterion"):
        if "name" not in config[group]:
            raise InputError(f"{group} has no name to appear with in tables: add one to its file, or +{group}.name=...")
    if not config.method.data:
        raise InputError(no_value("method.data"))
    method = config.method
    _one_of("method.labels", method.labels, LABELS)
    _one_of("method.space", method.space, SPACES)
    _one_of("method.made_in", method.made_in, SPACES)
    _one_of("method.soft_kind", method.soft_kind, SOFT_KINDS)
    _check_images(config)
    _check_engine(config.engine)
    _one_of("protocol.select_on", config.protocol.select_on, ("validation", "test"))
    for place, training in (
        ("train", config.train),
        ("dataset.real", config.dataset.real),
        ("dataset.teacher", config.dataset.teacher),
    ):
        _one_of(f"{place}.optimizer", training.optimizer, OPTIMIZERS)
        _one_of(f"{place}.schedule", training.schedule, SCHEDULES)
        _at_least(f"{place}.epochs", training.epochs, 1)
        _at_least(f"{place}.batch_size", training.batch_size, 1)
        for key in ("gamma", "cosine_span"):
            if not 0 < training[key] <= 1:
                raise InputError(f"{place}.{key} is {training[key]}, expected a number above 0 and at most 1")
        if training.schedule == "step":
            _at_least(f"{place}.step_size", training.step_size, 1)
        _at_least(f"{place}.momentum", training.momentum, 0)
        _at_least(f"{place}.weight_decay", training.weight_decay, 0)
        if not all(0 <= beta < 1 for beta in training.betas):
            raise InputError(f"{place}.betas is {list(training.betas)}, expected two numbers from 0 to below 1")
    for place, lr, needed in (
        ("method", method.lr, False),
        ("dataset.real", config.dataset.real.lr, not config.protocol.real.search),
        ("dataset.teacher", config.dataset.teacher.lr, True),
    ):
        if (lr is None and needed) or (lr is not None and not 0 < lr < float("inf")):
            raise InputError(f"{place}.lr is {lr}, expected a positive learning rate" + ("" if needed else " or null"))
    references = config.dataset.real_hard_reference
    if not (references is None or OmegaConf.is_dict(references)):
        raise InputError(
            f"dataset.real_hard_reference is {references!r}, expected accuracies by model, such as {{resnet18:0.565}}"
        )
    for model, accuracy in (references or {}).items():
        if not (isinstance(accuracy, int | float) and 0 <= accuracy <= 1):
            raise InputError(
                f"dataset.real_hard_reference.{model} is {accuracy}, expected a fraction in [0, 1], not percent"
            )
    _at_least("ipc", config.ipc, 1)
    _at_least("num_eval", config.num_eval, 1)
    _at_least("seed", config.seed, 0)
    if "job" in config:
        _check_job(config.job)
    for name in ("w", "g"):
        if not 0 <= config.score[name] <= 1:
            raise InputError(f"score.{name} is {config.score[name]}, expected a weight in [0, 1]")
    if not config.protocol.lrs or not all(0 < lr < float("inf") for lr in config.protocol.lrs):
        raise InputError(f"protocol.lrs is {list(config.protocol.lrs)}, expected one or more positive learning rates")
    if config.protocol.best_checkpoint and method.labels not in config.protocol.test_every:
        raise InputError(f"protocol.test_every has no entry for labels={method.labels}: how many epochs between tests?")
    for labels, epochs in config.protocol.test_every.items():
        _at_least(f"protocol.test_every.{labels}", epochs, 1)
    if config.protocol.select_on == "validation" and config.protocol.best_checkpoint:
        raise InputError(
            "protocol.best_checkpoint=true picks the epoch on the test set: it goes with protocol.select_on=test only"
        )
    for key in ("method.name", "dataset.name"):  # folders are called so
        name = OmegaConf.select(config, key)
        if not name.strip(".") or set(name) & set("/\\\0\n"):
            raise InputError(f"{key} is {name!r}, expected a name that a folder can have, without slashes")
    _check_labels(config)
    if config.plan and OmegaConf.get_type(config) in (Distillation, Examination):
        raise InputError("plan=true is of python -m ddrank.run: leave it out here")


def no_value(key: str) -> str:
    """What to say of a setting that must be given."""
    return f"{key} has no value: give it on the command line as {key}=..."


def _missing(content: dict, place: str = "") -> list[str]:
    """The settings without a value in `content`, whose interpolations, which may lead to such ones, are as written."""
    missing = []
    for key, value in content.items():
        if isinstance(value, dict):
            missing += _missing(value, f"{place}{key}.")
        elif value == "???":
            missing.append(f"{place}{key}")
    return missing


def _check_keys(config: DictConfig, where: str = "") -> None:
    """Refuse what the schema does not know: Hydra adds to it whatever the command line gives with a `+`."""
    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):
        return
    known = [entry.name for entry in fields(schema)]
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise InputError(f"there is no setting {where}{key}: {hint}")
        if not OmegaConf.is_missing(config, key) and OmegaConf.is_dict(config[key]):
            _check_keys(config[key], f"{where}{key}.")


def _check_engine(engine: DictConfig) -> None:
    for key, words in (("threads", ("auto", "all")), ("workers", ("auto",)), ("devices", ("auto",))):
        value = engine[key]
        if value not in words and not (type(value) is int and value >= 1):
            raise InputError(f"engine.{key} is {value!r}, expected {' or '.join(words)} or a number of 1 or more")
    _at_least("engine.nodes", engine.nodes, 1)
    for key in ("compile", "channels_last"):
        if not isinstance(engine[key], bool) and engine[key] != "auto":
            raise InputError(f"engine.{key} is {engine[key]!r}, expected auto, true or false")
    if not 0 <= (engine.checkpoint_every or 0) < float("inf"):
        raise InputError(
            f"engine.checkpoint_every is {engine.checkpoint_every}, expected minutes, or 0 or null for none"
        )


def _check_images(config: DictConfig) -> None:
    channels, validation = config.dataset.channels, config.dataset.validation
    for place in ("dataset", "method"):
        mean, std = config[place].mean, config[place].std
        for key, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise InputError(
                    f"{place}.{key} has {len(values)} values, expected one for each of dataset.channels={channels}: "
                    f"give it on the command line as {place}.{key}=[...]"
                )
        if min(std) <= 0:
            raise InputError(f"{place}.std is {list(std)}, expected numbers above 0")
    if not 0 < validation.fraction < 1:
        raise InputError(
            f"dataset.validation.fraction is {validation.fraction}, expected a part of the training set, above 0 and "
            "below 1"
        )
    _at_least("dataset.validation.most", validation.most, 1)


def _check_labels(config: DictConfig) -> None:
    labels, criterion = config.method.labels, config.criterion.name
    if labels != "single" and config.method.soft_labels:
        raise InputError(f"method.soft_labels is given, but method.labels={labels} does not use it: choose single")
    if labels != "multi" and config.method.stored_views:
        raise InputError(
            f"method.stored_views=true is for teacher labels of every view, but method.labels={labels}: choose multi"
        )
    if labels == "hard" and config.method.teacher_weights:
        raise InputError(
            "method.teacher_weights is given, but method.labels=hard has no teachers: choose single or multi"
        )
    if labels == "hard" and criterion != "ce":
        raise InputError(
            f"criterion={criterion} needs soft labels, but method.labels=hard has none: "
            "choose criterion=ce, or method.labels=single or multi"
        )
    if labels != "hard" and criterion == "ce":
        raise InputError(
            f"criterion=ce ignores soft labels, but method.labels={labels}: choose criterion=sce, kl or mse_gt"
        )
    if labels != "hard" and not config.method.teachers:
        raise InputError(
            f"method.labels={labels} needs a teacher to label images: name one, such as method.teachers=[convnet]"
        )
    for name in config.method.teachers:
        model_named(name, config)
    weights, teachers = list(config.method.teacher_weights), list(config.method.teachers)
    if weights and len(weights) != len(teachers):
        raise InputError(
            f"method.teacher_weights names {counted(len(weights), 'file')} for "
            f"{counted(len(teachers), 'teacher')} ({', '.join(teachers)}): give one file for each"
        )
    for path in weights:
        if not Path(path).is_file():
            raise InputError(
                f"the teacher weights {path} do not exist: put a state_dict file there, "
                "or leave method.teacher_weights empty to train the teacher here"
            )


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{key} is {value!r}, expected one of {', '.join(known)}")


def _check_job(job: DictConfig) -> None:
    for name, least in (("checkpoint_minutes", 0), ("frames", 0), ("validate_every", 0), ("validate_students", 1)):
        _at_least(f"job.{name}", job[name], least)
    if job.stop_at is not None:
        _at_least("job.stop_at", job.stop_at, 1)


def _at_least(key: str, value: float, least: int) -> None:
    if not value >= least:
        raise InputError(f"{key} is {value}, expected {least} or more")
