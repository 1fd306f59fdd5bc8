"""The typed schema: everything that a configuration may hold, with its defaults.

Groups whose content depends on a class (`model`, `aug`, `criterion`, `logger`, `method.distiller`) are open mappings
with a `_target_`; their keys are checked against that class when it is built. Accuracies and weights are fractions,
sizes are pixels, lengths of training are epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

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
    rded_factor: int = 1  # images of RDED are made of so many patches by so many, which its views shuffle
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
    lr: float | None = None  # the learning rate that belongs to the distilled data; null: the one in its file, if any
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
    tuning_seed: int = 0  # of the students among which the learning rate is chosen on the validation split
    lrs: list[float] = MISSING
    best_checkpoint: bool = False  # take the best of the accuracies seen during training, else the last
    test_every: dict[str, int] = field(default_factory=dict)  # epochs between tests, by kind of labels
    cosine_span: float = 1.0
    real: RealOverrides = field(default_factory=RealOverrides)


@dataclass
class Engine:
    """How the arithmetic is done; only `precision` and the number of devices change results by more than rounding."""

    name: str = MISSING
    accelerator: str = "auto"
    precision: str = "32-true"
    threads: Any = "auto"  # CPU threads for one student: auto, all, or a number
    workers: Any = "auto"  # most processes that train students side by side: auto, or a number
    compile: Any = "auto"  # torch.compile: auto (where it pays), true, false
    channels_last: Any = "auto"  # memory layout of images: auto (in reduced precision), true, false
    allocator: bool = True  # keep freed memory in the process (glibc): no page faults at every step
    checkpoint_every: float | None = 5.0  # minutes between checkpoints of a fit, and before the first; 0 or null: none
    devices: Any = 1  # that train one student together, of each machine: a number, or auto (all GPUs)
    nodes: int = 1  # machines whose devices train one student together


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
    plan: bool = False  # say what would be done, and do nothing
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
