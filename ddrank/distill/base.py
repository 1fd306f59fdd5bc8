"""What every distiller shares: its task, and its one method; and what those that go step by step share besides."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddrank.data import RealDataset, Samples, Space
from ddrank.engine import Engine
from ddrank.progress import Display
from ddrank.store import Store


@dataclass(frozen=True)
class Phase:
    """A part of a distillation and what it costs: `steps` of `seconds` each. Parts with the same `shared` are done once
    for all distillations that have them."""

    name: str
    steps: int
    seconds: float
    shared: str = ""


@dataclass(frozen=True)
class Task:
    """What is to be distilled, and what may be used for it: never the test set, never the validation split.

    Attributes:
        real: the dataset, for its classes and shapes; `samples` are its training samples in `space`.
        ipc: images per class.
        generator: the source of random choices on the CPU, seeded; networks draw from torch's global one, seeded too.
        network: makes a freshly initialised network of a `conf/model` name.
        trained: gives a network of such a name trained on the real data, in evaluation mode.
        training: what that would cost: nothing, where the store has it.
        architecture: the configuration of such a name, by which things made with it are kept in the store.
        store: where what several distillations need is kept.
        engine: device, compilation, precision.
    """

    real: RealDataset
    samples: Samples
    space: Space
    ipc: int
    generator: torch.Generator
    network: Callable[[str], nn.Module]
    trained: Callable[[str], nn.Module]
    training: Callable[[str], list[Phase]]
    architecture: Callable[[str], Mapping[str, Any]]
    store: Store
    engine: Engine
    display: Display

    @property
    def device(self) -> str:
        """Where to compute."""
        return self.engine.device

    @property
    def labels(self) -> Tensor:
        """Class-major labels of the distilled images, int64 (classes * ipc,)."""
        return torch.arange(self.real.num_classes).repeat_interleave(self.ipc)

    def members(self, label: int) -> Tensor:
        """Indices of the class `label` in `samples`."""
        return torch.nonzero(self.samples.labels == label).flatten()

    def random_real(self) -> Tensor:
        """Random real images of every class, float32 (classes * ipc, C, H, W), class-major."""
        return self.real.draw(self.ipc, self.generator, self.samples).floats().clone()

    def noise(self) -> Tensor:
        """Standard normal noise of the same shape."""
        shape = (len(self.labels), *self.samples.images.shape[1:])
        return torch.randn(shape, generator=self.generator)


@dataclass(frozen=True)
class Distilled:
    """What a distiller makes: images (N, C, H, W) in the task's space, class-major, and what goes with them.

    `others` are further sets of images like `images`, where chance decides what they are: see `DistilledDataset`.
    """

    images: Tensor
    others: tuple[Tensor, ...] = ()
    soft_labels: Tensor | None = None
    lr: float | None = None


class Distiller(ABC):
    """An algorithm that makes a distilled dataset; its parameters are the arguments of its constructor.

    `wants_trained` says that it uses networks trained on the real data (`Task.trained`), `learns_lr` that the images
    come with a learning rate, `computes` that the engine's precision has a part in them, `takes_gradients` that it
    takes gradients itself, for which half precision would need a loss scale; `version` is raised when the same
    parameters would give other images.
    """

    wants_trained = False
    learns_lr = False
    computes = True
    takes_gradients = True
    version = 1

    @abstractmethod
    def distill(self, task: Task) -> Distilled:
        """Make the distilled images of `task`."""

    def rehearse(self, task: Task) -> list[Phase]:
        """What the phases of the whole distillation cost on this machine: measured on a few steps, which leave nothing
        behind; none for what takes seconds. `task` is one of its own, its generator too."""
        return []

    def parameters(self) -> dict[str, Any]:
        """The parameters, JSON-like, for the file's metadata."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def unused(self) -> Sequence[str]:
        """The names of parameters to which others leave no part in the images."""
        return ()

    def effective(self) -> dict[str, Any]:
        """Of the parameters, those that count."""
        unused = self.unused()
        return {name: value for name, value in self.parameters().items() if name not in unused}


class Iterative(Distiller):
    """A distiller that goes step by step, so that it can be watched, stopped and resumed (see `ddrank.distill.job`)."""

    iterations: int

    def length(self, task: Task) -> int:
        """How many iterations the whole distillation of `task` has."""
        return self.iterations

    @abstractmethod
    def begin(self, task: Task) -> Distillation:
        """Everything before the first iteration."""

    def distill(self, task: Task) -> Distilled:
        """All iterations at once."""
        distillation = self.begin(task)
        for iteration in range(self.length(task)):
            distillation.step(iteration)
        return distillation.result()

    def rehearse(self, task: Task) -> list[Phase]:
        return [Phase("iterations", self.length(task), seconds_per_step(self.begin(task).step))]


class Distillation(ABC):
    """A distillation under way: tensors that optimizers change step by step.

    Args:
        tensors: what is learned, leaves that require gradients; `images` (N, C, H, W) among them, and where the method
            learns them `soft_labels` (N, classes) and `lr` (a scalar).
        optimizers: their optimizers.
    """

    def __init__(self, tensors: Mapping[str, Tensor], optimizers: Sequence[Optimizer]):
        self.tensors, self.optimizers = dict(tensors), list(optimizers)

    @abstractmethod
    def step(self, iteration: int) -> dict[str, Tensor | float]:
        """One iteration. Returns scalars worth plotting, if any, `loss` first; they are read now and then only."""

    def result(self) -> Distilled:
        """A copy of what has been made so far, on the CPU."""
        made = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()}
        lr = made.get("lr")
        return Distilled(made["images"], soft_labels=made.get("soft_labels"), lr=None if lr is None else float(lr))

    def some(self, chosen: Tensor) -> Tensor:
        """Of the images that `result` would give, those with the indices `chosen` (n,)."""
        return self.result().images[chosen]

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on besides random numbers: tensors, numbers and strings in lists and dicts."""
        return {"tensors": self.tensors, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state["tensors"][name])
        for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)


class InParts(Distillation):
    """Images that are finished part by part; those that have not been begun are zero.

    Args:
        parts: the indices (n,) of the images that belong together, part after part.

    Attributes:
        finished: the images of the first parts, (n, C, H, W) each, on the CPU.
    """

    def __init__(self, task: Task, parts: Sequence[Tensor]):
        super().__init__({}, [])
        self.task, self.parts = task, list(parts)
        self.finished: list[Tensor] = []

    def at_work(self) -> list[Tensor]:
        """The images of the part that is under way, if one is."""
        return []

    def result(self) -> Distilled:
        return Distilled(self.some(torch.arange(len(self.task.labels))))

    def some(self, chosen: Tensor) -> Tensor:
        images = torch.zeros((len(chosen), *self.task.samples.images.shape[1:]))
        place = torch.full((len(self.task.labels),), -1)
        place[chosen] = torch.arange(len(chosen))
        for part, made in zip(self.parts, [*self.finished, *self.at_work()], strict=False):
            there = place[part] >= 0
            images[place[part][there]] = made.detach().cpu()[there]
        return images

    def state(self) -> dict[str, Any]:
        return super().state() | {"finished": self.finished}

    def restore(self, state: dict[str, Any]) -> None:
        self.finished = state["finished"]
        super().restore(state)


def rehearsal(task: Task) -> Task:
    """A task like `task` whose random choices are its own."""
    return replace(task, generator=torch.Generator().manual_seed(0))


def seconds_per_step(step: Callable[[int], object], steps: int = 2) -> float:
    """How long a call of `step(iteration)` takes: the fastest of `steps` after a first one, which may compile."""
    taken = []
    for iteration in range(steps + 1):
        began = time.perf_counter()
        step(iteration)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def initial(task: Task, init: str) -> Tensor:
    """The images to start from, on the device: `real` (random real images) or `noise`."""
    return {"real": task.random_real, "noise": task.noise}[init]().to(task.device)
