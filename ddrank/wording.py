"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, which is given in the singular and has a plural in -s or -ies.

    >>> counted(1, "entry"), counted(2, "entry"), counted(0, "student"), counted(3, "epoch")
    ('1 entry', '2 entries', '0 students', '3 epochs')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"
