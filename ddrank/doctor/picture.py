"""The picture of an examination: the images by class, their values and classes against the real data's."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddrank import atomic
from ddrank.data import RealDataset
from ddrank.data.readers.found import Found
from ddrank.doctor.examine import Diagnosis
from ddrank.doctor.findings import WRONG
from ddrank.doctor.readings import shrunk
from ddrank.doctor.soft import entropy, what_they_are

_CLASSES, _COLUMNS = 10, 10
_SIDE = 96  # pixels to which larger images are shrunk
_COLOURS = {True: "#c0392b", False: "#b9770e"}
_REAL, _THESE = "#9aa5b1", "#1f77b4"
_NUMBERS = 1 << 22  # whose distribution is drawn
_PLOTS, _LINE = 6.2, 0.2  # height of the plots and of a line of text, inches


def draw(diagnosis: Diagnosis, found: Found, real: RealDataset, header: str, path: Path) -> Path:
    """Draw a PNG at `path`: the images as the configuration takes them, a row for each class; their values against real
    ones taken alike; what the judge takes each class for; the mean soft label of each class; and the findings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading, lines = textwrap.wrap(header, 165), _lines(diagnosis)
    plots = 0.6 if diagnosis.believed is None else _PLOTS if found.soft_labels is None else _PLOTS - 0.8
    top, bottom = _LINE * len(heading) + 0.5, _LINE * len(lines) + 0.8
    height = top + plots + bottom
    figure = Figure(figsize=(12, height), dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.12 / height, "\n".join(heading), fontsize=8.5, va="top", weight="bold", linespacing=1.4)
    for number, (text, colour) in enumerate(lines):
        y = (_LINE * (len(lines) - number) + 0.08) / height
        figure.text(0.012, y, text, fontsize=8, va="top", color=colour)
    edges = {"left": 0.07, "right": 0.985, "bottom": bottom / height, "top": 1 - top / height}
    if diagnosis.believed is None:
        axis = figure.add_subplot(figure.add_gridspec(1, 1, **edges)[0])
        _empty(axis, "these are no images of the dataset's shape")
        return _save(figure, path)
    left, right = figure.add_gridspec(1, 2, width_ratios=(1, 1.05), wspace=0.16, **edges)
    _images(figure.add_subplot(left), diagnosis, real.class_names)
    above, below = right.subgridspec(2, 1, height_ratios=(1, 1.5), hspace=0.34)
    _histogram(figure.add_subplot(above), diagnosis)
    if found.soft_labels is None:
        _judged(figure.add_subplot(below), diagnosis, real.class_names)
    else:
        first, second = below.subgridspec(1, 2, wspace=0.36)
        _judged(figure.add_subplot(first), diagnosis, real.class_names)
        _soft(figure.add_subplot(second), diagnosis, found.soft_labels, real.class_names)
    return _save(figure, path)


def _images(axis, diagnosis: Diagnosis, names: Sequence[str]) -> None:
    """Images as pixels under the configuration's reading, clamped to what can be shown: a row for each class; where
    they are one a class, several classes a row."""
    labels = diagnosis.labels.numpy()
    most = _CLASSES if len(labels) > len(names) else 4 * _CLASSES
    shown = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    rows = [list(np.flatnonzero(labels == label)[:_COLUMNS]) for label in shown]
    single = max(map(len, rows)) == 1 and len(rows) > 3
    if single:
        order, wide = [row[0] for row in rows if row], int(np.ceil(np.sqrt(len(rows))))
        rows = [order[start : start + wide] for start in range(0, len(order), wide)]
    chosen = torch.tensor([index for row in rows for index in row])
    pixels = shrunk(diagnosis.believed.space.inverse(diagnosis.images[chosen]).nan_to_num().clamp(0, 1), _SIDE)
    (channels, height, width), pixels = pixels.shape[1:], iter(pixels)
    scale = -(-40 // height)  # small images are shown with large pixels
    gap, under = 3, 12 if single else 3
    cell = height * scale + under, width * scale + gap
    canvas = np.ones((len(rows) * cell[0], max(map(len, rows)) * cell[1], 3))
    for number, row in enumerate(rows):
        for column, index in enumerate(row):
            image = next(pixels).expand(3, -1, -1) if channels == 1 else next(pixels)[:3]
            image = image.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
            y, x = number * cell[0], column * cell[1]
            canvas[y : y + height * scale, x : x + width * scale] = image
            if not diagnosis.images[index].isfinite().all():
                _cross(axis, x, y, width * scale, height * scale)
            if single:
                axis.text(
                    x + width * scale / 2, y - 1, _short(names[labels[index]]), ha="center", va="bottom", fontsize=7
                )
    axis.imshow(canvas, interpolation="nearest")
    axis.set_anchor("NW")
    axis.set_xticks([])
    middles = [number * cell[0] + height * scale / 2 for number in range(len(rows))]
    axis.set_yticks([] if single else middles, [] if single else [_short(names[label]) for label in shown], fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    count = len(chosen)
    note = "" if count == len(labels) else f" ({count} of {len(labels)})"
    axis.set_title(f"images{note}, taken as {diagnosis.believed.name}", fontsize=9, loc="left", pad=14 if single else 6)


def _cross(axis, x: int, y: int, width: int, height: int) -> None:
    """Mark an image that holds values which are no numbers: it would look like a dark one."""
    for down in (False, True):
        heights = (y, y + height - 1) if down else (y + height - 1, y)
        axis.plot((x, x + width - 1), heights, color=_COLOURS[True], linewidth=1.6)


def _histogram(axis, diagnosis: Diagnosis) -> None:
    values = _some(diagnosis.images)
    values = values[values.isfinite()].numpy()
    expected = _some(diagnosis.believed.space.forward(diagnosis.real)).numpy()
    both = [expected, values] if len(values) else [expected]
    low, high = (pick(np.quantile(part, level) for part in both) for pick, level in ((min, 0.001), (max, 0.999)))
    bins = np.linspace(low, high + 1e-6, 90)
    axis.hist(expected, bins, density=True, color=_REAL, alpha=0.55, label="real images, taken alike")
    axis.hist(values, bins, density=True, color=_THESE, histtype="step", linewidth=1.3, label="these images")
    axis.set_yscale("log")
    axis.set_title(f"values, taken as {diagnosis.believed.name}", fontsize=9, loc="left")
    if diagnosis.fitting is not diagnosis.believed:
        axis.set_title(f"they fit {diagnosis.fitting.words}", fontsize=8, loc="right", color=_COLOURS[True])
    axis.legend(fontsize=7, frameon=False)
    axis.tick_params(labelsize=7)
    axis.tick_params(axis="y", which="both", left=False, labelleft=False)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(alpha=0.25, axis="x")


def _some(images: Tensor) -> Tensor:
    """Up to some millions of the numbers of `images`, flat, from all of them."""
    return images.flatten()[:: 1 + images.numel() // _NUMBERS]


def _judged(axis, diagnosis: Diagnosis, names: Sequence[str]) -> None:
    if diagnosis.judged is None:
        _empty(axis, "no judge was asked")
        return
    _matrix(axis, diagnosis.judged.table, names)
    axis.set_title("what each class looks like", fontsize=9, loc="left")
    axis.set_xlabel("looks like", fontsize=8)
    axis.set_ylabel("class", fontsize=8)


def _soft(axis, diagnosis: Diagnosis, soft: Tensor, names: Sequence[str]) -> None:
    if tuple(soft.shape) != (len(diagnosis.labels), len(names)):
        _empty(axis, f"soft labels of shape {tuple(soft.shape)}")
        return
    taken = soft.float().nan_to_num()
    probabilities = taken.clamp(0, 1) if diagnosis.soft_kind == "probabilities" else taken.softmax(1)
    table = torch.zeros(len(names), len(names)).index_add_(0, diagnosis.labels, probabilities)
    _matrix(axis, table / diagnosis.labels.bincount(minlength=len(names)).clamp_min(1).unsqueeze(1), names)
    axis.set_title(f"mean soft label, taken as {diagnosis.soft_kind}", fontsize=9, loc="left")
    kind = what_they_are(taken)
    flatness = "" if kind == "constant" else f", entropy {entropy(taken, kind):.2f}"
    axis.set_xlabel(f"{kind}{flatness}", fontsize=8)


def _matrix(axis, table: Tensor, names: Sequence[str]) -> None:
    axis.imshow(table.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.set_anchor("NW")
    few = len(names) <= 12
    ticks, words = (range(len(names)), [_short(name) for name in names]) if few else ([], [])
    axis.set_xticks(ticks, words, fontsize=6.5, rotation=90 if max(map(len, names)) > 2 else 0)
    axis.set_yticks(ticks, words, fontsize=6.5)
    axis.tick_params(length=0)
    axis.spines[:].set_color("#cccccc")


def _empty(axis, text: str) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color="#999999")


def _lines(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The findings, wrapped, each line with its colour."""
    if not diagnosis.findings:
        return [("nothing found", "#1e8449")]
    lines = []
    for finding in diagnosis.findings:
        colour = _COLOURS[finding.severity == WRONG]
        wrapped = textwrap.wrap(f"{finding.severity}: {finding.what}  →  {finding.setting}", 180)
        lines += [(text if not number else f"      {text}", colour) for number, text in enumerate(wrapped)]
    return lines


def _short(name: str) -> str:
    return name if len(name) <= 11 else name[:10] + "…"


def _save(figure, path: Path) -> Path:
    return atomic.write_with(path, lambda temporary: figure.savefig(temporary))
