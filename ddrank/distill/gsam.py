"""GSAM with an adaptive radius: gradients that lead to flat minima.

Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training" (ICLR 2022), with the perturbation of Kwon
et al., "ASAM" (ICML 2021). FTD (Du et al., CVPR 2023) and DATM train their experts by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_EPS = 1e-12  # against gradients that vanish


def gsam(parameters: Sequence[Tensor], gradients: Callable[[], list[Tensor]], rho: float, alpha: float) -> list[Tensor]:
    """What to descend along instead of the gradient.

    `gradients` gives those of the batch's loss at the present values of `parameters`, which are moved for a second look
    and put back.
    """
    before = gradients()
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, change in zip(parameters, perturbation(kept, before, rho), strict=True):
            parameter += change
    after = gradients()
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return direction(before, after, alpha)


def perturbation(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """rho w^2 g / | |w| g |, the norm over all parameters: the ascent of radius `rho`, in the scale of each parameter.

    >>> perturbation([torch.tensor([2.0, 1.0])], [torch.tensor([1.5, 4.0])], rho=0.5)
    [tensor([0.6000, 0.4000])]
    """
    pairs = list(zip(parameters, gradients, strict=True))
    norm = _dot([w * g for w, g in pairs], [w * g for w, g in pairs]).sqrt()
    return [rho / (norm + _EPS) * w.square() * g for w, g in pairs]


def direction(before: Sequence[Tensor], after: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """g' - alpha g_, with g' the gradients `after` the ascent, and g_ the part orthogonal to g' of those `before` it.

    >>> direction([torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.0])], alpha=0.3)
    [tensor([ 2.0000, -0.3000])]
    """
    along = _dot(before, after) / (_dot(after, after) + _EPS)
    return [b - alpha * (a - along * b) for a, b in zip(before, after, strict=True)]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
