"""Does each image look like its class? Other layouts of the pixels and other orders of the classes are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddrank.doctor.findings import SUSPECT, WRONG, Finding, listed
from ddrank.doctor.judge import Judge

_CLEAR = 0.5  # mean probability of a reading of the images that is taken for right
_GAIN = 0.25  # by which the classes in another order must be clearer than in theirs
_LAYOUT_GAIN = 0.1  # by which another layout must be clearer: many classes may look alike in both
_ODDS = 9.0  # log likelihood ratio that counts as evidence: about 8000 to 1
_TRUSTED = 0.5  # accuracy below which a judge says nothing
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
        seen: (N,), the class that it takes each image for.
        sure: the mean probability of those.
    """

    table: Tensor
    recognised: float
    layout: str | None
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


def judge_images(judge: Judge, pixels: Tensor, labels: Tensor) -> Judged:
    """Show `pixels` (N, C, H, W) with `labels` (N,) to the judge, in each layout."""
    probabilities = judge.logits(pixels).softmax(1)
    plain, layout = probabilities, None
    candidates = [name for name in LAYOUTS if name == "transposed" or pixels.shape[1] == 3]
    own, seen = _own(plain, labels), plain.argmax(1)
    for name in candidates if judge.accuracy >= _TRUSTED else ():
        other = judge.logits(laid_out(pixels, name)).softmax(1)
        odds = judge.confusion[labels, other.argmax(1)].log().sum() - judge.confusion[labels, seen].log().sum()
        clearer = _own(other, labels) > max(_CLEAR, own + _LAYOUT_GAIN, _own(probabilities, labels))
        if clearer and float(odds) > _ODDS:
            probabilities, layout = other, name
    classes = judge.confusion.shape[0]
    table = torch.zeros(classes, classes).index_add_(0, labels, probabilities)
    table /= labels.bincount(minlength=classes).clamp_min(1).unsqueeze(1)
    sure, seen = probabilities.max(1)
    return Judged(table, _own(probabilities, labels), layout, seen, float(sure.mean()))


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


def check_order(judge: Judge, judged: Judged, labels: Tensor, given: bool, names: Sequence[str]) -> list[Finding]:
    """Findings about images that look like other classes than theirs; none where the judge cannot tell.

    `given` says whether `labels` (N,) are the file's; otherwise they follow from the images being class-major.
    """
    if not telling(judge):
        return []
    classes = len(names)
    source = "labels" if given else "place in the file"
    if not given and (found := _interleaved(judge, judged, labels, classes)):
        return found
    order = assigned(judged.table)
    moved = [label for label in range(classes) if order[label] != label]
    if moved and _certain(judge, judged, labels, order, moved):
        words = [name if name == str(label) else f"{label} ({name})" for label, name in enumerate(names)]
        pairs = [f"{words[label]} shows {words[order[label]]}" for label in moved]
        return [
            Finding(
                "class-order",
                WRONG if len(moved) > 2 else SUSPECT,
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
    return judge.accuracy >= max(_TRUSTED, 3 / judge.confusion.shape[0])


def assigned(table: Tensor) -> list[int]:
    """The class that each row of `table` (classes, classes) shows, every class once, with the largest sum."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-table.double().numpy())[1].tolist()


def _certain(judge: Judge, judged: Judged, labels: Tensor, order: list[int], moved: list[int]) -> bool:
    """Whether `order` explains what the judge saw far better than the labels do."""
    rows, columns = torch.tensor(moved), torch.tensor(order)[torch.tensor(moved)]
    gain = float((judged.table[rows, columns] - judged.table[rows, rows]).mean())
    covering = float(judged.table[range(len(order)), order].mean())
    odds = judge.evidence(judged.seen, labels, torch.tensor(order)[labels])
    weakest = float(judged.table[rows, columns].min())
    # Any guesses at a single image a class nearly fit some order: then it must fit all.
    enough = _CLEAR + 0.4 * len(order) / len(labels)
    return gain > _GAIN and covering > enough and odds > _ODDS and (weakest > 0.3 or len(moved) > 4)


def _interleaved(judge: Judge, judged: Judged, labels: Tensor, classes: int) -> list[Finding]:
    """A finding where the classes take turns (0, 1, 2, ..., 0, 1, 2, ...) in images that are taken as class-major."""
    turns = torch.arange(len(labels)) % classes
    if len(labels) <= classes:
        return []
    right = float((judged.seen == turns).float().mean())
    own = float((judged.seen == labels).float().mean())
    if right < max(_CLEAR, own + _GAIN) or judge.evidence(judged.seen, labels, turns) < _ODDS:
        return []
    return [
        Finding(
            "not-class-major",
            WRONG,
            f"the classes take turns: {right:.0%} of the images look like the class of their place so, "
            f"{own:.0%} where the first {len(labels) // classes} are taken for class 0, and so on",
            "without labels, images are read class by class",
            f"images = images.view({len(labels) // classes}, {classes}, ...).transpose(0, 1), or labels beside them",
        )
    ]


def _shuffled(judged: Judged, labels: Tensor, classes: int) -> bool:
    """Whether the images clearly look like all classes in equal parts, but not like their own."""
    ipc = len(labels) / classes
    uneven = float((judged.seen.bincount(minlength=classes) - ipc).abs().sum()) / len(labels)
    return ipc >= 2 and judged.sure > 0.8 and uneven < 0.4 and judged.recognised < 2.5 / classes


def _hint(order: list[int], names: Sequence[str]) -> str:
    """What the order is, where it is a well-known one."""
    as_text = sorted(range(len(order)), key=str)
    if order == as_text:
        return "; this is the order of numbers sorted as text (0, 1, 10, 11, ..., 2), as of folders"
    if order == sorted(range(len(order)), key=lambda label: names[label]):
        return "; this is the alphabetical order of the class names"
    if order == list(reversed(range(len(order)))):
        return "; this is the dataset's order, reversed"
    if len({(found - label) % len(order) for label, found in enumerate(order)}) == 1:
        return f"; every class is {(order[0]) % len(order)} further on"
    return ""


def _own(probabilities: Tensor, labels: Tensor) -> float:
    return float(probabilities[torch.arange(len(labels)), labels].mean())
