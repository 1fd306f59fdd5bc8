"""Images that carry nothing: values that are not finite, constant images, duplicates."""

from __future__ import annotations

import torch
from torch import Tensor

from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.readings import shrunk

_SIDE = 16  # pixels to which larger images are shrunk for the first look
_NEAR = 1e-2  # root mean square difference of near duplicates, in standard deviations of all images
_FLAT = 1e-6


def usable(images: Tensor) -> Tensor:
    """Which of `images` (N, C, H, W) are finite and not constant, bool (N,)."""
    return finite(images) & ~_constant(images)


def finite(images: Tensor) -> Tensor:
    """Which of `images` (N, C, H, W) hold no NaN and nothing infinite, bool (N,)."""
    low, high = images.flatten(1).aminmax(dim=1)  # both are NaN where any value is
    return low.isfinite() & high.isfinite()


def check_finite(images: Tensor) -> list[Finding]:
    """Images that hold NaN or infinite values."""
    bad = (~finite(images)).nonzero().flatten().tolist()
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
    pairs = _near_pairs(images if len(good) == len(images) else images[good])
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
                f"{int((labels == same[0]).sum())} different images of every class",
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


def _near_pairs(images: Tensor, chunk: int = 1024) -> Tensor:
    """Pairs (n, 2), first < second, of `images` (N, C, H, W) that differ by less than `_NEAR` of their spread."""
    rows = shrunk(images, _SIDE).flatten(1)
    most = _NEAR * (float(images.std(0, correction=0).square().mean().sqrt()) or float(images.square().mean().sqrt()))
    found = []
    for start in range(0, len(rows), chunk):
        # Shrinking brings images nearer to each other, never further apart, and the fast product is not exact for small
        # distances: what they call near is looked at again.
        near = torch.cdist(rows[start : start + chunk], rows) < 3 * most * rows.shape[1] ** 0.5
        pairs = near.nonzero() + torch.tensor([start, 0])
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        for few in pairs.split(64):
            found.append(few[(images[few[:, 0]] - images[few[:, 1]]).square().mean((1, 2, 3)).sqrt() < most])
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
    low, high = images.flatten(1).aminmax(dim=1)
    spread = high - low
    return spread.isfinite() & (spread <= _FLAT * torch.maximum(low.abs(), high.abs()).clamp_min(1e-6))
