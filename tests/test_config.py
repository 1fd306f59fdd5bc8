"""The configuration: everything composes, published settings are what was published, and slips are errors."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ddrank import build, models
from ddrank import config as schema
from ddrank.errors import InputError

CONF = schema.folder()
DATASETS = ("digits", "mnist5k", "shapes", "cifar10", "cifar100")
SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")
LATER = ("tinyimagenet", "imagenet1k")  # recipes of data that tests do not have


def options(group: str) -> list[str]:
    """The options of a group, those in its folders included: dsa, sre2l/cifar10."""
    home = CONF / group
    return sorted(str(path.relative_to(home).with_suffix("")) for path in home.rglob("*.yaml"))


METHODS = options("method")


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    torch.set_num_threads(1)
    schema.register()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        yield


@cache
def composed(*overrides: str, name: str = "config"):
    return compose(name, overrides=list(overrides))


def of_method(method: str, *overrides: str):
    data = ["method.data=my/images.pt"] if method == "custom" else []
    return composed(f"method={method}", *data, *overrides)


def refused(*overrides: str) -> str:
    """The one sentence with which `check` refuses a composed config."""
    with pytest.raises(InputError) as error:
        schema.check(composed(*overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- everything composes ---


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_with_every_dataset(method, dataset):
    config = of_method(method, f"dataset={dataset}")
    schema.check(config)
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert resolved["method"]["name"] == method
    assert resolved["dataset"]["name"].startswith(dataset)
    if method != "custom":
        assert resolved["method"]["data"] == f"distilled/{resolved['dataset']['name']}/{method}/ipc1"


def test_the_groups_of_the_design_are_there():
    assert {path.name for path in CONF.iterdir() if path.is_dir()} >= {
        *("dataset", "model", "method", "aug", "criterion", "protocol", "engine", "logger", "recipe", "hydra", "train"),
    }
    published = {"dc", "dsa", "dm", "mtt", "datm", "sre2l", "rded", "d4m"}
    assert published | {"random", "noise", "herding", "kmeans", "kcenter", "custom"} <= set(METHODS)


def test_the_defaults_are_dm_on_digits_with_the_strict_protocol():
    config = composed()
    assert (config.method.name, config.dataset.name, config.protocol.name) == ("dm", "digits", "strict")
    assert (config.ipc, config.seed, config.num_eval, config.score.w, config.score.g) == (1, 0, 5, 0.5, 0.5)
    assert (config.engine.name, config.logger.name) == ("auto", "csv")


@pytest.mark.parametrize("method", ["dm", "sre2l"])
def test_a_distillation_composes_from_the_same_groups(method):
    config = composed(f"method={method}", "dataset=cifar10", "overwrite=true", name="distill")
    schema.check(config)
    assert config.overwrite is True
    same = composed(f"method={method}", "dataset=cifar10")
    assert config.method == same.method


ARCHITECTURES = {"torchvision": "mobilenet_v2", "timm": "vit_tiny_patch16_224"}


@pytest.mark.parametrize("model", options("model"))
def test_every_model_option_composes_and_can_be_built(model):
    arch = [f"model.arch={ARCHITECTURES[model]}"] if model in ARCHITECTURES else []
    config = composed("method=custom", "method.data=x", "dataset=shapes", "dataset.size=64", f"model={model}", *arch)
    schema.check(config)
    assert config.model.name == (ARCHITECTURES.get(model) or config.model.name)
    with torch.device("meta"):
        network = models.build(config.model, num_classes=10, channels=3, size=64)
    assert isinstance(network, torch.nn.Module)


@pytest.mark.parametrize("aug", options("aug"))
def test_every_aug_option_composes_and_works_on_a_batch(aug):
    config = composed("method=dm", "dataset=shapes", f"aug={aug}")
    schema.check(config)
    augmentations = build.parts(config.aug, "aug")
    assert bool(augmentations) == (aug != "none")
    assert config.aug.name == aug or "/" in aug
    torch.manual_seed(0)
    batch = {"image": torch.randn(4, 3, 32, 32), "label": torch.arange(4)}
    for augmentation in augmentations:
        augmentation.on_train_batch_start(None, None, batch, 0)
    assert batch["image"].shape == (4, 3, 32, 32)


@pytest.mark.parametrize(
    ("criterion", "labels"), [("ce", "hard"), ("kl", "multi"), ("sce", "multi"), ("mse_gt", "multi")]
)
def test_every_criterion_option_composes_and_gives_a_loss(criterion, labels):
    config = composed("method=dm", f"criterion={criterion}", f"method.labels={labels}")
    schema.check(config)
    loss = build.build(config.criterion, "criterion")(torch.randn(4, 10), torch.randn(4, 10), torch.arange(4))
    assert loss.ndim == 0
    assert set(options("criterion")) == {"ce", "kl", "sce", "mse_gt"}


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in ("protocol", "engine", "train") for option in options(group)]
)
def test_every_protocol_engine_and_train_option_composes(group, option):
    config = composed(f"{group}={option}")
    schema.check(config)
    if group != "train":
        assert config[group].name == option


@pytest.mark.parametrize("logger", options("logger"))
def test_every_logger_option_composes_and_can_be_built(logger):
    config = composed(f"logger={logger}")
    schema.check(config)
    assert hasattr(build.build(config.logger, "logger"), "finish")
    assert config.logger.name == logger


@pytest.mark.parametrize("method", [method for method in METHODS if method != "custom"])
def test_every_distiller_can_be_built(method):
    config = composed(f"method={method}")
    if config.method.distiller is not None:
        distiller = build.build(config.method.distiller, "method.distiller")
        settings = set(config.method.distiller) - {"_target_"}
        assert callable(distiller.distill)
        assert settings <= set(distiller.parameters())  # what the config sets goes into the file's metadata


@pytest.mark.parametrize("recipe", [name for name in options("recipe") if name.endswith(LATER)])
def test_recipes_for_later_datasets_hold_only_keys_of_the_schema(recipe):
    content = OmegaConf.load(CONF / "recipe" / f"{recipe}.yaml")
    merged = OmegaConf.merge(OmegaConf.structured(schema.Evaluation), content)
    assert merged.train.epochs > 0 or "train" not in content
    with pytest.raises(Exception, match="not in 'Training'"):
        OmegaConf.merge(OmegaConf.structured(schema.Evaluation), {"train": {"epoch": 3}})


def test_every_recipe_is_of_a_method_and_a_dataset_and_is_found_by_them():
    for recipe in options("recipe"):
        method, _, dataset = recipe.partition("-")
        assert method in METHODS
        assert dataset in (*DATASETS, *LATER, *SUBSETS)
    assert composed("method=sre2l", "dataset=cifar10").method.temperature == 30.0  # the recipe's; the method's is 20
    assert composed("method=random", "dataset=cifar10").train.epochs == 1000  # has no recipe


@pytest.mark.parametrize("dataset", SUBSETS)
def test_the_imagenet_subsets_have_the_papers_settings(dataset):
    mtt = [composed("method=mtt", f"dataset={dataset}", f"ipc={ipc}").method.distiller for ipc in (1, 10)]
    assert [(one.syn_steps, one.expert_epochs, one.max_start_epoch, one.lr_img, one.lr_lr) for one in mtt] == [
        (20, 2, 10, 1e3, 1e-6)
    ] * 2
    assert [one.syn_batch for one in mtt] == [None, 20]
    rded = composed("method=rded", f"dataset={dataset}")
    shuffle, crop, _ = rded.aug.view.transforms
    assert rded.method.distiller.factor == shuffle.ShufflePatches.factor == 2
    assert list(crop.RandomResizedCrop.scale) == [0.5, 1.0]


def test_views_fit_the_size_of_images():
    for dataset, roll, area in (
        ("mnist", 4, 0.5),
        ("svhn", 4, 0.08),
        ("imagenette", 18, 0.08),
        ("imagenet1k", 32, 0.08),
    ):
        sre2l = composed("method=sre2l", f"dataset={dataset}").method.distiller
        assert (list(sre2l.roll), list(sre2l.crop)) == ([0, roll], [area, 1.0])
    for dataset in ("cifar10", "imagenet1k"):  # as ddranking's recipes have it
        shuffle, crop, _ = composed("method=rded", f"dataset={dataset}").aug.view.transforms
        assert (shuffle.ShufflePatches.factor, list(crop.RandomResizedCrop.scale)) == (1, [1.0, 1.0])


# --- the published settings (DD-Ranking's recipe files, commit 9ee9a165) ---

DC_FAMILY = {
    "epochs": 1000,
    "batch_size": 256,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "step",
    "step_size": 500,
    "gamma": 0.1,
    "weight_decay": 0.0005,
    "criterion": "ce",
    "labels": "hard",
    "model": "convnet3",
    "aug": "dsa",
    "aug_for_hard": True,
    "space": "normalized",
}
DECOUPLED = {
    "optimizer": "adamw",
    "betas": [0.9, 0.999],
    "schedule": "cosine",
    "weight_decay": 0.01,
    "temperature": 20.0,
    "scale_loss": False,
    "criterion": "kl",
    "labels": "multi",
    "aug_for_hard": False,
    "space": "normalized",
}
PUBLISHED = {
    "dc": DC_FAMILY | {"aug": "none"},
    "dsa": DC_FAMILY,
    "dm": DC_FAMILY,
    "mtt": DC_FAMILY,
    "datm": DC_FAMILY
    | {
        "criterion": "sce",
        "labels": "single",
        "soft_kind": "logits",
        "temperature": 1.0,
        "scale_loss": False,
        "space": "zca",
        "teachers": ["convnet3"],
    },
    "sre2l": DECOUPLED
    | {
        "epochs": 400,
        "batch_size": 256,
        "temperature": 30.0,
        "model": "resnet18",
        "teachers": ["resnet18"],
        "aug": "crop_mixup",
    },
    "rded": DECOUPLED
    | {"epochs": 300, "model": "convnet3_bn", "teachers": ["convnet3_bn"], "aug": "rded", "lr": 0.001},
    "d4m": DECOUPLED
    | {"epochs": 500, "batch_size": 100, "model": "convnet3", "teachers": ["convnet3"], "aug": "rrc_cutmix"},
}
RDED_BATCHES = {"cifar10": {1: 10, 10: 50, 50: 100}, "cifar100": {1: 20, 10: 50, 50: 200}}
CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("ipc", [1, 10, 50])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("method", PUBLISHED)
def test_published_settings(method, dataset, ipc):
    config = composed(f"method={method}", f"dataset={dataset}").copy()
    config.ipc = ipc
    schema.check(config)
    found = OmegaConf.to_container(config, resolve=True)
    teachers = [schema.model_named(name, config)["name"] for name in config.method.teachers]
    flat = {
        **found["train"],
        **{key: value for key, value in found["method"].items() if key != "name"},
        **{key: value for key, value in found["criterion"].items() if key != "name"},
        **{group: found[group]["name"] for group in ("model", "aug", "criterion")},
        "teachers": teachers,
    }
    expected = dict(PUBLISHED[method])
    if method == "rded":
        expected |= {"batch_size": RDED_BATCHES[dataset][ipc], **IMAGENET}
    elif dataset == "cifar10" or method in ("mtt", "datm", "sre2l", "d4m"):
        expected |= CIFAR10  # these normalise CIFAR-100 with CIFAR-10's constants, too
    assert {key: flat[key] for key in expected} == expected
    assert found["method"]["temperature"] == expected.get("temperature", 1.0)


def test_published_strengths_of_augmentation():
    dsa = composed("method=dm", "dataset=cifar10").aug.dsa
    strengths = {"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5, "scale": 1.2}
    strengths |= {"crop": 0.125, "cutout": 0.5}
    assert {key: dsa[key] for key in strengths} == strengths
    assert (dsa.mode, dsa.mirror) == ("single", True)
    sre2l = composed("method=sre2l", "dataset=cifar100").aug
    assert [next(iter(step)) for step in sre2l.view.transforms] == ["RandomCrop", "RandomHorizontalFlip"]
    assert sre2l.view.transforms[0].RandomCrop == {"size": 32, "padding": 4}
    assert sre2l.mixup.lam == 0.8
    rded = composed("method=rded", "dataset=cifar10").aug
    assert [next(iter(step)) for step in rded.view.transforms] == [
        "ShufflePatches",
        "RandomResizedCrop",
        "RandomHorizontalFlip",
    ]
    assert rded.view.transforms[0].ShufflePatches.factor == 1
    assert list(rded.view.transforms[1].RandomResizedCrop.scale) == [1.0, 1.0]
    assert rded.cutmix.beta == 1.0
    d4m = composed("method=d4m", "dataset=cifar10").aug
    assert d4m.view.transforms[0].RandomResizedCrop == {"size": 32, "scale": [0.08, 1.0]}
    assert d4m.cutmix.beta == 1.0


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_published_training_on_the_real_data(dataset):
    real = composed("method=dm", f"dataset={dataset}").dataset.real
    assert (real.optimizer, real.momentum, real.weight_decay, real.lr) == ("sgd", 0.9, 0.0005, 0.01)
    assert (real.epochs, real.batch_size) == (200, 256)
    assert (real.schedule, real.step_size, real.gamma) == ("step", 100, 0.1)
    assert dict(real.aug) == {"name": "none"}


def test_protocols_say_how_learning_rates_and_checkpoints_are_chosen():
    strict, reference = composed().protocol, composed("protocol=ddranking").protocol
    assert list(strict.lrs) == list(reference.lrs) == [0.001, 0.005, 0.01, 0.05, 0.1]
    assert (strict.select_on, strict.best_checkpoint, strict.real.search) == ("validation", False, True)
    assert (reference.select_on, reference.best_checkpoint, reference.real.search) == ("test", True, False)
    assert dict(reference.test_every) == {"hard": 10, "single": 20, "multi": 20}
    full, half = (composed("method=sre2l", "dataset=cifar10", f"protocol={name}") for name in ("strict", "ddranking"))
    assert (full.train.cosine_span, half.train.cosine_span) == (1.0, 0.5)
    assert half.protocol.real.epochs == half.train.epochs == 400


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_says_whether_its_classes_survive_mirroring(dataset):
    config = composed("method=dm", f"dataset={dataset}")
    expected = dataset not in ("digits", "mnist5k")
    assert config.dataset.mirror is config.aug.dsa.mirror is config.method.distiller.mirror is expected
    assert composed("method=d4m", f"dataset={dataset}").aug.view.mirror is expected


# --- what wins over what ---


def test_a_method_brings_its_partners_and_the_command_line_wins_over_them():
    config = composed("method=sre2l", "dataset=cifar10", "aug=none", "model=convnet3")
    schema.check(config)
    assert config.aug == {"name": "none"}
    assert config.model.name == "convnet3"
    assert config.model._target_ == "ddrank.models.ConvNet"
    assert "small_stem" not in config.model  # nothing of the method's own model is left
    assert (config.criterion.name, config.train.optimizer, config.method.labels) == ("kl", "adamw", "multi")
    in_another_order = composed("model=convnet3", "aug=none", "dataset=cifar10", "method=sre2l")
    assert in_another_order == config


def test_the_command_line_wins_over_recipe_and_method():
    config = composed(
        "method=sre2l",
        "dataset=cifar10",
        "train.epochs=7",
        "method.temperature=4",
        "method.teachers=[convnet,convnet_bn]",
        "method.labels=single",
        "train.optimizer=sgd",
    )
    schema.check(config)
    assert (config.train.epochs, config.train.optimizer) == (7, "sgd")
    assert (config.method.temperature, config.criterion.temperature) == (4.0, 4.0)
    assert list(config.method.teachers) == ["convnet", "convnet_bn"]
    assert config.method.labels == "single"
    assert composed("method=sre2l", "train=dc").train.optimizer == "sgd"
    assert composed("method=rded", "dataset=cifar10", "ipc=10", "train.batch_size=33").train.batch_size == 33


def test_a_recipe_wins_over_its_method():
    assert composed("method=sre2l", "dataset=cifar10").method.teachers == ["resnet18"]
    assert composed("method=sre2l", "dataset=cifar10", "~recipe").method.teachers == ["convnet_bn"]


def test_a_model_is_as_deep_as_its_dataset_asks():
    assert composed("method=dm", "dataset=shapes", "dataset.convnet_depth=4").model.name == "convnet4"
    own = ("dataset=imagefolder", "dataset.name=x", "dataset.loader.path=x", "dataset.num_classes=2", "model=convnet")
    depths = {size: composed(*own, f"dataset.size={size}").model.depth for size in (32, 64, 128)}
    assert depths == {32: 3, 64: 4, 128: 5}
    assert composed("dataset=imagenette", "dataset.size=64").model.depth == 4
    assert composed(*own, "dataset.size=64", "dataset.convnet_depth=2").model.name == "convnet2"
    assert schema.model_named("convnet_bn", composed("dataset=cifar10"))["name"] == "convnet3_bn"
    with pytest.raises(InputError, match=r"there is no model 'convnet33' .*: choose one of alexnet, convnet, "):
        schema.model_named("convnet33", composed())


# --- what cannot be meant ---


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["method=custom"], "method.data has no value: give it on the command line as method.data=..."),
        (["model=timm"], "model.arch has no value: give it on the command line as model.arch=..."),
        (["method.labels=soft"], "method.labels is 'soft', expected one of hard, single, multi"),
        (["method.space=rgb"], "method.space is 'rgb', expected one of normalized, zca, pixel"),
        (["method.soft_kind=odds"], "method.soft_kind is 'odds', expected one of logits, probabilities"),
        (["method.lr=-1"], "method.lr is -1.0, expected a positive learning rate or null"),
        (["~model.name"], "model has no name to appear with in tables: add one to its file, or +model.name=..."),
        (["dataset.teacher.lr=null"], "dataset.teacher.lr is None, expected a positive learning rate"),
        (["dataset.real.lr=nan"], "dataset.real.lr is nan, expected a positive learning rate or null"),
        (
            ["protocol=ddranking", "dataset.real.lr=null"],
            "dataset.real.lr is None, expected a positive learning rate",
        ),
        (["protocol=ddranking", "protocol.test_every.hard=0"], "protocol.test_every.hard is 0, expected 1 or more"),
        (["train.momentum=-1"], "train.momentum is -1.0, expected 0 or more"),
        (["train.weight_decay=nan"], "train.weight_decay is nan, expected 0 or more"),
        (["train.betas=[0.9,1]"], "train.betas is [0.9, 1.0], expected two numbers from 0 to below 1"),
        (["protocol.select_on=train"], "protocol.select_on is 'train', expected one of validation, test"),
        (["train.optimizer=lamb"], "train.optimizer is 'lamb', expected one of sgd, adam, adamw"),
        (["train.schedule=linear"], "train.schedule is 'linear', expected one of step, cosine, constant"),
        (["dataset.real.optimizer=lamb"], "dataset.real.optimizer is 'lamb', expected one of sgd, adam, adamw"),
        (["dataset.teacher.schedule=x"], "dataset.teacher.schedule is 'x', expected one of step, cosine, constant"),
        (["train.epochs=0"], "train.epochs is 0, expected 1 or more"),
        (["train.batch_size=0"], "train.batch_size is 0, expected 1 or more"),
        (["train.step_size=0"], "train.step_size is 0, expected 1 or more"),
        (["dataset.teacher.epochs=-1"], "dataset.teacher.epochs is -1, expected 1 or more"),
        (["ipc=0"], "ipc is 0, expected 1 or more"),
        (["num_eval=0"], "num_eval is 0, expected 1 or more"),
        (["seed=-1"], "seed is -1, expected 0 or more"),
        (["score.w=1.5"], "score.w is 1.5, expected a weight in [0, 1]"),
        (["score.g=-0.1"], "score.g is -0.1, expected a weight in [0, 1]"),
        (["protocol.lrs=[]"], "protocol.lrs is [], expected one or more positive learning rates"),
        (["protocol.lrs=[0.1,0]"], "protocol.lrs is [0.1, 0.0], expected one or more positive learning rates"),
        (
            ["protocol=ddranking", "~protocol.test_every.hard"],
            "protocol.test_every has no entry for labels=hard: how many epochs between tests?",
        ),
        (
            ["protocol=ddranking", "protocol.select_on=validation"],
            "protocol.best_checkpoint=true picks the epoch on the test set: it goes with protocol.select_on=test only",
        ),
        (
            ["dataset=shapes", "dataset.channels=1"],
            "dataset.mean has 3 values, expected one for each of dataset.channels=1: "
            "give it on the command line as dataset.mean=[...]",
        ),
        (
            ["method.mean=[0.5,0.5]"],
            "method.mean has 2 values, expected one for each of dataset.channels=1: "
            "give it on the command line as method.mean=[...]",
        ),
        (["dataset.std=[0]"], "dataset.std is [0.0], expected numbers above 0"),
        (
            ["dataset.validation.fraction=1"],
            "dataset.validation.fraction is 1.0, expected a part of the training set, above 0 and below 1",
        ),
        (["dataset.validation.most=0"], "dataset.validation.most is 0, expected 1 or more"),
        (
            ["criterion=kl"],
            "criterion=kl needs soft labels, but method.labels=hard has none: "
            "choose criterion=ce, or method.labels=single or multi",
        ),
        (
            ["method.labels=multi"],
            "criterion=ce ignores soft labels, but method.labels=multi: choose criterion=sce, kl or mse_gt",
        ),
        (
            ["method=sre2l", "method.teachers=[]"],
            "method.labels=multi needs a teacher to label images: name one, such as method.teachers=[convnet]",
        ),
        (
            ["method=sre2l", "method.teacher_weights=[a.pt,b.pt]"],
            "method.teacher_weights names 2 files for 1 teacher (convnet_bn): give one file for each",
        ),
        (
            ["method=sre2l", "method.teacher_weights=[nowhere.pt]"],
            "the teacher weights nowhere.pt do not exist: put a state_dict file there, "
            "or leave method.teacher_weights empty to train the teacher here",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_settings(overrides, problem):
    assert refused(*overrides) == problem


def test_an_unknown_teacher():
    assert "there is no model 'resnet19'" in refused("method=sre2l", "method.teachers=[resnet19]")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["+foo=1"], "there is no setting foo: expected one of dataset, model,"),
        (["++train.epoch=3"], "there is no setting train.epoch: did you mean train.epochs?"),
        (["+datset=shapes"], "there is no setting datset: did you mean dataset?"),
        (["+dataset.validation.mots=1"], "there is no setting dataset.validation.mots: did you mean"),
        (["+method.labls=hard"], "there is no setting method.labls: did you mean method.labels?"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_plus_does_not_make_an_unknown_key_known(overrides, problem):
    assert refused(*overrides).startswith(problem)


@pytest.mark.parametrize(
    ("group", "key", "problem"),
    [
        ("criterion", "temprature", "criterion has no setting 'temprature': did you mean temperature?"),
        ("logger", "folder", "logger has no setting 'folder': it takes no settings"),
        ("method.distiller", "iteration", "method.distiller has no setting 'iteration': did you mean iterations?"),
        ("aug.dsa", "flips", "aug.dsa has no setting 'flips': did you mean flip?"),
    ],
)
def test_an_unknown_key_of_an_open_group_is_refused_when_its_object_is_built(group, key, problem):
    criterion = ["criterion=sce", "method.labels=multi"] if group == "criterion" else []
    config = composed("method=dm", f"+{group}.{key}=1", *criterion)
    schema.check(config)
    with pytest.raises(InputError) as error:
        build.build(OmegaConf.select(config, group), group)
    assert str(error.value) == problem


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"name": "x"}, "criterion has no _target_: choose one of its group's options on the command line"),
        (
            {"_target_": "ddrank.criteria.Nope"},
            "criterion._target_ is 'ddrank.criteria.Nope', which cannot be imported",
        ),
        ({"_target_": "nopackage.Nope"}, "criterion._target_ is 'nopackage.Nope', which cannot be imported"),
        ({"_target_": ""}, "criterion._target_ is '', which cannot be imported"),
        ({"_target_": "ddrank.criteria"}, "criterion._target_ is 'ddrank.criteria', which is neither a class nor"),
        ({"_target_": "ddrank.criteria.KL", "temperature": "???"}, "criterion.temperature has no value: give it on"),
        (
            {"_target_": "ddrank.augment.Views"},
            "criterion needs a value for transforms: give it as criterion.transforms=",
        ),
        (3, "criterion is 3, expected a mapping with a _target_"),
    ],
)
def test_what_cannot_be_built(config, problem):
    with pytest.raises(InputError) as error:
        build.build(config, "criterion")
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


def test_what_is_given_reaches_only_those_who_take_it():
    kl = build.build({"_target_": "ddrank.criteria.KL", "name": "kl"}, "criterion", temperature=3.0, size=8)
    assert kl.temperature == 3.0
    two = {"name": "two", "b": {"_target_": "ddrank.criteria.KL"}, "a": {"_target_": "ddrank.augment.MixUp"}}
    assert [type(part).__name__ for part in build.parts(two, "aug")] == ["KL", "MixUp"]


# --- through the command ---


def command(folder: Path, *arguments: str, program: list[str] | None = None) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DDRANK", "HYDRA"))}
    call = [sys.executable, *(program or ["-m", "ddrank.run"]), *arguments]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.epoch=3"], "there is no setting train.epoch: did you mean train.epochs?"),
        (["datset=digits"], "there is no setting datset: did you mean dataset?"),
        (["dataset=digit"], "dataset=digit is not known (did you mean digits?): choose one of cifar10, "),
        (["ipc=many"], "ipc is many, expected a whole number"),
        (["+foo=1"], "there is no setting foo"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_slip_on_the_command_line_is_one_line_and_status_2(tmp_path, arguments, words):
    done = command(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ddrank: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert words in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    if not arguments[0].startswith("+"):
        assert list(tmp_path.iterdir()) == []


def test_help_names_every_group_and_needs_no_torch(tmp_path):
    forbid = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['ddrank.run', '--help']; "
    program = ["-c", forbid + "runpy.run_module('ddrank.run', run_name='__main__')"]
    done = command(tmp_path, program=program)
    assert done.returncode == 0, done.stderr
    for group in ("aug", "criterion", "dataset", "engine", "logger", "method", "model", "protocol", "train"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        known = [option for option in options(group) if "/" not in option]
        assert line == f"{group}: {', '.join(known)}"
    assert "\nrecipe: " not in done.stdout  # found by method and dataset, never chosen
    for key in ("ipc: 1", "num_eval: 5", "w: 0.5", "store: store"):
        assert key in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "distill"])
def test_help_names_the_options_of_a_folder_of_ones_own(tmp_path, name):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/mynet.yaml").write_text("_target_: my.Net\nname: mynet\n")
    done = command(tmp_path, "--config-dir", "mine", "--help", program=["-m", f"ddrank.{name}"])
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("model: "))
    assert line == f"model: {', '.join(sorted([*options('model'), 'mynet']))}"


def test_cfg_prints_the_composed_configuration(tmp_path):
    done = command(tmp_path, "method=sre2l", "dataset=cifar10", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    printed = OmegaConf.create(done.stdout)
    assert (printed.train.epochs, printed.criterion.temperature, printed.model.name) == (400, 30.0, "resnet18")
