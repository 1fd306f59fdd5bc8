"""What a leaderboard tells of an entry besides its numbers: where it was published, who ran it, how its data look."""

from __future__ import annotations

from dataclasses import dataclass


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
