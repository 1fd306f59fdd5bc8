"""For those who come from the ddranking package (0.2.0): its settings files and its evaluators, measured by ddrank.

Only the import line changes: `from ddrank import Config, LabelRobustScoreSoft`. See docs/coming-from-ddranking.md.
"""

from ddrank.ddranking.config import Config
from ddrank.ddranking.evaluators import (
    AugmentationRobustScore,
    GeneralEvaluator,
    HardLabelEvaluator,
    LabelRobustScoreHard,
    LabelRobustScoreSoft,
    SoftLabelEvaluator,
)

__all__ = [
    "AugmentationRobustScore",
    "Config",
    "GeneralEvaluator",
    "HardLabelEvaluator",
    "LabelRobustScoreHard",
    "LabelRobustScoreSoft",
    "SoftLabelEvaluator",
]
