"""Are the soft labels what they are said to be, and of the classes of their images?"""

from __future__ import annotations

import math

import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import Tensor

from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.order import assigned

_SUM = 2e-3  # by which a row of probabilities may miss 1
_FLAT = 0.9  # entropy over that of equal probabilities, above which labels have been softened


def check_presence(soft: Tensor | None, labels: str, relabel: bool) -> list[Finding]:
    """Findings about soft labels that are there and not used, or used and not there."""
    if soft is not None and labels == "hard" and not _one_hot(soft):
        return [
            Finding(
                "soft-unused",
                SUSPECT,
                "the files hold soft labels, but method.labels=hard does not use them",
                "the method would be evaluated without its labels",
                "method.labels=single criterion=sce (or method=... that the data are of)",
            )
        ]
    if soft is None and labels == "single" and not relabel:
        return [
            Finding(
                "soft-missing",
                WRONG,
                "method.labels=single, but the files hold no soft labels",
                "nothing is there to train on",
                "method.relabel=true to have a teacher label the images, or method.soft_labels=FILE",
            )
        ]
    return []


def check_soft(
    soft: Tensor, count: int, labels: Tensor, classes: int, said: str, temperature: float | None
) -> list[Finding]:
    """Findings about `soft` (count, classes) that the configuration takes for `said`: logits or probabilities; `labels`
    (count,) are the images' classes. `temperature` is that of the criterion's softmax; None where it has none."""
    if tuple(soft.shape) != (count, classes):
        return [
            Finding(
                "soft-shape",
                WRONG,
                f"the soft labels have shape {tuple(soft.shape)}",
                f"{count} images of {classes} classes need {count} rows of {classes}",
                "method.soft_labels=... with the soft labels of these images",
            )
        ]
    bad = (~soft.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        return [
            Finding(
                "soft-not-finite",
                WRONG,
                f"{len(bad)} of {count} soft labels hold NaN or infinite values (of image {listed(bad)})",
                "a student trained on them becomes NaN",
                "soft labels made again; if they are logarithms of probabilities, with probabilities above 0",
            )
        ]
    kind = what_they_are(soft)
    findings = check_kind(soft, kind, said, softmax=temperature is not None)
    if kind == "constant":
        return findings
    return findings + _check_softness(soft, kind, temperature) + _check_classes(soft, labels)


def softmax_of(criterion: DictConfig) -> bool:
    """Whether the class of a `criterion` config makes probabilities of soft labels, as most do."""
    return getattr(get_class(criterion["_target_"]), "softmax_of_target", True)


def what_they_are(soft: Tensor) -> str:
    """`probabilities`, `one-hot`, `log-probabilities`, `percentages` (any other constant sum), `constant` or
    `logits`, from finite `soft` (N, classes)."""
    soft = soft.double()
    sums = soft.sum(1)
    if len(soft) > 1 and bool((soft - soft[0]).abs().amax() <= 1e-6 * soft.abs().amax()):
        return "constant"
    if bool((soft >= -1e-6).all()):
        if bool(((sums - 1).abs() < _SUM).all()):
            return "one-hot" if bool((soft.amax(1) > 1 - 1e-4).all()) else "probabilities"
        if float(sums.min()) > 0 and float(sums.max() - sums.min()) < _SUM * float(sums.mean()):
            return "percentages"
    if bool((soft <= 1e-4).all()) and bool(((soft.exp().sum(1) - 1).abs() < _SUM).all()):
        return "log-probabilities"
    return "logits"


def entropy(soft: Tensor, kind: str) -> float:
    """Mean entropy of the labels as a student gets them at temperature 1, over that of equal probabilities."""
    logits = soft.clamp_min(1e-12).log() if kind in ("probabilities", "one-hot", "percentages") else soft
    probabilities = logits.double().softmax(1)
    return float(torch.special.entr(probabilities).sum(1).mean()) / math.log(soft.shape[1])


def check_kind(soft: Tensor, kind: str, said: str, softmax: bool) -> list[Finding]:
    """Findings where soft labels that are of `kind` (see `what_they_are`) are taken for `said`.

    Without a `softmax` over them any numbers may be meant, probabilities among them.
    """
    if not softmax and kind != "constant" and (said == "logits" or kind == "one-hot"):
        return []
    sums = soft.double().sum(1)
    if kind == "constant":
        return [
            Finding(
                "soft-constant",
                WRONG,
                "all soft labels are the same",
                "they tell no class from another; often a file that was allocated and never filled",
                "method.soft_labels=... with the method's soft labels",
            )
        ]
    if kind == "one-hot":
        return [
            Finding(
                "soft-one-hot",
                SUSPECT if said == "probabilities" else WRONG,
                f"the soft labels are one-hot, and method.soft_kind={said}",
                "they are class indices, written out"
                + ("" if said == "probabilities" else "; as logits they are flat"),
                "method.labels=hard criterion=ce",
            )
        ]
    if kind == "percentages":
        return [
            Finding(
                "soft-scaled",
                WRONG,
                f"the soft labels are not negative and all sum to {float(sums.mean()):.3g}",
                "they are probabilities times a constant, such as percentages",
                "soft labels divided by their sum, and method.soft_kind=probabilities",
            )
        ]
    if kind == "probabilities" and said == "logits":
        return [
            Finding(
                "soft-probabilities",
                WRONG,
                "the soft labels are not negative and sum to 1: they are probabilities, but are taken for logits",
                "a softmax over probabilities is nearly flat, and the labels would teach next to nothing",
                "method.soft_kind=probabilities",
            )
        ]
    if kind == "log-probabilities" and said == "probabilities":
        return [
            Finding(
                "soft-log-probabilities",
                WRONG,
                "the soft labels are logarithms of probabilities (their exponentials sum to 1), but are taken for "
                "probabilities",
                "they are negative; as logits they mean the same",
                "method.soft_kind=logits",
            )
        ]
    if kind == "logits" and said == "probabilities":
        return [
            Finding(
                "soft-logits",
                WRONG,
                f"the soft labels (from {float(soft.min()):.3g} to {float(soft.max()):.3g}, sums from "
                f"{float(sums.min()):.3g} to {float(sums.max()):.3g}) are taken for probabilities",
                "probabilities are not negative and sum to 1: these are logits",
                "method.soft_kind=logits",
            )
        ]
    return []


def _one_hot(soft: Tensor) -> bool:
    return soft.ndim == 2 and bool(soft.isfinite().all()) and what_they_are(soft.float()) == "one-hot"


def _check_softness(soft: Tensor, kind: str, temperature: float | None) -> list[Finding]:
    flat = entropy(soft, kind)
    if kind == "one-hot" or temperature is None or temperature <= 1 or flat < _FLAT:
        return []
    return [
        Finding(
            "soft-softened",
            SUSPECT,
            f"the soft labels are nearly flat already (entropy {flat:.3f} of the most), and "
            f"method.temperature={temperature:g} flattens them again",
            "they were stored after division by a temperature",
            "method.temperature=1, or logits stored before they are divided",
        )
    ]


def _check_classes(soft: Tensor, labels: Tensor) -> list[Finding]:
    columns = soft.shape[1]
    top = soft.argmax(1)
    agreement = float((top == labels).float().mean())
    table = torch.zeros(columns, columns).index_put_((labels, top), torch.ones(len(top)), accumulate=True)
    table /= labels.bincount(minlength=columns).clamp_min(1).unsqueeze(1)
    order = assigned(table)
    moved = [label for label in range(columns) if order[label] != label]
    explained = float(table[range(columns), order].mean())
    if len(moved) > 1 and explained > 0.7 and min(float(table[label, order[label]]) for label in moved) > 0.5:
        pairs = [f"{label} is column {order[label]}" for label in moved]
        return [
            Finding(
                "soft-order",
                WRONG if agreement < 0.5 else SUSPECT,
                f"the soft labels' columns are in another order than the classes: class {listed(pairs, 4)} (only "
                f"{agreement:.0%} of them are highest at their image's class)",
                "students would be taught the wrong names",
                "soft labels with their columns sorted: soft[:, order] with "
                + (f"order {order}" if columns <= 20 else "the order of the classes"),
            )
        ]
    if agreement < max(0.3, 2 / columns):
        return [
            Finding(
                "soft-disagree",
                SUSPECT,
                f"{agreement:.0%} of the soft labels are highest at their image's class",
                "their rows are in another order than the images, or they are of other images",
                "method.soft_labels=... with the soft labels of these images, row by row",
            )
        ]
    return []
