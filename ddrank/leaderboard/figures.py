"""A ranking as figures for papers: PNG, PDF and SVG. Names are data, never mathematical notation.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; markers and line styles say the
same in grey.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddrank import atomic
from ddrank.leaderboard.configuration import printable, slugs
from ddrank.leaderboard.labels import place_labels
from ddrank.leaderboard.rank import Entry, Group, Ranking
from ddrank.leaderboard.statistics import ddrs
from ddrank.score import ARMS

FORMATS = ("png", "pdf", "svg")
MOST_LABELS = 16  # entries that are named in a figure; the best come first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
ARM_COLOURS = ("#4D4D4D", "#0072B2", "#56B4E9", "#E69F00", "#56B4E9", "#E69F00")  # of ARMS, by what they train on
_GREY, _PALE = "#666666", "#D0D0D0"
_STYLE = {
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.linewidth": 0.6,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.hashsalt": "ddrank",  # the same ranking gives the same bytes
}


def write(ranking: Ranking, folder: Path | str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every group's `plane` (IOR against HLR), `sweep` (ranks over w, of several entries) and `arms` (accuracies)
    in each of `formats` into `folder`. Returns the paths. Raises InputError when one cannot be written.
    """
    from matplotlib import rc_context

    drawn = {"plane": plane, "sweep": sweep, "arms": arms}
    written = []
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        for name, group in zip(group_names(ranking.groups), ranking.groups, strict=True):
            for kind, draw in drawn.items():
                if draw is sweep and len(group.entries) < 2:
                    continue
                figure = draw(ranking, group)
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # it is the same for all formats
                written += [_save(figure, Path(folder) / f"{name}-{kind}.{form}") for form in formats]
    return written


def group_names(groups: Sequence[Group]) -> list[str]:
    """A name for each group, of letters, digits, dots and hyphens: 'digits-ipc1-convnet3-strict'; different ones."""
    parts = ((group.dataset, f"ipc{group.ipc}", group.model, group.protocol, group.variant) for group in groups)
    return slugs(["-".join(filter(None, names)) for names in parts], "group")


def plane(ranking: Ranking, group: Group) -> Any:
    """IOR against HLR with 95 % intervals, and lines of equal DDRS at the ranking's w: better is up and to the left."""
    figure = _figure(5.2, 4.0)
    axis = figure.add_subplot()
    hlr, ior = (np.array([entry.scores[score].mean for entry in group.entries]) for score in ("hlr", "ior"))
    margins = {score: _margins(group.entries, score) for score in ("hlr", "ior")}
    some = slice(MOST_LABELS)
    bars = {"xerr": margins["hlr"][some], "yerr": margins["ior"][some]}
    axis.errorbar(hlr[some], ior[some], **bars, fmt="none", ecolor=_GREY, elinewidth=0.6, alpha=0.7)
    points = []
    for index, (x, y) in reversed(list(enumerate(zip(hlr, ior, strict=True)))):
        named = index < MOST_LABELS
        style = _style(index) if named else {"color": "#A0A0A0", "marker": ".", "markersize": 4}
        axis.plot(x, y, linestyle="none", markeredgecolor="white", markeredgewidth=0.5, **style)
        if named:
            points.append((x, y, _short(group.entries[index].name)))
    axis.set_xlabel("HLR: what is lost to the full data (lower is better)")
    axis.set_ylabel("IOR: what is gained over random images (higher is better)")
    axis.margins(0.12)
    axis.autoscale_view()
    _equal_ddrs(axis, ranking.w)
    _title(figure, group, f"grey: lines of equal DDRS at w = {ranking.w:g}; bars: 95 % intervals")
    spreads = np.column_stack([margins["hlr"], margins["ior"]])
    spreads[MOST_LABELS:] = 0
    place_labels(axis, points[::-1], np.column_stack([hlr, ior]), spreads)
    return figure


def sweep(ranking: Ranking, group: Group) -> Any:
    """Ranks by plain accuracy (left) and over w (a bump chart); below, Kendall's tau between the two."""
    found = group.sweep
    shown = min(MOST_LABELS, len(group.entries))
    figure = _figure(6.4, 1.9 + 0.24 * shown)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(0.9 + 0.24 * shown, 0.75))
    weights, left = found.weights[::10], -0.16
    places = [_places(row) for row in (found.accuracy, *found.ranks[::10])]
    rows = np.array(places)[:, :shown]  # of all entries, those named here
    rows = rows.argsort(1).argsort(1) + 1  # and their order among themselves
    for index, entry in enumerate(group.entries[:shown]):
        style = _style(index)
        line = {"color": style["color"], "linewidth": 1.6, "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
        marker = {name: style[name] for name in ("marker", "markersize")}
        marker |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
        upper.plot([left, weights[0]], rows[:2, index], **{**line, "linewidth": 0.7, "alpha": 0.6})
        upper.plot(weights, rows[1:, index], **line, **marker)
        upper.plot(left, rows[0, index], linestyle="none", color=style["color"], **marker)
        name = _short(entry.name)
        upper.text(left - 0.03, rows[0, index], f"{name}  {found.accuracy[index]}", ha="right", va="center")
        upper.text(1.03, rows[-1, index], f"{found.ranks[-1, index]}  {name}", va="center")
    upper.axvline(ranking.w, color=_GREY, linewidth=0.6, linestyle=":", zorder=0)
    upper.set(ylim=(shown + 0.6, 0.4), yticks=[])
    upper.spines[["left", "bottom"]].set_visible(False)
    upper.tick_params(bottom=False)
    upper.text(left, 0.1, "plain\naccuracy", ha="center", va="bottom", color=_GREY, fontsize=7)
    upper.text(0.5, 0.1, f"rank by DDRS (dotted: w = {ranking.w:g})", ha="center", va="bottom", color=_GREY, fontsize=7)
    lower.plot(found.weights, found.tau, color="black", linewidth=1.2)
    lower.axhline(0, color=_PALE, linewidth=0.6, zorder=0)
    lower.axvline(ranking.w, color=_GREY, linewidth=0.6, linestyle=":", zorder=0)
    lower.set(ylim=(-1.08, 1.08), yticks=[-1, 0, 1], xticks=np.linspace(0, 1, 6), xlim=(left - 0.04, 1.04))
    lower.set_ylabel("Kendall's tau with\nplain accuracy", fontsize=7)
    lower.set_xlabel("w: weight of IOR against HLR", x=_share(0.5, left))
    lower.spines["bottom"].set_bounds(0, 1)
    _title(figure, group)
    return figure


def _share(weight: float, left: float) -> float:
    return (weight - left + 0.04) / (1.08 - left)


def _places(ranks: np.ndarray) -> np.ndarray:
    """Ranks as different places: equal ones in the order of the table."""
    places = np.empty(len(ranks), dtype=int)
    places[np.argsort(ranks, kind="stable")] = np.arange(1, len(ranks) + 1)
    return places


def arms(ranking: Ranking, group: Group) -> Any:
    """Each arm's mean accuracy with its 95 % interval: a column an arm, a row an entry, best DDRS on top."""
    entries = group.entries[:MOST_LABELS]
    known = [arm for arm in ARMS if any(arm in entry.result.arms for entry in entries)]
    figure = _figure(1.2 + 1.15 * len(known), 0.9 + 0.25 * len(entries))
    axes = figure.subplots(1, len(known), sharey=True, sharex=True, squeeze=False)[0]
    for axis, arm in zip(axes, known, strict=True):
        _bars(axis, entries, arm)
    axes[0].set_yticks(range(len(entries)), [_short(entry.name) for entry in entries])
    axes[0].set_ylim(len(entries) - 0.4, -0.6)
    figure.supxlabel("test accuracy (fraction); bars: 95 % intervals over seeds", fontsize=8)
    _title(figure, group)
    return figure


def _bars(axis: Any, entries: Sequence[Entry], arm: str) -> None:
    rows = [row for row, entry in enumerate(entries) if arm in entry.result.arms]
    found = [entries[row] for row in rows]
    means = [entry.accuracies[arm].mean for entry in found]
    axis.barh(
        rows,
        means,
        xerr=_margins(found, arm),
        height=0.72,
        color=ARM_COLOURS[ARMS.index(arm)],
        edgecolor="white",
        hatch="////" if arm.endswith("noaug") else None,
        linewidth=0,
        error_kw={"elinewidth": 0.8, "ecolor": "black"},
    )
    for row, entry, mean in zip(rows, found, means, strict=True):
        high = (entry.interval(arm) or (0, mean))[1]
        mark = "" if entry.result.arms[arm].source == "measured" else "*"
        axis.text(high + 0.03, row, f"{mean:.3f}{mark}".removeprefix("0"), va="center", fontsize=6.5)
    axis.set_title(arm, fontsize=7.5, loc="left", x=-0.02)
    axis.set(xlim=(0, 1.3), xticks=[0, 0.5, 1])
    axis.set_xticklabels(["0", ".5", "1"])
    axis.spines["bottom"].set_bounds(0, 1)
    axis.tick_params(left=False)
    axis.grid(axis="x", color=_PALE, linewidth=0.5)
    axis.set_axisbelow(True)


def _equal_ddrs(axis: Any, w: float) -> None:
    """Straight lines w * IOR - (1 - w) * HLR = a, each with its DDRS where it leaves the axes, right or on top."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    axis.set(xlim=(left, right), ylim=(bottom, top))
    corners = ddrs(np.array([right, left]), np.array([bottom, top]), w)
    for level in MaxNLocator(9).tick_values(*corners):
        if not corners[0] < level < corners[1]:
            continue
        a = np.log(level * (np.exp(1) - np.exp(-1)) + np.exp(-1))
        y = None if w == 0 else (a + (1 - w) * right) / w
        if y is not None and y <= top:
            axis.annotate(f"{level:g}", (right, y), (3, 0), textcoords="offset points", va="center", **_SMALL)
        else:
            y, x = top, (w * top - a) / (1 - w)
            axis.annotate(f"{level:g}", (x, y), (0, 3), textcoords="offset points", ha="center", **_SMALL)
        start = (right, y) if y < top else (x, top)
        slope = {"slope": (1 - w) / w} if w else {"xy2": (start[0], start[1] - 1)}
        axis.axline(start, **slope, color=_PALE, linewidth=0.7, zorder=0)


_SMALL = {"color": _GREY, "fontsize": 6.5, "annotation_clip": False}


def _margins(entries: Sequence[Entry], name: str) -> np.ndarray:
    """Half the widths of the entries' intervals, 0 where there is none."""
    intervals = [entry.interval(name) or (0, 0) for entry in entries]
    return np.array([(high - low) / 2 for low, high in intervals])


def _style(index: int) -> dict[str, Any]:
    marker = MARKERS[index % len(MARKERS)]
    size = 9.5 if marker == "*" else 7.5 if marker in "PX" else 6
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker, "markersize": size}


def _title(figure: Any, group: Group, below: str = "") -> None:
    hidden = len(group.entries) - MOST_LABELS
    note = f"the best {MOST_LABELS} of {len(group.entries)}" if hidden > 0 else ""
    second = "; ".join(part for part in (below, note) if part)
    figure.suptitle("\n".join(filter(None, (printable(group.title), second))), x=0.01, ha="left", fontsize=8)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 28 else f"{name[:27]}…"


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(path.suffix[1:])
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every glyph that a PDF takes
    return atomic.write_with(path, lambda temporary: figure.savefig(temporary, metadata=undated))
