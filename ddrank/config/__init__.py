"""What a configuration may hold: the typed schema that every composed config is checked against.

Hydra merges the YAML files of `conf/` and the command line into `Evaluation` (python -m ddrank.run), `Distillation`
(python -m ddrank.distill) or `Examination` (python -m ddrank.doctor). An unknown key or a value of the wrong type is
refused while composing; `check` refuses what types cannot tell. Nothing here imports torch.
"""

from ddrank.config.checks import check, no_value
from ddrank.config.options import folder, model_named, register, settings
from ddrank.config.schema import (
    LABELS,
    OPTIMIZERS,
    SCHEDULES,
    SOFT_KINDS,
    SPACES,
    Dataset,
    Distillation,
    Engine,
    Evaluation,
    Examination,
    Job,
    Method,
    Paths,
    Protocol,
    RealOverrides,
    RealTraining,
    Relabelling,
    Score,
    Student,
    Training,
    Validation,
)

__all__ = [
    "LABELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SOFT_KINDS",
    "SPACES",
    "Dataset",
    "Distillation",
    "Engine",
    "Evaluation",
    "Examination",
    "Job",
    "Method",
    "Paths",
    "Protocol",
    "RealOverrides",
    "RealTraining",
    "Relabelling",
    "Score",
    "Student",
    "Training",
    "Validation",
    "check",
    "folder",
    "model_named",
    "no_value",
    "register",
    "settings",
]
