"""The picture of a run's distilled data: where it lies, and how it is opened when it may be anything."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddrank.result import Result

_OF_RUN, _OF_DATA = "images.png", "grid.png"  # what an evaluation and a distillation draw
_MOST_PIXELS = 40_000_000


def files(result: Result, result_files: Sequence[Path]) -> list[Path]:
    """Where a run's picture lies, the best first: beside its result files, as its evaluation drew it, or beside the
    distilled data, if these are a local file that holds what was evaluated."""
    drawn = [file.with_name(_OF_RUN) for file in result_files]
    return [*filter(_is_file, drawn), *_beside_data(result)]


def read(file: Path) -> Any:
    """The picture (PIL) in a PNG file. Raises ValueError with what is wrong with it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from error
    return opened(content)


def opened(content: bytes) -> Any:
    """The picture (PIL) that the bytes of a PNG hold. Raises ValueError with what is wrong with it, before a large one
    fills memory."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=("PNG",))
        if picture.width * picture.height > _MOST_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels")
        picture.load()
    except UnidentifiedImageError as error:
        raise ValueError("it is no PNG") from error
    except Image.DecompressionBombError as error:
        raise ValueError("it has too many pixels") from error
    except (OSError, SyntaxError) as error:  # SyntaxError: a broken PNG
        raise ValueError(str(error)) from error
    return picture


def _beside_data(result: Result) -> list[Path]:
    path = result.distilled.get("path")
    if not isinstance(path, str) or not path or "://" in path:
        return []
    data = Path(path)
    picture = data.parent / _OF_DATA
    if not (_is_file(picture) and _is_file(data)):
        return []
    try:
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
    except OSError:  # nobody can say whether they are the same
        return []
    return [picture] if digest == result.distilled["sha256"] else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
