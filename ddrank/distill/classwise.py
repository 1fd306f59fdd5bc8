"""Gradients of every class by itself, differentiable in the images, where the maths allows it in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F


def matched(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters whose gradients are matched: all but those of one dimension (biases, scales and shifts)."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.dim() > 1}


def class_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, criterion: Callable[..., Tensor], together: bool = True
) -> tuple[Tensor, ...]:
    """The gradient of the mean loss of every class with respect to the `matched` parameters.

    Args:
        images: (classes, n, C, H, W), in which the result is differentiable.
        labels: int64 (classes,).
        criterion: gives the mean loss for (network, images (n, C, H, W), labels (n,)).
        together: all classes in one pass, else one after the other.

    Returns (classes, *shape) for each matched parameter.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    chosen = {name: parameters[name] for name in matched(network)}

    def loss(chosen: dict[str, Tensor], images: Tensor, label: Tensor) -> Tensor:
        def call(images: Tensor) -> Tensor:
            return functional_call(network, parameters | chosen, (images,))

        return criterion(call, images, label.expand(len(images)))

    if together:
        return tuple(vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(chosen, images, labels).values())
    each = [grad(loss)(chosen, *of_class).values() for of_class in zip(images, labels, strict=True)]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def works_together(network: nn.Module, shape: Sequence[int]) -> bool:
    """Whether `network`, on images of `shape` (C, H, W), gives in one pass over classes what it gives one by one.

    Not every layer does: torch.func.vmap has wrong second derivatives for LayerNorm, without a word. A copy is tried,
    on the CPU in double precision, where rounding does not blur the answer.
    """
    network = copy.deepcopy(network).to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    images, others = torch.randn(2, 2, 2, *shape, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 1])
    wanted = class_gradients(network, others, labels, _cross_entropy, together=False)

    def derivative(together: bool) -> Tensor:
        leaf = images.clone().requires_grad_()
        found = class_gradients(network, leaf, labels, _cross_entropy, together)
        cosines = [F.cosine_similarity(*pair, dim=-1).sum() for pair in zip(wanted, found, strict=True)]
        return torch.autograd.grad(torch.stack(cosines).sum(), leaf)[0]

    one_by_one = derivative(together=False)
    try:
        return bool((derivative(together=True) - one_by_one).norm() <= 1e-6 * one_by_one.norm())
    except RuntimeError:  # an operation that vmap does not know
        return False


def _cross_entropy(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)
