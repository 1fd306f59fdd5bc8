"""What every reader is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddrank.data.readers.found import Found


@dataclass(frozen=True)
class Reader:
    """One format of distilled data.

    Attributes:
        layout: the format's files, in words, for messages.
        candidates: what at a path could be of this format: of a folder, each set of images that `read` can be given
            (a file, or the folder itself); of a file, that file or nothing. Looks at names first, at content where
            names do not tell.
        read: reads one of them. Raises InputError.
        folder: whether `read` is given folders, and none of their files.
        beside: which other files, by name, belong to a file of that name and lie in the same folder.
    """

    layout: str
    candidates: Callable[[Path], list[Path]]
    read: Callable[[Path], Found]
    folder: bool = False
    beside: Callable[[str], tuple[str, ...]] = lambda name: ()
