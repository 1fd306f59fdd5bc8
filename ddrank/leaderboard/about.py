"""What a leaderboard tells of an entry besides its numbers: where it was published, who ran it, how its data look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class About:
    """Of one entry; what is not known is empty.

    `paper` and `code` are web addresses, `by` is who ran it, `date` the day (YYYY-MM-DD), `note` a sentence, `grid` a
    small PNG of its images.
    """

    paper: str = ""
    code: str = ""
    by: str = ""
    date: str = ""
    note: str = ""
    grid: bytes = b""


UNKNOWN = About()


def together(abouts: Sequence[About]) -> About:
    """What is known of one entry that was put together from several: everyone who ran a part of it, and of all else
    the first that is known."""
    known = {
        entry.name: next(filter(None, (getattr(about, entry.name) for about in abouts)), entry.default)
        for entry in fields(About)
    }
    return About(**known | {"by": ", ".join(dict.fromkeys(about.by for about in abouts if about.by))})
