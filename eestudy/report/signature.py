"""The study in one picture: accuracy against the time of a request, the classic models, and what the paper claims."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eestudy import drawing
from eestudy.report.comparison import CLASSES
from eestudy.report.figures import COLOURS, frontier
from eestudy.report.tables import READ_OFF, as_they_come
from eestudy.verdicts import with_interval, word

COST, QUALITY = "latency_ms_mean", "auc"
SAID = "arXiv"  # so begins the source of the paper's own rows in `results/published.csv`
CLAIM = ("throughput_ratio", "throughput_rps_with", "throughput_rps_without")  # its metrics


def timed_classics(table: pd.DataFrame, click_models: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Give the classic click models the time of a request: one call a candidate, which is the slowest way to ask them.

    Args:
        table: from `tables.tradeoff_table`; its names end with the labels that a model learned from.
        click_models: `click_models.csv` (model, training, single_us).
        latency: `latency.csv`; as many candidates as a request as it comes has on average are asked about.

    Returns:
        The table; `latency_ms_mean` filled in and `latency_source` "one call a candidate" where that was measured.
    """
    n = as_they_come(latency).groupby("request_id")["n_candidates"].first().mean()
    names = click_models["model"] + "_" + click_models["training"] + "_labels"
    ms = table["setting"].map(dict(zip(names, click_models["single_us"] * n / 1000, strict=True)))
    return table.assign(latency_ms_mean=table[COST].fillna(ms),
                        latency_source=table["latency_source"].mask(ms.notna(), "one call a candidate"))  # fmt: skip


def takeaway(speed: Mapping, leaving: Mapping, loss: Mapping, rival: Mapping, rival_name: str) -> str:
    """What the figure shows, in a sentence that follows from its intervals.

    Args:
        speed: requests per second of early exit against the plain way, as {"value", "ci95"}.
        leaving: the same against full depth with the same shared prefix: the part that is early exit's own.
        loss: AUC of early exit less full depth.
        rival: AUC of early exit less the best model without an LLM.
        rival_name: of that model, with the labels that it learned from.
    """
    faster = (f"Early exit answers {with_interval(speed, 1)} times as many requests as the plain way "
              f"({with_interval(leaving, 1)} times as many as full depth with the same shared prefix)")  # fmt: skip
    cost = word(loss, "and gains accuracy in this training", "at a price in accuracy",
                "with no loss of accuracy shown")  # fmt: skip
    other = word(rival, "more accurate than", "less accurate than", "not shown to differ from")
    return (f"{faster}, {cost} (AUC {with_interval(loss, signed=True)}); it is {other} the best model "
            f"without an LLM ({rival_name}: {with_interval(rival, signed=True)}).")  # fmt: skip


def claimed(published: pd.DataFrame) -> tuple[float, str] | None:
    """The paper's own factor, and what is known of it, in words.

    Args:
        published: `results/published.csv`.

    Returns:
        (times, text), or None where the table does not have it.
    """
    ours = published[published["source"].str.startswith(SAID)].drop_duplicates("metric").set_index("metric")
    if not set(CLAIM) <= set(ours.index):
        return None
    ratio, fast, slow = (ours.loc[name] for name in CLAIM)
    return ratio["value"], (
        f"the paper claims {ratio['value']:g} times (class {ratio['evidence_class']}):\n"
        f"{fast['value']:g} against {slow['value']:g} {fast['unit']}, {fast['dataset']} (class "
        f"{fast['evidence_class']}:\n{CLASSES[fast['evidence_class']]})"
    )


def _settings(axes: Axes, table: pd.DataFrame, chosen: str) -> None:
    """Fixed depths with their band, policies, the plain way, the timed classic models."""
    static = table[table["kind"] == "static"].sort_values(COST)
    band = [static[f"{QUALITY}_{end}"] for end in ("lo", "hi")]
    axes.fill_between(static[COST], *band, color=COLOURS["static"], alpha=0.12, lw=0)
    axes.plot(static[COST], static[QUALITY], "o-", color=COLOURS["static"], lw=1.2, zorder=3)
    others = table[(table["kind"] == "dynamic") & (table["setting"] != chosen)]
    axes.plot(others[COST], others[QUALITY], "D", ms=5, mfc="white", color=COLOURS["dynamic"], zorder=4)
    for part, mark, colour, size in ((table[table["setting"] == chosen], "D", COLOURS["dynamic"], 11),
                                     (table[table["kind"] == "plain"], "s", COLOURS["plain"], 8),
                                     (table[table["kind"] == "baseline"], "*", COLOURS["baseline"], 13)):  # fmt: skip
        axes.errorbar(part[COST], part[QUALITY], drawing.reach(part, QUALITY), fmt=mark, ms=size, mec="white",
                      mew=0.8, elinewidth=1.3, color=colour, zorder=5)  # fmt: skip
    static, others = static.dropna(subset=[COST, QUALITY]), table[table["kind"] != "static"]
    drawing.label_marks(axes, static[[COST, QUALITY]].to_numpy(), [f"{layer:.0f}" for layer in static["layer"]],
                        COLOURS["static"], others[[COST, QUALITY]].to_numpy())  # fmt: skip


def _steps(axes: Axes, table: pd.DataFrame) -> list[tuple]:
    """The frontier of everything that was timed, and, within it, that of the LLM's settings; returns their names."""
    table = table[table["latency_source"] != READ_OFF]
    with_llm, right, names = table[table["kind"] != "baseline"], axes.get_xlim()[1], []
    shown = ((with_llm, "-", "0.35", "frontier of the LLM"),
             (table, (0, (2, 2)), COLOURS["baseline"], "frontier of everything timed"))  # fmt: skip
    for part, dash, colour, name in shown:
        edge = frontier(part, COST, QUALITY)
        height = edge[QUALITY].iloc[-1]
        axes.step([*edge[COST], right], [*edge[QUALITY], height], where="post", color=colour, ls=dash, lw=1.6, zorder=2)
        names.append((right, height, name, colour))
        if len(with_llm) == len(table):  # no other was timed: one frontier
            break
    return names


def _arrow(axes: Axes, start: float, end: float, y: float, text: str, **look) -> None:
    """An arrow from `start` to `end` (ms), what it says at its left."""
    axes.annotate("", (end, y), (start, y), xycoords=("data", "axes fraction"),
                  arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "lw": 1.8, **look})  # fmt: skip
    axes.annotate(text, (min(start, end), y), xycoords=("data", "axes fraction"), xytext=(-6, 0), ha="right",
                  textcoords="offset points", va="center", fontsize=9, color=look["color"])  # fmt: skip


def _frame(axes: Axes, timed: pd.DataFrame, lines: pd.DataFrame) -> None:
    """Logarithmic time, all intervals in sight, room below for the factors and at both sides for names."""
    low, high = timed[[QUALITY, f"{QUALITY}_lo"]].min(axis=None), timed[f"{QUALITY}_hi"].max()
    high = max(high, lines[QUALITY].max())
    decades = np.log10(timed[COST].max() / timed[COST].min())
    if np.isfinite([low, high]).all():
        axes.set_ylim(low - 0.5 * (high - low), high + 0.25 * (high - low))
    axes.set_xscale("log")
    axes.set(xlim=(timed[COST].min() / 10 ** max(0.35 * decades, 0.9), timed[COST].max() * 10 ** (0.17 * decades)),
             ylabel="AUC on test (0.5 = chance; bars and band: 95 % over users)",
             xlabel="mean time of a request as it comes (milliseconds, log; without an LLM: one call a candidate)")
    drawing.plain_ticks(axes.xaxis)


def _marks_named(axes: Axes, timed: pd.DataFrame, chosen: str) -> None:
    """The names of the marks, where they stand."""
    static, known = timed[timed["kind"] == "static"], timed.set_index("setting")
    middle, bottom = np.sqrt(static[COST].min() * static[COST].max()), timed[[QUALITY, f"{QUALITY}_lo"]].min(axis=None)
    marks = (("● one fixed exit for everybody, after the layer named", "static"),
             ("◇ the other exit rules, at the time of a fixed exit of the same work", "dynamic"))  # fmt: skip
    for place, (name, colour) in enumerate(marks):
        axes.text(middle, 0.975 - 0.045 * place, name, ha="center", va="center", fontsize=9.5, color=COLOURS[colour],
                  transform=axes.get_xaxis_transform(), bbox=drawing.GROUND)  # fmt: skip
    for setting, name, align, shift, colour in (
        (chosen, f"early exit ({chosen.replace('_', ' ')})", "right", 8, "dynamic"),
        ("plain", "the plain way:\none prompt\na candidate", "left", 6, "plain"),
    ):
        if setting in known.index and np.isfinite(bottom):
            axes.annotate(name, (known.loc[setting, COST], bottom), xytext=(shift, -6), textcoords="offset points",
                          ha=align, va="top", fontsize=10, color=COLOURS[colour], fontweight="bold")  # fmt: skip
    points = [(row.latency_ms_mean, row.auc, drawing.words(row.setting), COLOURS["baseline"])
              for row in timed[timed["kind"] == "baseline"].itertuples()]  # fmt: skip
    drawing.label_points(axes, points, 0.185, "right")


def _levels(axes: Axes, lines: pd.DataFrame) -> list[tuple]:
    """Models without an LLM that nobody timed, as levels; returns their names."""
    inside = lines[lines[QUALITY].between(*axes.get_ylim())]
    for row in inside.itertuples():
        axes.axhline(row.auc, color=COLOURS["baseline"], lw=1, ls=":", zorder=1)
    return [(axes.get_xlim()[1], row.auc, f"{row.setting.replace('_', ' ')} (not timed)", COLOURS["baseline"])
            for row in inside.itertuples()]  # fmt: skip


def signature_figure(table: pd.DataFrame, choices: Mapping[str, str], speed: Mapping, leaving: Mapping,
                     published: pd.DataFrame, title: str) -> Figure:  # fmt: skip
    """Accuracy against the time of a request, with everything named where it stands.

    Args:
        table: from `timed_classics`.
        choices: from `judged.choices`, with `policy`; the best trivial model and the evidence model become lines.
        speed, leaving: {"value", "ci95"} of early exit's requests per second against the plain way's, and against full
            depth's with the same shared prefix: the paper's own factor is of the second kind.
        published: from `comparison.published`.
        title: from `takeaway`.

    Raises:
        ValueError: latency was not measured.
    """
    timed = table[table["kind"].isin(("static", "dynamic", "plain", "baseline")) & table[COST].notna()]
    if not timed["kind"].isin(("static", "dynamic")).any():
        raise ValueError(f"no setting has {COST}; measure it first (notebook 07)")
    drawing.use_style()
    figure, axes = plt.subplots(figsize=(12, 6.4))
    lines = table[table["setting"].isin((choices["evidence_model"], choices["best_trivial_baseline"]))]
    _frame(axes, timed, lines)
    _settings(axes, timed, choices["policy"])
    _marks_named(axes, timed, choices["policy"])
    drawing.label_points(axes, [*_steps(axes, timed), *_levels(axes, lines)])
    plain, full = (timed.loc[timed["kind"] == kind, COST].max() for kind in ("plain", "static"))
    early = timed.loc[timed["setting"] == choices["policy"], COST].min()
    for start, rate, y, what, colour in ((plain, speed, 0.215, "here", "black"),
                                         (full, leaving, 0.145, "leaving early alone", COLOURS["dynamic"])):
        _arrow(axes, start, early, y, f"{what}: {with_interval(rate, 1)} times the requests per second", color=colour)
    if (claim := claimed(published)) is not None:
        _arrow(axes, full, full / claim[0], 0.065, claim[1], color=drawing.QUIET, ls=(0, (3, 2)))
    unbroken = re.sub(r" (?=\[)|(?<=,) (?=[+-]?\d)|(?<=AUC) ", "\N{NO-BREAK SPACE}", title)
    axes.set_title("\n".join(textwrap.wrap(unbroken, 118)), fontsize=12)
    return figure
