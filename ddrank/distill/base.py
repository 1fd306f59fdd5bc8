"""What every distiller shares: its task, and its one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddrank.data import RealDataset, Samples, Space
from ddrank.progress import Display


@dataclass(frozen=True)
class Task:
    """What is to be distilled, and what may be used for it: never the test set, never the validation split.

    Attributes:
        real: the dataset, for its classes and shapes; `samples` are its training samples in `space`.
        ipc: images per class.
        generator: the source of random choices on the CPU, seeded; networks draw from torch's global one, seeded too.
        network: makes a freshly initialised network of a `conf/model` name.
        trained: gives a network of such a name trained on the real data, in evaluation mode.
        device: where to compute.
    """

    real: RealDataset
    samples: Samples
    space: Space
    ipc: int
    generator: torch.Generator
    network: Callable[[str], nn.Module]
    trained: Callable[[str], nn.Module]
    device: str
    display: Display

    @property
    def labels(self) -> Tensor:
        """Class-major labels of the distilled images, int64 (classes * ipc,)."""
        return torch.arange(self.real.num_classes).repeat_interleave(self.ipc)

    def members(self, label: int) -> Tensor:
        """Indices of the class `label` in `samples`."""
        return torch.nonzero(self.samples.labels == label).flatten()


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

    `wants_trained` says that it uses networks trained on the real data (`Task.trained`).
    """

    wants_trained = False

    @abstractmethod
    def distill(self, task: Task) -> Distilled:
        """Make the distilled images of `task`."""

    def parameters(self) -> dict[str, Any]:
        """The parameters, JSON-like, for the file's metadata."""
        return dict(vars(self))
