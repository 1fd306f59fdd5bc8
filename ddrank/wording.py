"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, which is given in the singular.

    >>> counted(1, "entry"), counted(2, "entry"), counted(0, "student"), counted(1000, "class")
    ('1 entry', '2 entries', '0 students', '1000 classes')
    """
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
