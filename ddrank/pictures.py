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
STYLES = {
    "real_hard": ("C0", "-"),
    "syn_any": ("C2", "-"),
    "syn_hard": ("C1", ":"),
    "rdm_any": ("C3", "-"),
    "syn_any_noaug": ("C2", "--"),
    "rdm_any_noaug": ("C3", "--"),
}


def grid(pixels: Tensor, labels: Tensor, class_names: Sequence[str], path: Path) -> Path:
    """Draw `pixels` (N, C, H, W) in [0, 1] as a PNG at `path`: a row for each class; of one image a class, rows of ten.

    At most 20 classes and 10 images of each are shown (100 classes of one image); the title says how many there are.
    """
    single = len(labels) == len(class_names)
    rows = [np.flatnonzero(labels.numpy() == label)[:MOST_COLUMNS] for label in range(len(class_names))]
    if single:
        order = np.concatenate(rows)[: MOST_COLUMNS**2]
        rows = [order[start : start + MOST_COLUMNS] for start in range(0, len(order), MOST_COLUMNS)]
    else:
        rows = rows[:MOST_CLASSES]
    columns = max(len(row) for row in rows)
    height = (0.85 if single else 0.65) * len(rows)
    figure = _figure(0.65 * columns + (0.2 if single else 1.2), height + 0.3)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    top = height / (height + 0.3) - (0.15 / height if single else 0)
    figure.subplots_adjust(top=top, bottom=0.01, wspace=0.06, hspace=0.35 if single else 0.06)
    for number, (row, cells) in enumerate(zip(rows, axes, strict=True)):
        for axis in cells:
            axis.set_axis_off()
        for index, axis in zip(row, cells, strict=False):
            image = pixels[index].permute(1, 2, 0).numpy()
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            if single:
                axis.set_title(_short(class_names[int(labels[index])]), fontsize=6, pad=2)
        if not single:
            name = _short(class_names[number])
            cells[0].text(-0.15, 0.5, name, transform=cells[0].transAxes, ha="right", va="center", fontsize=8)
    shown = sum(len(row) for row in rows)
    note = "" if shown == len(labels) else f", {shown} shown"
    figure.suptitle(f"{len(labels)} images of {len(class_names)} classes{note}", fontsize=8, y=1.0, va="bottom")
    return _save(figure, path)


def curves(fits: Mapping[str, Sequence[Fit]], path: Path) -> Path:
    """Draw the training loss of every arm's tested students as a PNG at `path`: the mean over seeds as a line, each
    seed thin; and the test accuracies on the way, where the protocol takes them."""
    tested = any(fit.tests for arm in fits.values() for fit in arm)
    figure = _figure(11 if tested else 7, 4.2)
    axes = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
    for arm, students in sorted(fits.items(), key=lambda item: list(STYLES).index(item[0])):
        color, style = STYLES.get(arm, ("C7", "-"))
        lines = [np.array(fit.losses, dtype=float) for fit in students if fit.losses]  # None becomes NaN
        for line in lines:
            axes[0].plot(line[:, 0] / line[-1, 0], line[:, 1], color=color, alpha=0.15, linewidth=0.6)
        if lines:
            mean = np.mean([line[:, 1] for line in lines], axis=0)
            label = f"{arm} ({int(lines[0][-1, 0])} epochs)"
            axes[0].plot(
                lines[0][:, 0] / lines[0][-1, 0], mean, color=color, linestyle=style, linewidth=1.5, label=label
            )
        for fit in students:
            if fit.tests:
                epochs, accuracies = zip(*fit.tests, strict=True)
                axes[1].plot(np.array(epochs) / epochs[-1], accuracies, style, color=color, alpha=0.5, linewidth=0.8)
    axes[0].set(xlabel="share of the training", ylabel="training loss", title="Training loss of the tested students")
    if axes[0].lines:
        axes[0].set_yscale("symlog", linthresh=1e-3)
        axes[0].legend(fontsize=7, frameon=False)
    if tested:
        axes[1].set(xlabel="share of the training", ylabel="test accuracy", title="Test accuracy on the way")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return _save(figure, path)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 11 else name[:10] + "…"


def _save(figure, path: Path) -> Path:
    return atomic.write_with(path, lambda temporary: figure.savefig(temporary, bbox_inches="tight"))
