"""Images that carry nothing: values that are not finite, constant images, duplicates."""

from __future__ import annotations

import torch
from torch import Tensor

from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed

_NEAR = 1e-2  # root mean square difference of near duplicates, in standard deviations of all images
_FLAT = 1e-6


def usable(images: Tensor) -> Tensor:
    """Which of `images` (N, C, H, W) are finite and not constant, bool (N,)."""
    finite = images.isfinite().flatten(1).all(1)
    return finite & ~_constant(images)


def check_finite(images: Tensor) -> list[Finding]:
    """Images that hold NaN or infinite values."""
    bad = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if not bad:
        return []
    return [
        Finding(
            "not-finite",
            WRONG,
            f"{len(bad)} of {len(images)} images hold NaN or infinite values (image {listed(bad)})",
            "a student trained on them becomes NaN",
            "another checkpoint of the distillation: it has diverged",
        )
    ]


def check_constant(images: Tensor) -> list[Finding]:
    """Images of one value."""
    flat = _constant(images).nonzero().flatten().tolist()
    if not flat:
        return []
    return [
        Finding(
            "constant",
            WRONG,
            f"{len(flat)} of {len(images)} images have the same value at every pixel (image {listed(flat)})",
            "they carry no information; often a file that was allocated and never filled",
            "another file, or the distillation run to its end",
        )
    ]


def check_duplicates(images: Tensor, labels: Tensor) -> list[Finding]:
    """Images that are there more than once, exactly or nearly; `labels` (N,) are their classes."""
    good = usable(images).nonzero().flatten()
    if len(good) < 2:
        return []
    pairs = _near_pairs(images[good].flatten(1))
    if not len(pairs):
        return []
    first, second = good[pairs].T
    count = len(torch.unique(second))
    if count == len(good) - 1:
        return [
            Finding(
                "identical",
                WRONG,
                f"all {len(good)} images are the same",
                "different classes cannot be learned from one image",
                "the right file",
            )
        ]
    same, within = _identical_classes(first, second, labels)
    findings = []
    if same:
        findings.append(
            Finding(
                "class-identical",
                WRONG,
                f"all images are the same within class {listed(same)}",
                "the data carry less than their IPC says",
                f"ipc={int((labels == same[0]).sum())} different images of every class",
            )
        )
    if left := len(torch.unique(second[~within])):
        across = labels[first[~within]] != labels[second[~within]]
        exact = all(torch.equal(images[a], images[b]) for a, b in zip(first[~within], second[~within], strict=True))
        pairs = [f"{a} and {b}" for a, b in zip(first[~within].tolist(), second[~within].tolist(), strict=True)]
        findings.append(
            Finding(
                "duplicates",
                WRONG if across.any() and exact else SUSPECT,
                f"{left} of {len(images)} images are {'exact' if exact else 'near'} duplicates of others "
                f"(images {listed(pairs, 3)})",
                "one image is taught as two classes" if across.any() else "the data carry less than their IPC says",
                "a different image in each place",
            )
        )
    return findings


def _near_pairs(rows: Tensor, chunk: int = 1024) -> Tensor:
    """Pairs (n, 2), first < second, of `rows` (N, D) that differ by less than `_NEAR` of their spread."""
    spread = float((rows - rows.mean(0)).square().mean().sqrt()) or float(rows.square().mean().sqrt())
    most, found = _NEAR * spread * rows.shape[1] ** 0.5, []
    for start in range(0, len(rows), chunk):
        # The fast product is not exact for small distances: what it calls near is looked at again.
        near = torch.cdist(rows[start : start + chunk], rows) < 3 * most
        pairs = near.nonzero() + torch.tensor([start, 0])
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        found.append(pairs[(rows[pairs[:, 0]] - rows[pairs[:, 1]]).square().sum(1).sqrt() < most])
    return torch.cat(found)


def _identical_classes(first: Tensor, second: Tensor, labels: Tensor) -> tuple[list[int], Tensor]:
    """Classes of two or more images that are all the same, and which of the pairs lie within them."""
    same = []
    inside = labels[first] == labels[second]
    for label in labels[first][inside].unique().tolist():
        pairs = int((inside & (labels[first] == label)).sum())
        members = int((labels == label).sum())
        if pairs == members * (members - 1) // 2:
            same.append(label)
    return same, inside & torch.isin(labels[first], torch.tensor(same, dtype=labels.dtype))


def _constant(images: Tensor) -> Tensor:
    rows = images.flatten(1)
    spread = rows.amax(1) - rows.amin(1)
    return spread.isfinite() & (spread <= _FLAT * rows.abs().amax(1).clamp_min(1e-6))
