"""Small pictures of the distilled data, as they can stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ddrank.leaderboard import picture
from ddrank.leaderboard.rank import Entry, Ranking

SIZES = (480, 320, 200, 120)  # pixels of the longer side
MOST = 200  # different data that are shown; the best ranks come first


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
                found[data] = _small(read())
                break
            except ValueError as error:
                sentences.append(f"The picture {name} cannot be shown ({error}).")
    return found, sentences


def shrunk(pictures: Mapping[str, Any], size: int) -> dict[str, str]:
    """The pictures as data URLs, `size` pixels at most along the longer side."""
    return {data: _url(whole, size) for data, whole in pictures.items()}


def _sources(ranking: Ranking, entry: Entry) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Where an entry's picture may be: a name for it and what reads it, the best first."""
    if entry.about.grid:
        yield f"of {entry.name}", partial(picture.opened, entry.about.grid)
        return
    for file in picture.files(entry.result, entry.files):
        yield ranking.place(file), partial(picture.read, file)


def _small(whole: Any) -> Any:
    whole.thumbnail((2 * SIZES[0],) * 2)
    return whole.convert("RGB")


def _url(whole: Any, size: int) -> str:
    from PIL import Image

    copy = whole.copy()
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    copy.save(content, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
