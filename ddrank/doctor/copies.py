"""Images that are copies of real ones: of training images, or of those that nobody may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddrank.data import RealDataset, Samples
from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.readings import as_pixels, real_pixels, shrunk

MOST_NUMBERS = 1 << 31  # of real images that are searched
SIDE = 32  # pixels to which larger images are shrunk
_FIRST_SIDE = 16  # for the search
_OPERATIONS = 2e11  # of the search: a few seconds
_NEAR = 0.25  # of the typical distance between nearest real images
_ALIKE = 0.98  # correlation of a copy with its image: means of several images are near to many, but like none
_CHANCE = 1e-4
_CHUNK, _CHUNK_NUMBERS = 2048, 1 << 22
_SAMPLE = 300


@dataclass(frozen=True)
class Nearest:
    """The nearest real images of N images, by root mean square difference of pixels.

    Attributes:
        distance: by set (`training`, `validation`, `test`), (N,).
        index: by set, (N,): which image of that set it is.
        alike: by set, (N,): the correlation with that image, over its pixels.
        typical: the median distance of a real image to the nearest other one.
    """

    distance: dict[str, Tensor]
    index: dict[str, Tensor]
    alike: dict[str, Tensor]
    typical: float

    def copies(self, of: str) -> Tensor:
        """Which images are copies from the set `of`, int64 (n,): nearly the same, and no nearer to another set."""
        least = torch.stack(list(self.distance.values())).amin(0)
        close = (self.distance[of] < _NEAR * self.typical) & (self.alike[of] > _ALIKE)
        first = [name for name in self.distance if name != of]
        tied = torch.stack([self.distance[name] for name in first]).amin(0) == least
        own = (self.distance[of] == least) & (~tied if of != "training" else torch.ones_like(tied))
        return (close & own).nonzero().flatten()


def searchable(real: RealDataset) -> int:
    """Of how many images the nearest real ones can be found shortly; 0 where there are too many real ones."""
    count = len(real.train) + len(real.test)
    if count * real.channels * real.size**2 > MOST_NUMBERS:
        return 0
    return max(_SAMPLE, int(_OPERATIONS / (count * real.channels * min(real.size, _FIRST_SIDE) ** 2)))


def find_nearest(pixels: Tensor, real: RealDataset) -> Nearest:
    """The nearest real images of `pixels` (N, C, H, W), which are shrunk to at most `SIDE`."""
    sets = {"training": real.kept, "validation": real.validation, "test": real.test}
    some = shrunk(real_pixels(real.kept, _SAMPLE), SIDE)
    typical = float(_search(some, real.kept, skip_itself=True)[0].median())
    found = {name: _search(pixels, samples) for name, samples in sets.items()}
    distance, index, alike = ({name: parts[k] for name, parts in found.items()} for k in range(3))
    return Nearest(distance, index, alike, typical)


def check_copies(nearest: Nearest, numbers: Tensor, share: float) -> list[Finding]:
    """Findings about images from the test set and the validation split; the images have these `numbers` (N,).

    `share` is that of the validation split in the training set, where learning rates are chosen on it: what is drawn
    elsewhere holds as many of its images by chance, and only more of them are a finding.
    """
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
    held = nearest.copies("validation")
    if _too_many(len(held), len(held) + len(nearest.copies("training")), share):
        findings.append(
            Finding(
                "validation-images",
                SUSPECT,
                f"{len(held)} of {count} images are copies of real images of the held-out validation split (image "
                f"{listed(numbers[held].tolist())})",
                "protocol=strict chooses learning rates on that split, and there are more of them than by chance",
                "protocol=ddranking, or images made by python -m ddrank.distill, which never sees that split",
            )
        )
    return findings


def note_copies(nearest: Nearest) -> str | None:
    """What to say about copies of training images, which selections consist of."""
    copied, held = len(nearest.copies("training")), len(nearest.copies("validation"))
    if not copied + held:
        return None
    among = f" ({held} of them of the held-out validation split)" if held else ""
    return f"{copied + held} of {len(nearest.index['training'])} images are training images{among}, as in a selection"


def _too_many(held: int, copied: int, share: float) -> bool:
    """Whether `held` of `copied` images are more of a part of `share` than can be by chance."""
    from scipy.stats import binom

    return held > 2 * share * copied and binom.sf(held - 1, copied, share) < _CHANCE


def _search(pixels: Tensor, samples: Samples, skip_itself: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to, index of and correlation with the nearest of raw `samples`, (N,) each; with `skip_itself`, of those
    that differ."""
    queries, chunk = _small(pixels), max(1, min(_CHUNK, _CHUNK_NUMBERS // samples.images.shape[1:].numel()))
    best = torch.full((len(queries),), float("inf"))
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(samples), chunk):
        distance = torch.cdist(queries, _small(as_pixels(samples.images[start : start + chunk])))
        if skip_itself:
            distance[distance < 1e-2] = float("inf")
        nearest, place = distance.min(1)
        index = torch.where(nearest < best, place + start, index)
        best = torch.minimum(best, nearest)
    # At full resolution, and without the rounding of the fast product.
    exact = [
        _compared(part, shrunk(as_pixels(samples.images[place]), SIDE))
        for part, place in zip(pixels.split(chunk), index.split(chunk), strict=True)
    ]
    distance, alike = (torch.cat(parts) for parts in zip(*exact, strict=True))
    return distance, index, alike


def _compared(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square difference and correlation of `images` with `others`, pair by pair."""
    a, b = (part.flatten(1) - part.mean((1, 2, 3)).unsqueeze(1) for part in (images, others))
    alike = nn.functional.cosine_similarity(a, b)
    return (images - others).square().mean((1, 2, 3)).sqrt(), alike


def _small(pixels: Tensor) -> Tensor:
    """Images as rows of at most C x 16 x 16 numbers."""
    return shrunk(shrunk(pixels, SIDE), _FIRST_SIDE).flatten(1)
