"""One examination: what was found in the files, held against the configuration and the real data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddrank.config import SOFT_KINDS, SPACES
from ddrank.data import RealDataset
from ddrank.data.readers.found import Found
from ddrank.doctor import copies, counts, order, rate, soft, spaces, values
from ddrank.doctor.findings import SUSPECT, Finding
from ddrank.doctor.judge import Judge, find_judge
from ddrank.doctor.order import Judged
from ddrank.doctor.readings import Reading, as_pixels, readings, real_pixels
from ddrank.engine import Engine
from ddrank.progress import Display
from ddrank.store import Store

_REAL = 2000  # real images whose statistics are taken
_MOST = 20_000  # distilled images whose pixels are compared with each other and with real ones
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
    images = as_pixels(found.images)
    findings = counts.check_dataset(found.metadata.get("dataset"), dataset.name)
    findings += rate.check_rate(method.lr if found.lr is None else found.lr, found.lr is not None)
    findings += soft.check_presence(found.soft_labels, method.labels, method.relabel)
    if problems := counts.check_shape(images, dataset.channels, dataset.size, method.resize):
        return Diagnosis(_sorted(problems + findings), (), images)
    notes, facts = [], {}
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
    known = readings(_said_space(found, config), tuple(method.mean), tuple(method.std), real, store)
    fitting, judged, classes = known[0], None, labels
    findings += numbering
    if len(good):
        candidates = spaces.fits(images[good], sample, known)
        fitting = spaces.best(candidates, spaces.white(images[good])).reading
        facts["misfit"] = round(candidates[0].misfit, 3)
        said_by = "the file" if found.space in SPACES else "method.space"
        findings += spaces.check_space(candidates, images[good], said_by)
        notes += [f"values in {fitting.name} space"] if fitting is known[0] else []
        pixels = fitting.space.inverse(images[good])
        if numbered:
            judge = find_judge(config, real, store, engine, display)
            judged, misplaced, note = _judge(judge, pixels, labels[good], found.labels is not None, real)
            facts |= _facts(judge, judged)
            findings, notes = findings + misplaced, notes + note
            if any(finding.kind == "class-order" for finding in misplaced):
                classes = torch.tensor(order.assigned(judged.table))[labels]
            pixels = order.laid_out(pixels, judged.layout) if judged else pixels
        if len(images) <= _MOST:
            copied, note = _copies(pixels, good, real)
            findings, notes = findings + values.check_duplicates(images, labels) + copied, [*notes, note]
    soft_kind = found.soft_kind if found.soft_kind in SOFT_KINDS else method.soft_kind
    if found.soft_labels is not None and numbered:
        unfit = _soft(found.soft_labels.float(), labels, classes, soft_kind, method.temperature, dataset.num_classes)
        findings += unfit
        notes += [] if unfit else [f"soft labels are {soft_kind}, of their images' classes"]
    return Diagnosis(
        _sorted(findings), tuple(notes), images, known[0], fitting, labels, judged, soft_kind, sample, facts
    )


def _judge(
    judge: Judge | None, pixels: Tensor, labels: Tensor, given: bool, real: RealDataset
) -> tuple[Judged | None, list[Finding], list[str]]:
    """What the judge saw, the findings that follow, and what to say where there are none."""
    if judge is None:
        return None, [], ["class order not told: the real images are too many and too large to train a judge shortly"]
    judged = order.judge_images(judge, pixels, labels)
    findings = order.check_layout(judged) + order.check_order(judge, judged, labels, given, real.class_names)
    if findings:
        return judged, findings, []
    if not order.telling(judge):
        return judged, [], [f"class order not told: the judge's own accuracy is {judge.accuracy:.2f}"]
    if judged.recognised < max(0.3, 2 / real.num_classes):
        return judged, [], [f"class order not told: the images are not recognised ({judged.recognised:.2f})"]
    return judged, [], [f"images look like their classes (probability {judged.recognised:.2f})"]


def _facts(judge: Judge | None, judged: Judged | None) -> dict[str, float]:
    if judge is None or judged is None:
        return {}
    return {"judge_accuracy": round(judge.accuracy, 4), "recognised": round(judged.recognised, 4)}


def _copies(pixels: Tensor, numbers: Tensor, real: RealDataset) -> tuple[list[Finding], str]:
    """Findings about copies of real images among `pixels`, which have these `numbers`, and what to say of others."""
    nearest = copies.find_nearest(pixels, real)
    if nearest is None:
        return [], "copies of real images not searched: there are too many"
    return copies.check_copies(nearest, numbers), copies.note_copies(nearest) or "no copies of real images"


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
    labels_soft: Tensor, labels: Tensor, classes: Tensor, said: str, temperature: float, num_classes: int
) -> list[Finding]:
    """Findings about soft labels; where the images are in another order, those of the images count."""
    if labels_soft.ndim == 2 and labels_soft.shape == (len(labels), num_classes):
        top = labels_soft.argmax(1)
        labels = classes if int((top == classes).sum()) > int((top == labels).sum()) else labels
    return soft.check_soft(labels_soft, len(labels), labels, num_classes, said, temperature)
