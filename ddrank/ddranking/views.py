"""torchvision's transforms, as the package takes them (objects, or names with arguments), in our terms.

Images are decoded and normalised once, so that of a transform two things are left: the random views that are applied to
training batches, and the constants of the normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddrank.errors import InputError

DECODING = ("ToTensor", "PILToTensor", "ToImage", "ToPureTensor", "ConvertImageDtype", "ToDtype", "Identity")
# What each takes, in the order of its positional arguments.
VIEWS = {
    "RandomResizedCrop": ("size", "scale", "ratio", "interpolation", "antialias"),
    "RandomCrop": ("size", "padding", "pad_if_needed", "fill", "padding_mode"),
    "RandomHorizontalFlip": ("p",),
    "Resize": ("size", "interpolation", "max_size", "antialias"),
    "CenterCrop": ("size",),
    "GaussianNoise": ("mean", "sigma", "clip"),
    "ShufflePatches": ("factor",),
    "Normalize": ("mean", "std", "inplace"),
}
# The values of what our views do not choose: bilinear, black borders, no clipping.
FIXED = {
    "interpolation": ("bilinear", 2, None),
    "max_size": (None,),
    "pad_if_needed": (False,),
    "fill": (0, None),
    "padding_mode": ("constant",),
    "clip": (False,),
    "inplace": (False, True),
}
SHORT = {
    "RandomResizedCrop": "rrc",
    "RandomCrop": "crop",
    "RandomHorizontalFlip": "flip",
    "Resize": "resize",
    "CenterCrop": "center",
    "GaussianNoise": "noise",
    "ShufflePatches": "patches",
}


@dataclass(frozen=True)
class Transforms:
    """What is left of a transform: the `views` as entries of `aug.view.transforms`, mean and std of its Normalize."""

    views: tuple[dict[str, dict[str, Any]], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """Its views in a word, such as crop_flip."""
        return "_".join(SHORT[name] for view in self.views for name in view)

    def keeps(self, size: int) -> bool:
        """Whether the views do nothing to images of `size` pixels a side but resize and crop them to that very size."""
        return all(
            name in ("Resize", "CenterCrop") and arguments["size"] in (size, [size, size])
            for view in self.views
            for name, arguments in view.items()
        )


def transforms(value: Any, where: str) -> Transforms:
    """What `value` does, the setting `where`: None, a transform or Compose of torchvision, or a list of either or of
    `{name: ..., args: ...}`.

    Raises InputError for a transform, or an argument of one, that our views do not have.
    """
    views, mean, std = [], None, None
    for name, arguments in _steps(value, where):
        if name in DECODING:
            continue
        if name not in VIEWS:
            raise InputError(
                f"{where} has the transform {name}, which ddrank does not know: it takes {', '.join(VIEWS)} and the "
                "decoding to tensors; leave it out, or write it as an augmentation of your own (aug=...)"
            )
        arguments = _plain(name, arguments, where)
        _check_order(name, arguments, mean is not None, where)
        if name == "Normalize":
            if mean is not None:
                raise InputError(f"{where} normalises twice: keep one Normalize")
            if {"mean", "std"} - set(arguments):
                raise InputError(f"{where} has a Normalize without mean or std: give both")
            mean, std = _numbers(arguments["mean"], where), _numbers(arguments["std"], where)
        else:
            views.append({name: arguments})
    return Transforms(tuple(views), mean, std)


def _numbers(values: Any, where: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} normalises with {values}, expected a list of one number a channel") from error


def _check_order(name: str, arguments: dict[str, Any], normalised: bool, where: str) -> None:
    """Our views pad with black and add noise in normalised space, whatever stands before or after them."""
    if name == "RandomCrop" and arguments.get("padding") and normalised:
        raise InputError(f"{where} pads after Normalize, but ddrank pads with black: put RandomCrop before it")
    if name == "GaussianNoise" and not normalised:
        raise InputError(f"{where} adds noise before Normalize, but ddrank adds it after: put GaussianNoise after it")


def _steps(value: Any, where: str) -> list[tuple[str, Mapping[str, Any] | list[Any] | None]]:
    """Name and arguments of each transform in order; the arguments of objects are those that they hold."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        if "name" not in value or set(value) - {"name", "args"}:
            raise InputError(f"{where} has the entry {dict(value)}, expected a name and args")
        return [(str(value["name"]), value.get("args"))]
    if isinstance(value, list | tuple):
        return [step for entry in value for step in _steps(entry, where)]
    name = type(value).__name__
    if name in ("Compose", "Sequential"):
        return _steps(list(getattr(value, "transforms", value)), where)
    if isinstance(value, str | int | float | bool) or not callable(value):
        raise InputError(
            f"{where} is {value!r}, expected torchvision's transforms or a list of {{name: ..., args: ...}}"
        )
    return [(name, {key: getattr(value, key) for key in VIEWS.get(name, ()) if hasattr(value, key)})]


def _plain(name: str, arguments: Mapping[str, Any] | list[Any] | None, where: str) -> dict[str, Any]:
    """The arguments by their names, without those of FIXED."""
    known = VIEWS[name]
    if isinstance(arguments, list | tuple) and len(arguments) <= len(known):
        arguments = dict(zip(known, arguments, strict=False))
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping) or set(arguments) - set(known):
        found = ", ".join(map(str, arguments)) if isinstance(arguments, Mapping | list) else repr(arguments)
        raise InputError(f"{where} gives {name} the arguments {found}, but it takes {', '.join(known)}")
    if name == "GaussianNoise":
        arguments = {"clip": True, **arguments}  # torchvision's default
    kept = {key: _value(argument) for key, argument in arguments.items()}
    for key in set(kept) & set(FIXED):
        if (found := kept.pop(key)) not in FIXED[key]:
            raise InputError(f"{where} gives {name} {key}={found}, but ddrank's has {key}={FIXED[key][0]} only")
    for key in ("padding", "antialias"):
        if kept.get(key, 0) in (None, "warn"):
            del kept[key]
    for key in ("size", "padding") if name != "Resize" else ():  # two sides are not one that the other follows
        if isinstance(kept.get(key), list) and len(set(kept[key])) == 1:
            kept[key] = kept[key][0]
    if isinstance(kept.get("padding"), list):
        raise InputError(f"{where} gives {name} padding={kept['padding']}, but ddrank's is one number for all sides")
    return kept


def _value(argument: Any) -> Any:
    """Tuples as lists, enumerations (such as InterpolationMode) by their values."""
    return list(argument) if isinstance(argument, tuple | list) else getattr(argument, "value", argument)
