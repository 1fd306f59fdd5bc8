"""What a configuration may hold: the typed schema that every composed config is checked against.

Hydra merges the YAML files of `conf/` and the command line into `Evaluation` (python -m ddrank.run) or `Distillation`
(python -m ddrank.distill). An unknown key or a value of the wrong type is refused while composing. Groups whose
content depends on a class (`model`, `aug`, `criterion`, `logger`, `method.distiller`) are open mappings with a
`_target_`; their keys are checked against that class when it is built.

Accuracies and weights are fractions, sizes are pixels, lengths of training are epochs. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from ddrank.errors import InputError

LABELS = ("hard", "single", "multi")
SPACES = ("normalized", "zca", "pixel")
SOFT_KINDS = ("logits", "probabilities")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine", "constant")


@dataclass
class Training:
    """How a network is trained, but for its learning rate."""

    epochs: int = MISSING
    batch_size: int = 256
    optimizer: str = "sgd"  # of OPTIMIZERS
    momentum: float = 0.9  # sgd only
    betas: tuple[float, float] = (0.9, 0.999)  # adam and adamw only
    weight_decay: float = 0.0005
    schedule: str = "step"  # of SCHEDULES, stepped once an epoch
    step_size: int = 0  # epochs; step only
    gamma: float = 0.1  # step only
    cosine_span: float = 1.0  # cosine only: the part of the half period that is run; 0.5 ends at half the rate


@dataclass
class RealTraining(Training):
    """How a network is trained on the real data: a recipe of the dataset, with augmentation of its own."""

    lr: float | None = None
    aug: dict[str, Any] = field(default_factory=lambda: {"name": "none"})


@dataclass
class Validation:
    """The part of the real training set that is held out, stratified."""

    fraction: float = 0.1
    most: int = 5000


@dataclass
class Student:
    """Length of a student's training under the recipe of the DC family, by dataset."""

    epochs: int = 1000
    step_size: int = 500


@dataclass
class Dataset:
    """A real dataset: where it comes from, its constants, and its recipes for training on it."""

    name: str = MISSING
    loader: dict[str, Any] = MISSING
    embedded: bool = False  # comes with an installed package: missing distilled data is made without asking
    num_classes: int = MISSING
    channels: int = MISSING
    size: int = MISSING
    mean: list[float] = MISSING  # per channel, of pixels in [0, 1]
    std: list[float] = MISSING
    mirror: bool = True  # do classes survive mirroring?
    convnet_depth: int = 3
    crop_padding: int = 4
    crop_area: float = 0.08  # of the views of random resized crops: the least part of an image
    rded_factor: int = 1
    real_hard_reference: Any = None  # {model: accuracy}: published ones (fractions), not measured anew
    validation: Validation = field(default_factory=Validation)
    student: Student = field(default_factory=Student)
    real: RealTraining = field(default_factory=RealTraining)
    teacher: RealTraining = field(default_factory=RealTraining)


@dataclass
class Method:
    """A method: its labels, its distilled data, and how that was (or would be) made."""

    name: str = MISSING
    labels: str = "hard"  # of LABELS
    aug_for_hard: bool = True  # syn_hard has the augmentation; otherwise its views (crops, flips) alone
    space: str = "normalized"  # of SPACES: the space its images are stored and trained in; a file's own metadata wins
    made_in: str = "${.space}"  # of SPACES: the space that its distiller works in, and says in its file
    mean: list[float] = "${dataset.mean}"  # normalized: with which constants, where its code has its own
    std: list[float] = "${dataset.std}"
    seed: int = 0  # of its distillation; each has a folder of its own
    data: str = "${paths.distilled}/${dataset.name}/${.name}/ipc${ipc}${case:${.seed},{0:''},/seed${.seed}}"
    soft_labels: str | None = None  # a file of its own for the soft labels, where they are not beside the images
    soft_kind: str = "logits"  # or probabilities; a file's own metadata wins
    format: str = "auto"  # of the distilled data; a name of ddrank.data.readers.FORMATS where looking is not enough
    resize: bool = False  # bring images of another size to dataset.size, instead of refusing them
    trust: bool = False  # evaluate even what looks wrong (see ddrank.doctor)
    relabel: bool = False  # labels=single: label the images with the teachers instead of reading stored labels
    stored_views: bool = False  # labels=multi: train on the views and labels stored beside the images
    lr: float | None = None  # a learning rate that belongs to the distilled data; its file may hold one too
    temperature: float = 1.0
    teachers: list[str] = field(default_factory=lambda: ["convnet"])  # names of conf/model, averaged where several
    teacher_weights: list[str] = field(default_factory=list)  # state_dict files, one for each teacher; none: trained
    batch_sizes: dict[str, int] = field(default_factory=dict)  # ipc<k>: of its students, where it depends on IPC
    distiller: dict[str, Any] | None = None


@dataclass
class RealOverrides:
    """What a protocol changes in the dataset's recipe for real data."""

    epochs: int | None = None
    batch_size: int | None = None
    search: bool = True  # search the learning rate; otherwise take the recipe's own


@dataclass
class Protocol:
    """How learning rates and checkpoints are chosen."""

    name: str = MISSING
    select_on: str = "validation"  # or test
    per_seed: bool = False  # search the learning rate anew for each seed
    tuning_seed: int = 0  # where it is searched once
    lrs: list[float] = MISSING
    best_checkpoint: bool = False  # take the best of the accuracies seen during training, else the last
    test_every: dict[str, int] = field(default_factory=dict)  # epochs between tests, by kind of labels
    cosine_span: float = 1.0
    real: RealOverrides = field(default_factory=RealOverrides)


@dataclass
class Engine:
    """How the arithmetic is done; only `precision` changes results by more than rounding."""

    name: str = MISSING
    accelerator: str = "auto"
    precision: str = "32-true"
    threads: Any = "auto"  # CPU threads for one student: auto, all, or a number
    workers: Any = "auto"  # most processes that train students side by side: auto, or a number
    compile: Any = "auto"  # torch.compile: auto (where it pays), true, false
    channels_last: Any = "auto"  # memory layout of images: auto (in reduced precision), true, false
    allocator: bool = True  # keep freed memory in the process (glibc): no page faults at every step


@dataclass
class Score:
    w: float = 0.5
    g: float = 0.5


@dataclass
class Paths:
    data: str = "data"
    distilled: str = "distilled"
    store: str = "store"
    runs: str = "runs"


@dataclass
class Evaluation:
    """One evaluation of one method on one dataset at one IPC (conf/config.yaml)."""

    dataset: Dataset = field(default_factory=Dataset)
    model: dict[str, Any] = MISSING
    aug: dict[str, Any] = MISSING
    criterion: dict[str, Any] = MISSING
    protocol: Protocol = field(default_factory=Protocol)
    engine: Engine = field(default_factory=Engine)
    logger: dict[str, Any] = MISSING
    method: Method = field(default_factory=Method)
    train: Training = field(default_factory=Training)
    ipc: int = 1
    seed: int = 0
    num_eval: int = 5
    score: Score = field(default_factory=Score)
    paths: Paths = field(default_factory=Paths)


@dataclass
class Job:
    """How a long distillation is watched; nothing here changes its images."""

    checkpoint_minutes: float = 1.0  # between two checkpoints
    frames: int = 32  # pictures on the way; 0: none
    validate_every: int = 0  # iterations between two evaluations on the validation split; 0: none
    validate_students: int = 1  # that are trained for each
    stop_at: int | None = None  # stop before this iteration; the same command without it goes on


@dataclass
class Relabelling:
    """What `python -m ddrank.distill relabel` stores."""

    views: int = 0  # epochs of views with their labels; 0: one label an image
    fkd: str | None = None  # a folder of SRe2L's stored views and labels, which are taken over


@dataclass
class Distillation(Evaluation):
    """One distillation (conf/distill.yaml): an evaluation's config, of which the distiller and its data are used."""

    overwrite: bool = False
    job: Job = field(default_factory=Job)
    relabel: Relabelling = field(default_factory=Relabelling)


@dataclass
class Examination(Evaluation):
    """One examination of distilled data (conf/doctor.yaml), taken as an evaluation would take them."""

    ipc: int | None = None  # None: what the files tell


def register() -> None:
    """Make the schemas known to Hydra, under the names that conf/*.yaml begin with, and `case` to defaults lists."""
    store = ConfigStore.instance()
    store.store(name="evaluation_schema", node=Evaluation)
    store.store(name="distillation_schema", node=Distillation)
    store.store(name="examination_schema", node=Examination)
    OmegaConf.register_new_resolver("case", _case, replace=True)


def _case(choice: str | int, options: dict[str | int, str], otherwise: str) -> str:
    """`${case:${dataset},{image*:resnet18},convnet}`: the option whose pattern comes first and fits, or the last."""
    return next((option for pattern, option in options.items() if fnmatchcase(str(choice), str(pattern))), otherwise)


def settings(kind: type = Evaluation, place: str = "") -> list[str]:
    """The dotted names of all settings that the schema knows, with those of the conf/ groups."""
    named = [] if place else [path.name for path in folder().iterdir() if path.is_dir()]
    for entry, hint in get_type_hints(kind).items():
        named += settings(hint, f"{place}{entry}.") if is_dataclass(hint) else [f"{place}{entry}"]
    return named


def folder() -> Path:
    """The conf/ folder: inside the package in an installed wheel, at the top in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def model_named(name: str, config: DictConfig) -> dict[str, Any]:
    """The model config `conf/model/<name>.yaml`, its interpolations resolved against `config`; `timm:resnet18` and
    `torchvision:resnet18` give the architecture of those two.

    Raises InputError when there is no such model.
    """
    name, _, arch = name.partition(":")
    known = sorted(entry.stem for entry in (folder() / "model").glob("*.yaml"))
    if name not in known:
        raise InputError(
            f"there is no model {name!r} (asked for by the configuration): choose one of {', '.join(known)}"
        )
    shell = OmegaConf.create({"dataset": config.dataset, "model": OmegaConf.load(folder() / "model" / f"{name}.yaml")})
    if OmegaConf.is_missing(shell.model, "arch") != bool(arch):
        raise InputError(f"the model {name!r} is named with its architecture, as in timm:resnet18, and no other is")
    if arch:
        shell.model.arch = arch
    return OmegaConf.to_container(shell.model, resolve=True)


def check(config: DictConfig) -> None:
    """Refuse keys, values and combinations that cannot be meant, before any work begins. Raises InputError."""
    _check_keys(config)
    if missing := sorted(OmegaConf.missing_keys(config)) or ([] if config.method.data else ["method.data"]):
        raise InputError(f"{missing[0]} has no value: give it on the command line as {missing[0]}=...")
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
    for key, words in (("threads", ("auto", "all")), ("workers", ("auto",))):
        value = engine[key]
        if value not in words and not (type(value) is int and value >= 1):
            raise InputError(f"engine.{key} is {value!r}, expected {' or '.join(words)} or a number of 1 or more")
    for key in ("compile", "channels_last"):
        if not isinstance(engine[key], bool) and engine[key] != "auto":
            raise InputError(f"engine.{key} is {engine[key]!r}, expected auto, true or false")


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
            f"method.teacher_weights names {len(weights)} files for {len(teachers)} teachers "
            f"({', '.join(teachers)}): give one file for each"
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
