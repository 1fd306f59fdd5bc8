"""How a network is called: compiled for the batches that are worth it, plainly for all others."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ddrank.errors import EngineWarning

WORTH = 5e11  # floating point operations of one student in batches of one size
_MOST_KEPT = 64  # compiled calls of one process


class Forward:
    """Calls a network on batches; compiled with torch.compile where `mode` says so.

    `mode` is True (always), False (never) or "auto": for the batch sizes on which this one student spends at least
    `WORTH` operations. Compiling takes seconds and saves some 15 to 45 % of every step; since it serves all students of
    the same architecture and batch shape, and an evaluation has dozens, it pays long before one student takes as long
    as the compiler. The rule looks at nothing but the student itself, so that its numbers do not depend on what else is
    trained. An architecture that cannot be called compiled is called plainly, and that is said once.

    `channels_last` lays weights and images out that way: always (True), never (False), or if anything is compiled
    ("compiled": in reduced precision on a CPU it is faster compiled, and far slower plainly; then all is compiled).
    """

    def __init__(self, network: nn.Module, mode: bool | str = False, channels_last: bool | str = False):
        self.network, self._mode, self._channels_last = network, mode, channels_last is True
        self._all_or_nothing = channels_last == "compiled"
        self._work: dict[tuple[int, bool], float] = {}
        self._worth: set[tuple[int, bool]] = set()
        self._flops: dict[tuple[int, ...], float] = {}
        self._architecture: tuple | None = None
        if self._channels_last:
            network.to(memory_format=torch.channels_last)

    def expect(self, shape: tuple[int, ...], batches: float, training: bool) -> None:
        """Announce `batches` of `shape` (N, C, H, W), before the first of them; with a backward pass if `training`."""
        kind = shape[0], training
        if self._mode == "auto":
            self._work[kind] = self._work.get(kind, 0.0) + self._operations(shape, batches, training)
            worth = self._work[kind] >= WORTH or (self._all_or_nothing and self._channels_last)
        else:
            worth = bool(self._mode)
        if worth and _compiler(next(self.network.parameters()).device.type):
            self._worth.add(kind)
            self._architecture = type(self.network).__qualname__, *(p.shape for p in self.network.parameters())
            if self._all_or_nothing and not self._channels_last:
                self._channels_last = True
                self.network.to(memory_format=torch.channels_last)

    def __call__(self, image: Tensor) -> Tensor:
        """The network's output for `image` (N, C, H, W)."""
        if self._channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        if (len(image), self.network.training) not in self._worth or self._architecture in _given_up:
            return self.network(image)
        call = _compiled((self._architecture, image.shape, self.network.training, torch.is_grad_enabled()))
        try:
            return call(self.network, image)
        except torch._dynamo.exc.TorchDynamoException as error:
            _given_up.add(self._architecture)
            _say(f"{type(self.network).__name__}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
            return self.network(image)

    @property
    def compiles(self) -> bool:
        """Whether any of the announced batches is compiled for."""
        return bool(self._worth) and self._architecture not in _given_up

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


def forget() -> None:
    """Drop what is compiled in this process; what is needed again is found on the disk."""
    torch._dynamo.reset()
    _kept.clear()


said: set[str] = set()  # what this process has warned of
_given_up: set[tuple] = set()  # architectures that cannot be called compiled
_kept: set[tuple] = set()  # what is compiled in this process


def _compiled(what: tuple) -> Callable[[nn.Module, Tensor], Tensor]:
    """The compiled call of all networks that agree in `what`; it compiles anew for every number of threads, too."""
    import torch._dynamo
    import torch._inductor.config

    what = *what, torch.get_num_threads()
    if what not in _kept:
        if len(_kept) >= _MOST_KEPT:
            forget()
        _kept.add(what)
        torch._inductor.config.cpp.threads = torch.get_num_threads()
    return _compiler_call()


@cache
def _compiler_call() -> Callable[[nn.Module, Tensor], Tensor]:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    for limit in ("recompile_limit", "cache_size_limit"):  # the second is the older name
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 2 * _MOST_KEPT)
    torch._inductor.config.compile_threads = 1  # the others are busy, and each would cost a process
    torch._inductor.config.fallback_random = True  # dropout draws the same numbers, compiled or not
    return torch.compile(_call, dynamic=False)


def _call(network: nn.Module, image: Tensor) -> Tensor:
    return network(image)


@cache
def _compiler(device: str) -> bool:
    """Whether this machine has what torch.compile needs for a device; says so where it has not."""
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        _say("there is no triton")
        return False
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        _say(f"there is no C++ compiler {name}")
        return False
    return True


def _say(reason: str) -> None:
    sentence = f"torch.compile does not work here ({reason}): going on without it, more slowly"
    said.add(sentence)
    warnings.warn(sentence, EngineWarning, stacklevel=4)
