"""The package's names of networks (`ConvNet-3-BN`, `ResNet-18`, `mobilenet_v2`), in ours."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from ddrank.config import folder
from ddrank.errors import InputError

OWN_SIZE = 32  # pixels: at other sizes the package changes strides and poolings of all but its ConvNet and MLP
SMALL_SIZES = (32, 64)  # pixels: where it gives torchvision's networks a stem for small images
DEPTHS = {"ResNet": (18, 34, 50), "VGG": (11, 13, 16, 19)}
FAMILIES = ("ConvNet", "ResNet", "VGG", "AlexNet", "LeNet", "MLP")


@dataclass(frozen=True)
class Architecture:
    """One of the package's networks as an option of conf/model, with settings that differ from the option's.

    Attributes:
        option: a file of conf/model; `torchvision` and `timm` with `settings["arch"]`.
        differs: where ours cannot be the same network, in what; empty where it is.
    """

    option: str
    settings: dict[str, Any] = field(default_factory=dict)
    differs: str = ""

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings that make it the student."""
        return {"model": self.option, **{f"model.{key}": value for key, value in self.settings.items()}}

    @property
    def display(self) -> str:
        """The name that our results give it."""
        return self.settings.get("name") or self.settings.get("arch") or self.option


def architecture(name: str, size: int, torchvision: bool, where: str) -> Architecture:
    """The network that the package builds for `name` and images of `size` pixels a side; `where` is the setting's name.

    Raises InputError for a name that it does not know either.
    """
    family, *rest = str(name).split("-")
    if family == "ConvNet":
        return _convnet(*_depth_and_norm(name, rest, where))
    if family in DEPTHS:
        depth, batch = _depth_and_norm(name, rest, where)
        if depth not in DEPTHS[family]:
            raise InputError(f"{where} is {name!r}, but a {family} has depth {' or '.join(map(str, DEPTHS[family]))}")
        return _resnet(depth, batch, size, torchvision) if family == "ResNet" else _vgg(depth, batch, size, torchvision)
    if family == "AlexNet":
        if torchvision:
            differs = "ddranking gives it a 3 x 3 stem without bias at this size, ddrank one of 5 x 5"
            return Architecture("torchvision", {"arch": "alexnet"}, differs if size in SMALL_SIZES else "")
        return Architecture("alexnet", differs=_own_form("AlexNet", size))
    if family == "LeNet":
        return Architecture("lenet", differs=_own_form("LeNet", size))
    return Architecture("mlp") if family == "MLP" else _by_library(str(name), size, where)


def teacher(name: str, size: int, depth: int, torchvision: bool) -> str:
    """`name` as an entry of `method.teachers`, which are options alone; `depth` is the dataset's ConvNet depth.

    Raises InputError where ours has no such option, and where it is another network than the one with those weights.
    """
    found = architecture(name, size, torchvision, "teacher_model_names")
    if found.differs:
        raise InputError(
            f"teacher_model_names has {name!r}, whose weights would not mean the same here ({found.differs}): "
            "choose another teacher, such as torchvision's ResNet-18-BN (tea_use_torchvision: true)"
        )
    if found.option in ("torchvision", "timm"):
        return f"{found.option}:{found.settings['arch']}"
    if found.settings.get("depth") == depth:
        return found.option
    if found.settings:
        raise InputError(
            f"teacher_model_names has {name!r}, but ddrank has no such teacher: choose one of the options of conf/model"
        )
    return found.option


def _depth_and_norm(name: str, rest: list[str], where: str) -> tuple[int, bool]:
    if not rest or not rest[0].isdecimal() or int(rest[0]) < 1 or rest[1:] not in ([], ["BN"]):
        raise InputError(f"{where} is {name!r}, expected a network, its depth and maybe BN, such as ConvNet-3-BN")
    return int(rest[0]), bool(rest[1:])


def _convnet(depth: int, batch: bool) -> Architecture:
    norm = "_bn" if batch else ""
    if f"convnet{depth}{norm}" in _options():
        return Architecture(f"convnet{depth}{norm}")
    return Architecture(f"convnet{norm}", {"depth": depth, "name": f"convnet{depth}{norm}"})


def _resnet(depth: int, batch: bool, size: int, torchvision: bool) -> Architecture:
    if torchvision or size > max(SMALL_SIZES):  # its own does not run on larger images
        return Architecture(f"resnet{depth}")  # batch normalisation, whatever the name says
    differs = _own_form("ResNet", size)
    if batch:
        return Architecture(f"resnet{depth}", differs=differs)
    if depth == 18:
        return Architecture("resnet18_in", differs=differs)
    return Architecture(f"resnet{depth}", {"norm": "instance", "name": f"resnet{depth}_in"}, differs)


def _vgg(depth: int, batch: bool, size: int, torchvision: bool) -> Architecture:
    name = f"vgg{depth}_bn" if batch else f"vgg{depth}"
    if torchvision:
        return Architecture("torchvision", {"arch": name})
    return Architecture(name, differs=_own_form("VGG", size))


def _own_form(family: str, size: int) -> str:
    same = size == OWN_SIZE
    return "" if same else f"ddranking changes strides and poolings of its {family} at {size} pixels, ddrank does not"


def _by_library(name: str, size: int, where: str) -> Architecture:
    """A network of torchvision or, failing that, of timm; both take seconds to import."""
    small = size <= max(SMALL_SIZES) and not name.startswith("vgg")
    differs = "ddrank lets it keep the resolution of small images" if small else ""
    from torchvision import models

    known = models.list_models(models)
    if name in known:
        return Architecture("torchvision", {"arch": name}, differs)
    import timm

    if timm.is_model(name):
        return Architecture("timm", {"arch": name}, differs)
    near = difflib.get_close_matches(name, [*(f"{family}-18" for family in FAMILIES[:3]), *FAMILIES[3:], *known], n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise InputError(
        f"{where} is {name!r}, which is no network{guess}: choose ConvNet-<depth>, ResNet-<depth> or VGG-<depth>, each "
        "also with -BN, AlexNet, LeNet, MLP, or a name of torchvision or timm"
    )


def _options() -> set[str]:
    return {path.stem for path in (folder() / "model").glob("*.yaml")}
