"""What an examination finds: each finding with its cause, its consequence and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

WRONG = "wrong"  # cannot be right
SUSPECT = "suspect"  # hardly meant, but possible


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: what it is in one hyphenated word, such as `value-space`.
        severity: WRONG or SUSPECT.
        what: what was found, with numbers.
        why: why it matters.
        setting: the setting or command that mends it, such as `method.space=pixel`.
    """

    kind: str
    severity: str
    what: str
    why: str
    setting: str

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"{self.what}: {self.why}; mend it with {self.setting}"


def listed(values: list, most: int = 6) -> str:
    """The first few of `values`, as text: `3, 4, 7 and 5 more`."""
    text = ", ".join(str(value) for value in values[:most])
    return text if len(values) <= most else f"{text} and {len(values) - most} more"
