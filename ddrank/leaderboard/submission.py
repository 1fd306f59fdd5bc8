"""One submission: a result with who made it, where it was published and a picture, as one small JSON file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ddrank.errors import InputError
from ddrank.leaderboard import picture
from ddrank.leaderboard.about import About
from ddrank.leaderboard.portable import portable
from ddrank.leaderboard.schema import breach, place, shown
from ddrank.result import Result

SCHEMA = "ddrank/submission/1"
MOST_BYTES = 100_000  # of a file
MOST_GRID = 48 * 1024  # bytes of its picture
MOST_PIXELS = 2000  # of its picture, in width and height
_MOST_NESTED = 16
_MOST = 2**63  # of a number
_TOLERANCE = 1e-9  # of scores: another machine's exponential may round otherwise
_HOME = re.compile(r"/home/|/Users/|/root/|:\\Users\\")  # anywhere: `portable` knows places by their beginning
_UNNAMED = ("environment", "seconds", "scores")  # what of a result its file's name does not depend on


@dataclass(frozen=True)
class Submission:
    """A result that may travel (`portable`), and what is told with it."""

    result: Result
    about: About

    @property
    def file_name(self) -> str:
        """`<dataset>-<method>-ipc<k>-<model>-<protocol>-<8 hex>.json`; the digits are those of a sha256 of what was
        measured and how."""
        result = self.result
        measured = {key: value for key, value in result.to_dict().items() if key not in _UNNAMED}
        digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()
        parts = (result.dataset, result.method, f"ipc{result.ipc}", result.model, result.protocol)
        safe = (re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("._") or "_" for part in parts)
        return f"{'-'.join(safe)}-{digest[:8]}.json"

    def to_json(self) -> str:
        """The file's text: one setting a line, numbers at full precision."""
        about = self.about
        told = {"schema": SCHEMA} | {key: getattr(about, key) for key in ("paper", "code", "by", "date", "note")}
        if about.grid:
            told["grid"] = base64.b64encode(about.grid).decode()
        return _lines(told | {"result": self.result.to_dict()}) + "\n"


def read(file: Path) -> Submission:
    """The submission in a file. Raises InputError, one sentence, for whatever is not as `submit` writes it."""
    try:
        kind = os.lstat(file)
        if not stat.S_ISREG(kind.st_mode):
            raise InputError(f"{file} is a link or no file at all: submissions are plain files")
        if kind.st_size > MOST_BYTES:
            raise InputError(f"{file} has {kind.st_size:,} bytes, expected at most {MOST_BYTES:,}")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): give a submission") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not JSON in UTF-8 ({error.reason}): give a submission") from error
    return parse(text, file)


def parse(text: str, source: Path | str) -> Submission:
    """The submission in a file's text; `source` names it in what goes wrong (InputError)."""
    try:
        content = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not JSON ({error}): give a submission as `submit` writes it") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise InputError(f"{source} has the schema {shown(found)}, expected {SCHEMA!r}: make it with `submit`")
    if wrong := _odd(content) or breach(content) or _odd_date(content["date"]):
        raise InputError(f"{source}: {wrong}")
    result = Result.of(content["result"], source)
    if wrong := _other_scores(content["result"]["scores"], result) or _telling(result):
        raise InputError(f"{source}: {wrong}")
    about = {key: content[key] for key in ("paper", "code", "by", "date", "note")}
    return Submission(result, About(**about, grid=_grid(content.get("grid", ""), source)))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return content


def _odd(content: Any) -> str | None:
    """What no value of a submission may be, whatever the schema leaves open."""
    for path, value in _values(content, ()):
        if len(path) > _MOST_NESTED:
            return f"{place(path[:3])} is nested more than {_MOST_NESTED} deep, expected a configuration"
        if isinstance(value, str) and not value.isprintable():
            return f"{place(path)} is {shown(value)}, expected printable text on one line"
        if isinstance(value, int | float) and not abs(value) < _MOST:
            return f"{place(path)} is {shown(value)}, expected a number below 2^63"
    return None


def _values(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All keys and values, those of one level more than may be nested at the deepest."""
    yield path, value
    if len(path) > _MOST_NESTED or not isinstance(value, dict | list):
        return
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        yield path, key
        yield from _values(entry, (*path, key))


def _odd_date(text: str) -> str | None:
    try:
        date.fromisoformat(text)
    except ValueError:
        return f"date is {shown(text)}, expected a day as YYYY-MM-DD"
    return None


def _other_scores(told: Mapping[str, Any], result: Result) -> str | None:
    """Where the scores are not those that the accuracies give."""
    scores = result.scores
    for name, statistic in scores.items():
        if name not in told:
            return f"result.scores lacks {name}, for which all arms are there"
        for key, right in asdict(statistic).items():
            given = told[name][key]
            numbers = (given, right) if key == "per_seed" else ([given], [right])
            if len(numbers[0]) != len(numbers[1]) or any(
                abs(one - other) > _TOLERANCE for one, other in zip(*numbers, strict=True)
            ):
                return f"result.scores.{name}.{key} is {shown(given)}, but the accuracies give {shown(right)}"
    if unfounded := next((name for name in told if name not in scores), None):
        return f"result.scores has {unfounded}, for which arms are missing"
    return None


def _telling(result: Result) -> str | None:
    """What of a result names a place on somebody's machine."""
    harmless = portable(result)
    if harmless == result:
        return _telling_anywhere(result)
    where = next(
        key
        for part in ("distilled", "config")
        for key, value in getattr(result, part).items()
        if getattr(harmless, part).get(key) != value
    )
    return f"{where} in its result names a place on a machine, expected names without folders: make it with `submit`"


def _telling_anywhere(result: Result) -> str | None:
    """Where a text or a key names a home folder, at its beginning or not."""
    return next(
        (
            f"{place(path)} names a home folder ({shown(text)}), expected no place on a machine: name it otherwise"
            for path, text in _values(result.to_dict(), ("result",))
            if isinstance(text, str) and _HOME.search(text)
        ),
        None,
    )


def _grid(text: str, source: Path | str) -> bytes:
    if not text:
        return b""
    try:
        content = base64.b64decode(text, validate=True)
        image = picture.opened(content)
        if max(image.size) > MOST_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels")
    except ValueError as error:
        raise InputError(
            f"{source}: grid cannot be shown ({error}), expected a PNG of at most {MOST_PIXELS} x {MOST_PIXELS} pixels "
            "in base64"
        ) from error
    return content


def _lines(value: Any, indent: int = 0) -> str:
    """JSON with each entry on a line of its own, but for lists of plain values, which take one line."""
    inner = " " * (indent + 1)
    if isinstance(value, dict) and value:
        entries = [
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(entry, indent + 1)}" for key, entry in value.items()
        ]
        return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n" + ",\n".join(inner + _lines(entry, indent + 1) for entry in value) + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
