"""Is the learning rate that comes with the data one?"""

from __future__ import annotations

import math

from ddrank.doctor.findings import SUSPECT, WRONG, Finding

USUAL = (1e-5, 10.0)
MOST = 100.0


def check_rate(lr: float | None) -> list[Finding]:
    """Findings about the learning rate with which the students of the method's own labels are trained."""
    if lr is None:
        return []
    if not math.isfinite(lr) or lr <= 0:
        return [
            Finding(
                "lr-invalid",
                WRONG,
                f"the learning rate is {lr:g}",
                "no student can be trained with it",
                "method.lr=0.01, or none at all to have it searched",
            )
        ]
    if lr > MOST:
        return [
            Finding(
                "lr-large",
                WRONG,
                f"the learning rate is {lr:g}",
                "students diverge at once; it may be the rate with which the images were distilled",
                "method.lr=0.01 (or what the method has learned)",
            )
        ]
    if not USUAL[0] <= lr <= USUAL[1]:
        return [
            Finding(
                "lr-unusual",
                SUSPECT,
                f"the learning rate is {lr:g}",
                f"students are usually trained with {USUAL[0]:g} to {USUAL[1]:g}",
                "method.lr=0.01 (or what the method has learned)",
            )
        ]
    return []
