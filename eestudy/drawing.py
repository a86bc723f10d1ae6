"""The one look of all figures: safe for colour-blind readers, readable in grey, names written where lines end."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from eestudy import artifacts

# Okabe and Ito's colours and a grey, dark and light in turn. Source: Okabe & Ito, Color Universal Design, 2008.
CYCLE = {"#0072B2": "-", "#E69F00": "--", "#000000": "-.", "#009E73": ":", "#D55E00": (0, (5, 1, 1, 1, 1, 1)),
         "#CC79A7": (0, (1, 1)), "#56B4E9": (0, (8, 2)), "#7F7F7F": (0, (3, 1, 1, 1))}  # fmt: skip
EVIDENCE = {"both": "all evidence", "similar_users": "similar users only", "none": "no evidence"}  # modes, in words
GROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # of names that stand on lines
QUIET = "0.45"  # lines to compare with: chance, the rate of all rows, a limit
STYLE = {
    "axes.prop_cycle": cycler(color=list(CYCLE)) + cycler(linestyle=list(CYCLE.values())),
    "axes.axisbelow": True, "axes.edgecolor": "0.6", "axes.grid": True, "axes.labelsize": 10,
    "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 11, "axes.titlelocation": "left",
    "errorbar.capsize": 3, "figure.constrained_layout.use": True, "figure.dpi": 110, "figure.titlesize": 12,
    "font.family": "sans-serif", "font.size": 10, "grid.color": "0.9", "grid.linewidth": 0.7, "hatch.linewidth": 0.7,
    "legend.fontsize": 9, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5,
    "savefig.bbox": "tight", "savefig.dpi": 150, "svg.fonttype": "path", "svg.hashsalt": "eestudy",
    "xtick.color": "0.3", "xtick.labelcolor": "0.15", "ytick.color": "0.3", "ytick.labelcolor": "0.15",
}  # fmt: skip


def use_style() -> None:
    """Draw everything from here on in the study's look."""
    plt.rcdefaults()
    plt.rcParams.update(STYLE)


def save(run: artifacts.Run, figure: Figure, name: str) -> None:
    """Write `figures/<name>.png` into the run: a picture to look at, which no later notebook reads."""
    artifacts.write_atomic(run.path("figures") / f"{name}.png", picture(figure, "png"))


def picture(figure: Figure, ending: str) -> bytes:
    """A figure as a PNG or SVG file, the same bytes each time. Args: figure; "png" or "svg"."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, metadata={"Date": None} if ending == "svg" else {"Software": None})
    return buffer.getvalue()


def words(name: str) -> str:
    """A name of the tables as a reader says it: `one_sided_ratio` is 'one sided ratio'."""
    return name.replace("_", " ")


def reach(table, value: str) -> np.ndarray:
    """Error bars from the columns `<value>`, `<value>_lo` and `<value>_hi`.

    Returns:
        [2, n] lengths below and above the value, not negative, as matplotlib's `xerr` and `yerr` take them.
    """
    ends = [table[value] - table[f"{value}_lo"], table[f"{value}_hi"] - table[value]]
    return np.clip(np.asarray(ends, float), 0, None)


def plain_ticks(axis: Axis) -> None:
    """Numbers of a logarithmic axis at one, two and five times the powers of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def spread(values, gap: float) -> np.ndarray:
    """Move heights apart until neighbours are `gap` apart, keeping their order and their centre.

    Args:
        values: [n] heights.
        gap: the least distance, in the same unit.

    Returns:
        [n] heights.
    """
    order = np.argsort(values, kind="stable")
    placed = np.asarray(values, float)[order]
    for _ in range(100):
        for low in range(len(placed) - 1):
            overlap = gap - (placed[low + 1] - placed[low])
            if overlap > 1e-9:
                placed[low] -= overlap / 2
                placed[low + 1] += overlap / 2
    result = np.empty(len(placed))
    result[order] = placed
    return result


def label_points(axes: Axes, points: list[tuple[float, float, str, str]], x: float = 1.02, align: str = "left") -> None:
    """Write names in a column, spread so that none overlap, each tied to its point; set the limits before.

    Args:
        axes: where the points are.
        points: (x, y, name, colour) each, in the axes' data.
        x: of the column, as a share of the axes' width: 1.02 is to the right of it.
        align: "left" or "right".
    """
    lines = 1 + max((name.count("\n") for _, _, name, _ in points), default=0)
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    inside = [axes.transAxes.inverted().transform(axes.transData.transform((at, y)))[1] for at, y, _, _ in points]
    for (at, y, name, colour), place in zip(points, spread(inside, 11.5 * lines / height), strict=True):
        tie = {"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.35, "shrinkA": 0, "shrinkB": 3}  # pale
        axes.annotate(name, (at, y), xytext=(x, place), textcoords="axes fraction", fontsize=9, color=colour, ha=align,
                      va="center", annotation_clip=False, arrowprops=tie)  # fmt: skip


def label_marks(axes: Axes, line: np.ndarray, names: Sequence[str], colour: str, others: np.ndarray) -> None:
    """Name the marks of a line, each above or below, wherever more is free; set the limits and the scale before.

    Args:
        axes: where the line is.
        line: [n, 2] its marks, in the axes' data, in the order in which they are joined.
        names: n names of a few signs.
        colour: of the names.
        others: [m, 2] further marks, in the axes' data, that a name had better not cover.
    """
    points, away = axes.transData.transform(line), 11.0  # points from a mark to the middle of its name
    between = [start + (end - start) * np.linspace(0, 1, 24)[:, None] for start, end in itertools.pairwise(points)]
    busy = np.concatenate([axes.transData.transform(others.reshape(-1, 2)), points, *between])  # [busy, 2] pixels
    busy = busy[np.isfinite(busy).all(axis=1)]
    for mark, point, name in zip(line, points, names, strict=True):
        sides = np.array([[0, away], [0, -away]])  # [2, 2]
        spots = point + sides * axes.figure.dpi / 72
        nearest = np.linalg.norm(spots[:, None] - busy, axis=2).min(axis=1)  # [2] pixels
        axes.annotate(name, mark, xytext=sides[nearest.argmax()], textcoords="offset points", ha="center", va="center",
                      fontsize=9, color=colour, bbox=GROUND, zorder=4)  # fmt: skip


def label_ends(axes: Axes) -> None:
    """Write the name of every labelled line where it ends, instead of a legend; set the limits before."""
    points = []
    for line in axes.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any() or line.get_label().startswith("_"):
            continue
        if line.get_transform() == axes.get_xaxis_transform():  # axvline
            axes.annotate(line.get_label(), (x[0], 0.97), xycoords=line.get_transform(), xytext=(3, 0), va="top",
                          textcoords="offset points", fontsize=9, color=line.get_color())  # fmt: skip
        else:
            level = line.get_transform() == axes.get_yaxis_transform()  # axhline: its x is a share of the axes
            low, high = axes.get_ylim()
            seen = known & (low <= y) & (y <= high)  # a line that leaves the picture is named where it is last seen
            last = np.flatnonzero(seen if seen.any() else known)[-1]
            end = axes.get_xlim()[1] if level else x[last]
            points.append((end, y[last], line.get_label(), line.get_color()))
    label_points(axes, points)
