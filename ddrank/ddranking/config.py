"""The package's `Config`: the settings of one evaluator, from a mapping or from a YAML or JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ddrank.errors import InputError

TRANSFORMS = ("custom_train_trans", "custom_val_trans")


class Config:
    """Settings by their names in the package; `config` holds them as they were written.

    `Config({...})`, `Config.from_file("….yaml")` or, as its documentation also has it, `Config("….yaml")`.
    """

    def __init__(self, config: Mapping[str, Any] | str | Path | None = None, *, config_path: str | Path | None = None):
        source = config_path if config is None else config
        if source is not None and not isinstance(source, Mapping | str | Path):
            raise InputError(f"Config is given {source!r}, expected a mapping of settings or the path of a file")
        self.config = read_settings(source) if isinstance(source, str | Path) else dict(source or {})

    @classmethod
    def from_file(cls, filepath: str | Path) -> Config:
        """The settings of a `.yaml`, `.yml` or `.json` file. Raises InputError when it holds none."""
        return cls(read_settings(filepath))

    def get(self, key: str, default: Any = None) -> Any:
        """A setting, or `default`: transforms as torchvision objects, `im_size` as a tuple, the rest as written."""
        value = self.config.get(key, default)
        if key in TRANSFORMS:
            return self.load_transforms_from_yaml(value)
        return tuple(value) if key == "im_size" and value is not None else value

    def update(self, overrides: Mapping[str, Any]) -> None:
        """Set or replace settings."""
        self.config.update(overrides)

    def load_transforms_from_yaml(self, values: Any) -> Any:
        """A list of `{name: ..., args: ...}` as torchvision's Compose; anything else as it is."""
        if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
            return values
        from torchvision import transforms
        from torchvision.transforms import v2

        made = []
        for value in values:
            name, arguments = value.get("name"), value.get("args") or {}
            maker = getattr(transforms, str(name), None) or getattr(v2, str(name), None)
            try:
                made.append(maker(**arguments) if isinstance(arguments, Mapping) else maker(*arguments))
            except TypeError as error:
                raise InputError(f"the transform {name!r} with {arguments} is not torchvision's ({error})") from error
        return transforms.Compose(made)

    def __repr__(self) -> str:
        return f"Config({self.config})"


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a YAML or JSON file of the package holds, as written; read safely, nothing is built from tags.

    Raises InputError when there is no such file, or when it is no mapping of names to values.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".yaml", ".yml", ".json"):
        raise InputError(f"{path} is not a settings file of the ddranking package: give a .yaml, .yml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if kind == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a settings file of the ddranking package"
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is not {'JSON' if kind == '.json' else 'YAML'} ({reason}): correct it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} holds no settings: expected a mapping of names to values, such as dataset: CIFAR10")
    return content
