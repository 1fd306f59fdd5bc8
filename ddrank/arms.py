"""The six arms of an evaluation: on what, with which labels and by which recipe each one's students are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig

from ddrank.build import unnamed
from ddrank.data import DistilledDataset, RealDataset, Samples, Space
from ddrank.data.distilled import given_lr
from ddrank.data.stored_views import StoredViews
from ddrank.student import Training, derived_seed
from ddrank.teacher import CROSS_ENTROPY, Teachers

LABELLED_AT_ONCE = 500  # images, normalised for it
NO_AUG: dict[str, Any] = {}


@dataclass(frozen=True)
class Arm:
    """One arm: everything that fixes its students but their learning rate and seed.

    Attributes:
        name: one of `ddrank.score.ARMS`.
        source: what the images are, in words; two arms that agree in everything else share their measurements.
        samples: gives the training samples for a seed, in `space`.
        count: how many samples that is.
        teachers: label every augmented view where the method's labels are `multi`.
        lr: a learning rate that is given and not searched for.
        views: those that the students are trained on, where they are stored.
    """

    name: str
    source: str
    samples: Callable[[int], Samples]
    count: int
    space: Space
    training: Training
    criterion: Mapping[str, Any]
    aug: Mapping[str, Any]
    teachers: Teachers | None = None
    lr: float | None = None
    views: StoredViews | None = None


def arms(
    config: DictConfig,
    real: RealDataset,
    distilled: DistilledDataset,
    space: Space,
    plain_space: Space,
    teachers: Teachers | None,
    views: StoredViews | None = None,
) -> list[Arm]:
    """All six arms of one evaluation, in the order in which they are reported.

    `space` is that of the distilled images; `plain_space` the dataset's own, in which `real_hard` is trained. With
    stored `views`, `syn_any` is trained on them and on the labels that they have; `rdm_any` on views of random images
    that the teachers label on the fly.
    """
    labels, method = config.method.labels, config.method
    pool = real.kept if config.protocol.select_on == "validation" else real.train
    training, aug, criterion = Training.of(config.train), unnamed(config.aug), unnamed(config.criterion)
    real_training = Training.of(config.dataset.real)
    real_training = replace(
        real_training,
        epochs=config.protocol.real.epochs or real_training.epochs,
        batch_size=config.protocol.real.batch_size or real_training.batch_size,
    )

    def hard(seed: int) -> Samples:
        return distilled.samples(seed)

    @lru_cache(maxsize=8)
    def own(seed: int) -> Samples:
        if labels != "single":
            return hard(seed)
        samples = hard(seed)
        return labelled(samples) if method.relabel else replace(samples, soft=distilled.soft_labels)

    def viewed(seed: int) -> Samples:
        return replace(distilled.samples(seed), views=views)

    def labelled(samples: Samples) -> Samples:
        starts = range(0, len(samples), LABELLED_AT_ONCE)
        soft = torch.cat([teachers.label(samples.floats(slice(at, at + LABELLED_AT_ONCE))) for at in starts])
        return replace(samples, soft=soft, soft_from=teachers.fingerprint)

    # A draw and its labels serve all learning rates of a seed, with and without augmentation.
    @lru_cache(maxsize=8)
    def drawn(seed: int) -> Samples:
        generator = torch.Generator().manual_seed(derived_seed(seed, "random images"))
        images = space.samples(real.draw(config.ipc, generator, pool))
        return labelled(images) if labels == "single" else images

    @lru_cache(maxsize=1)
    def everything() -> Samples:
        return plain_space.samples(pool)

    synthetic = Arm(
        name="syn_any",
        source=f"distilled, {labels} labels",
        samples=own,
        count=len(distilled.labels),
        space=space,
        training=training,
        criterion=criterion,
        aug=aug,
        teachers=teachers if labels == "multi" else None,
        lr=given_lr(config, distilled.lr),
    )
    stored = {"source": "distilled, stored views", "samples": viewed, "aug": NO_AUG, "teachers": None, "views": views}
    random = replace(synthetic, name="rdm_any", source=f"random, {labels} labels", samples=drawn, lr=None)
    return [
        Arm(
            name="real_hard",
            source="real, hard labels",
            samples=lambda seed: everything(),
            count=len(pool),
            space=plain_space,
            training=real_training,
            criterion=CROSS_ENTROPY,
            aug=unnamed(config.dataset.real.aug),
            lr=None if config.protocol.real.search else config.dataset.real.lr,
        ),
        replace(
            synthetic,
            name="syn_hard",
            source="distilled, hard labels",
            samples=hard,
            criterion=CROSS_ENTROPY,
            aug=aug if method.aug_for_hard else views_of(aug),
            teachers=None,
            lr=synthetic.lr if labels == "hard" else None,
        ),
        synthetic if views is None else replace(synthetic, **stored),
        random,
        replace(synthetic, name="syn_any_noaug", aug=NO_AUG),
        replace(random, name="rdm_any_noaug", aug=NO_AUG),
    ]


def views_of(aug: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of an augmentation without `aug_for_hard`: the crops and flips of each image, as in the ddranking
    package; what acts on the batch (DSA, mixup, cutmix) is left out."""
    return {key: part for key, part in aug.items() if part["_target_"].endswith(".Views")}
