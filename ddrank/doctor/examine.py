"""One examination: what was found in the files, held against the configuration and the real data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddrank.config import SOFT_KINDS, SPACES
from ddrank.data import RealDataset
from ddrank.data.classes import in_dataset_order, strangers
from ddrank.data.distilled import given_lr
from ddrank.data.readers.found import Found, is_one_hot
from ddrank.doctor import copies, counts, order, rate, soft, spaces, values
from ddrank.doctor.findings import SUSPECT, WRONG, Finding
from ddrank.doctor.judge import Judge, find_judge
from ddrank.doctor.order import Judged
from ddrank.doctor.readings import STATISTICS, Reading, affordable, as_pixels, readings, real_pixels, shrunk, spread
from ddrank.engine import Engine
from ddrank.progress import Display
from ddrank.store import Store

_REAL, _DISTILLED = 2000, 1000  # real and distilled images whose statistics are taken
_SHOWN = 1000  # distilled images that the judge is shown, or one of each class
_MOST = 20_000  # distilled images whose pixels are compared with each other
_UNNUMBERED = ("count", "labels-count", "labels-range", "labels-from-one")  # findings that leave no class to ask for


@dataclass(frozen=True)
class Diagnosis:
    """All that an examination found.

    Attributes:
        findings: what is not as it should be, the worst first.
        notes: what was checked and found fine, and what could not be told.
        believed, fitting: how the configuration reads the values, and the reading that fits; None where the shape is
            not one of images.
        labels: int64 (N,), the images' classes as the files or their order tell.
        judged: what the judge saw, where it could be asked.
        soft_kind: what the soft labels are taken for.
        real: some real pixels (n, C, H, W).
        seen: the fraction of held-out real images that the judge names rightly.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    images: Tensor
    believed: Reading | None = None
    fitting: Reading | None = None
    labels: Tensor | None = None
    judged: Judged | None = None
    soft_kind: str = "logits"
    real: Tensor | None = None
    facts: dict[str, float] = field(default_factory=dict)


def examine(
    found: Found, config: DictConfig, real: RealDataset, store: Store, engine: Engine, display: Display
) -> Diagnosis:
    """Examine `found` as an evaluation with `config` would take it."""
    method, dataset = config.method, config.dataset
    found, findings = _taken(found, config, real)
    images = as_pixels(found.images)
    findings += counts.check_dataset(found.metadata.get("dataset"), dataset.name)
    findings += rate.check_rate(given_lr(config, found.lr))
    resize = method.resize and _said_space(found, config) != "zca"
    findings += soft.check_presence(found.soft_labels, method.labels, method.relabel)
    if problems := counts.check_shape(images, dataset.channels, dataset.size, resize):
        return Diagnosis(_sorted(problems + findings), (), images)
    notes, facts = list(found.notes), {}
    if images.shape[2:] != (dataset.size, dataset.size):
        notes.append(f"resized from {images.shape[2]} x {images.shape[3]} pixels")
        images = nn.functional.interpolate(images, size=(dataset.size,) * 2, mode="bilinear", antialias=True)
    for kind in (images, *found.others):
        findings += values.check_finite(kind) + values.check_constant(kind)
    numbering = counts.check_count(len(images), dataset.num_classes, config.ipc)
    if not any(finding.kind == "count" for finding in numbering):
        numbering += counts.check_labels(found.labels, len(images), dataset.num_classes)
    numbered = not any(finding.kind in _UNNUMBERED for finding in numbering)
    labels = _labels(found.labels, len(images), dataset.num_classes)
    good, sample = values.usable(images).nonzero().flatten(), real_pixels(real.train, _REAL)
    mean, std = found.constants or (tuple(method.mean), tuple(method.std))
    known = readings(_said_space(found, config), mean, std, real, store)
    fitting, judged, classes = known[0], None, labels
    findings += numbering
    if len(good):
        some = images[good[spread(labels[good], affordable(images, _DISTILLED))]]
        candidates = spaces.fits(some, sample, known)
        fitting = spaces.best(candidates, spaces.white(some)).reading
        facts["misfit"] = round(candidates[0].misfit, 3)
        said_by = spaces.who_says(found.metadata, found.space in SPACES)
        misfits = spaces.check_space(candidates, some, said_by)
        findings += misfits
        notes += [f"values in {fitting.name} space"] if fitting is known[0] and not misfits else []
        if numbered:
            judge = find_judge(config, real, store, engine, display)
            judged, places = _shown(judge, images, fitting, labels, good, max(_SHOWN, real.num_classes))
            ipc = len(images) // real.num_classes
            misplaced, note = _judge(judge, judged, places, ipc, found.labels is not None, real)
            facts |= {"judge_accuracy": round(judge.accuracy, 4), "recognised": round(judged.recognised, 4)}
            findings, notes = findings + misplaced, notes + note
            if any(finding.kind == "class-order" for finding in misplaced):
                classes = torch.tensor(order.assigned(judged.table))[labels]
        findings += values.check_duplicates(images, labels) if len(images) <= _MOST else []
        copied, note = _copies(images, fitting, judged, labels, good, real, config.protocol.select_on)
        findings, notes = findings + copied, [*notes, *([note] if note else [])]
    soft_kind = found.soft_kind if found.soft_kind in SOFT_KINDS else method.soft_kind
    if found.soft_labels is not None and numbered:
        temperature = method.temperature if soft.softmax_of(config.criterion) else None
        unfit = _soft(found.soft_labels.float(), labels, classes, soft_kind, temperature, dataset.num_classes)
        findings += unfit
        notes += [] if unfit else [f"soft labels are {soft_kind}, of their images' classes"]
    return Diagnosis(
        _sorted(findings), tuple(notes), images, known[0], fitting, labels, judged, soft_kind, sample, facts
    )


def _taken(found: Found, config: DictConfig, real: RealDataset) -> tuple[Found, list[Finding]]:
    """`found` with the dataset's labels of the classes that it names, and without one-hot rows where the method has
    class indices; and a finding where the names are not the dataset's."""
    method, soft_labels = config.method, found.soft_labels
    if method.labels == "hard" and found.labels is not None and soft_labels is not None and soft_labels.ndim == 2:
        found = replace(found, soft_labels=None) if is_one_hot(soft_labels) else found
    if method.trust or (unknown := strangers(found, real.names)) is None:
        return in_dataset_order(found, real.names, config.dataset.name, method.trust), []
    return found, [
        Finding(
            "class-names",
            WRONG,
            f"the files name {unknown} of {config.dataset.name}",
            "which images show which class cannot be told",
            "the dataset's names for the folders or labels, or method.trust=true if their order is that of the labels",
        )
    ]


def _shown(
    judge: Judge, images: Tensor, reading: Reading, labels: Tensor, good: Tensor, most: int
) -> tuple[Judged, Tensor]:
    """What the judge saw in up to `most` of the `good` ones of the images, and their places."""
    places = good[spread(labels[good], most)]
    return order.judge_images(judge, images[places], reading.space, labels[places]), places


def _judge(
    judge: Judge, judged: Judged, places: Tensor, ipc: int, given: bool, real: RealDataset
) -> tuple[list[Finding], list[str]]:
    """The findings that follow from what the judge saw at these `places`, and what to say where there are none."""
    findings = order.check_layout(judged) + order.check_order(judge, judged, places, ipc, given, real.class_names)
    if findings:
        return findings, []
    if not order.telling(judge):
        return [], [f"class order not told: the judge's own accuracy is {judge.accuracy:.2f}"]
    if judged.recognised < order.recognisable(judge):
        return [], [f"class order not told: the images are not recognised ({judged.recognised:.2f})"]
    return [], [f"images look like their classes (probability {judged.recognised:.2f})"]


def _copies(
    images: Tensor,
    reading: Reading,
    judged: Judged | None,
    labels: Tensor,
    good: Tensor,
    real: RealDataset,
    select_on: str,
) -> tuple[list[Finding], str]:
    """Findings about copies of real images among the `good` ones of the images, and what to say of others."""
    if not (most := copies.searchable(real)):
        return [], "copies of real images not searched: there are too many"
    places = good[spread(labels[good], most)]
    layout = judged.layout if judged else None
    pixels = [
        shrunk(order.laid_out(reading.space.inverse(images[part]), layout), copies.SIDE)
        for part in places.split(max(1, STATISTICS // images[0].numel()))
    ]
    nearest = copies.find_nearest(torch.cat(pixels), real)
    share = len(real.validation) / len(real.train) if select_on == "validation" else 1.0
    found, note = copies.check_copies(nearest, places, share), copies.note_copies(nearest)
    return found, note or ("" if found else "no copies of real images")


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.severity == SUSPECT))


def _said_space(found: Found, config: DictConfig) -> str:
    """The space that the images are taken to be stored in."""
    if found.images.dtype == torch.uint8 or found.space == "pixels":
        return "pixel"
    return found.space if found.space in SPACES else config.method.space


def _labels(given: Tensor | None, count: int, num_classes: int) -> Tensor:
    """The images' classes: the file's where they can be, otherwise by place."""
    if given is not None and not counts.check_range(given, count, num_classes):
        return given.long()
    return torch.arange(count) * num_classes // max(1, count)


def _soft(
    labels_soft: Tensor, labels: Tensor, classes: Tensor, said: str, temperature: float | None, num_classes: int
) -> list[Finding]:
    """Findings about soft labels; where the images are in another order, those of the images count."""
    if labels_soft.ndim == 2 and labels_soft.shape == (len(labels), num_classes):
        top = labels_soft.argmax(1)
        labels = classes if int((top == classes).sum()) > int((top == labels).sum()) else labels
    return soft.check_soft(labels_soft, len(labels), labels, num_classes, said, temperature)
