"""The hyper-parameters of DC, DSA, DM, MTT and DATM, as their authors published them, against the composed
configuration of a distillation: tables with a row for each dataset and IPC, and what all rows share."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ddrank import build
from ddrank import config as schema

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CONSTANTS = {  # mean and standard deviation
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": CIFAR10,
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tinyimagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
CONSTANTS_OF_TRAJECTORIES = CONSTANTS | {"cifar100": CIFAR10}  # as the code of MTT and DATM has them
DEPTH = {"mnist": 3, "cifar10": 3, "cifar100": 3, "tinyimagenet": 4}

# --- DC (Zhao et al., ICLR 2021) and DSA (Zhao and Bilen, ICML 2021): the IPC alone decides, and only on the loops ---

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # T, epochs between
OF_GRADIENT_MATCHING = {
    "iterations": 1000,
    "lr": 0.1,
    "momentum": 0.5,
    "network_lr": 0.01,
    "real_batch": 256,
    "net_batch": 256,
    "space": "normalized",
}

# --- DM (Zhao and Bilen, WACV 2023) ---

LR_OF_DM = {
    ("mnist", (1, 10, 50)): 1,
    ("cifar10", (1, 10, 50)): 1,
    ("cifar10", (100, 200, 500, 1000, 1250)): 10,
    ("cifar100", (1, 10, 50, 100, 125)): 1,
    ("tinyimagenet", (1, 10, 50)): 1,
}
OF_DM = {
    "iterations": 20000,
    "momentum": 0.5,
    "real_batch": 256,
    "init": "real",
    "augment": True,
    "networks": "random",
    "space": "normalized",
}

# --- MTT (Cazenavette et al., CVPR 2022) ---

COLUMNS_OF_MTT = ("syn_steps", "expert_epochs", "max_start_epoch", "syn_batch", "lr_img", "lr_lr", "lr_init", "space")
MTT = {
    ("cifar10", 1): (50, 2, 2, None, 1e2, 1e-7, 1e-2, "zca"),
    ("cifar10", 10): (30, 2, 20, None, 1e2, 1e-5, 1e-3, "zca"),
    ("cifar10", 50): (30, 2, 40, None, 1e3, 1e-5, 1e-3, "normalized"),
    ("cifar100", 1): (20, 3, 20, None, 1e3, 1e-5, 1e-2, "zca"),
    ("cifar100", 10): (20, 2, 20, None, 1e3, 1e-5, 1e-2, "normalized"),
    ("cifar100", 50): (80, 2, 40, 125, 1e3, 1e-5, 1e-2, "zca"),
    ("tinyimagenet", 1): (10, 2, 10, None, 1e4, 1e-4, 1e-2, "normalized"),
    ("tinyimagenet", 10): (20, 2, 40, 200, 1e4, 1e-4, 1e-2, "normalized"),
    ("tinyimagenet", 50): (20, 2, 40, 300, 1e4, 1e-4, 1e-2, "normalized"),
}
OF_MTT = {
    "iterations": 5000,
    "momentum": 0.5,
    "init": "real",
    "experts": 100,
    "train_epochs": 50,
    "train_batch": 256,
    "train_lr": 0.01,
}

# --- DATM (Guo et al., ICLR 2024) ---

COLUMNS_OF_DATM = (
    *("syn_steps", "expert_epochs", "min_start_epoch", "first_bound", "max_start_epoch", "growth", "syn_batch"),
    *("lr_img", "lr_label", "lr_lr"),
)
FIXED = "the bound does not grow"
DATM = {
    ("cifar10", 1): (80, 2, 0, 4, 4, FIXED, None, 1e2, 5, 1e-7),
    ("cifar10", 10): (80, 2, 0, 10, 20, 1000, None, 1e2, 2, 1e-5),
    ("cifar10", 50): (80, 2, 0, 20, 40, 2000, None, 1e3, 2, 1e-5),
    ("cifar10", 500): (40, 2, 40, 60, 60, FIXED, 1000, 50, 10, 1e-5),
    ("cifar10", 1000): (100, 2, 40, 60, 60, FIXED, 1000, 50, 10, 1e-5),
    ("cifar100", 1): (40, 3, 0, 10, 20, 1000, None, 1e3, 10, 1e-5),
    ("cifar100", 10): (80, 2, 0, 30, 50, 2000, None, 1e3, 10, 1e-5),
    ("cifar100", 50): (80, 2, 20, 70, 70, FIXED, 1000, 1e3, 10, 1e-5),
    ("cifar100", 100): (80, 2, 30, 70, 70, FIXED, 1000, 50, 10, 1e-5),
    ("tinyimagenet", 1): (40, 2, 0, 15, 20, 2000, None, 1e4, 10, 1e-4),
    ("tinyimagenet", 10): (40, 2, 10, 50, 50, FIXED, 500, 1e2, 10, 1e-4),
    ("tinyimagenet", 50): (20, 2, 40, 70, 70, FIXED, 1000, 1e2, 10, 1e-4),
}
OF_DATM = {
    "iterations": 10000,
    "lr_init": 0.01,
    "momentum": 0.5,
    "label_momentum": 0.9,
    "init": "correct",
    "threshold": 1.0,
    "ema_decay": 0.0,
    "experts": 100,
    "train_epochs": 100,
    "train_batch": 256,
    "train_lr": 0.01,
    "rho": 0.01,
    "alpha": 0.3,
    "space": "zca",
}
OF_ONE_ROW = {("cifar10", 1): {"threshold": 1.1}, ("cifar100", 50): {"init": "real"}}


def published() -> list[tuple[str, str, int, dict[str, Any]]]:
    """Method, dataset, IPC and what was published for them, of all tables."""
    rows = []
    for dataset in CONSTANTS:
        for ipc, loops in LOOPS.items():
            rows.append(("dc", dataset, ipc, OF_GRADIENT_MATCHING | {"loops": loops, "init": "noise"}))
            rows.append(("dsa", dataset, ipc, OF_GRADIENT_MATCHING | {"loops": loops, "init": "real"}))
    for (dataset, ipcs), lr in LR_OF_DM.items():
        rows += [("dm", dataset, ipc, OF_DM | {"lr": lr}) for ipc in ipcs]
    for (dataset, ipc), row in MTT.items():
        rows.append(("mtt", dataset, ipc, OF_MTT | dict(zip(COLUMNS_OF_MTT, row, strict=True))))
    for (dataset, ipc), row in DATM.items():
        of_row = dict(zip(COLUMNS_OF_DATM, row, strict=True)) | OF_ONE_ROW.get((dataset, ipc), {})
        rows.append(("datm", dataset, ipc, OF_DATM | of_row))
    return rows


@cache
def composed(method: str, dataset: str) -> DictConfig:
    schema.register()
    with initialize_config_dir(config_dir=str(schema.folder()), version_base="1.3"):
        return compose("distill", overrides=[f"method={method}", f"dataset={dataset}"])


def distillation(method: str, dataset: str, ipc: int) -> dict[str, Any]:
    """What the configuration of a distillation comes to, in the tables' terms."""
    config = composed(method, dataset).copy()
    config.ipc = ipc
    schema.check(config)
    distiller = build.build(config.method.distiller, "method.distiller")
    found = distiller.parameters() | {"space": config.method.made_in}
    if method in ("dc", "dsa"):
        found["loops"] = distiller.loops(ipc)
    if method == "datm":
        found["first_bound"] = distiller.first_bound
        found["growth"] = FIXED if distiller.first_bound == distiller.max_start_epoch else distiller.growth
    network = schema.model_named(found["model"], config)
    found["network"] = {key: network[key] for key in ("depth", "width", "norm", "act", "pool")}
    found["constants"] = tuple(config.method.mean), tuple(config.method.std)
    return found


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "settings"),
    [pytest.param(*row, id="{}-{}-ipc{}".format(*row)) for row in published()],
)
def test_a_distillation_is_set_as_published(method, dataset, ipc, settings):
    constants = CONSTANTS_OF_TRAJECTORIES if method in ("mtt", "datm") else CONSTANTS
    expected = settings | {
        "network": {"depth": DEPTH[dataset], "width": 128, "norm": "instance", "act": "relu", "pool": "avg"},
        "constants": constants[dataset],
    }
    if method != "dc":
        expected["mirror"] = dataset != "mnist"
    found = distillation(method, dataset, ipc)
    assert {field: found[field] for field in expected} == expected


@pytest.mark.parametrize("dataset", ["digits", "svhn"])
@pytest.mark.parametrize("method", ["dsa", "dm", "mtt", "datm"])
def test_a_distillation_of_digits_never_mirrors(method, dataset):
    assert distillation(method, dataset, ipc=10)["mirror"] is False
