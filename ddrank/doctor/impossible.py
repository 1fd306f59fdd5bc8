"""What cannot be right about a distilled dataset: the part of an examination that every evaluation can afford."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from ddrank.data import DistilledDataset, RealDataset, Space
from ddrank.data.distilled import given_lr
from ddrank.doctor import rate, soft, spaces, values
from ddrank.doctor.findings import WRONG, Finding


def cannot_be_right(distilled: DistilledDataset, config: DictConfig, real: RealDataset) -> list[Finding]:
    """What cannot be right about data that were read, without a network and in less than a second.

    It finds nothing in clean data, however far their values reach, and none of what is merely suspect.
    """
    images = distilled.images
    placed = images.dtype == torch.uint8  # pixels that are normalised here cannot be in another space
    extremes = torch.stack([images.flatten(1).amin(1), images.flatten(1).amax(1)], 1).float().view(-1, 1, 1, 2)
    findings = values.check_finite(extremes) + values.check_constant(extremes)
    space = _space(distilled, config)
    if not (findings or placed):
        said_by = spaces.who_says(distilled.metadata, distilled.metadata.get("space") == space.name)
        findings += spaces.check_possible(images, space, said_by)
    if not findings and len(images) > 1 and all(torch.equal(images[0], image) for image in images[1:]):
        findings += values.check_duplicates(images.float(), distilled.labels)
    if distilled.soft_labels is not None and config.method.labels == "single":
        kind = soft.what_they_are(distilled.soft_labels)
        # Probabilities are read as their logarithms, which tell them from what was said to be logits. Logits of a
        # constant sum are odd, but may be meant: a multiple of one-hot labels is.
        if distilled.stored_kind == "logits" and kind not in ("log-probabilities", "percentages"):
            findings += soft.check_kind(distilled.soft_labels, kind, "logits", soft.softmax_of(config.criterion))
    findings += rate.check_rate(given_lr(config, distilled.lr))
    return [finding for finding in findings if finding.severity == WRONG]


def _space(distilled: DistilledDataset, config: DictConfig) -> Space:
    """The space that the images are said to be in; a whitening is not fitted."""
    if distilled.pixels or distilled.space != "normalized":
        return Space("pixel" if distilled.pixels else distilled.space)
    return Space("normalized", *(distilled.constants or (tuple(config.method.mean), tuple(config.method.std))))
