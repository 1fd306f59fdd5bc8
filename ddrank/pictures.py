"""Pictures beside the numbers: the images by class, and the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ddrank import atomic
from ddrank.measure import Fit

MOST_CLASSES = 20
MOST_COLUMNS = 10


def grid(pixels: Tensor, labels: Tensor, class_names: Sequence[str], path: Path) -> Path:
    """Draw `pixels` (N, C, H, W) in [0, 1], one row for each class, as a PNG at `path`.

    At most 20 classes and 10 images of each are shown; the title says how many there are.
    """
    rows = [np.flatnonzero(labels.numpy() == label)[:MOST_COLUMNS] for label in range(len(class_names))][:MOST_CLASSES]
    columns = max(len(row) for row in rows)
    figure = _figure(0.62 * columns + 1.2, 0.62 * len(rows) + 0.5)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, cells, name in zip(rows, axes, class_names, strict=False):
        for axis in cells:
            axis.set_axis_off()
        for index, axis in zip(row, cells, strict=False):
            image = pixels[index].permute(1, 2, 0).numpy()
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        cells[0].text(-0.15, 0.5, name, transform=cells[0].transAxes, ha="right", va="center", fontsize=8)
    shown = sum(len(row) for row in rows)
    note = "" if shown == len(labels) else f", {shown} of them shown"
    figure.suptitle(f"{len(labels)} images of {len(class_names)} classes{note}", fontsize=8, y=0.995)
    return _save(figure, path)


def curves(fits: Mapping[str, Sequence[Fit]], path: Path) -> Path:
    """Draw the training loss of every arm's tested students over the epochs as a PNG at `path`: the mean over seeds as a
    line, each seed thin; accuracies on the way as dots where the protocol takes them."""
    tested = any(fit.tests for arm in fits.values() for fit in arm)
    figure = _figure(11 if tested else 7, 4.2)
    axes = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
    for number, (arm, students) in enumerate(fits.items()):
        # An arm of another length has an axis of its own share: progress through its own training.
        lines = [np.array([(epoch, np.nan if loss is None else loss) for epoch, loss in fit.losses]) for fit in students]
        lines = [line for line in lines if len(line)]
        for line in lines:
            axes[0].plot(line[:, 0] / line[-1, 0], line[:, 1], color=f"C{number}", alpha=0.2, linewidth=0.7)
        if lines:
            mean = np.mean([line[:, 1] for line in lines], axis=0)
            label = f"{arm} ({int(lines[0][-1, 0])} epochs)"
            axes[0].plot(lines[0][:, 0] / lines[0][-1, 0], mean, color=f"C{number}", linewidth=1.6, label=label)
        for fit in students:
            if fit.tests:
                epochs, accuracies = zip(*fit.tests, strict=True)
                axes[1].plot(np.array(epochs) / epochs[-1], accuracies, ".-", color=f"C{number}", alpha=0.5, linewidth=0.7)
    axes[0].set(xlabel="share of the training", ylabel="training loss", title="Students tested, each arm's chosen rate")
    if axes[0].lines:
        axes[0].set_yscale("symlog", linthresh=1e-3)
        axes[0].legend(fontsize=7, frameon=False)
    if tested:
        axes[1].set(xlabel="share of the training", ylabel="test accuracy", title="Checkpoints")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return _save(figure, path)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained" if width >= 7 else None)
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path: Path) -> Path:
    return atomic.write_with(path, lambda temporary: figure.savefig(temporary, bbox_inches="tight"))
