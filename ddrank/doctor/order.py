"""Does each image look like its class? Other layouts of the pixels and other orders of the classes are tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddrank.data import Space
from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.judge import Judge
from ddrank.doctor.readings import STATISTICS

_CLEAR = 0.5  # mean probability of a reading of the images that is taken for right
_GAIN = 0.25  # by which the classes in another order must be clearer than in theirs
_CLEAR_OF, _GAIN_OF = 0.7, 0.4  # the same, as parts of the judge's accuracy, where it is low
_FREE_OF = 0.8  # and for an order that is no known one
_LAYOUT_GAIN = 0.1  # by which another layout must be clearer: many classes may look alike in both
_FEW = 10  # classes, of which any order is told by itself
_ODDS = 9.0  # log likelihood ratio that counts as evidence: about 8000 to 1
_TRUSTED, _TIMES, _LEAST = 0.5, 10, 0.1  # accuracy that a judge needs: 0.5, or of many classes 10 times chance
LAYOUTS = {
    "channels-last": (
        "the pixels are in the order of channels-last images, though their shape has channels first",
        "images = images.reshape(n, height, width, channels).permute(0, 3, 1, 2) before saving",
    ),
    "bgr": ("the channels are in the order blue, green, red", "images = images.flip(1) before saving"),
    "transposed": ("height and width are swapped", "images = images.transpose(2, 3) before saving"),
}


@dataclass(frozen=True)
class Judged:
    """What the judge saw.

    Attributes:
        table: (classes, classes), the mean probability of each class (column) in the images of each label (row).
        recognised: the mean probability of the images' own classes.
        layout: one of LAYOUTS where the images are clearly recognised only in it, else None.
        labels: (N,), of the images that it was shown.
        seen: (N,), the class that it takes each image for.
        sure: the mean probability of those.
    """

    table: Tensor
    recognised: float
    layout: str | None
    labels: Tensor
    seen: Tensor
    sure: float


def laid_out(images: Tensor, layout: str | None) -> Tensor:
    """`images` (N, C, H, W) with their pixels put where they belong, if they have `layout`."""
    if layout == "channels-last":
        count, channels, height, width = images.shape
        return images.reshape(count, height, width, channels).permute(0, 3, 1, 2).contiguous()
    if layout == "bgr":
        return images.flip(1)
    return images.transpose(2, 3).contiguous() if layout == "transposed" else images


def judge_images(judge: Judge, images: Tensor, space: Space, labels: Tensor) -> Judged:
    """Show `images` (N, C, H, W), which are in `space`, with `labels` (N,) to the judge, in each layout."""

    def shown(layout: str | None) -> Tensor:
        parts = images.split(max(1, STATISTICS // images[0].numel()))
        return torch.cat([judge.logits(laid_out(space.inverse(part), layout)) for part in parts]).softmax(1)

    probabilities = shown(None)
    plain, layout = probabilities, None
    candidates = [name for name in LAYOUTS if name == "transposed" or images.shape[1] == 3]
    own, seen = _own(plain, labels), plain.argmax(1)
    for name in candidates if judge.accuracy >= _TRUSTED else ():
        other = shown(name)
        odds = judge.confusion[labels, other.argmax(1)].log().sum() - judge.confusion[labels, seen].log().sum()
        clearer = _own(other, labels) > max(_CLEAR, own + _LAYOUT_GAIN, _own(probabilities, labels))
        if clearer and float(odds) > _ODDS:
            probabilities, layout = other, name
    classes = judge.confusion.shape[0]
    table = torch.zeros(classes, classes).index_add_(0, labels, probabilities)
    table /= labels.bincount(minlength=classes).clamp_min(1).unsqueeze(1)
    sure, seen = probabilities.max(1)
    return Judged(table, _own(probabilities, labels), layout, labels, seen, float(sure.mean()))


def check_layout(judged: Judged) -> list[Finding]:
    """A finding where the images look like their classes in another layout alone."""
    if judged.layout is None:
        return []
    what, setting = LAYOUTS[judged.layout]
    return [
        Finding(
            judged.layout,
            SUSPECT,
            f"{what} (read so, they look like their classes to a network trained on the real data, with probability "
            f"{judged.recognised:.2f})",
            "students trained on them are tested on images that are the right way",
            setting,
        )
    ]


def check_order(
    judge: Judge, judged: Judged, places: Tensor, ipc: int, given: bool, names: Sequence[str]
) -> list[Finding]:
    """Findings about images that look like other classes than theirs; none where the judge cannot tell.

    `given` says whether the labels are the file's; otherwise they follow from the images being class-major, `ipc` of
    each class; the images stand at these `places` (N,) in the file.
    """
    if not telling(judge):
        return []
    classes, labels = len(names), judged.labels
    source = "labels" if given else "place in the file"
    if not given and (found := _interleaved(judge, judged, places, ipc, classes)):
        return found
    if order := _order(judge, judged, names):
        moved = [label for label in range(classes) if order[label] != label]
        words = [name if name == str(label) else f"{label} ({name})" for label, name in enumerate(names)]
        pairs = [f"{words[label]} shows {words[order[label]]}" for label in moved]
        return [
            Finding(
                "class-order",
                WRONG if len(moved) > 2 and judge.accuracy >= _TRUSTED else SUSPECT,
                f"{len(moved)} of {classes} classes look like other classes to a network trained on the real data: by "
                f"{source}, class {listed(pairs, 4)}{_hint(order, names)}",
                "students would be taught the wrong names",
                f"labels that say so: class = {order} [label]" if classes <= 20 else "labels in the dataset's order",
            )
        ]
    if _shuffled(judged, labels, classes):
        return [
            Finding(
                "labels-shuffled",
                SUSPECT,
                f"the images look like all classes, but not like their own (probability {judged.recognised:.2f}): by "
                f"{source}, no order of the classes fits",
                "students would be taught the wrong names",
                "labels in the order of the images" if given else "labels beside the images (they are not class-major)",
            )
        ]
    return []


def telling(judge: Judge) -> bool:
    """Whether the judge knows the real data well enough to be believed."""
    classes = judge.confusion.shape[0]
    return judge.accuracy >= max(min(_TRUSTED, max(_LEAST, _TIMES / classes)), 3 / classes)


def recognisable(judge: Judge) -> float:
    """The mean probability of their own classes that images which show them have at least."""
    return max(min(0.3, judge.accuracy / 2), 2 / judge.confusion.shape[0])


def assigned(table: Tensor) -> list[int]:
    """The class that each row of `table` (classes, classes) shows, every class once, with the largest sum."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-table.double().numpy())[1].tolist()


def _order(judge: Judge, judged: Judged, names: Sequence[str]) -> list[int] | None:
    """The order of the classes that explains what the judge saw far better than the labels do, where there is one: a
    known one if that does, else the one that fits best."""
    best = assigned(judged.table)
    for order in [order for order, _ in _known(names) if order != best and len(names) > _FEW]:
        gain, covering, odds, _ = _explained(judge, judged, order)
        if gain > min(_GAIN, _GAIN_OF * judge.accuracy) and odds > _ODDS and covering > _clear(judge):
            return order
    if best == list(range(len(names))):
        return None
    gain, covering, odds, weakest = _explained(judge, judged, best)
    moved = sum(found != label for label, found in enumerate(best))
    # Any guesses at a single image a class nearly fit some order: then it must fit all. And there are many orders.
    enough = max(min(_CLEAR, _FREE_OF * judge.accuracy), 0.3) + 0.4 * len(best) / len(judged.labels)
    likely = odds > _ODDS + math.lgamma(moved + 1) and gain > min(_GAIN, _GAIN_OF * judge.accuracy)
    general = weakest > 0.3 or moved > max(4, 0 if judge.accuracy >= _TRUSTED else len(best) // 2)
    return best if likely and covering > enough and general else None


def _explained(judge: Judge, judged: Judged, order: list[int]) -> tuple[float, float, float, float]:
    """How well `order` explains what the judge saw: the gain in the mean probability of the classes that it moves, the
    mean probability of all, the odds against the labels, and the least probability of a class that it moves."""
    rows = torch.tensor([label for label, found in enumerate(order) if found != label])
    columns = torch.tensor(order)[rows]
    gain = float((judged.table[rows, columns] - judged.table[rows, rows]).mean())
    odds = judge.evidence(judged.seen, judged.labels, torch.tensor(order)[judged.labels])
    covering = float(judged.table[range(len(order)), order].mean())
    return gain, covering, odds, float(judged.table[rows, columns].min())


def _clear(judge: Judge) -> float:
    return min(_CLEAR, _CLEAR_OF * judge.accuracy)


def _interleaved(judge: Judge, judged: Judged, places: Tensor, ipc: int, classes: int) -> list[Finding]:
    """A finding where the classes take turns (0, 1, 2, ..., 0, 1, 2, ...) in images that are taken as class-major."""
    turns, labels = places % classes, judged.labels
    if ipc < 2:
        return []
    right = float((judged.seen == turns).float().mean())
    own = float((judged.seen == labels).float().mean())
    gain = min(_GAIN, _GAIN_OF * judge.accuracy)
    if right < max(_clear(judge), own + gain) or judge.evidence(judged.seen, labels, turns) < _ODDS:
        return []
    return [
        Finding(
            "not-class-major",
            WRONG,
            f"the classes take turns: {right:.0%} of the images look like the class of their place so, "
            f"{own:.0%} where the first {ipc} are taken for class 0, and so on",
            "without labels, images are read class by class",
            f"images = images.view({ipc}, {classes}, ...).transpose(0, 1), or labels beside them",
        )
    ]


def _shuffled(judged: Judged, labels: Tensor, classes: int) -> bool:
    """Whether the images clearly look like all classes in equal parts, but not like their own."""
    ipc = len(labels) / classes
    uneven = float((judged.seen.bincount(minlength=classes) - ipc).abs().sum()) / len(labels)
    return ipc >= 2 and judged.sure > 0.8 and uneven < 0.4 and judged.recognised < 2.5 / classes


def _hint(order: list[int], names: Sequence[str]) -> str:
    """What the order is, where it is a well-known one."""
    for known, words in _known(names):
        if order == known:
            return f"; this is {words}"
    if len({(found - label) % len(order) for label, found in enumerate(order)}) == 1:
        return f"; every class is {(order[0]) % len(order)} further on"
    return ""


def _known(names: Sequence[str]) -> list[tuple[list[int], str]]:
    """Orders that classes often come in, other than the dataset's, with what they are."""
    classes = range(len(names))
    known = [
        (sorted(classes, key=str), "the order of numbers sorted as text (0, 1, 10, 11, ..., 2), as of folders"),
        (sorted(classes, key=lambda label: names[label]), "the alphabetical order of the class names"),
        (list(reversed(classes)), "the dataset's order, reversed"),
    ]
    return [(order, words) for order, words in known if order != list(classes)]


def _own(probabilities: Tensor, labels: Tensor) -> float:
    return float(probabilities[torch.arange(len(labels)), labels].mean())
