"""Training unrolled: the end of a training by SGD as a differentiable function of what it was trained on.

    theta_{i+1} = theta_i - lr * gradient of loss(theta_i, batch_i)

Backpropagation through it needs one product of a Hessian with a vector for each step, and nothing of a step once it has
been passed. So the parameters after each step are kept, and the graphs of the last steps, as many as the memory holds;
the graph of an earlier step is built again when the gradient comes by. This is exact, and takes the same memory for any
number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

_ROOM = 8 << 30  # bytes of graphs that are kept on a CPU; what they take is overestimated about twofold
_SHARE = 0.5  # of the free memory of a GPU

Loss = Callable[..., Tensor]  # loss(parameters (P,), *batch) -> scalar
Batch = Sequence[Tensor]


class Unroll:
    """Unrolled training with one loss; learns by its first call what the graph of a step takes.

    Args:
        loss: loss(parameters (P,), *batch) -> scalar.
        memory: bytes of graphs to keep, at most, besides the one at work.
    """

    def __init__(self, loss: Loss, memory: int):
        self.loss, self._memory = loss, memory
        self._bytes: dict[tuple, int] = {}

    def __call__(self, start: Tensor, lr: Tensor, batches: Sequence[Batch]) -> Tensor:
        """The parameters (P,) after one step of SGD on each of `batches`, from `start` (P,) with the scalar rate `lr`.

        Differentiable, once, in `start`, `lr` and the floating point tensors of the batches.
        """
        tensors = [tensor for batch in batches for tensor in batch]
        return _Backpropagation.apply(self.loss, self._kept(start, batches), len(batches), start, lr, *tensors)

    def _kept(self, start: Tensor, batches: Sequence[Batch]) -> int:
        """How many steps, the last ones, keep their graphs."""
        room = self._memory
        for count, batch in enumerate(reversed(batches)):
            kind = tuple(tensor.shape for tensor in batch)
            if kind not in self._bytes:
                with _Allocated() as allocated:
                    _Step(self.loss, start, batch)
                self._bytes[kind] = allocated.bytes
            room -= self._bytes[kind]
            if room < 0:
                return count
        return len(batches)


def room(device: str) -> int:
    """Bytes of graphs to keep on a device."""
    return int(_SHARE * torch.cuda.mem_get_info()[0]) if device == "cuda" else _ROOM


class Flat:
    """A network as a function of all its parameters in one vector (P,), in the order of `network.parameters()`."""

    def __init__(self, network: nn.Module):
        self._network = network
        self._names, self._shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)
        self._sizes = [shape.numel() for shape in self._shapes]

    def __call__(self, vector: Tensor, images: Tensor) -> Tensor:
        """Logits (N, classes) of `images` (N, C, H, W) under the parameters `vector`."""
        parts = zip(self._names, self._shapes, vector.split(self._sizes), strict=True)
        return functional_call(self._network, {name: part.view(shape) for name, shape, part in parts}, (images,))


def vector_of(network: nn.Module) -> Tensor:
    """A copy of all parameters in one vector (P,)."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


class _Step:
    """One step with its graph: `gradient` of the loss, and what depends on what in it."""

    def __init__(self, loss: Loss, theta: Tensor, batch: Batch):
        self._theta = theta.detach().requires_grad_()
        self._batch = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in batch]
        with torch.enable_grad():
            (self._graph,) = torch.autograd.grad(loss(self._theta, *self._batch), self._theta, create_graph=True)
        self.gradient = self._graph.detach()

    def backward(self, direction: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient of <gradient, direction> in the parameters, and in each floating point tensor of the batch."""
        floating = [tensor for tensor in self._batch if tensor.requires_grad]
        of_theta, *found = torch.autograd.grad(
            self._graph, [self._theta, *floating], direction, allow_unused=True, materialize_grads=True
        )
        left = iter(found)
        return of_theta, [next(left) if tensor.requires_grad else None for tensor in self._batch]


class _Backpropagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Loss, kept: int, count: int, start: Tensor, lr: Tensor, *tensors: Tensor) -> Tensor:
        thetas, steps, theta = [], [], start
        for number, batch in enumerate(_cut(tensors, count)):
            thetas.append(theta)
            if number < count - kept:
                gradient = _gradient(loss, theta, batch)
            else:
                steps.append(_Step(loss, theta, batch))
                gradient = steps[-1].gradient
            theta = theta - lr * gradient
        ctx.loss, ctx.steps, ctx.count = loss, steps, count
        ctx.save_for_backward(lr, *thetas, *tensors)
        return theta

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        lr, *saved = ctx.saved_tensors
        thetas, batches = saved[: ctx.count], _cut(saved[ctx.count :], ctx.count)
        of_lr, of_tensors = torch.zeros_like(lr), []
        for theta, batch in zip(reversed(thetas), reversed(batches), strict=True):
            step = ctx.steps.pop() if ctx.steps else _Step(ctx.loss, theta, batch)
            of_lr -= step.gradient @ adjoint
            of_theta, of_batch = step.backward(-lr * adjoint)
            adjoint = adjoint + of_theta
            of_tensors = of_batch + of_tensors
        return None, None, None, adjoint, of_lr, *of_tensors


def _gradient(loss: Loss, theta: Tensor, batch: Batch) -> Tensor:
    """The gradient of the loss in the parameters."""
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(theta, *(tensor.detach() for tensor in batch)), theta)
    return gradient


def _cut(tensors: Sequence[Tensor], count: int) -> list[Batch]:
    """The tensors of `count` batches, one after the other, as batches again."""
    width = len(tensors) // count
    return [tensors[width * number : width * (number + 1)] for number in range(count)]


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all that operations of a block put out: no graph of it takes more."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and not operation.is_view:
                self.bytes += tensor.nbytes
        return made
