"""Why Hydra or OmegaConf refuse a configuration, and what to do, in one sentence."""

from __future__ import annotations

import difflib
import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ddrank import config as schema
from ddrank.override import override

_EXPECTED = (  # what OmegaConf says of a value that does not fit, and what the setting takes instead
    ("ListConfig", "a list: write {key}=[{value}]"),
    ("to Integer", "a whole number"),
    ("to Float", "a number"),
    ("valid bool", "true or false"),
    ("to string", "one word or text"),
    ("not Optional", "a value"),
    (" to Dict[", "a mapping: write {key}={{NAME:VALUE}}"),
)


def explained(error: Exception) -> str:
    """What `error`, of Hydra or OmegaConf, means to who wrote the command line."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    if isinstance(error, MissingConfigException) and error.options and "/" in (error.missing_cfg_file or ""):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):
        return schema.no_value(missing[1])
    if typed := re.match(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE):
        key, _, value = typed[1].partition("=")
        return (
            f'{typed[1]} holds several values: write {key}=[{value}] for a list, "{override(key, value)}" for one '
            "text, or add -m to sweep over them"
        )
    if cause and (typed := re.match(r"Error merging override (.*)", str(error))):
        return _unfit(*typed[1].partition("=")[::2], cause)
    if cause and cause.full_key and (typed := re.search(r"Could not override .*use \+(.*)", str(error), re.DOTALL)):
        return _unknown(cause, typed[1])
    return f"{_one_line(error, cause)}: see the known settings with `--cfg job`"


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = error.missing_cfg_file.rpartition("/")
    near = difflib.get_close_matches(option, error.options, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"{group}={option} is not known{guess}: choose one of {', '.join(error.options)}"


def _unreadable(typed: str) -> str:
    """Of what is not in the grammar of the command line."""
    key, equals, value = typed.partition("=")
    if not equals:
        return (
            f"{typed!r} is no setting, expected key=value: a value with blanks is put in quotes, as in "
            "\"method.data='my data/images.pt'\""
        )
    if value.startswith(("[", "{", "'", '"')):
        return f"{typed} cannot be read: a list is [1,2], a mapping {{name:1}}, and a text with other signs '...'"
    return f'{typed} cannot be read: a text with any of = ( ) [ ] {{ }} , : is put in quotes, "{override(key, value)}"'


def _unfit(key: str, value: str, cause: OmegaConfBaseException) -> str:
    """Of a value of the wrong type."""
    said = str(cause).splitlines()[0]
    expected = next((words for sign, words in _EXPECTED if sign in said), None)
    if expected is None:
        return f"{key}={value} does not fit ({said.rstrip('.')}): see the known settings with `--cfg job`"
    at = f" at {cause.full_key}" if cause.full_key not in (key, None) else ""
    return f"{key} is {value or 'empty'}, expected {expected.format(key=key, value=value)}{at}"


def _unknown(cause: OmegaConfBaseException, typed: str) -> str:
    """Of a setting that is not there; `typed` is the whole override."""
    key = cause.full_key
    place, _, entry = key.rpartition(".")
    if place and "is not in struct" in str(cause):  # a mapping that takes any entries
        if near := difflib.get_close_matches(entry, map(str, cause.parent_node or ()), n=1):
            return f"there is no setting {key}: did you mean {place}.{near[0]}?"
        return f"{place} has no entry {entry}: to add it, write a + before it, +{typed}"
    if near := difflib.get_close_matches(key, schema.settings(), n=1):
        return f"there is no setting {key}: did you mean {near[0]}?"
    part = "hydra" if key.startswith("hydra") else "job"
    return f"there is no setting {key}: see the known settings with `--cfg {part}`"


def _one_line(error: Exception, cause: Exception | None) -> str:
    """A message, with that of its cause, in one line."""
    lines = [line.strip() for part in (error, cause or error) for line in str(part).splitlines()]
    told = [line for line in lines if line and not line.startswith(("object_type=", "reference_type="))]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in told))
