"""The package's settings in ours: one evaluation of the ddranking package as overrides of conf/config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ddrank.config import folder
from ddrank.ddranking.architectures import Architecture, architecture, teacher
from ddrank.ddranking.settings import IGNORED, number
from ddrank.ddranking.views import Transforms, transforms
from ddrank.errors import InputError

CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # mean and std: it takes them for CIFAR-100, too
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIXED_SIZE = ("CIFAR10", "CIFAR100", "TinyImageNet")  # the others are resized to im_size
REFERENCES = {("ImageNet1K", "ResNet-18-BN"): 0.565, ("TinyImageNet", "ResNet-18-BN"): 0.464}  # its REAL_DATA_ACC_CACHE
TEMPERATURE = 1.2  # of its criteria, where their arguments leave it out

AUG_ARGUMENTS = {
    "dsa": ("flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop", "cutout"),
    "cutmix": ("beta",),
    "mixup": ("lam",),
}
AUG_ALIASES = {  # the names of its documentation, and the one that Python reserves
    "prob_flip": "flip",
    "ratio_rotate": "rotate",
    "ratio_scale": "scale",
    "ratio_crop_pad": "crop",
    "ratio_cutout": "cutout",
    "cutmix_p": "beta",
    "mixup_p": "lam",
    "lambda": "lam",
}
CALLBACKS = {"cutmix": "ddrank.augment.CutMix", "mixup": "ddrank.augment.MixUp", "dsa": "ddrank.augment.DSA"}
CRITERION_ARGUMENTS = {
    "kl": ("temperature", "scale_loss"),
    "sce": ("temperature", "scale_loss"),
    "mse_gt": ("mse_weight", "ce_weight"),
}


@dataclass(frozen=True)
class Translation:
    """Settings of ours, by their names on the command line, and what is to be said about the translation."""

    overrides: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def translated(settings: Mapping[str, Any], labels: str, batch_size: str = "syn_batch_size") -> Translation:
    """What `settings` (checked) are in ours, for `labels` of ours: hard, single or multi.

    `batch_size` is the setting that holds that of the students. Raises InputError for what ours cannot do.
    """
    notes = [f"{name}={settings[name]} ({reason})" for name, reason in IGNORED.items() if reason and settings.get(name)]
    name = settings["dataset"]
    config = OmegaConf.load(folder() / "dataset" / f"{name.lower()}.yaml")
    size = _size(settings, config.size)
    training, testing = (transforms(settings.get(key), key) for key in ("custom_train_trans", "custom_val_trans"))
    torchvision = settings.get("use_torchvision", False) or settings.get("stu_use_torchvision", False)
    model = architecture(settings["model_name"], size, torchvision, "model_name")
    if model.differs:
        notes.append(f"model_name={settings['model_name']} ({model.differs})")
    overrides = {"dataset": name.lower(), "ipc": settings["ipc"], "method": "custom", "protocol": "ddranking"}
    overrides |= {"dataset.size": size} if size != config.size else {}
    overrides |= model.overrides | _augmentation(settings, training, size)
    overrides |= _labels(settings, labels, size, config) | _space(settings, training, testing, config)
    overrides |= _training(settings, batch_size) | _real(settings, model, notes)
    overrides |= {"num_eval": settings["num_eval"]}
    overrides |= _files(settings, testing, size, config)
    if settings.get("device") == "cpu":
        overrides["engine.accelerator"] = "cpu"
    for key, ours in (("syn_lr", "method.lr"), ("lrs_lambda", "score.w"), ("ars_lambda", "score.g")):
        overrides |= {ours: settings[key]} if key in settings else {}
    overrides |= {"method.data": settings["image_path"]} if "image_path" in settings else {}
    return Translation(overrides, notes)


def labels_of(settings: Mapping[str, Any], soft: bool) -> str:
    """Ours for its label type and mode: hard, single or multi."""
    return {"S": "single", "M": "multi"}[settings["soft_label_mode"]] if soft else "hard"


def _size(settings: Mapping[str, Any], own: int) -> int:
    given = settings.get("im_size")
    if given is None:
        return own
    sides = list(given) if isinstance(given, list | tuple) else [given]
    whole = all(type(side) is int and side > 0 for side in sides)
    if not whole or len(sides) not in (1, 2) or sides[0] != sides[-1]:
        raise InputError(f"im_size is {given!r}, expected two equal whole numbers of pixels, such as [32, 32]")
    if sides[0] != own and settings["dataset"] in FIXED_SIZE:
        raise InputError(f"im_size is {given!r}, but images of {settings['dataset']} have {own} pixels a side")
    return sides[0]


def _augmentation(settings: Mapping[str, Any], training: Transforms, size: int) -> dict[str, Any]:
    kind = settings["data_aug_func"]
    kind = None if kind == "none" else kind
    arguments = _aug_arguments(kind, settings["aug_params"])
    if not training.views:
        return {"aug": kind or "none", **{f"aug.{kind}.{key}": value for key, value in arguments.items()}}
    sizes = [view[name]["size"] for view in training.views for name in view if "size" in view[name]]
    if sizes and sizes[-1] not in (size, [size, size]):
        raise InputError(f"custom_train_trans makes images of {sizes[-1]} pixels, expected {size} as at test time")
    mirror = {"mirror": "${dataset.mirror}"}
    view = {"_target_": "ddrank.augment.Views", "transforms": list(training.views), **mirror}
    if kind is None:
        return {"aug": "none", "aug.name": training.name, "++aug.view": view}
    part = {"_target_": CALLBACKS[kind], **arguments, **(mirror if kind == "dsa" else {})}
    return {"aug": "none", "aug.name": f"{training.name}_{kind}", "++aug.view": view, f"++aug.{kind}": part}


def _aug_arguments(kind: str | None, given: Mapping[str, Any]) -> dict[str, float]:
    if kind is None:
        return {}
    arguments = {}
    for name, value in given.items():
        own = AUG_ALIASES.get(name, name)
        if own not in AUG_ARGUMENTS[kind]:
            known = ", ".join(name.replace("lam", "lambda") for name in AUG_ARGUMENTS[kind])
            raise InputError(f"aug_params has {name!r}, but data_aug_func={kind} takes {known}")
        arguments[own] = number(f"aug_params.{name}", value)
    return arguments


def _labels(settings: Mapping[str, Any], labels: str, size: int, config: Any) -> dict[str, Any]:
    """Labels, criterion and teachers."""
    if labels == "hard":
        return {"method.labels": "hard", "criterion": "ce"}
    kind = settings["soft_label_criterion"]
    arguments = dict(settings["loss_fn_kwargs"])
    if "temperature" in settings:  # so before 0.2.0
        arguments["temperature"] = settings["temperature"]
    if unknown := sorted(set(arguments) - {"temperature"} - set(CRITERION_ARGUMENTS[kind])):
        raise InputError(
            f"loss_fn_kwargs has {unknown[0]!r}, but soft_label_criterion={kind} takes "
            f"{' and '.join(CRITERION_ARGUMENTS[kind])}"
        )
    overrides: dict[str, Any] = {"method.labels": labels, "criterion": kind}
    if kind == "mse_gt":
        for key, default in (("mse_weight", 1.0), ("ce_weight", 0.0)):
            overrides[f"criterion.{key}"] = number(f"loss_fn_kwargs.{key}", arguments.get(key, default))
    else:
        temperature = number("loss_fn_kwargs.temperature", arguments.get("temperature", TEMPERATURE))
        overrides["method.temperature"] = temperature
        if scale := arguments.get("scale_loss", False):
            if not isinstance(scale, bool):
                raise InputError(f"loss_fn_kwargs.scale_loss is {scale!r}, expected true or false")
            overrides["criterion.scale_loss"] = scale
    overrides["method.aug_for_hard"] = settings.get("use_aug_for_hard", False)
    names = settings.get("teacher_model_names") or [settings["model_name"]]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"teacher_model_names is {names!r}, expected a list of names, such as [ConvNet-3]")
    torchvision = settings.get("tea_use_torchvision", False)
    overrides["method.teachers"] = [teacher(name, size, config.convnet_depth, torchvision) for name in names]
    if settings["teacher_dir"] is not None:
        home = Path(settings["teacher_dir"]) / settings["dataset"]
        overrides["method.teacher_weights"] = [str(home / name / "ckpt_best.pt") for name in names]
    return overrides


def _space(settings: Mapping[str, Any], training: Transforms, testing: Transforms, config: Any) -> dict[str, Any]:
    """The space of the images, and its constants where they are not the dataset's own."""
    if settings.get("use_zca", False):
        return {"method.space": "zca"}
    if settings.get("custom_val_trans") is not None and testing.mean is None:
        if training.mean is not None:
            raise InputError(
                "custom_train_trans normalises, but custom_val_trans does not, so that students are tested on images "
                "of another space: give custom_val_trans the same Normalize"
            )
        return {"method.space": "pixel"}
    default = CIFAR if settings["dataset"].startswith("CIFAR") else IMAGENET
    at_test = default if testing.mean is None else (testing.mean, testing.std)
    at_training = at_test if training.mean is None else (training.mean, training.std)
    if at_training != at_test:
        raise InputError(
            f"custom_train_trans normalises with mean {list(at_training[0])} and std {list(at_training[1])}, but test "
            f"images with {list(at_test[0])} and {list(at_test[1])}: give custom_val_trans the same Normalize"
        )
    own = tuple(config.mean), tuple(config.std)
    return {} if at_test == own else {"method.mean": list(at_test[0]), "method.std": list(at_test[1])}


def _training(settings: Mapping[str, Any], batch_size: str) -> dict[str, Any]:
    epochs, schedule, momentum = settings["num_epochs"], settings["lr_scheduler"], settings["momentum"]
    overrides = {
        "train.epochs": epochs,
        "train.batch_size": settings[batch_size],
        "train.optimizer": settings["optimizer"],
        "train.weight_decay": settings["weight_decay"],
        "train.schedule": "step" if schedule == "step" else "cosine",
    }
    if schedule == "step":
        overrides["train.step_size"] = settings.get("step_size", epochs // 2 + 1)  # its default before 0.2.0
    else:
        overrides["train.cosine_span"] = 1.0 if schedule == "cosineannealing" else 0.5
    if isinstance(momentum, tuple):
        if settings["optimizer"] == "sgd" or len(momentum) != 2:
            raise InputError(f"momentum is {list(momentum)}, expected one number, or two betas with adam and adamw")
        return overrides | {"train.betas": list(momentum)}
    return overrides | ({"train.momentum": momentum} if settings["optimizer"] == "sgd" else {})


def _files(settings: Mapping[str, Any], testing: Transforms, size: int, config: Any) -> dict[str, Any]:
    """Where the real images lie, and how they are brought to their size."""
    root = Path(settings["real_data_path"])
    overrides = {"paths.data": str(root)}
    folder = config.loader.get("folder")
    if folder and not (root / folder).is_dir():
        overrides["dataset.loader.folder"] = "."  # there, train/ and val/ lie in the very folder
    steps = [(name, arguments.get("size")) for view in testing.views for name, arguments in view.items()]
    if "squash" not in config.loader:
        if testing.keeps(size):
            return overrides
    else:  # it takes whole images, and cuts out the centres of test images alone, where custom_val_trans does
        overrides["dataset.loader.squash"] = settings["dataset"] not in FIXED_SIZE
        overrides["dataset.loader.test_resize"] = None
        if all(step in (("Resize", [size, size]), ("CenterCrop", size)) for step in steps):
            return overrides
        names, sizes = zip(*steps, strict=True)
        if names in (("Resize",), ("Resize", "CenterCrop")) and isinstance(sizes[0], int) and sizes[-1] == size:
            return overrides | {"dataset.loader.test_resize": sizes[0]}
    raise InputError(
        f"custom_val_trans has {', '.join(name for name, _ in steps)}, but test images of {settings['dataset']} cannot "
        "be prepared so: leave out all but ToTensor and Normalize"
    )


def _real(settings: Mapping[str, Any], model: Architecture, notes: list[str]) -> dict[str, Any]:
    """Training on the real data: whether its accuracy is measured or published."""
    overrides = {"protocol.real.batch_size": settings["real_batch_size"]}
    accuracy = REFERENCES.get((settings["dataset"], settings["model_name"]))
    if settings.get("eval_full_data", False):
        return overrides | ({"dataset.real_hard_reference": None} if accuracy else {})
    if accuracy:
        return overrides | {"dataset.real_hard_reference": {model.display: accuracy}}
    network = f"{settings['model_name']} on {settings['dataset']}"
    notes.append(f"eval_full_data=false (no accuracy of {network} is at hand: it is measured)")
    return overrides
