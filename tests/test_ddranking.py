"""Coming over from the ddranking package: its settings, evaluators, teachers and files, measured by ddrank."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torchvision import transforms as tv
from torchvision.transforms import v2

from ddrank import (
    AugmentationRobustScore,
    Config,
    GeneralEvaluator,
    HardLabelEvaluator,
    InputError,
    LabelRobustScoreHard,
    LabelRobustScoreSoft,
    SoftLabelEvaluator,
    compose,
)
from ddrank.config import folder, model_named
from ddrank.data.cifar import load_cifar10
from ddrank.ddranking.architectures import architecture
from ddrank.ddranking.settings import DEFAULTS, checked
from ddrank.ddranking.translation import labels_of, translated
from ddrank.ddranking.views import transforms
from ddrank.models import build
from ddrank.override import override
from ddrank.teacher import _own_name

CLASSES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DSA = {"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5, "scale": 1.2}
DSA |= {"crop": 0.125, "cutout": 0.5}
# The same by the names of its documentation.
DOCUMENTED_DSA = {"prob_flip": 0.5, "ratio_rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5}
DOCUMENTED_DSA |= {"ratio_scale": 1.2, "ratio_crop_pad": 0.125, "ratio_cutout": 0.5}
QUICK = {"engine.workers": 1, "protocol.lrs": [0.05]}
# Its demonstration of hard labels (configs/Demo_LRS_Hard_Label.yaml), at the size of a test.
DEMO_HARD = {
    "dataset": "CIFAR10",
    "real_data_path": "./dataset/",
    "custom_val_trans": None,
    "ipc": 1,
    "im_size": [32, 32],
    "model_name": "MLP",
    "use_torchvision": False,
    "data_aug_func": "dsa",
    "aug_params": DSA,
    "use_zca": False,
    "custom_train_trans": None,
    "optimizer": "sgd",
    "lr_scheduler": "step",
    "step_size": 1,
    "weight_decay": 0.0005,
    "momentum": 0.9,
    "num_eval": 1,
    "num_epochs": 2,
    "syn_batch_size": 128,
    "real_batch_size": 256,
    "default_lr": 0.01,
    "num_workers": 4,
    "device": "cuda",
    "dist": True,
    "eval_full_data": False,
    "random_data_path": "./results/my_method_random_data.pt",
    "random_data_format": "tensor",
    "save_path": "./results/my_method_hard_label_scores.csv",
}
# A list of transforms as its documentation of Config has it, for CIFAR.
TRAIN_TRANSFORMS = [
    {"name": "RandomCrop", "args": {"size": 32, "padding": 4}},
    {"name": "RandomHorizontalFlip", "args": {"p": 0.5}},
    {"name": "ToTensor"},
    {"name": "Normalize", "args": CIFAR},
]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """50 training and 10 test images a class in the official layout; classes are colours under noise."""
    root = tmp_path_factory.mktemp("cifar")
    home, generator = root / "cifar-10-batches-py", np.random.default_rng(0)
    home.mkdir()
    colours = generator.integers(40, 216, (10, 3, 1, 1))

    def write(name: str) -> None:
        labels = [int(label) for label in generator.permutation(np.arange(100) % 10)]
        pixels = np.clip(colours[labels] + generator.normal(0, 30, (100, 3, 32, 32)), 0, 255).astype(np.uint8)
        content = {b"data": pixels.reshape(100, 3072), b"labels": labels, b"batch_label": b"", b"filenames": []}
        (home / name).write_bytes(pickle.dumps(content))

    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write(name)
    (home / "batches.meta").write_bytes(pickle.dumps({b"label_names": CLASSES}))
    return root


@pytest.fixture(scope="module")
def images(cifar) -> torch.Tensor:
    """The mean training image of each class, normalised as the package does."""
    train, _, _ = load_cifar10(cifar)
    pixels = torch.stack([train.images[train.labels == label].float().mean(0) / 255 for label in range(10)])
    return (pixels - torch.tensor(CIFAR["mean"])[:, None, None]) / torch.tensor(CIFAR["std"])[:, None, None]


@pytest.fixture
def place(tmp_path, cifar, monkeypatch) -> Path:
    """An empty working directory with the real data as ./dataset and a teacher as ./teacher_models/CIFAR10/MLP."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(cifar)
    torch.manual_seed(0)
    write_teacher(
        "MLP", nn.ModuleDict({"fc_1": nn.Linear(3072, 128), "fc_2": nn.Linear(128, 128), "fc_3": nn.Linear(128, 10)})
    )
    return tmp_path


def write_teacher(name: str, network: nn.Module, dataset: str = "CIFAR10") -> Path:
    path = Path("teacher_models") / dataset / name / "ckpt_best.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def scaled(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def check_label_robust(found: dict[str, float], evaluator: LabelRobustScoreHard, weight: float = 0.5) -> None:
    """The dictionary, the CSV and the arms' accuracies agree, by the definitions."""
    arms = {name: arm.accuracy for name, arm in evaluator.result.arms.items()}
    hlr = [real - hard for real, hard in zip(arms["real_hard"], arms["syn_hard"], strict=True)]
    ior = [syn - random for syn, random in zip(arms["syn_any"], arms["rdm_any"], strict=True)]
    lrs = [scaled(weight * gain - (1 - weight) * loss) for gain, loss in zip(ior, hlr, strict=True)]
    expected = {"hard_label_recovery": np.multiply(100, hlr), "improvement_over_random": np.multiply(100, ior)}
    expected["label_robust_score"] = np.array(lrs)
    statistics = {"mean": np.mean, "std": np.std}
    assert found == pytest.approx(
        {f"{name}_{which}": of(values) for name, values in expected.items() for which, of in statistics.items()}
    )
    assert all(math.isfinite(value) for value in found.values())
    assert 0 <= found["label_robust_score_mean"] <= 1
    written = rows(evaluator.save_path)
    assert list(written[0]) == ["hard_label_recovery", "improvement_over_random", "lrs"]
    assert [row["lrs"] for row in written] == pytest.approx(lrs)
    assert [row["hard_label_recovery"] for row in written] == pytest.approx(expected["hard_label_recovery"])


# --- its documented examples, with only the import line changed ---


def test_its_config_file_with_hard_labels(place, images, capsys):
    Path("Demo_LRS_Hard_Label.yaml").write_text(yaml.safe_dump(DEMO_HARD))
    torch.save(images, "images.pt")

    config = Config.from_file("./Demo_LRS_Hard_Label.yaml")
    hard_label_evaluator = LabelRobustScoreHard(config)
    syn_images = torch.load("images.pt", map_location="cpu")
    syn_lr = 0.01
    found = hard_label_evaluator.compute_metrics(image_tensor=syn_images, syn_lr=syn_lr)

    check_label_robust(found, hard_label_evaluator)
    result = hard_label_evaluator.result
    assert (result.protocol, result.labels, result.model, result.aug) == ("ddranking", "hard", "mlp", "dsa")
    assert result.seeds == [0]
    assert result.arms["syn_any"].lr == [0.01]
    assert hard_label_evaluator.save_path == Path("results/my_method_hard_label_scores.csv")
    printed = capsys.readouterr()
    assert "Label-Robust Score Mean" in printed.out
    said = [line for line in printed.err.splitlines() if line.startswith("ddrank: of ddranking's settings")]
    assert len(said) == 1
    assert "dist=True" in said[0]
    assert "eval_full_data=false" in said[0]


def test_its_keywords_with_soft_labels_in_mode_s(place, images):
    device, dataset, ipc, model_name = "cuda", "CIFAR10", 1, "MLP"
    save_path = f"./results/{dataset}/{model_name}/IPC{ipc}/dm_hard_scores.csv"
    features = nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(), nn.AvgPool2d(2))
    for _ in range(2):
        features += nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(), nn.AvgPool2d(2))
    write_teacher("ConvNet-3", nn.ModuleDict({"features": features, "classifier": nn.Linear(128 * 16, 10)}))

    lrs_soft_metric = LabelRobustScoreSoft(
        dataset=dataset,
        real_data_path="./dataset",
        ipc=ipc,
        model_name=model_name,
        num_epochs=2,
        soft_label_criterion="sce",
        soft_label_mode="S",
        loss_fn_kwargs={"temperature": 1.0, "scale_loss": False},
        data_aug_func="dsa",
        aug_params=DOCUMENTED_DSA,
        im_size=(32, 32),
        random_data_format="tensor",
        random_data_path="./random_data",
        stu_use_torchvision=False,
        tea_use_torchvision=False,
        teacher_dir="./teacher_models",
        teacher_model_names=["ConvNet-3"],
        num_eval=1,
        device=device,
        dist=True,
        save_path=save_path,
        overrides=QUICK,
    )
    soft_labels = 5 * torch.eye(10)
    found = lrs_soft_metric.compute_metrics(image_tensor=images, soft_labels=soft_labels, syn_lr=torch.tensor(0.02))

    check_label_robust(found, lrs_soft_metric)
    result = lrs_soft_metric.result
    assert (result.labels, result.criterion, result.config["method"]["temperature"]) == ("single", "sce", 1.0)
    assert result.arms["syn_any"].lr == [pytest.approx(0.02)]
    assert result.config["train"]["step_size"] == 2  # its default of num_epochs // 2 + 1
    assert result.config["method"]["teacher_weights"] == ["teacher_models/CIFAR10/ConvNet-3/ckpt_best.pt"]


def test_a_folder_of_images_with_teachers_for_every_view(place, images):
    pixels = images * torch.tensor(CIFAR["std"])[:, None, None] + torch.tensor(CIFAR["mean"])[:, None, None]
    for label, image in enumerate(pixels):
        path = Path(f"syn/{label:05d}/00000.png")
        path.parent.mkdir(parents=True)
        Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(path)
    evaluator = SoftLabelEvaluator(
        ipc=1,
        model_name="MLP",
        soft_label_mode="M",
        soft_label_criterion="kl",
        loss_fn_kwargs={"temperature": 30.0},
        data_aug_func="mixup",
        aug_params={"lambda": 0.8},
        optimizer="adamw",
        lr_scheduler="cosine",
        weight_decay=0.01,
        num_eval=1,
        num_epochs=2,
        eval_full_data=True,
        teacher_model_name=["MLP"],
        custom_train_trans=tv.Compose(
            [tv.RandomCrop(32, padding=4), tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(**CIFAR)]
        ),
        overrides=QUICK,
    )
    found = evaluator.compute_metrics(image_path="syn", syn_lr=0.001)
    check_label_robust(found, evaluator)
    result, config = evaluator.result, evaluator.result.config
    assert (result.labels, result.criterion, result.aug) == ("multi", "kl", "crop_flip_mixup")
    assert config["aug"]["view"]["transforms"] == [
        {"RandomCrop": {"size": 32, "padding": 4}},
        {"RandomHorizontalFlip": {"p": 0.5}},
    ]
    assert list(config["aug"]) == ["name", "view", "mixup"]  # in this order
    assert config["aug"]["mixup"]["lam"] == 0.8
    assert config["train"]["cosine_span"] == 0.5
    assert config["method"]["aug_for_hard"] is False
    assert evaluator.save_path == Path("results/CIFAR10/MLP/ipc1/obj_scores.csv")
    assert len(rows(evaluator.save_path)) == 1


def test_the_augmentation_robust_score(place, images):
    evaluator = AugmentationRobustScore(
        ipc=1,
        model_name="MLP",
        label_type="hard",
        num_eval=2,
        num_epochs=2,
        step_size=1,
        batch_size=16,
        overrides=QUICK,
    )
    found = evaluator.compute_metrics(image_tensor=images, ars_lambda=0.25)
    arms = {name: np.array(arm.accuracy) for name, arm in evaluator.result.arms.items()}
    augmented, bare = arms["syn_any"] - arms["rdm_any"], arms["syn_any_noaug"] - arms["rdm_any_noaug"]
    scores = [scaled(0.25 * one + 0.75 * other) for one, other in zip(augmented, bare, strict=True)]
    assert found["with_aug_scores_mean"] == found["with_aug_mean"] == pytest.approx(100 * augmented.mean())
    assert found["without_aug_scores_std"] == found["without_aug_std"] == pytest.approx(100 * bare.std())
    assert found["augmentation_robust_score_mean"] == pytest.approx(np.mean(scores))
    written = rows(evaluator.save_path)
    assert list(written[0]) == ["with_aug_scores", "without_aug_scores", "ars_list"]
    assert [row["ars_list"] for row in written] == pytest.approx(scores)
    assert evaluator.save_path.name == "aug_scores.csv"
    assert evaluator.result.config["train"]["batch_size"] == 16
    assert evaluator.result.config["protocol"]["test_every"]["hard"] == 20


def test_the_general_evaluator_gives_accuracies_in_percent(place, images):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    evaluator = GeneralEvaluator(
        Config({"ipc": 1, "model_name": "MLP", "real_data_path": "dataset"}), num_eval=1, num_epochs=2, overrides=QUICK
    )
    found = evaluator.compute_metrics(image_tensor=images[order], labels=order, syn_lr=0.02)
    accuracy = evaluator.result.arms["syn_any"].accuracy
    assert found == pytest.approx({"acc_mean": 100 * accuracy[0], "acc_std": 0.0})
    assert rows(evaluator.save_path) == [pytest.approx({"accs": 100 * accuracy[0], "lrs": 0.02})]
    assert evaluator.result.config["train"]["optimizer"] == "adamw"


def test_the_weight_of_the_score_is_lrs_lambda_and_our_settings_win(place, images):
    settings = {key: value for key, value in DEMO_HARD.items() if key != "save_path"}
    evaluator = HardLabelEvaluator(Config(settings), save_path="scores/", overrides={**QUICK, "protocol.name": "own"})
    found = evaluator.compute_metrics(image_tensor=images, lrs_lambda=1.0)
    check_label_robust(found, evaluator, weight=1.0)
    other = HardLabelEvaluator(Config({**settings, "lrs_lambda": 0.9}), save_path="other/", overrides=QUICK)
    check_label_robust(other.compute_metrics(image_tensor=images), other, weight=0.9)
    check_label_robust(other.compute_metrics(image_tensor=images, lrs_lambda=0.5), other, weight=0.5)
    assert evaluator.result.protocol == "own"
    assert evaluator.save_path == Path("scores/obj_scores.csv")


# --- from=PATH ---


def test_its_settings_file_is_run_by_the_command(place, images, command):
    (place / "demo.json").write_text(json.dumps(DEMO_HARD))
    torch.save(images, place / "my images, all.pt")
    settings = [override(key, value) for key, value in QUICK.items()]
    data = override("method.data", "my images, all.pt")
    outcome = command("run", "from=demo.json", data, *settings, "train.epochs=3", "aug=none")
    assert outcome.code == 0, outcome.err
    file = next(place.glob("runs/cifar10/custom-ipc1/*/result.json"))
    result = json.loads(file.read_text())
    assert (result["protocol"], result["aug"], result["seeds"]) == ("ddranking", "none", [0])
    assert (result["config"]["train"]["epochs"], result["config"]["train"]["batch_size"]) == (3, 128)
    line = next(line for line in outcome.err.splitlines() if line.startswith("demo.json means: "))
    assert "dataset=cifar10 ipc=1 method=custom protocol=ddranking model=mlp" in line
    assert "train.epochs=2" not in line
    assert "aug.dsa" not in line


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        (None, ["from=absent.yaml"], "absent.yaml cannot be read"),
        (None, ["from="], "from= is given 1 times"),
        ("{}", ["from=x.yaml", "from=x.yaml"], "from= is given 2 times"),
        ("model_nam: MLP", ["from=x.yaml"], "x.yaml has no setting 'model_nam' of the ddranking package: did you mean"),
        ("ipc: ten", ["from=x.yaml"], "x.yaml: ipc is 'ten', expected a number"),
        ("- a list", ["from=x.yaml"], "x.yaml holds no settings"),
        ("ipc: [1", ["from=x.yaml"], "x.yaml is not YAML"),
        ("x: !!python/object/apply:os.system [ls]", ["from=x.yaml"], "x.yaml is not YAML"),
        ("dataset: CIFAR11", ["from=x.yaml"], "dataset is 'CIFAR11' (did you mean CIFAR10?)"),
        ("ipc: 1", ["from=x.yaml"], "method.data has no value"),
        ("soft_label_mode: M", ["from=x.yaml", "method.data=."], "teacher weights teacher_models/CIFAR10/ConvNet-3"),
    ],
)
def test_a_settings_file_that_cannot_be_meant_is_one_sentence(command, tmp_path, text, arguments, sentence):
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    assert sentence in command("run", *arguments).sentence()
    assert not (tmp_path / "runs").exists()


# --- translation ---


def settings_of(**given: object) -> dict[str, object]:
    return checked(given, DEFAULTS, "the test")


def overrides_of(labels: str = "hard", **given: object) -> dict[str, object]:
    return translated(settings_of(**given), labels).overrides


def composed(overrides: dict[str, object]) -> OmegaConf:
    return compose("method.data=.", *(override(key, value) for key, value in overrides.items()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"optimizer": "adam", "momentum": [0.8, 0.9]}, {"optimizer": "adam", "betas": [0.8, 0.9]}),
        ({"lr_scheduler": "cosine"}, {"schedule": "cosine", "cosine_span": 0.5}),
        ({"lr_scheduler": "lambda_cos"}, {"schedule": "cosine", "cosine_span": 0.5}),
        ({"lr_scheduler": "cosineannealing"}, {"schedule": "cosine", "cosine_span": 1.0}),
        ({"lr_scheduler": "step", "step_size": 7}, {"schedule": "step", "step_size": 7, "gamma": 0.1}),
        ({"num_epochs": 9, "syn_batch_size": 3}, {"epochs": 9, "batch_size": 3, "step_size": 5}),
        ({"weight_decay": "1e-3"}, {"weight_decay": 0.001}),
    ],
)
def test_training_settings(given, expected):
    train = OmegaConf.to_container(composed(overrides_of(**given)).train)
    assert {key: train[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "torchvision", "target", "settings"),
    [
        ("ConvNet-1", False, "ConvNet", {"depth": 1, "norm": "instance"}),
        ("ConvNet-3", False, "ConvNet", {"depth": 3, "norm": "instance"}),
        ("ConvNet-5-BN", False, "ConvNet", {"depth": 5, "norm": "batch"}),
        ("ResNet-18", False, "ResNet", {"depth": 18, "norm": "instance"}),
        ("ResNet-34", False, "ResNet", {"depth": 34, "norm": "instance"}),
        ("ResNet-50-BN", False, "ResNet", {"depth": 50, "norm": "batch"}),
        ("ResNet-18", True, "ResNet", {"depth": 18, "norm": "batch"}),
        ("VGG-11", False, "VGG", {"depth": 11, "norm": "instance"}),
        ("VGG-16-BN", True, "torchvision_model", {"arch": "vgg16_bn"}),
        ("AlexNet", False, "AlexNet", {}),
        ("LeNet", False, "LeNet", {}),
        ("MLP", False, "MLP", {}),
        ("mobilenet_v2", False, "torchvision_model", {"arch": "mobilenet_v2"}),
    ],
)
def test_names_of_networks(name, torchvision, target, settings):
    model = composed(overrides_of(model_name=name, use_torchvision=torchvision)).model
    assert model._target_ == f"ddrank.models.{target}"
    assert {key: model[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("given", "labels", "expected"),
    [
        ({"dataset": "CIFAR100"}, "hard", {"method.mean": CIFAR["mean"], "method.std": CIFAR["std"]}),
        ({"use_zca": True}, "hard", {"method.space": "zca"}),
        ({"data_aug_func": None}, "hard", {"aug": "none"}),
        ({"aug_params": {"cutmix_p": 0.7}}, "hard", {"aug": "cutmix", "aug.cutmix.beta": 0.7}),
        ({"data_aug_func": "mixup", "aug_params": {"mixup_p": 0.7}}, "hard", {"aug": "mixup", "aug.mixup.lam": 0.7}),
        ({"aug_params": {}, "data_aug_func": "dsa"}, "hard", {"aug": "dsa"}),
        ({"temperature": 20}, "multi", {"criterion": "kl", "method.temperature": 20.0}),
        ({"loss_fn_kwargs": {"scale_loss": True}}, "multi", {"method.temperature": 1.2, "criterion.scale_loss": True}),
        (
            {"soft_label_criterion": "mse_gt", "loss_fn_kwargs": {"ce_weight": 0.025}},
            "multi",
            {"criterion": "mse_gt", "criterion.mse_weight": 1.0, "criterion.ce_weight": 0.025},
        ),
        ({"use_aug_for_hard": True}, "single", {"method.labels": "single", "method.aug_for_hard": True}),
        ({"teacher_model_names": ["VGG-11-BN", "ConvNet-3"]}, "multi", {"method.teachers": ["vgg11_bn", "convnet3"]}),
        ({"device": "cpu"}, "hard", {"engine.accelerator": "cpu"}),
        ({"real_data_path": "./a/b/"}, "hard", {"paths.data": "a/b"}),
        ({"dataset": "imagenet1k"}, "hard", {"dataset": "imagenet1k", "dataset.loader.folder": "."}),
        (
            {"dataset": "ImageNette", "im_size": [64, 64]},
            "hard",
            {"dataset": "imagenette", "dataset.size": 64, "dataset.loader.squash": True},
        ),
    ],
)  # fmt: skip
def test_other_settings(given, labels, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = overrides_of(labels, **given)
    assert {key: found.get(key) for key in expected} == expected
    if labels == "hard":
        composed(found)


def test_teachers_are_trained_here_where_there_is_no_folder_for_them():
    found = overrides_of("multi", teacher_dir=None)
    assert found["method.teachers"] == ["convnet3"]
    assert "method.teacher_weights" not in found
    composed(found)


def test_published_accuracies_stand_in_for_real_hard_only_where_they_shall(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "TinyImageNet", "model_name": "ResNet-18-BN", "use_torchvision": True}
    config = composed(overrides_of(**given, eval_full_data=False))
    assert config.dataset.real_hard_reference == {config.model.name: 0.464}
    assert composed(overrides_of(**given, eval_full_data=True)).dataset.real_hard_reference is None


def test_its_folders_of_real_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "TinyImageNet", "model_name": "ConvNet-4"}
    assert overrides_of(**given, real_data_path="here")["dataset.loader.folder"] == "."  # here/train, here/val
    (tmp_path / "datasets/tiny-imagenet-200").mkdir(parents=True)
    assert "dataset.loader.folder" not in overrides_of(**given, real_data_path="datasets")


def test_transforms_are_read_from_objects_and_from_names():
    objects = tv.Compose(
        [tv.RandomCrop(32, padding=4), tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(**CIFAR)]
    )
    newer = [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    newer = v2.Compose([*newer, v2.Normalize(**CIFAR)])
    found = transforms(TRAIN_TRANSFORMS, "custom_train_trans")
    assert found == transforms(objects, "custom_train_trans") == transforms(newer, "custom_train_trans")
    assert found.views == ({"RandomCrop": {"size": 32, "padding": 4}}, {"RandomHorizontalFlip": {"p": 0.5}})
    assert (list(found.mean), list(found.std)) == (CIFAR["mean"], CIFAR["std"])
    composed(overrides_of(custom_train_trans=objects, data_aug_func="dsa"))


def test_the_transforms_of_rded():
    class ShufflePatches(nn.Module):  # as its evaluation files define it
        def __init__(self, factor: int):
            super().__init__()
            self.factor = factor

    steps = [tv.ToTensor(), ShufflePatches(2), tv.RandomResizedCrop(size=32, scale=(0.5, 1), antialias=True)]
    train = tv.Compose([*steps, tv.RandomHorizontalFlip(), tv.Normalize(**IMAGENET)])
    test = tv.Compose([tv.Resize(32, antialias=True), tv.CenterCrop(32), tv.ToTensor(), tv.Normalize(**IMAGENET)])
    config = composed(overrides_of(custom_train_trans=train, custom_val_trans=test, data_aug_func="cutmix"))
    crop = {"size": 32, "scale": [0.5, 1], "ratio": [0.75, pytest.approx(4 / 3)], "antialias": True}
    assert OmegaConf.to_container(config.aug.view.transforms) == [
        {"ShufflePatches": {"factor": 2}},
        {"RandomResizedCrop": crop},
        {"RandomHorizontalFlip": {"p": 0.5}},
    ]
    assert config.aug.name == "patches_rrc_flip_cutmix"
    assert (list(config.method.mean), list(config.method.std)) == (IMAGENET["mean"], IMAGENET["std"])


@pytest.mark.parametrize(
    ("steps", "squash", "test_resize"),
    [
        ([], True, None),
        ([tv.Resize((224, 224))], True, None),
        ([tv.Resize((224, 224)), tv.CenterCrop(224)], True, None),
        ([tv.Resize(256), tv.CenterCrop((224, 224))], True, 256),
        ([tv.Resize(224), tv.CenterCrop(224)], True, 224),
    ],
)
def test_how_images_of_imagenet_are_brought_to_their_size(steps, squash, test_resize):
    """The package squashes whole images to im_size, but for test images that custom_val_trans prepares otherwise."""
    given = {"dataset": "ImageNet1K", "im_size": [224, 224], "model_name": "ResNet-18-BN", "use_torchvision": True}
    testing = tv.Compose([*steps, tv.ToTensor(), tv.Normalize(**IMAGENET)])
    config = composed(overrides_of(**given, custom_val_trans=testing))
    assert (config.dataset.loader.squash, config.dataset.loader.test_resize) == (squash, test_resize)
    tiny = composed(
        overrides_of(dataset="TinyImageNet", custom_val_trans=tv.Compose([tv.Resize(72), tv.CenterCrop(64)]))
    )
    assert (tiny.dataset.loader.squash, tiny.dataset.loader.test_resize) == (False, 72)


@pytest.mark.parametrize("steps", [[tv.Resize((256, 256)), tv.CenterCrop(224)], [tv.CenterCrop(200)]])
def test_test_images_that_cannot_be_prepared_so(steps):
    given = {"dataset": "ImageNet1K", "im_size": [224, 224], "custom_val_trans": tv.Compose(steps)}
    with pytest.raises(InputError, match="test images of ImageNet1K cannot be prepared so"):
        overrides_of(**given, model_name="ResNet-18-BN", use_torchvision=True)


def test_without_normalize_students_are_tested_on_pixels():
    assert composed(overrides_of(custom_val_trans=tv.Compose([tv.ToTensor()]))).method.space == "pixel"
    assert composed(overrides_of()).method.space == "normalized"


# --- Config ---


def test_config_as_the_package_has_it(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"im_size": [32, 32], "custom_train_trans": TRAIN_TRANSFORMS}))
    config = Config.from_file(str(tmp_path / "c.yaml"))
    assert config.get("im_size") == (32, 32)
    assert config.get("ipc", 7) == 7
    assert config.get("custom_val_trans") is None
    made = config.get("custom_train_trans")
    assert isinstance(made, tv.Compose)
    assert made(Image.new("RGB", (32, 32))).shape == (3, 32, 32)
    config.update({"ipc": 50})
    assert (config.get("ipc"), config.config["ipc"]) == (50, 50)
    assert repr(Config({"ipc": 1})) == "Config({'ipc': 1})"
    assert Config().config == {}
    assert Config(str(tmp_path / "c.yaml")).get("im_size") == (32, 32)


# --- teachers ---


def test_the_weights_of_its_resnet_load_by_its_names(place, images):
    model = model_named("resnet18", composed(overrides_of()))
    network = build(model, num_classes=10, channels=3, size=32)
    theirs = nn.Module()  # its names: a shortcut for our downsample, a classifier for our fc
    state = {
        name.replace(".downsample.", ".shortcut.").replace("fc.", "classifier."): tensor
        for name, tensor in network.state_dict().items()
    }
    theirs.state_dict = lambda: state
    write_teacher("ResNet-18-BN", theirs)
    assert {_own_name(name, network.state_dict()) for name in state} == set(network.state_dict())
    soft = {"ipc": 1, "model_name": "MLP", "soft_label_mode": "M", "num_eval": 1, "num_epochs": 1}
    evaluator = LabelRobustScoreSoft(**soft, teacher_model_names=["ResNet-18-BN"], overrides=QUICK)
    assert evaluator.compute_metrics(image_tensor=images, syn_lr=0.01)["label_robust_score_mean"] > 0


def test_its_networks_compute_the_same_as_ours():
    package = pytest.importorskip("ddranking.utils.model")
    names = ["ConvNet-3", "ConvNet-3-BN", "ResNet-18", "ResNet-18-BN", "VGG-11", "VGG-11-BN", "AlexNet", "LeNet", "MLP"]
    for name in names:
        torch.manual_seed(0)
        theirs = package.build_model(name, 10, (32, 32), device="cpu").eval()
        ours = composed(
            architecture(name, 32, False, "model_name").overrides | {"dataset": "cifar10", "method": "custom"}
        )
        network = build(ours.model, num_classes=10, channels=3, size=32).eval()
        own = network.state_dict()
        network.load_state_dict({_own_name(key, own): value for key, value in theirs.state_dict().items()})
        images = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(network(images), theirs(images))


class Planted:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_teacher_that_would_run_code_is_refused(place, images):
    path = Path("teacher_models/CIFAR10/MLP/ckpt_best.pt")
    path.write_bytes(pickle.dumps(Planted(place / "planted")))
    soft = {"ipc": 1, "model_name": "MLP", "soft_label_mode": "M", "num_eval": 1, "num_epochs": 1}
    with pytest.raises(InputError, match=r"ckpt_best.pt does not hold the weights of a mlp"):
        LabelRobustScoreSoft(**soft, overrides=QUICK).compute_metrics(image_tensor=images)
    assert not (place / "planted").exists()


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"model": "MLP"},
            "LabelRobustScoreSoft has no setting 'model' of the ddranking package: did you mean model_name?",
        ),
        ({"dataset": "CIFAR-1000"}, "dataset is 'CIFAR-1000'"),
        ({"dataset": 10}, "dataset is 10"),
        ({"ipc": 0}, "ipc is 0, expected a whole number of 1 or more"),
        ({"ipc": 1.5}, "ipc is 1.5, expected a whole number"),
        ({"num_eval": True}, "num_eval is True, expected a number"),
        ({"weight_decay": float("nan")}, "weight_decay is nan, expected a finite number"),
        ({"use_zca": "yes"}, "use_zca is 'yes', expected true or false"),
        ({"model_name": "ConvNet"}, "model_name is 'ConvNet', expected a network, its depth"),
        ({"model_name": "ConvNet-3-IN"}, "model_name is 'ConvNet-3-IN'"),
        ({"model_name": "ResNet-19"}, "a ResNet has depth 18 or 34 or 50"),
        ({"model_name": "mobilenet_v9"}, "model_name is 'mobilenet_v9', which is no network (did you mean mobilenet_v"),
        ({"optimizer": "sgdm"}, "optimizer is 'sgdm' (did you mean sgd?)"),
        ({"lr_scheduler": "lambda_step"}, "lr_scheduler is 'lambda_step'"),
        ({"soft_label_mode": "N"}, "soft_label_mode is 'N', expected one of S, M"),
        ({"soft_label_criterion": "mse"}, "soft_label_criterion is 'mse' (did you mean"),
        ({"data_aug_func": "zca"}, "data_aug_func is 'zca', expected one of dsa, cutmix, mixup, none"),
        ({"aug_params": {"cutmix": 1.0}}, "aug_params has 'cutmix', but data_aug_func=cutmix takes beta"),
        ({"aug_params": 1.0}, "aug_params is 1.0, expected a mapping"),
        ({"aug_params": {"beta": "big"}}, "aug_params.beta is 'big', expected a number"),
        ({"loss_fn_kwargs": {"temp": 1}}, "loss_fn_kwargs has 'temp', but soft_label_criterion=kl takes temperature"),
        ({"loss_fn_kwargs": {"scale_loss": 2}}, "loss_fn_kwargs.scale_loss is 2, expected true or false"),
        ({"im_size": (32, 16)}, "im_size is (32, 16), expected two equal whole numbers"),
        ({"im_size": (64, 64)}, "im_size is (64, 64), but images of CIFAR10 have 32 pixels a side"),
        ({"momentum": (0.9, 0.999)}, "momentum is [0.9, 0.999], expected one number"),
        ({"teacher_model_names": "ConvNet-3"}, "teacher_model_names is 'ConvNet-3', expected a list"),
        ({"teacher_model_names": ["ConvNet-9"]}, "teacher_model_names has 'ConvNet-9', but ddrank has no such teacher"),
        ({"dataset": "TinyImageNet", "teacher_model_names": ["VGG-11"]}, "would not mean the same here"),
        ({"custom_train_trans": [tv.ColorJitter(0.5)]}, "custom_train_trans has the transform ColorJitter"),
        (
            {"custom_train_trans": tv.RandomCrop(32, padding=2, padding_mode="reflect")},
            "RandomCrop padding_mode=reflect",
        ),
        ({"custom_train_trans": tv.RandomCrop(28)}, "custom_train_trans makes images of 28 pixels, expected 32"),
        ({"custom_train_trans": [{"name": "RandomCrop", "args": {"sise": 32}}]}, "RandomCrop the arguments sise"),
        ({"custom_train_trans": "flip"}, "custom_train_trans is 'flip', expected torchvision's"),
        ({"custom_train_trans": tv.Normalize(**IMAGENET)}, "give custom_val_trans the same Normalize"),
        (
            {"custom_train_trans": tv.Normalize(**CIFAR), "custom_val_trans": tv.ToTensor()},
            "custom_train_trans normalises, but custom_val_trans does not",
        ),
        ({"custom_train_trans": [tv.Normalize(**CIFAR)] * 2}, "custom_train_trans normalises twice"),
        ({"custom_train_trans": [tv.Normalize(**CIFAR), tv.RandomCrop(32, 4)]}, "pads after Normalize"),
        ({"custom_val_trans": [tv.Resize(40), tv.CenterCrop(32)]}, "custom_val_trans has Resize, CenterCrop, but test"),
        ({"teacher_dir": 3}, "teacher_dir is 3, expected a path"),
        ({"save_path": "file/scores.csv"}, "save_path is file/scores.csv, which cannot be made"),
        ({"config": "demo.yaml"}, "LabelRobustScoreSoft is given 'demo.yaml', expected a Config"),
    ],
)
def test_settings_that_cannot_be_meant_are_one_sentence(settings, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as error:
        LabelRobustScoreSoft(**settings)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("evaluator", "given", "sentence"),
    [
        (LabelRobustScoreHard, {}, "needs one of image_tensor and image_path"),
        (LabelRobustScoreHard, {"image_tensor": torch.zeros(10, 3, 32, 32), "image_path": "x"}, "needs one of"),
        (LabelRobustScoreHard, {"image_path": "absent"}, "absent"),
        (LabelRobustScoreHard, {"image_tensor": torch.zeros(7, 3, 32, 32)}, "there are 7 images, expected 10"),
        (LabelRobustScoreHard, {"image_tensor": torch.zeros(10, 3, 32, 32), "syn_lr": "fast"}, "syn_lr is 'fast'"),
        (LabelRobustScoreHard, {"image_tensor": torch.zeros(10, 3, 32, 32), "lrs_lambda": 2}, "score.w is 2"),
        (
            LabelRobustScoreSoft,
            {"image_tensor": torch.zeros(10, 3, 32, 32)},
            "has soft_label_mode=S, but no soft_labels",
        ),
        (
            LabelRobustScoreSoft,
            {"image_tensor": torch.zeros(10, 3, 32, 32), "soft_labels": torch.zeros(10, 9)},
            "have shape (10, 9), expected (10, 10)",
        ),
    ],
)
def test_data_that_cannot_be_meant_are_one_sentence(place, evaluator, given, sentence):
    with pytest.raises(InputError) as error:
        evaluator(ipc=1, model_name="MLP", num_epochs=1, overrides=QUICK).compute_metrics(**given)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_every_dataset_of_the_package_has_a_file_here():
    from ddrank.ddranking.settings import DATASETS

    known = {path.stem for path in (folder() / "dataset").glob("*.yaml")}
    assert {name.lower() for name in DATASETS} <= known


def test_label_types_and_modes():
    assert labels_of(settings_of(soft_label_mode="M"), soft=True) == "multi"
    assert labels_of(settings_of(soft_label_mode="S"), soft=True) == "single"
    assert labels_of(settings_of(soft_label_mode="M"), soft=False) == "hard"


def test_settings_without_names_are_one_sentence():
    with pytest.raises(InputError, match="LabelRobustScoreHard is given settings without names"):
        LabelRobustScoreHard(None, "CIFAR10", "data")
