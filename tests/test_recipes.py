"""The recipes: every published setting (tests/recipes.yaml) against the composed configuration, field by field, and
every method on every dataset. What was published wrong by an evident slip stands in SLIPS, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ddrank import build, models
from ddrank import config as schema

TABLE = yaml.safe_load((Path(__file__).parent / "recipes.yaml").read_text(encoding="utf-8"))
IPCS = TABLE["ipcs"]
ABSENT = "absent"
PLACES = [
    f"{method}/{dataset}/ipc{ipc}"
    for method in TABLE["methods"]
    for dataset in TABLE[method]
    if dataset in TABLE["datasets"]
    for ipc in IPCS
]


@dataclass(frozen=True)
class Slip:
    """What the published files have in some places (a pattern of method/dataset/ipc), and what is meant instead."""

    where: str
    field: str
    found: Any
    meant: Any
    why: str


CIFAR100 = {"mean": [0.5071, 0.4866, 0.4409], "std": [0.2673, 0.2564, 0.2762]}
NOISE = {"GaussianNoise": {"mean": 0.0, "sigma": 0.1, "clip": False}}
SLIPS = [
    Slip("dc/cifar100/ipc1", "ipc", 10, 1, "the file and its paths are those of IPC 1"),
    Slip("sre2l/tinyimagenet/ipc50", "ipc", 10, 50, "its paths are those of IPC 50"),
    Slip("sre2l/tinyimagenet/ipc50", "noise", NOISE, None, "in no other file"),
    Slip("sre2l/tinyimagenet/ipc10", "teachers", ABSENT, ["ResNet-18-BN"], "mode M needs teachers"),
    Slip("mtt/tinyimagenet/ipc10", "step_size", ABSENT, 500, "the library refuses a step schedule without"),
    Slip("mtt/tinyimagenet/ipc50", "step_size", ABSENT, 500, "the library refuses a step schedule without"),
    Slip("d4m/cifar100/ipc1", "criterion_args.temperature", 30.0, 20.0, "20 in all other files of the method"),
    Slip("d4m/cifar100/ipc10", "eval_full_data", ABSENT, True, "true at IPC 1 and 50; there is no reference accuracy"),
    Slip("gvbsm/imagenet1k/ipc50", "weight_decay", ABSENT, 0.01, "0.01 at IPC 1 and 10; without, the optimizer fails"),
    Slip("edc/imagenet1k/ipc1", "num_eval", 1, 5, "5 at IPC 10 and in every other file"),
    Slip("edc/imagenet1k/ipc50", "num_eval", 1, 5, "5 at IPC 10 and in every other file"),
    Slip("rded/cifar100/ipc50", "model", "ConvNet-4-BN", "ConvNet-3-BN", "as at IPC 1 and 10, and on CIFAR-10"),
    Slip("rded/cifar100/ipc50", "teachers", ["ConvNet-4-BN"], ["ConvNet-3-BN"], "as the student"),
    Slip("rded/cifar10/*", "num_eval", ABSENT, 5, "the constructor's default"),
    Slip("rded/*/ipc1", "num_eval", ABSENT, 5, "the constructor's default"),
    Slip("rded/cifar100/ipc1", "soft_label_criterion", ABSENT, "kl", "the constructor's default"),
    Slip("rded/cifar100/ipc50", "soft_label_criterion", ABSENT, "kl", "the constructor's default"),
    Slip("rded/tinyimagenet/*", "soft_label_criterion", ABSENT, "kl", "the constructor's default"),
    Slip("rded/imagenet1k/*", "soft_label_criterion", ABSENT, "kl", "the constructor's default"),
    Slip("rded/imagenet1k/*", "model_torchvision", False, True, "the library's own ResNet-18 fails at 224 pixels"),
    Slip("rded/imagenet1k/*", "teacher_torchvision", False, True, "the library's own ResNet-18 fails at 224 pixels"),
    *(
        Slip(f"{method}/cifar100/*", "normalize", TABLE["normalize"]["cifar10"], CIFAR100, "in the method's own code")
        for method in ("dc", "dsa", "dm")
    ),
]

# What a field means where its files leave it out, by kind of evaluation.
SOFT_FIELDS = ("teachers", "teacher_torchvision", "soft_label_mode", "soft_label_criterion", "criterion_args")
WHERE_ABSENT = {
    "hard": {
        "use_aug_for_hard": (True, "the hard-label evaluator augments the distilled images"),
        "syn_lr": (None, "searched for"),
        **{field: (None, "there are no soft labels") for field in SOFT_FIELDS},
    },
    "soft": {
        "syn_lr": (None, "searched for"),
        "step_size": (None, "of the step schedule alone"),
    },
    "ars": {
        "zca": (False, "the constructor's default"),
        "use_aug_for_hard": (False, "these evaluators train nothing with hard labels"),
        "syn_lr": (None, "searched for"),
        "step_size": (None, "of the step schedule alone"),
        "eval_full_data": (False, "these evaluators train nothing on the real data"),
    },
}
NOT_COMPARED = {
    "evaluator": "every evaluation here gives all scores",
    "random_data_format": "random images are drawn from the dataset itself",
    "dist": "there are no distributed processes",
    "default_lr": "read by neither evaluator, and refused by one",
}
NOT_COMPARED_WHERE = [  # field, where it says nothing, why
    ("momentum", lambda found: found["optimizer"] != "sgd", "only sgd reads it"),
    ("real_batch_size", lambda found: not found["eval_full_data"], "a reference accuracy stands for training"),
]
KEPT = {  # differences between the IPCs of one method and dataset that are meant
    ("rded", "syn_batch_size"): "RDED's own code has a batch size for each IPC",
}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    torch.set_num_threads(1)
    schema.register()
    with initialize_config_dir(config_dir=str(schema.folder()), version_base="1.3"):
        yield


@cache
def composed(*overrides: str) -> DictConfig:
    config = compose("config", overrides=list(overrides))
    schema.check(config)
    return config


# --- the table: expanded, and with its slips mended ---


def published(place: str) -> dict[str, Any]:
    """The settings of one published file, by the rule of the table's header."""
    method, dataset, ipc = place.split("/")
    of_dataset = TABLE[method][dataset]
    general = {key: value for key, value in of_dataset.items() if not key.startswith("ipc")}
    settings = {"ipc": int(ipc[3:])} | TABLE[method]["defaults"] | general | of_dataset.get(ipc, {})
    return {key: value for key, value in settings.items() if value != "unset"}


def in_our_terms(place: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A file's settings with what its transforms hold taken apart: views, noise, constants, test images."""
    method, dataset, _ = place.split("/")
    found = dict(settings)
    steps = found.pop("train_transforms", None)
    constants = [step["Normalize"] for step in steps or () if "Normalize" in step] or [TABLE["datasets"][dataset]]
    found["normalize"] = None if found.get("zca") else {key: constants[0][key] for key in ("mean", "std")}
    found["noise"] = next((step for step in steps or () if "GaussianNoise" in step), None)
    decoding = ("ToTensor", "Normalize", "GaussianNoise")
    found["views"] = [_step(step) for step in steps or () if not set(step) & set(decoding)]
    found["val_transforms"] = _test_images(found.get("val_transforms"), found["im_size"])
    if "batch_size" in found:
        found["syn_batch_size"] = found.pop("batch_size")
    found["labels"] = TABLE[method]["label_type"]
    return found


def kind(place: str) -> str:
    recipe = TABLE[place.split("/")[0]]
    return "ars" if recipe["score"] == "ars" else recipe["label_type"]


def intended(place: str) -> dict[str, Any]:
    """What a published file means: its slips mended, what it leaves out filled in."""
    found = in_our_terms(place, published(place))
    for slip in (slip for slip in SLIPS if fnmatchcase(place, slip.where)):
        holder, _, key = slip.field.rpartition(".")
        inner = dict(found[holder]) if holder else found
        inner[key] = slip.meant
        if holder:
            found[holder] = inner
    for field, (meant, _) in WHERE_ABSENT[kind(place)].items():
        found.setdefault(field, meant)
    nowhere = [field for field, says_nothing, _ in NOT_COMPARED_WHERE if says_nothing(found)]
    return {key: value for key, value in found.items() if key not in (*NOT_COMPARED, *nowhere)}


def _step(step: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A transform with torchvision's defaults left out."""
    ((name, arguments),) = step.items()
    defaults = {"RandomHorizontalFlip": {"p": 0.5}, "RandomResizedCrop": {"antialias": True}}.get(name, {})
    return name, {key: value for key, value in arguments.items() if defaults.get(key) != value}


def _test_images(steps: list[dict[str, Any]] | None, size: list[int]) -> int:
    """To what the shorter side of a test image is resized before its centre of the dataset's size is cut out."""
    return size[0] if steps is None else steps[0]["Resize"]["size"]


# --- ours, in the table's terms ---


def ours(config: DictConfig, fields: list[str]) -> dict[str, Any]:
    """The composed configuration as the published files would have it."""
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    dataset, method, train, criterion = config.dataset, config.method, config.train, config.criterion
    soft = method.labels != "hard"
    student = network(config.model)
    teachers = [network(schema.model_named(name, config)) for name in method.teachers]
    mixing = [key for key in config.aug if key not in ("name", "view")]
    assert len(mixing) <= 1
    views = config.aug.view if "view" in config.aug else None
    assert views is None or views.mirror is True
    of_criterion = {key: value for key, value in criterion.items() if key not in ("name", "_target_")}
    assert method.space in ("normalized", "zca")
    real = config.protocol.real
    found = {
        "ipc": config.ipc,
        "im_size": [dataset.size, dataset.size],
        "labels": "soft" if soft else "hard",
        "model": student[0],
        "model_torchvision": student[1],
        "teachers": [name for name, _ in teachers] if soft else None,
        "teacher_torchvision": all(flag for _, flag in teachers) if soft else None,
        "soft_label_mode": {"hard": None, "single": "S", "multi": "M"}[method.labels],
        "soft_label_criterion": CRITERIA[criterion["_target_"]],
        "criterion_args": of_criterion or None,
        "aug": mixing[0] if mixing else None,
        "aug_args": strengths(config.aug[mixing[0]]) if mixing else None,
        "views": [_step(OmegaConf.to_container(step)) for step in views.transforms] if views else [],
        "noise": None,
        "normalize": None if method.space == "zca" else {"mean": list(method.mean), "std": list(method.std)},
        "val_transforms": dataset.loader.get("test_resize") or dataset.size,
        "zca": method.space == "zca",
        "use_aug_for_hard": method.aug_for_hard,
        "optimizer": train.optimizer,
        "momentum": train.momentum,
        "weight_decay": train.weight_decay,
        "lr_scheduler": train.schedule,
        "step_size": train.step_size if train.schedule == "step" else None,
        "epochs": train.epochs,
        "syn_lr": method.lr,
        "syn_batch_size": train.batch_size,
        "real_batch_size": real.batch_size or dataset.real.batch_size,
        "num_eval": config.num_eval,
        "eval_full_data": config.model.name not in (dataset.real_hard_reference or {}),
    }
    return {field: found[field] for field in fields}


CRITERIA = {
    "ddrank.criteria.CrossEntropy": None,
    "ddrank.criteria.KL": "kl",
    "ddrank.criteria.SoftCrossEntropy": "sce",
    "ddrank.criteria.MSEGT": "mse_gt",
}
DEFAULT_OF_DSA = {"mirror": True, "mode": "single"}


def network(model: dict[str, Any]) -> tuple[str, bool]:
    """A model config's published name, and whether torchvision's network is meant (our ResNet computes the same:
    tests/test_models.py)."""
    kind = model["_target_"].rpartition(".")[2]
    if kind == "ConvNet":
        assert (model["width"], model["act"], model["pool"]) == (128, "relu", "avg")
        return f"ConvNet-{model['depth']}" + {"batch": "-BN", "instance": ""}[model["norm"]], False
    if kind == "ResNet":
        assert model["small_stem"] is None
        return f"ResNet-{model['depth']}" + {"batch": "-BN", "instance": ""}[model["norm"]], True
    assert kind == "torchvision_model"
    return {"alexnet": "AlexNet"}.get(model["arch"], model["arch"]), True


def strengths(part: dict[str, Any]) -> dict[str, Any]:
    """The arguments of DSA, mixup or cutmix under their published names."""
    arguments = {"lambda" if key == "lam" else key: value for key, value in part.items() if key != "_target_"}
    assert DEFAULT_OF_DSA.items() <= arguments.items() or not part["_target_"].endswith("DSA")
    return {key: value for key, value in arguments.items() if key not in DEFAULT_OF_DSA}


# --- the comparison ---


def test_the_table_has_a_recipe_for_each_of_its_files():
    assert len(PLACES) == TABLE["source"]["files"]["total"] == 90
    recipes = {path.stem for path in (schema.folder() / "recipe").glob("*.yaml")}
    assert {"-".join(place.split("/")[:2]) for place in PLACES} <= recipes


@pytest.mark.parametrize("place", PLACES)
def test_a_recipe_is_what_its_published_file_means(place):
    method, dataset, ipc = place.split("/")
    config = composed(f"method={method}", f"dataset={dataset}", f"ipc={ipc[3:]}")
    expected = intended(place)
    assert ours(config, list(expected)) == expected
    if not expected["eval_full_data"]:
        percent = TABLE["real_accuracy_reference"][dataset][expected["model"]]
        assert config.dataset.real_hard_reference == {config.model.name: pytest.approx(percent / 100)}


@pytest.mark.parametrize("method", TABLE["methods"])
def test_the_schedule_ends_where_protocol_and_method_say(method):
    dataset = next(name for name in TABLE[method] if name in TABLE["datasets"])
    strict = composed(f"method={method}", f"dataset={dataset}", "ipc=1")
    reference = composed(f"method={method}", f"dataset={dataset}", "protocol=ddranking")
    if strict.train.schedule == "cosine":
        assert reference.train.cosine_span == 0.5  # as the package
        assert strict.train.cosine_span == (0.5 if method in ("rded", "edc") else 1.0)  # as each method's own code
    else:
        assert strict.train.gamma == reference.train.gamma == 0.1
    assert reference.protocol.real.epochs == reference.train.epochs  # the package trains the real data as long


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: f"{slip.where} {slip.field}")
def test_a_slip_is_in_the_published_files(slip):
    places = [place for place in PLACES if fnmatchcase(place, slip.where)]
    values = []
    for place in places:
        found = in_our_terms(place, published(place))
        for key in slip.field.split("."):
            found = found.get(key, ABSENT)
        values.append(found)
    assert slip.found != slip.meant
    assert values == [slip.found] * len(places) != []


def test_every_difference_between_the_ipcs_of_a_recipe_is_accounted_for():
    """With the slips mended nothing differs by IPC but what KEPT names; every anomaly of that kind is dealt with."""
    for method, dataset in sorted({tuple(place.split("/")[:2]) for place in PLACES}):
        of_ipcs = [intended(f"{method}/{dataset}/ipc{ipc}") for ipc in IPCS]
        for field in set().union(*of_ipcs) - {"ipc"}:
            values = [settings.get(field, ABSENT) for settings in of_ipcs]
            assert values[0] == values[1] == values[2] or (method, field) in KEPT, (method, dataset, field, values)
    dealt_with = {slip.field.split(".")[0] for slip in SLIPS} | {field for _, field in KEPT} | set(NOT_COMPARED)
    dealt_with |= {field for field, *_ in NOT_COMPARED_WHERE} | {"train_transforms", "random_data_path"}
    for anomaly in (anomaly for anomaly in TABLE["anomalies"] if anomaly["scope"] == "ipc"):
        for field in anomaly["field"].split(", "):
            assert field.split(".")[0] in dealt_with, anomaly


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tinyimagenet"])
def test_real_data_is_trained_as_published(dataset):
    """What the package reads of its table of settings, which are the same for all networks of small images."""
    real = composed("method=dc", f"dataset={dataset}", "ipc=1").dataset.real
    found = {key: real[key] for key in REAL_FIELDS} | {"lr_scheduler": real.schedule}
    for name in {"ConvNet-3", "ConvNet-3-BN", "ConvNet-4-BN"} & set(TABLE["real_training"][dataset]):
        expected = TABLE["real_training"][dataset][name]
        assert found == {key: expected[key] for key in found}
    assert dict(real.aug) == {"name": "none"}


REAL_FIELDS = ("optimizer", "lr", "weight_decay", "momentum", "step_size", "gamma", "epochs")


# --- every method on every dataset ---

SUBSETS = ("imagewoof", "imagefruit", "imageyellow", "imagemeow", "imagesquawk")  # as imagenette, but for their classes
COMPOSED_ELSEWHERE = ("cifar10", "cifar100", "mnist5k", "shapes")  # with every method: tests/test_config.py
LIKE_DM = ("dsa", "herding", "kcenter", "kmeans", "mtt", "noise", "random")  # but for their distillers
GIVEN = {  # what has to be said on the command line
    "imagefolder": ["dataset.name=birds", "dataset.loader.path=birds", "dataset.num_classes=20", "dataset.size=64"],
    "custom": ["method.data=my/images.pt"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (schema.folder() / group).glob("*.yaml"))


@pytest.mark.parametrize("dataset", sorted({*options("dataset")} - {*SUBSETS, *COMPOSED_ELSEWHERE}))
def test_every_method_is_fit_for_every_dataset(dataset):
    """It composes, is accepted for every IPC, and its student and teachers can be built for images of that size."""
    for method in sorted({*options("method")} - {*LIKE_DM}):
        given = GIVEN.get(dataset, []) + GIVEN.get(method, [])
        config = composed(f"method={method}", f"dataset={dataset}", "ipc=1", *given).copy()
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        for ipc in IPCS[1:]:
            config.ipc = ipc
            schema.check(config)
        assert config.method.name == method
        teachers = config.method.teachers if config.method.labels != "hard" else []
        for model in [build.plain(config.model), *(schema.model_named(name, config) for name in teachers)]:
            check_network(yaml.dump(model), config.dataset.num_classes, config.dataset.channels, config.dataset.size)


@pytest.mark.parametrize("method", LIKE_DM)
def test_methods_that_are_evaluated_like_dm_differ_by_their_distillers_alone(method):
    files = [yaml.safe_load((schema.folder() / "method" / f"{name}.yaml").read_text()) for name in (method, "dm")]
    for content in files:
        for key in ("name", "distiller", "relabel"):
            content["method"].pop(key, None)
    assert files[0] == files[1]


@pytest.mark.parametrize("subset", SUBSETS)
def test_the_subsets_of_imagenet_differ_by_their_classes_alone(subset):
    found, known = (OmegaConf.load(schema.folder() / "dataset" / f"{name}.yaml") for name in (subset, "imagenette"))
    assert found.name == subset
    assert list(found.loader.class_indices) == TABLE["datasets"][subset]["class_indices"]
    found.name, found.loader.class_indices = known.name, known.loader.class_indices
    assert found == known


@cache
def check_network(model: str, num_classes: int, channels: int, size: int) -> None:
    with torch.device("meta"):
        network = models.build(yaml.safe_load(model), num_classes=num_classes, channels=channels, size=size)
        assert network.eval()(torch.zeros(2, channels, size, size)).shape == (2, num_classes)


@pytest.mark.parametrize("method", [method for method in TABLE["methods"] if TABLE[method]["label_type"] == "soft"])
def test_the_command_line_wins_over_what_a_method_chooses_by_dataset(method):
    dataset = [name for name in TABLE[method] if name in TABLE["datasets"]][-1]
    config = composed(f"method={method}", f"dataset={dataset}", "model=convnet3", "aug=none", "train.batch_size=7")
    assert (config.model.name, config.train.batch_size) == ("convnet3", 7)
    assert "small_stem" not in config.model
    assert config.aug == {"name": "none"}
    assert config.model.name not in (config.dataset.real_hard_reference or {})  # so that real_hard is measured


@pytest.mark.parametrize(
    ("method", "dataset", "model", "aug"),
    [
        ("sre2l", "digits", "convnet3_bn", "crop_mixup"),
        ("sre2l", "imagenette", "convnet5_bn", "rrc_cutmix"),
        ("d4m", "svhn", "convnet3", "rrc_cutmix"),
        ("rded", "imagewoof", "convnet5_bn", "rded"),
        ("edc", "cifar10", "convnet3_bn", "edc"),
        ("gvbsm", "mnist", "convnet3_bn", "rrc_cutmix"),
    ],
)
def test_where_nothing_was_published_students_are_convnets(method, dataset, model, aug):
    config = composed(f"method={method}", f"dataset={dataset}")
    assert (config.model.name, config.aug.name) == (model, aug)
