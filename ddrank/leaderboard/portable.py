"""What of a result may travel to others: no path, host or account of the machine that made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ddrank.leaderboard.schema import schema
from ddrank.result import Result

_PATHS = ("data", "soft_labels", "teacher_weights")  # of config.method
# Beginnings that tell a place on one machine, or an address that may hold an account.
_PLACE = re.compile(r"[/~]|\.{1,2}(?:[/\\]|$)|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://|file:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def portable(result: Result) -> Result:
    """`result` with the names alone of files and folders, without the logger's settings, and with no more of its
    environment than the schema of submissions knows. It is the same configuration (`configuration`)."""
    config = {key: value for key, value in without_places(result.config).items() if key != "paths"}
    if isinstance(config.get("logger"), Mapping):
        config["logger"] = {key: value for key, value in config["logger"].items() if key == "name"}
    if isinstance(config.get("method"), Mapping):
        config["method"] = {key: _name(value) if key in _PATHS else value for key, value in config["method"].items()}
    known = schema()["$defs"]["result"]["properties"]["environment"]["properties"]
    return replace(
        result,
        distilled={key: _name(value) if key == "path" else value for key, value in result.distilled.items()},
        environment={key: value for key, value in result.environment.items() if key in known},
        config=config,
    )


def without_places(value: Any) -> Any:
    """A setting in which each path that begins at a machine's root, home or working folder is but its last part, and
    each address is without account and query."""
    if isinstance(value, Mapping):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(entry) for entry in value]
    return _name(value) if isinstance(value, str) and _PLACE.match(value) else value


def _name(value: Any) -> Any:
    """The last part of a path (of each, in a list); an address without account, query and fragment."""
    if isinstance(value, list):
        return [_name(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if _ADDRESS.match(value) and not value.startswith("file:"):
        try:
            address = urlsplit(value)
        except ValueError:
            return ""
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    last = re.split(r"[/\\]+", value.rstrip("/\\"))[-1]
    return "" if last.startswith("~") or last in (".", "..") else last.removeprefix("file:")
