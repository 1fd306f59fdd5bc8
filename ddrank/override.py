"""Settings given from Python, written as Hydra's command line writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddrank.errors import InputError

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_KEY = re.compile(r"[\w.-]+")
_WORDS = ("null", "true", "false", "inf", "nan", "yes", "no", "on", "off")


def override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar, for a number, a word, a path, None, or lists and mappings of such.

    >>> override("method.data", "my data/images.pt")
    "method.data='my data/images.pt'"
    >>> override("protocol.lrs", [0.01, 0.1]), override("method.lr", None)
    ('protocol.lrs=[0.01,0.1]', 'method.lr=null')

    Raises InputError for anything else.
    """
    return f"{key}={_written(key, value)}"


def _written(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value.item() if hasattr(value, "item") else value)
    if isinstance(value, str | Path):
        return _text(str(value))
    if isinstance(value, Mapping):
        if odd := [name for name in value if not _KEY.fullmatch(str(name))]:
            raise InputError(f"{key} has an entry named {odd[0]!r}, expected letters, digits, '_', '-' and '.'")
        return "{" + ",".join(f"{name}:{_written(key, entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_written(key, entry) for entry in value) + "]"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of numpy or torch
        return _written(key, value.item())
    raise InputError(f"{key} is {value!r}, expected a number, a word, or a list or mapping of such")


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # Inside quotes a backslash counts only before a quote, where each of them must be doubled.
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", text)
    return "'" + re.sub(r"(\\+)$", lambda found: 2 * found[1], escaped) + "'"
