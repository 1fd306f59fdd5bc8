"""`python -m ddrank.run from=PATH`: a settings file of the package, as overrides of ours."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ddrank.ddranking.config import read_settings
from ddrank.ddranking.settings import DEFAULTS, checked
from ddrank.ddranking.translation import labels_of, translated
from ddrank.errors import InputError
from ddrank.override import override

FROM = "from="


def expanded(arguments: list[str]) -> list[str]:
    """Command line arguments with `from=PATH` replaced by the settings of that file; those given beside it win.

    Says on standard error what the command is in our words. Raises InputError for a file that is missing, unreadable or
    holds what ours cannot do.
    """
    paths = [argument.removeprefix(FROM) for argument in arguments if argument.startswith(FROM)]
    if len(paths) != 1 or not paths[0]:
        raise InputError(f"from= is given {len(paths)} times with {paths}, expected one settings file of ddranking")
    given = [argument for argument in arguments if not argument.startswith(FROM)]
    named = [_key(argument) for argument in given if "=" in argument and not argument.startswith("-")]
    try:
        overrides, notes = _read(Path(paths[0]))
    except InputError as error:
        raise InputError(str(error) if paths[0] in str(error) else f"{paths[0]}: {error}") from error
    kept = [override(key, value) for key, value in overrides.items() if not _is_given(_key(key), named)]
    print(f"{paths[0]} means: python -m ddrank.run {shlex.join([*kept, *given])}", file=sys.stderr)
    if notes:
        print(f"of its settings, these are not as there: {'; '.join(notes)}", file=sys.stderr)
    return [*kept, *given]


def _read(path: Path) -> tuple[dict[str, object], list[str]]:
    found = read_settings(path)
    settings = checked(found, {**DEFAULTS, "data_aug_func": None}, str(path))
    augmentation_robust, general = "label_type" in found, "use_soft_label" in found
    if augmentation_robust or general:
        soft = settings["label_type"] == "soft" if augmentation_robust else settings["use_soft_label"]
    else:
        soft = "soft_label_mode" in found
    batch_size = "batch_size" if "batch_size" in found else "syn_batch_size"
    translation = translated(settings, labels_of(settings, soft), batch_size)
    overrides, notes = dict(translation.overrides), list(translation.notes)
    if augmentation_robust:
        overrides["protocol.test_every.hard"] = 20
    if "save_path" in settings:
        notes.append(f"save_path={settings['save_path']} (results lie in paths.runs)")
    return overrides, notes


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _is_given(key: str, named: list[str]) -> bool:
    """Whether the user has set `key`, or a group or mapping that it is part of."""
    return any(key == name or key.startswith(f"{name}.") for name in named)
