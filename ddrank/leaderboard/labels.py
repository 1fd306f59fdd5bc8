"""Names beside the points of a figure, so that they cover neither points nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_ANGLES = np.deg2rad([0, 180, 45, 135, -45, -135, 90, -90, 22, 158, -22, -158])
_REACHES = (6, 10, 16, 24, 34, 46)  # points from a marker's middle to its name
_LINE_FROM = 12  # reach from which a line leads back to the marker
_MARKER = 4.5  # points that a marker reaches from its middle, and a name keeps free
_OUTSIDE, _OVER_NAMES, _OVER_BARS = 10, 4, 1  # what covered area costs
_PER_POINT = 3  # what distance costs, in pixels of area


def place_labels(
    axis: Any, points: Sequence[tuple[float, float, str]], marks: np.ndarray, spreads: np.ndarray, size: float = 7.5
) -> None:
    """Write each point's name (x, y, name; data coordinates) near it, where it covers as little as possible.

    Names stay within the axes, off each other, off all `marks` (points, 2) and, if there is room, off their error bars
    of half widths `spreads` (points, 2). The first points choose first.
    """
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    figure.draw_without_rendering()  # the layout has to be what it will be
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    frame = np.array(axis.get_window_extent(renderer).extents)
    boxes, costs = _obstacles(axis, marks, spreads, scale)
    reaches = np.repeat(_REACHES, len(_ANGLES))
    for x, y, name in points:
        text = axis.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=size, ha="center", va="center")
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        extent = text.get_window_extent(renderer)
        half = np.array([extent.width, extent.height]) / 2
        offsets = np.array([_offset(reach * scale, angle, half) for reach in _REACHES for angle in _ANGLES])
        middles = axis.transData.transform((x, y)) + offsets
        candidates = np.column_stack([middles - half, middles + half])
        chosen = int(np.argmin(_covered(candidates, boxes, costs, frame) + _PER_POINT * scale * reaches))
        text.set_position(tuple(offsets[chosen] / scale))
        boxes, costs = np.vstack([boxes, candidates[chosen]]), np.append(costs, _OVER_NAMES)
        if reaches[chosen] > _LINE_FROM:
            axis.annotate(
                "",
                (x, y),
                np.clip(0, offsets[chosen] - half, offsets[chosen] + half) / scale,  # where the name is nearest
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
            )


def _obstacles(axis: Any, marks: np.ndarray, spreads: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Markers and error bars as boxes (boxes, 4) in pixels, and what an area over each costs (boxes,)."""
    middle = axis.transData.transform(marks)
    low, high = axis.transData.transform(marks - spreads), axis.transData.transform(marks + spreads)
    thick = np.array([scale, scale])
    across = np.column_stack([low[:, 0], middle[:, 1], high[:, 0], middle[:, 1]])
    upright = np.column_stack([middle[:, 0], low[:, 1], middle[:, 0], high[:, 1]])
    bars = np.vstack([across, upright]) + np.concatenate([-thick, thick])
    boxes = np.vstack([np.column_stack([middle - _MARKER * scale, middle + _MARKER * scale]), bars])
    return boxes, np.repeat([_OVER_NAMES, _OVER_BARS], [len(marks), 2 * len(marks)])


def _offset(reach: float, angle: float, half: np.ndarray) -> np.ndarray:
    """From a point to the middle of a name whose edge lies `reach` away in direction `angle`; pixels."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    return direction * reach + np.where(np.abs(direction) > 0.3, np.sign(direction), 0) * half


def _covered(candidates: np.ndarray, boxes: np.ndarray, costs: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """What the areas cost that each candidate (candidates, 4) shares with boxes (boxes, 4) or has outside the frame."""
    low = np.maximum(candidates[:, None, :2], boxes[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2) @ costs
    inside = np.clip(np.minimum(candidates[:, 2:], frame[2:]) - np.maximum(candidates[:, :2], frame[:2]), 0, None)
    outside = np.prod(candidates[:, 2:] - candidates[:, :2], axis=1) - np.prod(inside, axis=1)
    return shared + _OUTSIDE * outside
