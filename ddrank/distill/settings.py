"""Checks of a distiller's parameters: one sentence that names the setting."""

from __future__ import annotations

from collections.abc import Sequence

from ddrank.data import Space
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


def check_area(name: str, area: Sequence[float]) -> None:
    """Raise InputError where `method.distiller.<name>` is no range of crops' areas, parts of the image's."""
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise InputError(
            f"method.distiller.{name} is {list(area)}, expected the smallest and the largest area of a crop, two "
            "numbers above 0 and at most 1"
        )


def pixelwise(space: Space) -> None:
    """Raise InputError for a space that mixes the pixels of an image, for a distiller that cuts or bounds them."""
    if space.zca_matrix is not None:
        raise InputError(
            "method.made_in is zca, where no number belongs to one pixel, but this distiller cuts and bounds pixels: "
            "choose method.made_in=normalized or pixel"
        )
