"""How a network is called: compiled for the batch shapes that are worth it, plainly for all others."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ddrank.errors import EngineWarning

WORTH = 5e11  # floating point operations of one student on one batch shape
_SHAPES_KEPT = 64  # compiled shapes, modes and networks of one process


class Forward:
    """Calls a network on batches; compiled with torch.compile where `mode` says so.

    `mode` is True (always), False (never) or "auto": for the batch shapes on which this one student spends at least
    `WORTH` operations. Compiling a shape takes seconds and saves some 15 to 45 % of every step; since it serves all
    students of the same architecture and shape, and an evaluation has dozens, it pays long before one student takes as
    long as the compiler. The rule looks at nothing but the student itself, so that its numbers do not depend on what
    else is trained. Where compiling fails, that is said once and the network called plainly.

    `channels_last` lays weights and images out that way: always (True), never (False), or with the first shape that is
    compiled ("compiled": in reduced precision on a CPU it is faster compiled, and far slower plainly).
    """

    def __init__(self, network: nn.Module, mode: bool | str = False, channels_last: bool | str = False):
        self.network, self._mode, self._channels_last = network, mode, channels_last
        if channels_last is True:
            network.to(memory_format=torch.channels_last)
        self._work: dict[tuple, float] = {}
        self._worth: set[tuple] = set()
        self._flops: dict[tuple[int, ...], float] = {}

    def expect(self, shape: tuple[int, ...], batches: float, training: bool) -> None:
        """Announce `batches` of `shape` (N, C, H, W), before the first of them; with a backward pass if `training`."""
        if self._mode == "auto":
            key = (*shape, training)
            self._work[key] = self._work.get(key, 0.0) + self._operations(shape, batches, training)
            worth = self._work[key] >= WORTH
        else:
            worth = bool(self._mode)
        if worth and _compiler():
            self._worth.add((*shape, training))
            if self._channels_last == "compiled":
                self._channels_last = True
                self.network.to(memory_format=torch.channels_last)

    def __call__(self, image: Tensor) -> Tensor:
        """The network's output for `image` (N, C, H, W)."""
        if self._channels_last is True:
            image = image.contiguous(memory_format=torch.channels_last)
        if (*image.shape, self.network.training) not in self._worth or _given_up:
            return self.network(image)
        try:
            return _compiled()(self.network, image)
        except _compile_errors() as error:
            _give_up(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            return self.network(image)

    def _operations(self, shape: tuple[int, ...], batches: float, training: bool) -> float:
        one = shape[1:]
        if one not in self._flops:
            self._flops[one] = operations(self.network, one)
        return self._flops[one] * shape[0] * batches * (3 if training else 1)


def operations(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating point operations of one image of `shape` (C, H, W) on its way forward; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    before, weight = network.training, next(network.parameters())
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(weight.new_zeros(1, *shape))
    finally:
        network.train(before)
    return float(counter.get_total_flops())


_given_up: list[str] = []


def _give_up(reason: str) -> None:
    _given_up.append(reason)
    warnings.warn(
        f"torch.compile does not work here ({reason}): going on without it, more slowly", EngineWarning, stacklevel=3
    )


@cache
def _compiler() -> bool:
    """Whether this machine has what torch.compile needs; says so where it has not."""
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        _give_up("there is no triton")
        return False
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        _give_up(f"there is no C++ compiler {name}")
        return False
    return True


@cache
def _compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    """The network's call, compiled anew for every architecture, batch shape, mode and number of threads, and shared
    by all networks that agree in these."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import torch._dynamo.config
    import torch._inductor.config

    for limit in ("recompile_limit", "cache_size_limit"):  # the second is the older name
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, _SHAPES_KEPT)
    torch._inductor.config.compile_threads = 1  # the others are busy, and each would cost a process
    torch._inductor.config.fallback_random = True  # dropout draws the same numbers, compiled or not
    return torch.compile(_call, dynamic=False)


def _call(network: nn.Module, image: Tensor) -> Tensor:
    return network(image)


def _compile_errors() -> tuple[type[BaseException], ...]:
    exceptions: Any = sys.modules.get("torch._dynamo.exc")
    return (exceptions.TorchDynamoException,) if exceptions else ()
