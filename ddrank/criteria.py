"""The criteria a student is trained with: what turns its logits and an image's label into a loss.

Every criterion is called as `criterion(logits, target, label)` and returns a scalar: `logits` (N, C) of the student,
`target` (N, C) the logits of a soft label or None, `label` (N,) int64 class indices or None. `needs` says which of the
two a criterion reads: "label", "soft" or both; `softmax_of_target` whether it makes probabilities of the target, or
takes its numbers as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ddrank.errors import InputError


class CrossEntropy(nn.Module):
    """Mean cross entropy with class indices: -mean_i log softmax(logits_i)[label_i]. `target` is not looked at.

    >>> import torch
    >>> round(CrossEntropy()(torch.tensor([[0.0, 0.0]]), None, torch.tensor([1])).item(), 6)
    0.693147
    """

    needs = ("label",)
    softmax_of_target = False

    def forward(self, logits: Tensor, target: Tensor | None, label: Tensor | None) -> Tensor:
        return F.cross_entropy(logits, _given(label, self, "class indices"))


class SoftCrossEntropy(nn.Module):
    """Soft cross entropy with the softened target: see `soft_cross_entropy`. `label` is not looked at."""

    needs = ("soft",)
    softmax_of_target = True

    def __init__(self, temperature: float = 1.0, scale_loss: bool = False):
        super().__init__()
        self.temperature, self.scale_loss = _positive(temperature, self), scale_loss

    def forward(self, logits: Tensor, target: Tensor | None, label: Tensor | None) -> Tensor:
        return soft_cross_entropy(logits, _given(target, self, "soft labels"), self.temperature, self.scale_loss)


class KL(nn.Module):
    """Kullback-Leibler divergence of the student from the softened target: see `kl`. `label` is not looked at."""

    needs = ("soft",)
    softmax_of_target = True

    def __init__(self, temperature: float = 1.0, scale_loss: bool = False):
        super().__init__()
        self.temperature, self.scale_loss = _positive(temperature, self), scale_loss

    def forward(self, logits: Tensor, target: Tensor | None, label: Tensor | None) -> Tensor:
        return kl(logits, _given(target, self, "soft labels"), self.temperature, self.scale_loss)


class MSEGT(nn.Module):
    """Squared error of the logits plus cross entropy with the true class: see `mse_gt`."""

    needs = ("soft", "label")
    softmax_of_target = False

    def __init__(self, mse_weight: float = 1.0, ce_weight: float = 0.025):
        super().__init__()
        self.mse_weight, self.ce_weight = mse_weight, ce_weight

    def forward(self, logits: Tensor, target: Tensor | None, label: Tensor | None) -> Tensor:
        target, label = _given(target, self, "soft labels"), _given(label, self, "class indices")
        return mse_gt(logits, target, label, self.mse_weight, self.ce_weight)


def soft_cross_entropy(logits: Tensor, target: Tensor, temperature: float = 1.0, scale_loss: bool = False) -> Tensor:
    """-mean_i sum_k softmax(target_i / T)_k log softmax(logits_i / T)_k, times T^2 with `scale_loss`.

    `logits` and `target` are logits (N, C); the result is a scalar. With T = 1 and a target that puts all weight on one
    class it is the cross entropy. The factor T^2 keeps the size of the gradients: Hinton et al., "Distilling the
    Knowledge in a Neural Network" (2015), section 2.

    >>> import torch
    >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]])
    >>> round(soft_cross_entropy(logits, target, temperature=2.0).item(), 6)
    0.693147
    """
    loss = F.cross_entropy(logits / temperature, F.softmax(target / temperature, dim=1))
    return loss * temperature**2 if scale_loss else loss


def kl(logits: Tensor, target: Tensor, temperature: float = 1.0, scale_loss: bool = False) -> Tensor:
    """mean_i sum_k p_ik log(p_ik / q_ik) with p = softmax(target / T) and q = softmax(logits / T).

    `logits` and `target` are logits (N, C); the result is a scalar, 0 where both agree, times T^2 with `scale_loss`.
    It is `soft_cross_entropy` less the entropy of the target, so both have the same gradient. Target logits of -inf
    are probabilities of 0.

    >>> import torch
    >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]])
    >>> round(kl(logits, target).item(), 6)
    0.693147
    """
    student, teacher = F.log_softmax(logits / temperature, dim=1), F.softmax(target / temperature, dim=1)
    loss = F.kl_div(student, teacher, reduction="batchmean")
    return loss * temperature**2 if scale_loss else loss


def mse_gt(logits: Tensor, target: Tensor, label: Tensor, mse_weight: float = 1.0, ce_weight: float = 0.025) -> Tensor:
    """mse_weight * mean_ik (logits_ik - target_ik)^2 + ce_weight * CE(logits, label): "MSE with ground truth".

    `logits` and `target` are logits (N, C), `label` (N,) class indices; the result is a scalar. Shao et al.,
    "Elucidating the Design Space of Dataset Condensation" (EDC, 2024).

    >>> import torch
    >>> logits, target, label = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([0])
    >>> round(mse_gt(logits, target, label, mse_weight=1.0, ce_weight=0.5).item(), 6)
    1.346574
    """
    return mse_weight * F.mse_loss(logits, target) + ce_weight * F.cross_entropy(logits, label)


def _positive(temperature: float, criterion: nn.Module) -> float:
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise InputError(
            f"The temperature of the criterion {type(criterion).__name__} is {temperature}, but softmax(logits / T) "
            "needs a number above 0: set method.temperature, for example to 20."
        )
    return temperature


def _given(value: Tensor | None, criterion: nn.Module, what: str) -> Tensor:
    if value is None:
        raise InputError(
            f"The criterion {type(criterion).__name__} needs {what}, but the batch has none: choose another criterion "
            "(criterion=ce goes with hard labels, kl, sce and mse_gt with soft ones) or set method.labels to fit."
        )
    return value
