"""The conf/ folder: its schemas made known to Hydra, the names of its settings, its models by name."""

from __future__ import annotations

from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ddrank.config.schema import Distillation, Evaluation, Examination
from ddrank.errors import InputError


def register() -> None:
    """Make the schemas known to Hydra, under the names that conf/*.yaml begin with, and what conf/ reckons with."""
    store = ConfigStore.instance()
    store.store(name="evaluation_schema", node=Evaluation)
    store.store(name="distillation_schema", node=Distillation)
    store.store(name="examination_schema", node=Examination)
    OmegaConf.register_new_resolver("case", _case, replace=True)
    OmegaConf.register_new_resolver("quotient", lambda dividend, divisor: dividend / divisor, replace=True)
    OmegaConf.register_new_resolver("whole_quotient", lambda dividend, divisor: dividend // divisor, replace=True)


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
