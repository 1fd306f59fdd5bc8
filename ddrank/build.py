"""From a config's `_target_` to an object, with unknown keys refused in one sentence."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from ddrank.errors import InputError


def plain(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """A config as plain dicts and lists, its interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else dict(config)


def unnamed(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """A component's config without its display name, which changes nothing."""
    return {key: value for key, value in plain(config).items() if key != "name"}


def identity(config: Any) -> Any:
    """What stands for a component in keys: its config; of ddrank's without its display name, of any other with the
    sha256 of the file that its class or function is in, so that whoever edits that gets other numbers."""
    if isinstance(config, list):
        return [identity(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    content = {key: identity(value) for key, value in plain(config).items()}
    if "_target_" not in content:
        return content
    target = str(content["_target_"])
    return content | {"code": _code(target)} if _own(target) else unnamed(content)


def identities(group: Mapping[str, Any] | DictConfig) -> list[Any]:
    """What stands for a group of several components: each one's identity, in their order."""
    return list(identity(unnamed(group)).values())


def codes(config: Any) -> dict[str, str | None]:
    """Of the components in a config that are not ddrank's, what stands for their code in keys, by their targets."""
    if not isinstance(config, Mapping | list):
        return {}
    values = config.values() if isinstance(config, Mapping) else config
    found = {target: code for value in values for target, code in codes(value).items()}
    target = str(config.get("_target_", "")) if isinstance(config, Mapping) else ""
    return found | ({target: _code(target)} if _own(target) else {})


def check_codes(wanted: Mapping[str, str | None]) -> None:
    """Refuse components whose files are not as in another process, which gives `wanted`, its `codes`."""
    for target, code in wanted.items():
        if None not in (code, here := _code(target)) and code != here:
            raise InputError(
                f"the file of {target} was edited after it had been imported: start Python anew, so that all processes "
                "of an evaluation have the same code"
            )


def _own(target: str) -> bool:
    """Whether a `_target_` is not one of ddrank's."""
    return bool(target) and not target.startswith("ddrank.")


def _code(path: str) -> str | None:
    """The sha256 of the file with the source of what a dotted path names, as it was when this process first asked for
    that; none where there is no such file."""
    try:
        return _sha256_of_source(inspect.unwrap(_named(path)))
    except (ImportError, AttributeError, ValueError, TypeError, OSError):
        return None  # compiled, or made as the program runs; what cannot be imported is refused where it is built


@functools.cache  # an edited file is not the code that runs until it is imported anew, which makes another object
def _sha256_of_source(imported: Any) -> str | None:
    file = inspect.getsourcefile(imported)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _named(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def build(config: Mapping[str, Any] | DictConfig, where: str, **given: Any) -> Any:
    """Call the class or function that `_target_` names with the other keys and with `given`.

    `name` is for display and is passed on only where the target takes it; so is each of `given`. Raises InputError,
    naming `where`, for an unknown target, an unknown key or a missing one.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"{where} is {config!r}, expected a mapping with a _target_")
    arguments = plain(config)
    path = arguments.pop("_target_", None)
    if path is None:
        raise InputError(f"{where} has no _target_: choose one of its group's options on the command line")
    try:
        target = _named(str(path))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where}._target_ is {path!r}, which cannot be imported ({error})") from error
    if not callable(target):
        raise InputError(f"{where}._target_ is {path!r}, which is neither a class nor a function")
    if _own(str(path)):
        _code(str(path))  # before its file can be edited
    parameters = inspect.signature(target).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "name" not in parameters:
        arguments.pop("name", None)
    if missing := [key for key, value in arguments.items() if value == MISSING]:
        raise InputError(f"{where}.{missing[0]} has no value: give it on the command line as {where}.{missing[0]}=...")
    unknown = sorted(set(arguments) & set(given) or set(arguments) - set(parameters) - {"self"})
    if unknown and not open_ended:
        settings = [name for name in parameters if name not in given and name != "self"]
        near = difflib.get_close_matches(unknown[0], settings, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(settings) or 'no settings'}"
        raise InputError(f"{where} has no setting {unknown[0]!r}: {hint}")
    _check_types(target, arguments, where)
    arguments |= {key: value for key, value in given.items() if key in parameters or open_ended}
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in arguments
    ]
    if needed:
        raise InputError(f"{where} needs a value for {needed[0]}: give it as {where}.{needed[0]}=...")
    return target(**arguments)


def _check_types(target: Any, arguments: Mapping[str, Any], where: str) -> None:
    """Refuse values that the annotations of `target` do not allow, as far as those are of plain types."""
    try:
        hints = typing.get_type_hints(
            target if dataclasses.is_dataclass(target) else getattr(target, "__init__", target)
        )
    except (NameError, TypeError):  # names that exist for type checkers alone
        return
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            expected = getattr(hints[name], "__name__", None) if isinstance(hints[name], type) else None
            expected = expected or re.sub(r"[\w.]+\.(?=\w)", "", str(hints[name])).replace("None", "null")
            raise InputError(f"{where}.{name} is {value!r}, expected {expected}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config is of the type `hint`; of types that no config can express, everything is."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in choices)
    if origin in (collections.abc.Sequence, list):
        return isinstance(value, list | tuple) and all(_fits(entry, choices[0]) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, types.NoneType) else True


def parts(config: Mapping[str, Any] | DictConfig, where: str, **given: Any) -> list[Any]:
    """What a group of several objects names, in order: every entry of `config` but its `name`."""
    return [build(entry, f"{where}.{key}", **given) for key, entry in unnamed(config).items()]
