"""From a `model` config to a network, and from a network to its embedding."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from ddrank.build import build as build_component
from ddrank.errors import InputError


def build(config: DictConfig | Mapping[str, Any], *, num_classes: int, channels: int, size: int) -> nn.Module:
    """The network that a `model` config describes, newly initialised from torch's global generator.

    Args:
        config: `_target_` (the dotted path of a class or function that takes `num_classes`, `channels` and `size` and
            returns a network), `name` (for display, not passed on), and its further arguments.
        num_classes, channels, size: classes, image channels, side of the images in pixels.

    Raises InputError for what `ddrank.build.build` refuses, and whatever the network itself does.
    """
    network = build_component(config, "model", num_classes=num_classes, channels=channels, size=size)
    if not isinstance(network, nn.Module):
        raise InputError(f"model._target_ gives a {type(network).__name__}, expected a torch module: name a network")
    return network


def embed(net: nn.Module, x: Tensor) -> Tensor:
    """Images (N, C, H, W) to the input of the network's last linear layer, (N, D).

    For ConvNet this is the flattened output of the last block, the embedding of DM (Zhao and Bilen, WACV 2023). The
    networks of this package have a method `embed`; of any other one, the input of the linear layer that is called last
    is taken by a hook. Raises InputError for a network that calls none (SqueezeNet).
    """
    own = getattr(net, "embed", None)
    if inspect.ismethod(own):
        return own(x)
    last: dict[str, Tensor] = {}

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        last["input"] = inputs[0]

    hooks = [module.register_forward_pre_hook(keep) for module in net.modules() if isinstance(module, nn.Linear)]
    try:
        net(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise InputError(
            f"{type(net).__name__} has no linear layer, so no embedding: choose a model that ends in a linear layer"
        )
    return last["input"].flatten(1)
