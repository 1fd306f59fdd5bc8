"""Small pictures of the distilled data, as they can stand in a page."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddrank.leaderboard.rank import Entry, Ranking

SIZES = (480, 320, 200, 120)  # pixels of the longer side
MOST = 200  # different data that are shown; the best ranks come first
_OF_RUN, _OF_DATA = "images.png", "grid.png"  # what an evaluation and a distillation draw
_MOST_PIXELS = 40_000_000


def originals(ranking: Ranking) -> tuple[dict[str, Any], list[str]]:
    """A picture (PIL) of each distilled dataset by its sha256, where there is one, and what is not shown: sentences.

    That which came with the entry; else what its evaluation drew beside the result file; else what its distillation
    drew beside the data, if the data are still those that were evaluated.
    """
    entries = sorted((entry for group in ranking.groups for entry in group.entries), key=lambda entry: entry.rank)
    found: dict[str, Any] = {}
    sentences: list[str] = []
    seen: set[str] = set()
    for entry in entries:
        data = entry.result.distilled["sha256"]
        for name, read in () if data in seen or data in found else _sources(ranking, entry):
            if len(found) == MOST:
                return found, [*sentences, f"Pictures are shown of the {MOST} best-ranked distilled datasets alone."]
            seen.add(data)
            try:
                found[data] = _opened(read())
                break
            except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a broken PNG
                sentences.append(f"The picture {name} cannot be shown ({error}).")
    return found, sentences


def shrunk(pictures: Mapping[str, Any], size: int) -> dict[str, str]:
    """The pictures as data URLs, `size` pixels at most along the longer side."""
    return {data: _url(picture, size) for data, picture in pictures.items()}


def _sources(ranking: Ranking, entry: Entry) -> Iterator[tuple[str, Any]]:
    """Where an entry's picture may be: a name for it and what reads it, the best first."""
    if entry.about.grid:
        yield f"of {entry.name}", lambda: entry.about.grid
        return
    drawn = [file.with_name(_OF_RUN) for file in entry.files]
    for picture in (*filter(_is_file, drawn), *_beside_data(entry)):
        yield ranking.place(picture), picture.read_bytes


def _beside_data(entry: Entry) -> list[Path]:
    """The picture beside the distilled data, if these are a local file that holds what was evaluated."""
    path = entry.result.distilled.get("path")
    if not isinstance(path, str) or not path or "://" in path:
        return []
    data = Path(path)
    picture = data.parent / _OF_DATA
    if not (_is_file(picture) and _is_file(data)):
        return []
    return [picture] * (hashlib.sha256(data.read_bytes()).hexdigest() == entry.result.distilled["sha256"])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _opened(content: bytes) -> Any:
    from PIL import Image

    picture = Image.open(io.BytesIO(content), formats=("PNG",))
    if picture.width * picture.height > _MOST_PIXELS:
        raise ValueError(f"it has {picture.width} x {picture.height} pixels")
    picture.thumbnail((2 * SIZES[0],) * 2)
    return picture.convert("RGB")


def _url(picture: Any, size: int) -> str:
    from PIL import Image

    copy = picture.copy()
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    copy.save(content, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
