"""The conf/ folder: its schemas made known to Hydra, the names of its settings, its models by name."""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from ddrank.config.schema import Distillation, Evaluation, Examination
from ddrank.errors import InputError


def register() -> None:
    """Make the schemas known to Hydra, under the names that conf/*.yaml begin with, and to them and the help
    texts the resolvers that they use."""
    store = ConfigStore.instance()
    store.store(name="evaluation_schema", node=Evaluation)
    store.store(name="distillation_schema", node=Distillation)
    store.store(name="examination_schema", node=Examination)
    for resolver in (case, convnet_depth, groups, quotient, room_for_crop, whole_quotient):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def case(choice: str | int, options: dict[str | int, str], otherwise: str) -> str:
    """`${case:${dataset},{image*:resnet18},convnet}`: the option whose pattern comes first and fits, or the last."""
    return next((option for pattern, option in options.items() if fnmatchcase(str(choice), str(pattern))), otherwise)


def convnet_depth(size: int) -> int:
    """How many blocks a ConvNet has for images of so many pixels: 3 at 32, one more each time the size doubles.

    >>> [convnet_depth(size) for size in (28, 32, 64, 128, 224)]
    [3, 3, 4, 5, 6]
    """
    return round(math.log2(max(size, 8) / 4))


def groups(*names: str) -> str:
    """`${groups:dataset,model}` in a help text: a line for each group, with its options, those of --config-dir too."""
    known = GlobalHydra.instance().config_loader().repository  # the loader's own method copies all schemas each time
    options = {name: known.get_group_options(name, ObjectType.CONFIG) for name in names}
    return "".join(f"{name}: {', '.join(options[name])}\n" for name in names)


def quotient(dividend: float, divisor: float) -> float:
    """`${quotient:1,${dataset.rded_factor}}`."""
    return dividend / divisor


def room_for_crop(size: int) -> int:
    """To what the shorter side of a test image is brought whose central square of `size` pixels is used, as at 224.

    >>> [room_for_crop(size) for size in (64, 128, 224)]
    [72, 144, 256]
    """
    return size // 7 * 8


def whole_quotient(dividend: int, divisor: int) -> int:
    """`${whole_quotient:${dataset.size},7}`: the quotient, rounded down."""
    return dividend // divisor


def settings(kind: type = Evaluation, place: str = "") -> list[str]:
    """The dotted names of all settings that the schema knows, with those of the conf/ groups."""
    named = [] if place else [path.name for path in folder().iterdir() if path.is_dir()]
    for entry, hint in get_type_hints(kind).items():
        named += settings(hint, f"{place}{entry}.") if is_dataclass(hint) else [f"{place}{entry}"]
    return named


def folder() -> Path:
    """The conf/ folder: inside the package in an installed wheel, at the top in a checkout."""
    package = Path(__file__).parent.parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


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
