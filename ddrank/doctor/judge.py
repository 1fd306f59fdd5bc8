"""The judge: a network trained on the real data that says what the images of each block look like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddrank.config import model_named
from ddrank.data import RealDataset, Samples, Space
from ddrank.doctor.readings import real_pixels
from ddrank.engine import Engine
from ddrank.progress import Display
from ddrank.store import Store
from ddrank.teacher import TeacherRoom

MODEL, WIDTH = "convnet", 64
TRAINING = {  # learns most in little time, on any dataset
    "batch_size": 64,
    "optimizer": "adamw",
    "betas": [0.9, 0.999],
    "weight_decay": 0.01,
    "schedule": "cosine",
    "cosine_span": 1.0,
    "lr": 0.003,
}
VERSION = 1  # of how its confusions are counted
_EPOCHS, _SEEN = 5, 20_000  # so many, or more where that many images are not seen by then
_BUDGET = 450_000_000  # numbers of images that it is trained on in all: a few minutes on two cores
_CHECKED = 2000  # real images on which its confusions are counted, of each held-out set


@dataclass(frozen=True)
class Judge:
    """A trained network with what is known of its mistakes.

    Attributes:
        confusion: (classes, classes), how often it takes a held-out image of one class (row) for another (column).
        accuracy: of it, on held-out real images (fraction).
    """

    network: nn.Module
    space: Space
    confusion: Tensor
    accuracy: float

    def logits(self, pixels: Tensor, batch_size: int = 250) -> Tensor:
        """(N, classes) for pixels (N, C, H, W)."""
        return _logits(self.network, self.space, pixels, batch_size)

    def evidence(self, seen: Tensor, labels: Tensor, others: Tensor) -> float:
        """The log likelihood ratio of `others` against `labels` as the true classes, each (N,), of images which it
        takes for the classes `seen` (N,)."""
        likelihood = self.confusion.log()
        return float((likelihood[others, seen] - likelihood[labels, seen]).sum())


def find_judge(config: DictConfig, real: RealDataset, store: Store, engine: Engine, display: Display) -> Judge | None:
    """The judge of a dataset, trained on first need and kept in the store; None where images are too many and too large
    for a short training.

    It is narrower than a teacher and trained for a short time; of the dataset's recipe it has the augmentation.
    """
    count, numbers = len(real.kept), real.channels * real.size**2
    epochs = min(_BUDGET // (count * numbers), max(_EPOCHS, -(-_SEEN // count)))
    if epochs < 1:
        return None
    config = config.copy()
    config.dataset.teacher.merge_with(TRAINING, {"epochs": epochs})
    space = Space("normalized", real.mean, real.std)
    model = model_named(MODEL, config) | {"name": "that judges the images", "width": WIDTH}
    network, fingerprint = TeacherRoom(config, real, store, engine, display).trained(model, space)
    network = network.eval().requires_grad_(False).to(engine.device)
    held_out = (real.validation, real.test)
    key = {
        "kind": "judge",
        "version": VERSION,
        "network": fingerprint,
        "held out": [samples.fingerprint for samples in held_out],
    }
    counts = store.tensors(key, lambda: {"counts": _counts(network, space, held_out, real.num_classes)})["counts"]
    confusion = (counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)
    return Judge(network, space, confusion, float(counts.trace() / counts.sum()))


def _counts(network: nn.Module, space: Space, held_out: tuple[Samples, ...], classes: int) -> Tensor:
    """How many of some held-out images of each class (row) are taken for which (column)."""
    counts = torch.zeros(classes, classes)
    for samples in held_out:
        pixels, labels = _some(samples)
        seen = _logits(network, space, pixels, 250).argmax(1)
        counts.index_put_((labels, seen), torch.ones(len(labels)), accumulate=True)
    return counts


def _some(samples: Samples) -> tuple[Tensor, Tensor]:
    """A part of raw `samples`, evenly spread: pixels and labels."""
    index = torch.linspace(0, len(samples) - 1, min(_CHECKED, len(samples))).long()
    return real_pixels(samples, _CHECKED), samples.labels[index]


@torch.no_grad()
def _logits(network: nn.Module, space: Space, pixels: Tensor, batch_size: int) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([network(space.forward(part).to(device)).float().cpu() for part in pixels.split(batch_size)])
