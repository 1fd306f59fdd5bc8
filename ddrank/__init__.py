"""ddrank: how much information a distilled dataset really carries.

In Python: `ddrank.evaluate(images, dataset="cifar10", ipc=10)`, `ddrank.load_distilled(path_or_url)`, the scores `hlr`,
`ior`, `ddrs` and `ars`; and, for those who come from the ddranking package, its evaluators.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "ddrank.api": ("evaluate", "compose", "load_distilled"),
    "ddrank.errors": ("InputError",),
    "ddrank.result": ("Result",),
    "ddrank.score": ("hlr", "ior", "ddrs", "ars"),
    "ddrank.ddranking": (
        "Config",
        "HardLabelEvaluator",
        "SoftLabelEvaluator",
        "LabelRobustScoreHard",
        "LabelRobustScoreSoft",
        "AugmentationRobustScore",
        "GeneralEvaluator",
    ),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}
__all__ = ["__version__", *_PLACE_OF]


def __getattr__(name: str) -> Any:
    """Names are imported as they are used: the commands start without torch."""
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'ddrank' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
