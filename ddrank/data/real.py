"""A real dataset: training and test images with labels, and the held-out validation split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from ddrank.data.classes import ClassNames
from ddrank.data.files import Files
from ddrank.data.samples import Samples
from ddrank.errors import InputError


@dataclass(frozen=True)
class RealDataset:
    """Raw training and test samples (uint8 pixels, or float32 pixels in [0, 1]) of one dataset, with its constants.

    `class_names` are for display; where they are `ClassNames`, they also hold what folders call the classes.
    `train_as_tested` are the training samples read as test images are, where that is otherwise.
    """

    name: str
    train: Samples
    test: Samples
    class_names: ClassNames | tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation_fraction: float
    validation_most: int
    train_as_tested: Samples | None = None

    @property
    def names(self) -> ClassNames:
        """What the classes are called, for display and by folders."""
        return self.class_names if isinstance(self.class_names, ClassNames) else ClassNames(self.class_names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        return self.train.images.shape[-1]

    @cached_property
    def split(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices (kept, held out) into `train`: a fixed stratified split of `validation_fraction`, at most
        `validation_most` images, at least one a class."""
        counts = torch.bincount(self.train.labels, minlength=self.num_classes)
        share = min(self.validation_fraction, self.validation_most / len(self.train))
        held_out = []
        for label, count in enumerate(counts.tolist()):
            members = torch.nonzero(self.train.labels == label).flatten()
            order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
            held_out.append(members[order[: max(1, int(count * share))]])
        held_out = torch.cat(held_out).sort().values
        kept = torch.ones(len(self.train), dtype=torch.bool)
        kept[held_out] = False
        return torch.nonzero(kept).flatten(), held_out

    @cached_property
    def kept(self) -> Samples:
        """The training samples without the validation split."""
        return self.train[self.split[0]]

    @cached_property
    def validation(self) -> Samples:
        """The validation split, read as test images are."""
        if self.train_as_tested is None:
            return self.train[self.split[1]]
        held_out = self.train_as_tested[self.split[1]]
        return held_out if isinstance(self.train.images, Files) else held_out.read()

    def draw(self, ipc: int, generator: torch.Generator, samples: Samples | None = None) -> Samples:
        """`ipc` random images of each class, class-major, without replacement, from `samples` (default: `kept`).

        Raises InputError when a class holds fewer.
        """
        samples = self.kept if samples is None else samples
        chosen = []
        for label, name in enumerate(self.class_names):
            members = torch.nonzero(samples.labels == label).flatten()
            check_ipc(ipc, len(members), self.name, name)
            chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
        return samples[torch.cat(chosen)].read()  # they are drawn to be used again and again


def check_ipc(ipc: int, available: int, dataset: str, class_name: str) -> None:
    """Raise InputError when a class cannot give `ipc` images."""
    if ipc > available:
        raise InputError(
            f"ipc={ipc} asks for more images than class {class_name!r} of {dataset} has for training ({available}): "
            f"choose ipc={available} or less"
        )


def load_real(config: DictConfig, root: Path | str) -> RealDataset:
    """The dataset that the `dataset` config names, its files (if it has any) under `root`.

    A loader is a function `load(root, **arguments) -> (train: Samples, test: Samples, class_names)`, with the training
    samples read as test images are for a fourth where that is otherwise; the names are `ClassNames` where folders call
    the classes otherwise than people do.
    Raises InputError when files are missing or contradict the config.
    """
    arguments = OmegaConf.to_container(config.loader, resolve=True)
    loader = get_method(arguments.pop("_target_"))
    try:
        train, test, class_names, *as_tested = loader(Path(root), **arguments)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"dataset.loader does not fit its function ({error})") from error
    shape = (config.channels, config.size, config.size)
    if tuple(train.images.shape[1:]) != shape or len(class_names) != config.num_classes:
        raise InputError(
            f"dataset {config.name} has {len(class_names)} classes of {tuple(train.images.shape[1:])} images, but the "
            f"configuration says {config.num_classes} classes of {shape}: correct dataset.num_classes, channels or size"
        )
    return RealDataset(
        name=config.name,
        train=train,
        test=test,
        class_names=class_names if isinstance(class_names, ClassNames) else ClassNames(class_names),
        mean=tuple(config.mean),
        std=tuple(config.std),
        validation_fraction=config.validation.fraction,
        validation_most=config.validation.most,
        train_as_tested=next(iter(as_tested), None),
    )


def class_names(config: DictConfig, root: Path | str) -> ClassNames:
    """The names of the classes of the `dataset` config; no image is decoded for them. Raises InputError as `load_real`
    does."""
    if "decode_gib" in config.loader:
        config = OmegaConf.merge(config, {"loader": {"decode_gib": 0}})
    return load_real(config, root).names


def stratified_test_split(labels: torch.Tensor, test_size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed stratified (train, test) indices for sources that come without a split; `test_size` images for test."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        range(len(labels)), test_size=test_size, stratify=labels.numpy(), random_state=seed, shuffle=True
    )
    return torch.tensor(sorted(train)), torch.tensor(sorted(test))
