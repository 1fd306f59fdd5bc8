"""The published JSON Schema of submissions (draft 2020-12), and what of a file is not as it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("submission.schema.json")
_MOST_CHARACTERS = 60  # of a value that is shown


@cache
def schema() -> dict[str, Any]:
    """The schema itself. Its descriptions are written as what is expected: 'a fraction in [0, 1], not percent'."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def breach(content: Any) -> str | None:
    """Where `content` first departs from the schema: 'result.w is 7, expected a weight in [0, 1]'. None: nowhere."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(content))
    if error is None:
        return None
    where = place(error.absolute_path)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{where} lacks {missing}"
    if error.validator == "additionalProperties":
        unknown = next(name for name in error.instance if name not in error.schema["properties"])
        return f"{where} has the key {shown(unknown)}, expected none but {', '.join(error.schema['properties'])}"
    if error.validator in ("const", "enum"):
        values = error.validator_value if error.validator == "enum" else [error.validator_value]
        return f"{where} is {shown(error.instance)}, expected {' or '.join(map(json.dumps, values))}"
    return f"{where} is {shown(error.instance)}, expected {error.schema['description']}"


def place(path: Sequence[str | int]) -> str:
    """Keys and indices as one name: 'result.seeds[2]'; of none, 'it'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "it"


def shown(value: Any) -> str:
    """A value as JSON, cut short."""
    text = json.dumps(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())
