"""What may travel to others: of a result no path, host or account of the machine that made it, of a file its place
among the runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddrank.leaderboard.schema import schema
from ddrank.result import Result

# Settings that are files or folders: of a result, a real dataset, a distiller, a method.
_PATHS = ("path", "checkpoint", "data", "soft_labels", "teacher_weights")
# Beginnings that tell a place on one machine, or an address that may hold an account.
_PLACE = re.compile(r"[/~]|\.{1,2}(?:[/\\]|$)|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://|file:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def portable(result: Result) -> Result:
    """`result` with the names alone of files and folders, without the logger's settings, and with no more of its
    environment than the schema of submissions knows. It is the same configuration (`configuration`)."""
    config = {key: value for key, value in without_places(result.config).items() if key != "paths"}
    if isinstance(config.get("logger"), Mapping):
        config["logger"] = {key: value for key, value in config["logger"].items() if key == "name"}
    known = schema()["$defs"]["result"]["properties"]["environment"]["properties"]
    environment = {key: value for key, value in result.environment.items() if key in known}
    return replace(result, distilled=without_places(result.distilled), environment=environment, config=config, store=[])


def without_places(value: Any, path: bool = False) -> Any:
    """Settings in which each path is but its last part, and each address without account, query and fragment.

    Paths are the settings of that kind, and whatever begins at a machine's root, home or working folder; `path` says
    that `value` is one.
    """
    if isinstance(value, Mapping):
        return {key: without_places(entry, key in _PATHS) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry, path) for entry in value]
    return _name(value) if isinstance(value, str) and (path or _PLACE.match(value)) else value


def place(file: Path, roots: Sequence[Path]) -> str:
    """Where a file lies for others: below the first of `roots` that holds it, else as it was given, or its name alone
    where that leads elsewhere than into the working folder."""
    for root in roots:
        if file != root and file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    if not file.anchor and ".." not in file.parts:
        return file.as_posix()
    return "." if file.name in ("", "..") else file.name


def with_places(sentence: str, files: Sequence[Path], roots: Sequence[Path]) -> str:
    """A sentence about `files` with the `place` of each instead of its path."""
    found = {str(file): place(file, roots) for file in files}
    longest_first = sorted(found, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: found[match[0]], sentence)


def _name(text: str) -> str:
    if _ADDRESS.match(text) and not text.startswith("file:"):
        try:
            address = urlsplit(text)
        except ValueError:
            return ""
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    last = re.split(r"[/\\]+", text.rstrip("/\\"))[-1]
    return "" if last.startswith("~") or last in (".", "..") else last.removeprefix("file:")
