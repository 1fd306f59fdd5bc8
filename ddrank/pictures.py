"""Pictures beside the numbers: the images by class, and the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddrank import atomic
from ddrank.measure import Fit
from ddrank.wording import counted

MOST_CLASSES = 20
MOST_COLUMNS = 10
_CELL = 75  # pixels that an image in a grid is nearly wide, at least
_MOMENTS = 6  # of a distillation, in its picture
_WIDE = 480  # pixels that a film is at least nearly wide
STYLES = {
    "real_hard": ("C0", "-"),
    "syn_any": ("C2", "-"),
    "syn_hard": ("C1", ":"),
    "rdm_any": ("C3", "-"),
    "syn_any_noaug": ("C2", "--"),
    "rdm_any_noaug": ("C3", "--"),
}


def grid(pixels: Tensor, labels: Tensor, class_names: Sequence[str], path: Path, total: int | None = None) -> Path:
    """Draw `pixels` (N, C, H, W), uint8 or in [0, 1], as a PNG at `path`: a row for each class; of one image a class,
    rows of ten.

    At most 20 classes and 10 images of each are shown (100 classes of one image); the title says how many there are,
    `total` where `pixels` are only those that are shown (see `shown`).
    """
    total = len(labels) if total is None else total
    single = total == len(class_names)
    rows = [np.flatnonzero(labels.numpy() == label)[:MOST_COLUMNS] for label in range(len(class_names))]
    if single:
        order = np.concatenate(rows)[: MOST_COLUMNS**2]
        rows = [order[start : start + MOST_COLUMNS] for start in range(0, len(order), MOST_COLUMNS)]
    else:
        rows = rows[:MOST_CLASSES]
    images = (pixels / 255 if pixels.dtype == torch.uint8 else pixels).clamp(0, 1).permute(0, 2, 3, 1)
    times = max(1, _CELL // images.shape[2])
    height, width = times * images.shape[1], times * images.shape[2]
    gap = max(1, width // 16)
    above = 5 * gap if single else gap  # with room for a name
    canvas = np.ones((len(rows) * (height + above), max(map(len, rows)) * (width + gap), 3))
    figure = _figure(0.65 * canvas.shape[1] / (width + gap), 0.65 * canvas.shape[0] / (width + gap))
    axis = figure.add_axes((0, 0, 1, 1))
    for number, row in enumerate(rows):
        top = number * (height + above) + above
        for column, index in enumerate(row):
            left = column * (width + gap)
            enlarged = images[index].numpy().repeat(times, 0).repeat(times, 1)
            canvas[top : top + height, left : left + width] = enlarged
            if single:
                name = _short(class_names[int(labels[index])])
                axis.text(left + width / 2, top - gap, name, ha="center", va="bottom", fontsize=6)
        if not single:
            axis.text(-2 * gap, top + height / 2, _short(class_names[number]), ha="right", va="center", fontsize=8)
    axis.imshow(canvas)
    axis.set_axis_off()
    count = sum(len(row) for row in rows)
    note = "" if count == total else f", {count} shown"
    figure.suptitle(f"{total} images of {len(class_names)} classes{note}", fontsize=8, y=1.0, va="bottom")
    return _save(figure, path)


def shown(labels: Tensor) -> Tensor:
    """Which of images with class-major `labels` (N,) a mosaic shows: int64, in their order."""
    index = torch.arange(len(labels)).unflatten(0, (int(labels.max()) + 1, -1))
    return index[: MOST_COLUMNS**2 if index.shape[1] == 1 else MOST_CLASSES, :MOST_COLUMNS].flatten()


def mosaic(pixels: Tensor, labels: Tensor) -> Tensor:
    """`pixels` (N, C, H, W) in [0, 1], class-major by `labels`, side by side as uint8 (height, width, C).

    A row for each class; of one image a class, rows of ten. As many of each as `grid` shows (see `shown`).
    """
    index = shown(labels)
    classes = int(labels[index].max()) + 1
    images = (pixels[index] * 255).round().to(torch.uint8).unflatten(0, (classes, -1))
    if images.shape[1] == 1:
        images = images[:, 0]
        rows = -(-len(images) // MOST_COLUMNS)
        images = torch.nn.functional.pad(images, (0, 0) * 3 + (0, rows * MOST_COLUMNS - len(images)))
        images = images.unflatten(0, (rows, MOST_COLUMNS))
    framed = torch.nn.functional.pad(images, (0, 1, 0, 1), value=255)  # a line of white between them
    return framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-1, :-1].contiguous()


def film(frames: Sequence[tuple[int, Tensor]], path: Path) -> Path:
    """Mosaics (see `mosaic`) one after the other as a GIF at `path`, the last one shown longest."""
    from PIL import Image

    enlarged = [_enlarged(image) for _, image in frames]
    pictures = [Image.fromarray(image) for image in enlarged]
    lasting = [120] * (len(pictures) - 1) + [2000]
    return atomic.write_with(
        path,
        lambda temporary: pictures[0].save(
            temporary, save_all=True, append_images=pictures[1:], duration=lasting, loop=0
        ),
    )


def course(frames: Sequence[tuple[int, Tensor]], rows: Sequence[Mapping[str, float]], path: Path) -> Path:
    """How a distillation went, as a PNG at `path`: mosaics of some moments above, the loss over the iterations below,
    with the validation accuracy (right axis) where it was taken."""
    shown = [frames[round(k * (len(frames) - 1) / (_MOMENTS - 1))] for k in range(_MOMENTS)] if frames else []
    shown = list(dict(shown).items())
    wide = bool(shown) and shown[0][1].shape[1] > 3 * shown[0][1].shape[0]  # moments below each other
    above = 0 if not shown else 0.45 * len(shown) if wide else 2.2
    figure = _figure(8 if wide else 10, 3.2 + above)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=(max(above, 1e-3), 3), hspace=0.25)
    places = upper.subgridspec(*((len(shown), 1) if wide else (1, max(1, len(shown)))))
    for place, (iteration, image) in zip(places, shown, strict=False):
        axis = figure.add_subplot(place)
        axis.imshow(_enlarged(image))
        axis.set_axis_off()
        words = "start" if iteration == 0 else f"{iteration}"
        if wide:
            axis.text(-0.02, 0.5, words, transform=axis.transAxes, ha="right", va="center", fontsize=8)
        else:
            axis.set_title(words, fontsize=8)
    axis = figure.add_subplot(lower)
    losses = [(row["iteration"], row["loss"]) for row in rows if "loss" in row]
    if losses:
        axis.plot(*zip(*losses, strict=True), color="C0", linewidth=0.8)
        if all(loss > 0 for _, loss in losses):
            axis.set_yscale("log")
    axis.set(xlabel="iteration", ylabel="loss")
    accuracies = [(row["iteration"], row["validation"]) for row in rows if "validation" in row]
    if accuracies:
        other = axis.twinx()
        other.plot(*zip(*accuracies, strict=True), color="C2", marker="o", markersize=3)
        other.set_ylabel("validation accuracy", color="C2")
        other.spines["top"].set_visible(False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    return _save(figure, path)


def _enlarged(image: Tensor) -> np.ndarray:
    """A mosaic (H, W, C) as RGB, each pixel as a square where it is small."""
    times = max(1, _WIDE // image.shape[1])
    return np.repeat(np.repeat(image.expand(-1, -1, 3).numpy(), times, 0), times, 1)


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
            label = f"{arm} ({counted(int(lines[0][-1, 0]), 'epoch')})"
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
