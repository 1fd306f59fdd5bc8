"""Images that are copies of real ones: of training images, or of those that nobody may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddrank.data import RealDataset, Samples
from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.readings import as_pixels, real_pixels

MOST_NUMBERS = 1 << 31  # of real images that are searched
_SIDE = 16  # pixels to which larger images are shrunk for the search
_NEAR = 0.25  # of the typical distance between nearest real images
_CHUNK = 2048
_SAMPLE = 300


@dataclass(frozen=True)
class Nearest:
    """The nearest real images of N images, by root mean square difference of pixels.

    Attributes:
        distance: by set (`training`, `validation`, `test`), (N,).
        index: by set, (N,): which image of that set it is.
        typical: the median distance of a real image to the nearest other one.
    """

    distance: dict[str, Tensor]
    index: dict[str, Tensor]
    typical: float

    def copies(self, of: str) -> Tensor:
        """Which images are copies from the set `of`, int64 (n,): nearly the same, and no nearer to another set."""
        least = torch.stack(list(self.distance.values())).amin(0)
        close = self.distance[of] < _NEAR * self.typical
        first = [name for name in self.distance if name != of]
        tied = torch.stack([self.distance[name] for name in first]).amin(0) == least
        own = (self.distance[of] == least) & (~tied if of != "training" else torch.ones_like(tied))
        return (close & own).nonzero().flatten()


def find_nearest(pixels: Tensor, real: RealDataset) -> Nearest | None:
    """The nearest real images of `pixels` (N, C, H, W); None where there are too many real ones to search."""
    sets = {"training": real.kept, "validation": real.validation, "test": real.test}
    if sum(len(samples) for samples in sets.values()) * pixels[0].numel() > MOST_NUMBERS:
        return None
    some = real_pixels(real.kept, _SAMPLE)
    typical = float(_search(some, real.kept, skip_itself=True)[0].median())
    found = {name: _search(pixels, samples) for name, samples in sets.items()}
    return Nearest(
        {name: distance for name, (distance, _) in found.items()},
        {name: index for name, (_, index) in found.items()},
        typical,
    )


def check_copies(nearest: Nearest, numbers: Tensor) -> list[Finding]:
    """Findings about images from the test set and the validation split; the images have these `numbers` (N,)."""
    findings, count = [], len(numbers)
    if len(test := nearest.copies("test")):
        pairs = [f"{int(numbers[image])} is test image {int(nearest.index['test'][image])}" for image in test.tolist()]
        findings.append(
            Finding(
                "test-images",
                WRONG,
                f"{len(test)} of {count} images are copies of test images (image {listed(pairs, 3)})",
                "students would be tested on what they were trained on",
                "data distilled from the training set alone",
            )
        )
    if len(held := nearest.copies("validation")):
        findings.append(
            Finding(
                "validation-images",
                SUSPECT,
                f"{len(held)} of {count} images are copies of real images of the held-out validation split (image "
                f"{listed(numbers[held].tolist())})",
                "protocol=strict chooses learning rates on that split",
                "python -m ddrank.distill, which never sees it, or protocol=ddranking if they were chosen elsewhere",
            )
        )
    return findings


def note_copies(nearest: Nearest) -> str | None:
    """What to say about copies of training images, which selections consist of."""
    copied, count = len(nearest.copies("training")), len(nearest.index["training"])
    return f"{copied} of {count} images are training images, as those of a selection are" if copied else None


def _search(pixels: Tensor, samples: Samples, skip_itself: bool = False) -> tuple[Tensor, Tensor]:
    """Distance to and index of the nearest of raw `samples`, (N,) each; with `skip_itself`, of those that differ."""
    queries = _small(pixels)
    best = torch.full((len(queries),), float("inf"))
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(samples), _CHUNK):
        distance = torch.cdist(queries, _small(as_pixels(samples.images[start : start + _CHUNK])))
        if skip_itself:
            distance[distance < 1e-2] = float("inf")
        nearest, place = distance.min(1)
        index = torch.where(nearest < best, place + start, index)
        best = torch.minimum(best, nearest)
    # At full resolution, and without the rounding of the fast product.
    differences = [
        part - as_pixels(samples.images[place])
        for part, place in zip(pixels.split(_CHUNK), index.split(_CHUNK), strict=True)
    ]
    return torch.cat([part.square().mean((1, 2, 3)).sqrt() for part in differences]), index


def _small(pixels: Tensor) -> Tensor:
    """Images as rows of at most C x 16 x 16 numbers."""
    return (nn.functional.adaptive_avg_pool2d(pixels, _SIDE) if pixels.shape[-1] > _SIDE else pixels).flatten(1)
