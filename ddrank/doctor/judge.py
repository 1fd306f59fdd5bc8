"""The judge: a network trained on the real data that says what the images of each block look like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddrank.config import model_named
from ddrank.data import RealDataset, Samples, Space
from ddrank.doctor.readings import as_pixels, shrunk, spread
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
_SIDE, _DEPTH = 32, 3  # pixels to which larger images are shrunk, and the network's blocks for them
_EPOCHS, _SEEN = 5, 20_000  # so many, or more where that many images are not seen by then
_SOON = 4e11  # multiplications for these, at most: a quarter of a minute
_BUDGET = 4e12  # multiplications in all: two minutes on two cores, which images of 32 pixels need where they are many
_READ = 1 << 30  # numbers of real images that are read for it
_PRIOR = 20  # images of each class that it is taken to have seen, and mistaken evenly, before any
_ODD = 0.05  # of all images may be taken for anything
_CHECKED = 2000  # real images on which its confusions are counted, of each held-out set
_CHUNK_NUMBERS = 1 << 22


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
        """(N, classes) for pixels (N, C, H, W), of the real images' size or shrunk already."""
        return _logits(self.network, self.space, shrunk(pixels, _SIDE), batch_size)

    def evidence(self, seen: Tensor, labels: Tensor, others: Tensor) -> float:
        """The log likelihood ratio of `others` against `labels` as the true classes, each (N,), of images which it
        takes for the classes `seen` (N,)."""
        likelihood = self.confusion.log()
        return float((likelihood[others, seen] - likelihood[labels, seen]).sum())


def find_judge(config: DictConfig, real: RealDataset, store: Store, engine: Engine, display: Display) -> Judge:
    """The judge of a dataset, trained on first need and kept in the store.

    It is narrower than a teacher, trained for a short time without augmentation, on a part of the real images where
    they are many, and sees large ones shrunk.
    """
    config = config.copy()
    if real.size > _SIDE:
        config.dataset.merge_with({"size": _SIDE, "convnet_depth": _DEPTH})
    each = _operations(real.channels, config.dataset.size, config.dataset.convnet_depth)
    affordable, seen = int(_BUDGET / each), min(_SEEN, int(_SOON / each))
    real = _reduced(real, min(affordable, _READ // (real.channels * real.size**2)))
    epochs = max(1, min(affordable // len(real.kept), max(_EPOCHS, -(-seen // len(real.kept)))))
    config.dataset.teacher = OmegaConf.merge(config.dataset.teacher, TRAINING, {"epochs": epochs})
    config.dataset.teacher.aug = {"name": "none"}
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
    about = {"dataset": real.name, "model": MODEL}
    counted = store.tensors(key, lambda: {"counts": _counts(network, space, held_out, real.num_classes)}, about)
    counts = counted["counts"]
    return Judge(network, space, _confusion(counts), float(counts.trace() / counts.sum()))


def _operations(channels: int, size: int, depth: int) -> int:
    """Multiplications for one image: three times those of the convolutions, for the way back too."""
    sides = [max(1, size >> block) for block in range(depth)]
    return 3 * 9 * WIDTH * sum(side**2 * (WIDTH if block else channels) for block, side in enumerate(sides))


def _reduced(real: RealDataset, most: int) -> RealDataset:
    """`real` with at most `most` training images, evenly spread, and all of at most `_SIDE` pixels."""
    if len(real.train) <= most and real.size <= _SIDE:
        return real
    return replace(real, train=_small(real.train, most), test=_small(real.test, _CHECKED), train_as_tested=None)


def _small(samples: Samples, most: int) -> Samples:
    index = spread(samples.labels, most)
    chunk = max(1, _CHUNK_NUMBERS // samples.images.shape[1:].numel())
    images = [shrunk(as_pixels(samples.images[part]), _SIDE) for part in index.split(chunk)]
    small = torch.cat([(part * 255).round().to(torch.uint8) for part in images])
    return Samples(small, samples.labels[index])


def _confusion(counts: Tensor) -> Tensor:
    """(classes, classes), how often an image of one class (row) is taken for another, from a few `counts`."""
    classes, accuracy = len(counts), float(counts.trace() / counts.sum())
    prior = torch.full_like(counts, (1 - accuracy) / (classes - 1)).fill_diagonal_(accuracy)
    return (1 - _ODD) * (counts + _PRIOR * prior) / (counts.sum(1, keepdim=True) + _PRIOR) + _ODD / classes


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
    index = spread(samples.labels, _CHECKED)
    return as_pixels(samples.images[index]), samples.labels[index]


@torch.no_grad()
def _logits(network: nn.Module, space: Space, pixels: Tensor, batch_size: int) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([network(space.forward(part).to(device)).float().cpu() for part in pixels.split(batch_size)])
