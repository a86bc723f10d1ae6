"""The study's figures. Readable in grey: every line has its own dash and marker and is labelled where it ends."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from eestudy import artifacts
from eestudy.report.tables import RIVALS

MODES = {  # label, colour (Okabe and Ito: safe for colour-blind readers), dash, marker
    "both": ("similar users + own items", "#0072B2", "-", "o"),
    "similar_users": ("similar users only", "#D55E00", "--", "s"),
    "none": ("no evidence", "#000000", ":", "^"),
}
COLOURS = {"static": "#0072B2", "dynamic": "#D55E00", "control": "#666666", "baseline": "#00694d",
           "stacked": "#8b3a6b", "plain": "#000000"}  # fmt: skip
MARKERS = {"static": "o", "dynamic": "Dv^<>hpd8", "control": "Xx+", "baseline": "*", "stacked": "P", "plain": "s"}
LABELS = {"stacked": "LLM + evidence model", "plain": "plain way (one prompt per pair)"}
LEFT = 0.5  # room for names left of the axis, as a share of its length
METRICS = {"auc": "AUC (0.5 = chance)", "gauc": "GAUC: AUC within each user"}


def style() -> None:
    """The one look of all figures."""
    sns.set_theme(style="whitegrid", context="notebook", rc={
        "figure.dpi": 110, "savefig.dpi": 150, "savefig.bbox": "tight", "axes.titlesize": 12, "axes.labelsize": 11,
        "legend.fontsize": 9, "grid.color": "0.9", "grid.linewidth": 0.7,
        "svg.hashsalt": "eestudy", "svg.fonttype": "path",
        "figure.constrained_layout.use": True,
    })  # fmt: skip


def save(run: artifacts.Run, figure: Figure, name: str) -> None:
    """Write `figures/<name>.png` and `.svg` into the run."""
    for ending in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else {"Software": None}
        figure.savefig(buffer, format=ending, metadata=metadata)
        artifacts.write_bytes(run, f"figures/{name}.{ending}", buffer.getvalue())


def _spread(values, gap: float) -> np.ndarray:
    """Move label heights apart until neighbours are `gap` apart, keeping their order and their centre."""
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


def _label(axis, points: list[tuple[float, float, str, str]], x: float, align: str = "left") -> None:
    """Write labels in a column at `x`, spread so that none overlap, each tied to its (x, y, text, colour)."""
    low, high = axis.get_ylim()
    heights = _spread([y for _, y, _, _ in points], (high - low) * 0.052)
    for (at, y, text, colour), height in zip(points, heights, strict=True):
        line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        axis.annotate(text, (at, y), xytext=(x, height), textcoords="data", fontsize=8, color=colour, ha=align,
                      va="center", annotation_clip=False, arrowprops=line)  # fmt: skip


def _depth_panel(axis, curves: pd.DataFrame, metric: str, marks: dict[str, float]) -> None:
    ends = []
    for mode, (label, colour, dash, marker) in MODES.items():
        part = curves[curves["mode"] == mode].sort_values("layer")
        if part.empty:
            continue
        axis.fill_between(part["layer"], part[f"{metric}_lo"], part[f"{metric}_hi"], color=colour, alpha=0.13, lw=0)
        axis.plot(part["layer"], part[metric], dash, color=colour, marker=marker, ms=6)
        ends.append((part["layer"].iloc[-1], part[metric].iloc[-1], label, colour))
    for name, value in marks.items():
        axis.axhline(value, color="#00694d", lw=1, ls="-.")
        ends.append((curves["layer"].max(), value, name.replace("_", " "), "#00694d"))
    _label(axis, ends, curves["layer"].max() * 1.05)
    axis.set(xlabel="exit after layer", ylabel=METRICS[metric], xticks=sorted(curves["layer"].unique()))


def depth_figure(curves: pd.DataFrame, tradeoff: pd.DataFrame, marks: list[str]) -> Figure:
    """AUC and GAUC by depth with and without evidence on the same rows; `marks` name models without an LLM."""
    style()
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.6))
    table = tradeoff[tradeoff["kind"] == "baseline"].set_index("setting")
    for axis, metric in zip(axes, METRICS, strict=True):
        _depth_panel(axis, curves, metric, {name: table.loc[name, metric] for name in dict.fromkeys(marks)})
    n = int(curves["n"].iloc[0])
    figure.suptitle(f"What does each depth know, with and without evidence? ({n} test rows, bands: 95 % over users)")
    return figure


def loss_figure(curves: pd.DataFrame, click_rate: float) -> Figure:
    """Log loss and calibration error of every calibrated exit, beside the log loss of always saying the click rate."""
    style()
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.2))
    for axis, metric in zip(axes, ("log_loss", "ece"), strict=True):
        ends = []
        for mode, (label, colour, dash, marker) in MODES.items():
            part = curves[curves["mode"] == mode].sort_values("layer")
            axis.plot(part["layer"], part[metric], dash, color=colour, marker=marker)
            ends.append((part["layer"].iloc[-1], part[metric].iloc[-1], label, colour))
        if metric == "log_loss":
            axis.axhline(click_rate, color="#00694d", lw=1, ls="-.")
            ends.append((curves["layer"].max(), click_rate, "always the click rate", "#00694d"))
        if metric == "ece":
            axis.set_ylim(0, None)
        _label(axis, ends, curves["layer"].max() * 1.05)
        axis.set(xlabel="exit after layer", xticks=sorted(curves["layer"].unique()))
    axes[0].set(ylabel="log loss (nats per row; lower is better)")
    axes[1].set(ylabel="expected calibration error (share)")
    figure.suptitle("How good are the probabilities of each exit? (calibrated on validation, judged on test)")
    return figure


def frontier(table: pd.DataFrame, cost: str, quality: str) -> pd.DataFrame:
    """The settings among `RIVALS` that no cheaper one equals, by rising cost; controls and sweeps do not count."""
    rivals = table[table["kind"].isin(RIVALS)].dropna(subset=[cost, quality])
    rivals = rivals.sort_values([cost, quality], ascending=[True, False])
    return rivals[rivals[quality] > rivals[quality].cummax().shift(fill_value=-np.inf)]


def _marks(table: pd.DataFrame, chosen: str) -> list[tuple]:
    """(settings, label, colour, marker, size) in the order of the legend; every policy has a marker of its own."""
    marks = [(["static"], "static exit after layer", COLOURS["static"], "o", 45)]
    for kind in ("dynamic", "control", "stacked", "plain"):
        names = sorted(table.loc[table["kind"] == kind, "setting"], key=lambda name: (name != chosen, name))
        for place, name in enumerate(names):
            marker = MARKERS[kind][place % len(MARKERS[kind])]
            text = LABELS.get(name, name.replace("_", " ")) + (" (selected)" if name == chosen else "")
            text += " (control)" if kind == "control" else ""
            marks.append(([name], text, COLOURS[kind], marker, 130 if name == chosen else 55))
    return [*marks, (["baseline"], "no LLM", COLOURS["baseline"], "*", 90)]


def _tradeoff_panel(axis, table: pd.DataFrame, cost: str, metric: str, chosen: str, right: float) -> None:
    for _, part in table[table["kind"] == "sweep"].groupby("setting"):
        axis.plot(*part.sort_values(cost)[[cost, metric]].to_numpy().T, color=COLOURS["dynamic"], lw=0.5, alpha=0.35)
    static = table[table["kind"] == "static"].sort_values(cost)
    axis.plot(static[cost], static[metric], "-", color=COLOURS["static"], lw=1.2)
    axis.fill_between(static[cost], static[f"{metric}_lo"], static[f"{metric}_hi"], color=COLOURS["static"], alpha=0.1,
                      lw=0)  # fmt: skip
    barred = table[table["kind"].isin(("stacked", "plain")) | table["setting"].eq(chosen)]
    axis.vlines(barred[cost], barred[f"{metric}_lo"], barred[f"{metric}_hi"], color="0.45", lw=0.8)
    for names, label, colour, marker, size in _marks(table.dropna(subset=[cost]), chosen):
        part = table[(table["setting"].isin(names) | table["kind"].isin(names)) & (table["kind"] != "sweep")]
        hollow = (part["latency_source"] == "interpolated") & (cost == "latency_ms_p50")
        face = np.where(hollow, "white", colour)
        edge = {"color": colour} if marker in "x+" else {
            "facecolors": face, "edgecolors": np.where(hollow, colour, "black" if names == [chosen] else "white")}
        axis.scatter(part[cost], part[metric], marker=marker, label=label, s=size, lw=0.9, zorder=3, **edge)
    for _, row in static.dropna(subset=[cost]).iterrows():
        axis.annotate(f"{row['layer']:.0f}", (row[cost], row[metric]), xytext=(0, 6), textcoords="offset points",
                      ha="center", fontsize=8, color=COLOURS["static"])  # fmt: skip
    edge = frontier(table, cost, metric)
    axis.step([*edge[cost], right], [*edge[metric], edge[metric].iloc[-1]], where="post", color="black", lw=1.3,
              ls=(0, (4, 2)), label="frontier", zorder=1)  # fmt: skip


def _frame_panel(axis, table: pd.DataFrame, cost: str, metric: str, right: float) -> None:
    """Limits that show the intervals whole, and the names of the models without an LLM at the left."""
    shown = table[~table["kind"].isin(("baseline", "sweep"))]
    low, high = shown[[metric, f"{metric}_lo"]].min(axis=None), shown[[metric, f"{metric}_hi"]].max(axis=None)
    if not np.isfinite([low, high]).all():
        return  # a handful of rows, on which the metric is not defined
    low, high = low - 0.05 * max(high - low, 0.02), high + 0.05 * max(high - low, 0.02)
    simple = table[(table["kind"] == "baseline") & (table[metric] >= low)]
    axis.set(ylim=(low, high), ylabel=METRICS[metric])
    at, label_at, edge = _left_edge(axis, simple[cost].min(), right)
    decades = [digit * 10.0**power for power in range(-1, 6) for digit in (1, 2, 5)]
    ticks = axis.get_xticks() if axis.get_xscale() == "linear" else decades
    ticks = [tick for tick in ticks if at <= tick <= right and (tick > at or at == 0)]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlim(edge, right)
    _label(axis, [(at, row[metric], row["setting"].replace("_", " "), COLOURS["baseline"])
                  for _, row in simple.iterrows()], label_at, align="right")  # fmt: skip


def _left_edge(axis, at: float, right: float) -> tuple[float, float, float]:
    """Where models without LLM stand on the cost axis, where their names end, where the axis begins."""
    if axis.get_xscale() == "log":
        return at, at * 0.9, at / (right / at) ** LEFT
    return at, -0.03 * right, -LEFT * right


def tradeoff_figure(table: pd.DataFrame, chosen: str, cost: str = "token_layer_fraction") -> Figure:
    """AUC and GAUC against cost; the band and bars are 95 % intervals over users.

    Args:
        table: from `tables.tradeoff_table`.
        chosen: the policy selected on validation.
        cost: "token_layer_fraction" or "latency_ms_p50" (baselines, not timed, then stand at the left edge).
            Models that learned from more labels than the LLM stay in the table; the figure leaves them out.

    Raises:
        ValueError: no setting has that cost (latency was not measured).
    """
    if not table.loc[table["kind"].isin(("static", "dynamic")), cost].notna().any():
        raise ValueError(f"no setting has {cost}; measure it first (notebook 07)")
    style()
    timed, table = cost == "latency_ms_p50", table[~table["setting"].str.endswith("_all_labels")].copy()
    table.loc[table["kind"] == "baseline", cost] = table[cost].min() / 1.6 if timed else 0.0
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.4))
    right = table[cost].max() * (1.25 if timed else 1.04)
    text = {"token_layer_fraction": "share of full depth's token-layers (prefix included)",
            "latency_ms_p50": "median ms per request (log; hollow: interpolated; no LLM: not timed)"}  # fmt: skip
    for axis, metric in zip(axes, METRICS, strict=True):
        axis.set_xscale("log" if timed else "linear")
        _tradeoff_panel(axis, table, cost, metric, chosen, right)
        _frame_panel(axis, table, cost, metric, right)
        axis.set_xlabel(text[cost])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("What does a saved layer cost in accuracy? (test rows; band and bars: 95 % over users)")
    return figure
