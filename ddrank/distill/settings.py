"""Checks of a distiller's parameters: one sentence that names the setting."""

from __future__ import annotations

from collections.abc import Sequence

from ddrank.errors import InputError


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise InputError where `method.distiller.<name>` is none of `choices`."""
    if value not in choices:
        raise InputError(f"method.distiller.{name} is {value!r}, expected one of {', '.join(choices)}")


def check_positive(**settings: float) -> None:
    """Raise InputError for the first of `settings` (of method.distiller) that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"method.distiller.{name} is {value}, expected a number above 0")


def check_not_negative(**settings: float) -> None:
    """Raise InputError for the first of `settings` (of method.distiller) that is below 0."""
    for name, value in settings.items():
        if not value >= 0:
            raise InputError(f"method.distiller.{name} is {value}, expected 0 or more")
