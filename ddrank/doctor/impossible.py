"""What cannot be right about a distilled dataset: the part of an examination that every evaluation can afford."""

from __future__ import annotations

from omegaconf import DictConfig

from ddrank.data import DistilledDataset, RealDataset
from ddrank.doctor import rate, soft, spaces, values
from ddrank.doctor.findings import WRONG, Finding


def cannot_be_right(distilled: DistilledDataset, config: DictConfig, real: RealDataset) -> list[Finding]:
    """What cannot be right about data that were read, without a network and in less than a second.

    It finds nothing in clean data, however far their values reach, and none of what is merely suspect.
    """
    images = distilled.images
    findings = values.check_finite(images) + values.check_constant(images)
    if not findings and (reason := spaces.impossible(images, "pixel" if distilled.pixels else distilled.space)):
        findings.append(
            Finding(
                "value-space",
                WRONG,
                f"{reason}, but they are said to be in {distilled.space} space",
                "students and test images would live in another space than these images",
                "method.space=... as they are stored; python -m ddrank.doctor tells more",
            )
        )
    if not findings and len(images) > 1 and bool((images == images[0]).all()):
        findings += values.check_duplicates(images, distilled.labels)
    if distilled.soft_labels is not None and config.method.labels == "single":
        kind = soft.what_they_are(distilled.soft_labels)
        # Probabilities are read as their logarithms, which tell them from what was said to be logits. Logits of a
        # constant sum are odd, but may be meant: a multiple of one-hot labels is.
        if distilled.stored_kind == "logits" and kind not in ("log-probabilities", "percentages"):
            findings += soft.check_kind(distilled.soft_labels, kind, "logits")
    findings += rate.check_rate(config.method.lr if distilled.lr is None else distilled.lr, distilled.lr is not None)
    return [finding for finding in findings if finding.severity == WRONG]
