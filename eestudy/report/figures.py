"""The figures of notebook 08: what each depth knows, how good its probabilities are, what a saved layer costs."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eestudy import artifacts, drawing
from eestudy.report.tables import COSTS, RIVALS

MODES = {  # label, colour, dash, marker
    "both": (drawing.EVIDENCE["both"], "#0072B2", "-", "o"),
    "similar_users": (drawing.EVIDENCE["similar_users"], "#D55E00", "--", "s"),
    "none": (drawing.EVIDENCE["none"], "#000000", ":", "^"),
}
COLOURS = {"static": "#0072B2", "dynamic": "#D55E00", "control": "#666666", "baseline": "#00694d",
           "stacked": "#8b3a6b", "plain": "#000000"}  # fmt: skip
MARKERS = {"static": "o", "dynamic": "Dv^<>hpd8", "control": "Xx+", "baseline": "*", "stacked": "P", "plain": "s"}
LABELS = {"stacked": "LLM + evidence model", "plain": "plain way (one prompt per pair)"}
LEFT = 0.5  # room for names left of the axis, as a share of its length
METRICS = {"auc": "AUC (0.5 = chance)", "gauc": "GAUC: AUC within each user (0.5 = chance)"}


def save(run: artifacts.Run, figure: Figure, name: str) -> None:
    """Write `figures/<name>.png` and `.svg` into the run, as artifacts that the report reads."""
    for ending in ("png", "svg"):
        artifacts.write_bytes(run, f"figures/{name}.{ending}", drawing.picture(figure, ending))


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
        ends.append((curves["layer"].max(), value, drawing.words(name), "#00694d"))
    axis.set(xlabel="exit after layer (number)", ylabel=METRICS[metric], xticks=sorted(curves["layer"].unique()))
    drawing.label_points(axis, ends)


def depth_figure(curves: pd.DataFrame, tradeoff: pd.DataFrame, marks: list[str]) -> Figure:
    """AUC and GAUC by depth with and without evidence on the same rows; `marks` name models without an LLM."""
    drawing.use_style()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    table = tradeoff[tradeoff["kind"] == "baseline"].set_index("setting")
    for axis, metric in zip(axes, METRICS, strict=True):
        _depth_panel(axis, curves, metric, {name: table.loc[name, metric] for name in dict.fromkeys(marks)})
    n = int(curves["n"].iloc[0])
    figure.suptitle(f"What does each depth know, with and without evidence? ({n} test rows, bands: 95 % over users)")
    return figure


def loss_figure(curves: pd.DataFrame, click_rate: float) -> Figure:
    """Log loss and calibration error of every calibrated exit, beside the log loss of always saying the click rate."""
    drawing.use_style()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, metric in zip(axes, ("log_loss", "ece"), strict=True):
        ends = []
        for mode, (label, colour, dash, marker) in MODES.items():
            part = curves[curves["mode"] == mode].sort_values("layer")
            if f"{metric}_lo" in part:
                axis.fill_between(part["layer"], part[f"{metric}_lo"], part[f"{metric}_hi"], color=colour, alpha=0.13,
                                  lw=0)  # fmt: skip
            axis.plot(part["layer"], part[metric], dash, color=colour, marker=marker)
            ends.append((part["layer"].iloc[-1], part[metric].iloc[-1], label, colour))
        if metric == "log_loss":
            axis.axhline(click_rate, color="#00694d", lw=1, ls="-.")
            ends.append((curves["layer"].max(), click_rate, "always the click rate", "#00694d"))
        if metric == "ece":
            axis.set_ylim(0, None)
        axis.set(xlabel="exit after layer (number)", xticks=sorted(curves["layer"].unique()))
        drawing.label_points(axis, ends)
    axes[0].set(ylabel="log loss (nats per row; lower is better)")
    axes[1].set(ylabel="expected calibration error (share)")
    figure.suptitle("How good are the probabilities of each exit? (calibrated on validation, judged on test; "
                    "bands of the log loss: 95 % over users)")  # fmt: skip
    return figure


def frontier(table: pd.DataFrame, cost: str, quality: str) -> pd.DataFrame:
    """The settings among `RIVALS` that no cheaper one equals, by rising cost; controls and sweeps do not count."""
    rivals = table[table["kind"].isin(RIVALS)].dropna(subset=[cost, quality])
    rivals = rivals.sort_values([cost, quality], ascending=[True, False])
    return rivals[rivals[quality] > rivals[quality].cummax().shift(fill_value=-np.inf)]


def _marks(table: pd.DataFrame, chosen: str) -> list[tuple]:
    """(settings, label, colour, marker, size) in the order of the legend: settings that are equal share a marker."""
    marks = [(["static"], "static exit after layer", COLOURS["static"], "o", 45)]
    for kind in ("dynamic", "control", "stacked", "plain"):
        for place, names in enumerate(equal_settings(table[table["kind"] == kind], chosen)):
            marker = MARKERS[kind][place % len(MARKERS[kind])]
            said = [LABELS.get(name, drawing.words(name)) + " (selected)" * (name == chosen) for name in names]
            text = textwrap.fill(" = ".join(said), 36) + " (control)" * (kind == "control")
            marks.append((names, text, COLOURS[kind], marker, 130 if chosen in names else 55))
    return [*marks, (["baseline"], "no LLM", COLOURS["baseline"], "*", 90)]


def equal_settings(table: pd.DataFrame, chosen: str) -> list[list[str]]:
    """Names of settings that cost the same and do as well by every measure, together; the chosen one's come first.

    Args:
        table: rows of `tables.tradeoff_table`.
        chosen: the policy selected on validation.
    """
    alike = [*COSTS, "auc", "gauc", "log_loss", "ece"]
    groups = table.groupby([table[name].round(9) for name in alike], dropna=False)["setting"]
    names = [sorted(part, key=lambda name: (name != chosen, name)) for _, part in groups]
    return sorted(names, key=lambda part: (chosen not in part, part))


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
        edge = {"color": colour} if marker in "x+" else {
            "facecolors": colour, "edgecolors": "black" if chosen in names else "white"}
        axis.scatter(part[cost], part[metric], marker=marker, label=label, s=size, lw=0.9, zorder=3, **edge)
    edge = frontier(table, cost, metric)
    axis.step([*edge[cost], right], [*edge[metric], edge[metric].iloc[-1]], where="post", color="black", lw=1.3,
              ls=(0, (4, 2)), label="frontier", zorder=1)  # fmt: skip


def _name_layers(axis, table: pd.DataFrame, cost: str, metric: str) -> None:
    marks = table[table["kind"] != "sweep"].dropna(subset=[cost, metric])
    static = marks[marks["kind"] == "static"].sort_values(cost)
    drawing.label_marks(axis, static[[cost, metric]].to_numpy(), [f"{layer:.0f}" for layer in static["layer"]],
                        COLOURS["static"], marks.loc[marks["kind"] != "static", [cost, metric]].to_numpy())  # fmt: skip


def _frame_panel(axis, table: pd.DataFrame, metric: str, right: float) -> None:
    """Limits that show the intervals whole, and the names of the models without an LLM at the left."""
    shown = table[~table["kind"].isin(("baseline", "sweep"))]
    low, high = shown[[metric, f"{metric}_lo"]].min(axis=None), shown[[metric, f"{metric}_hi"]].max(axis=None)
    if not np.isfinite([low, high]).all():
        return  # a handful of rows, on which the metric is not defined
    low, high = low - 0.05 * max(high - low, 0.02), high + 0.05 * max(high - low, 0.02)
    simple = table[table["kind"] == "baseline"]
    below, simple = simple[simple[metric] < low], simple[simple[metric] >= low]
    ticks = [tick for tick in axis.get_xticks() if 0 <= tick <= right]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(ylim=(low, high), xlim=(-LEFT * right, right), ylabel=METRICS[metric],
             xlabel="share of full depth's token-layers (prefix included)")  # fmt: skip
    drawing.label_points(axis, [(0.0, row[metric], drawing.words(row["setting"]), COLOURS["baseline"])
                                for _, row in simple.iterrows()], (LEFT - 0.03) / (1 + LEFT), "right")  # fmt: skip
    if len(below):
        names = ", ".join(f"{drawing.words(row.setting)} {getattr(row, metric):.2f}" for row in below.itertuples())
        axis.text(0.01, 0.015, textwrap.fill(f"below the axis: {names}", 46), transform=axis.transAxes, fontsize=7.5,
                  color=COLOURS["baseline"], va="bottom")  # fmt: skip


def tradeoff_figure(table: pd.DataFrame, chosen: str) -> Figure:
    """AUC and GAUC against token-layers; the band and bars are 95 % intervals over users.

    Click and evidence models that learned from all labels stay in the table; the figure leaves them out. The
    baselines, which know all of the graph and label part, are in it.

    Args:
        table: from `tables.tradeoff_table`.
        chosen: the policy selected on validation.
    """
    drawing.use_style()
    table, cost = table[~table["setting"].str.endswith("_all_labels")].copy(), "token_layer_fraction"
    table.loc[table["kind"] == "baseline", cost] = 0.0
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.4))
    right = table[cost].max() * 1.04
    for axis, metric in zip(axes, METRICS, strict=True):
        _tradeoff_panel(axis, table, cost, metric, chosen, right)
        _frame_panel(axis, table, metric, right)
        _name_layers(axis, table, cost, metric)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle("What does a saved layer cost in accuracy? (test rows; band and bars: 95 % over users; "
                    "click and evidence models taught with all labels are not in it)")
    return figure
