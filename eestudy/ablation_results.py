"""What `make ablations` found, for the notebooks: the run's own summary, or the committed one of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eestudy import artifacts, drawing
from eestudy.artifacts import metric
from eestudy.verdicts import BARE, shown, with_ends

MAIN = "main"  # the row that most others are compared with
MOST_UNEVEN = 0.1  # of the other's steps, before it is said
BARE_CONTROLS = ("random_backbone", "shuffled_titles", "ids")  # what each takes away, `MAIN` has without evidence, too
CONTROLS = (*BARE_CONTROLS, "shuffled_evidence")
HEADLINE_ROWS = {"retrieval_minus_own_no_retrieval_model": ("only_both", "only_none"),
                 "retrieval_minus_item_mean_prompt": ("only_both", "only_item_mean"),
                 "similar_users_minus_item_mean_prompt": ("only_similar_users", "only_item_mean"),
                 **{f"{row}_minus_main": (row, MAIN) for row in CONTROLS}}  # fmt: skip
LEARNED = {"same labels": "", "same time": "_same_time", "a teacher": "_distilled"}  # truncated rivals, by their ending


@dataclass(frozen=True)
class Ablations:
    """The four tables of a summary; rows that were not run stand in them without values."""

    comparisons: pd.DataFrame  # of `eestudy.ablations.compare_all`
    curves: pd.DataFrame  # of `eestudy.ablations.curves`
    seeds: pd.DataFrame  # of `eestudy.ablations.seed_spread`
    duels: pd.DataFrame  # of `eestudy.ablations.duels`
    own: bool  # of this run; else the committed one


def told(run: artifacts.Run) -> Ablations | None:
    """The run's own summary if there is one, else the committed one of its dataset and profile, else None.

    Raises:
        artifacts.ArtifactError: a table of the run is damaged.
    """
    if all(artifacts.artifact_hash(run, name) for name in artifacts.ABLATIONS):
        return Ablations(*(artifacts.read_table(run, name) for name in artifacts.ABLATIONS), own=True)
    paths = [kept_folder(run) / name for name in artifacts.ABLATIONS]
    return Ablations(*map(artifacts.read_csv, paths), own=False) if all(path.exists() for path in paths) else None


def kept_folder(run: artifacts.Run) -> Path:
    """Where the committed rows and tables of a run's dataset and profile lie."""
    return artifacts.reference_dir() / "ablations" / artifacts.study_name(run.dataset) / run.profile


def answer(line: Mapping, higher: str = "higher", lower: str = "lower") -> str:
    """What can be said of a comparison that was run: `verdicts.shown`."""
    stale = " (other code)" if line["state"] != "finished" else ""
    return shown(line["value"], (line["lo"], line["hi"]), line["p_holm"], higher, lower) + stale


def sentence(line: Mapping) -> str:
    """A comparison in words; line: of the comparisons."""
    if not np.isfinite(line["value"]):
        return f"{line['question']} Not run ({line['row']} against {line['compared_with']})."
    seeds = f"{line['seeds']:.0f} seeds, between them ±{line['sd']:.3f}" if line["seeds"] > 1 else "one training each"
    p = f"adjusted p {line['p_holm']:.3f}; " if np.isfinite(line["p_holm"]) else ""
    known = "users and trainings" if p else "users alone"
    other = f"evidence: {line['mode_compared']}; " if line["mode_compared"] != line["mode"] else ""
    steps = [line["steps"], line["steps_compared"]]
    uneven = f" They learned in {steps[0]:.0f} against {steps[1]:.0f} steps." if _differ(*steps) else ""
    return (f"{line['question']} AUC of {line['row']} (evidence: {line['mode']}; {line['exits']}) {line['auc']:.3f}, "
            f"of {line['compared_with']} ({other}{line['exits_compared']}) {line['auc_compared']:.3f}: "
            f"{line['value']:+.3f} (95 % interval over {known} {line['lo']:+.3f} to {line['hi']:+.3f}; {p}{seeds}): "
            f"{answer(line)}.{uneven}")


def _differ(steps: float, other: float) -> bool:
    """Whether two trainings were of another length; False where it is not known."""
    return abs(steps - other) > MOST_UNEVEN * other


def family_table(found: Ablations, family: str) -> pd.DataFrame:
    """A family's comparisons that were run, for reading: question, answer, paired difference with interval, AUCs."""
    lines = found.comparisons[(found.comparisons["family"] == family) & found.comparisons["value"].notna()]
    said = [_said(line, "+") for line in lines.to_dict("records")]
    return pd.DataFrame({
        "question": lines["question"], "row": lines["row"],
        "answer": [answer(line) for line in lines.to_dict("records")], "difference": said,
        "adjusted p": lines["p_holm"].round(3), "seeds": lines["seeds"], "AUC": lines["auc"].round(3),
        "evidence": lines["mode"], "against": lines["compared_with"], "AUC there": lines["auc_compared"].round(3),
        "evidence there": lines["mode_compared"],
    }).astype(object).fillna("").set_index("row")  # fmt: skip


def family_sentences(found: Ablations, family: str) -> list[str]:
    """One sentence for each comparison of a family that was run, and one that counts the others."""
    lines = found.comparisons[found.comparisons["family"] == family]
    run = lines["value"].notna()
    pairs = (lines.loc[~run, "row"] + " against " + lines.loc[~run, "compared_with"]).unique()
    missing = [f"Not compared yet: {'; '.join(pairs)}."] if len(pairs) else []
    return [sentence(line) for line in lines[run].to_dict("records")] + missing


def family_text(found: Ablations | None, family: str) -> str:
    """`family_sentences` as a Markdown list, or how to make them where there is no summary."""
    if found is None:
        return "Not measured for this dataset and profile: `make ablations` trains the models, a night or two."
    return "".join(f"- {one}\n" for one in (*budget_sentences(found), *family_sentences(found, family)))


def ends_sentence(found: Ablations | None, lines: Mapping[tuple[str, str], str]) -> str:
    """AUC of several rows at their first and their last exit, in the first seed: does depth pay there?

    Args:
        found: the summary, or None.
        lines: {(row, mode): what it is called}; what was not run is left out.

    Returns:
        A Markdown list of one sentence; '' where nothing was run.
    """
    said = []
    for (row, mode), name in lines.items() if found is not None else ():
        part = _curve(found.curves, row, mode).query("seed == 0")
        if len(part):
            said.append(f"{name} {_said(part.iloc[0])} and {_said(part.iloc[-1])}")
    return f"- AUC at the first and at the last exit: {'; '.join(said)}.\n" if said else ""


def _said(line: Mapping, sign: str = "") -> str:
    return with_ends(line["value"], line["lo"], line["hi"], sign)


def _curve(curves: pd.DataFrame, row: str, mode: str) -> pd.DataFrame:
    """The AUC by depth of one row, all seeds, where it was run."""
    here = (curves["row"] == row) & (curves["mode"] == mode) & (curves["metric"] == "auc") & curves["value"].notna()
    return curves[here].sort_values("exit_layer")


def budget_sentences(found: Ablations) -> list[str]:
    """How far `MAIN` comes at the common budget, in one sentence; none where it was not run.

    What it has not learned there, no change can spoil.
    """
    lines = _curve(found.curves, MAIN, "both").query("seed == 0")
    if lines.empty:
        return []
    last = lines.iloc[-1]
    doubt = "" if last["lo"] > 0.5 else " That is not above chance for sure: this table then says little."
    return [f"At the common budget the row {MAIN} comes to an AUC of {_said(last)} at full depth.{doubt} Models "
            "are compared at the exit that validation chooses for each, where nothing else is said: with few labels "
            "the deep heads lag behind."]


def duels_text(found: Ablations | None) -> str:
    """`duel_sentence` of each duel as a Markdown list; '' where there is no summary."""
    return "" if found is None else "".join(f"- {duel_sentence(line)}\n" for line in found.duels.to_dict("records"))


def duel_sentence(line: Mapping) -> str:
    """A line of the duels in words: dynamic exit against the best truncated model, in that model's time."""
    if not np.isfinite(line["value"]):
        return f"Dynamic exit against the best truncated model, in its time ({line['learned']}): not measured."
    who = f"the truncated model that validation chose ({line['rivals']}; {line['learned']})"
    fixed = (f" In {line['fixed']:.0f} of the seeds no dynamic rule was as fast: there the whole model lets everybody "
             "out at one exit." if line["fixed"] else "")  # fmt: skip
    return (f"Dynamic exit (about {line['dynamic_ms']:.0f} ms a request, by its work and the overhead measured) less "
            f"{who}, {line['static_ms']:.0f} ms: AUC {_said(line, '+')}, seeds: {line['seeds']:.0f}: "
            f"{answer(line, 'better', 'worse')}.{fixed}")


def headline_entries(found: Ablations | None) -> list[dict]:
    """Headline entries of the table, null where it, or a row of it, is missing or of other code.

    Each difference of AUC, its p adjusted for the number of comparisons, and the AUC of what it is compared with. Of a
    pair that is compared with and without evidence, the one with it, which stands first; of controls, both (`BARE`).
    """
    table = pd.DataFrame(columns=["row", "compared_with", "mode"]) if found is None else found.comparisons
    lines, bare = (
        {(line["row"], line["compared_with"]): line
         for line in part.drop_duplicates(["row", "compared_with"]).to_dict("records")}
        for part in (table, table[table["mode"] == "none"]))  # fmt: skip
    duels = {} if found is None else found.duels.set_index("learned").to_dict("index")
    named = {name: lines.get(pair) for name, pair in HEADLINE_ROWS.items()}
    named |= {f"dynamic_minus_static_same_latency{ending}": duels.get(learned) for learned, ending in LEARNED.items()}
    named |= {f"{row}_minus_{MAIN}{BARE}": bare.get((row, MAIN)) for row in BARE_CONTROLS}
    return [entry for name, line in named.items() for entry in _entries(name, line)]


def _entries(name: str, line: Mapping | None) -> list[dict]:
    if line is None or not np.isfinite(line["value"]) or line["state"] != "finished":
        return [metric(f"auc_{name}", None, "AUC")]
    found = [metric(f"auc_{name}", line["value"], "AUC", ci95=(line["lo"], line["hi"]), n=line["n"]),
             metric(f"p_adjusted_{name}", line["p_holm"], "p-value", n=line["seeds"])]  # fmt: skip
    return found + ([metric(f"auc_{name}_compared", line["auc_compared"], "AUC")] if "auc_compared" in line else [])


def curves_figure(found: Ablations, panels: Mapping[str, Mapping[tuple[str, str], str]]) -> Figure:
    """AUC by depth of several rows of the table, with their intervals as bands.

    Args:
        found: the summary.
        panels: title -> {(row, mode): what it is called}; what was not run is left out.

    Returns:
        A panel each, on one scale; in it one line a row, told apart by marker and dash, alike in all panels, its name
        at its right end.
    """
    drawing.use_style()
    fig, axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 4.5), sharey=True, squeeze=False)
    lines = list(dict.fromkeys(line for panel in panels.values() for line in panel))
    first, *rest = plt.rcParams["axes.prop_cycle"]  # the first line, which the others are held against, looks like none
    styles = {line: {**style, "marker": marker} for line, style, marker in
              zip(lines, [first, *rest * len(lines)], "osD^vPX*<>dph", strict=False)}  # fmt: skip
    for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
        for line, name in panel.items():
            _draw_curve(axis, found.curves, *line, name, styles[line])
        axis.axhline(0.5, color=drawing.QUIET, linestyle=":", label="chance")
        axis.set(title=title, xlabel="exit after layer (number)")
    axes[0, 0].set_ylabel("AUC (bands: 95 % over users)")
    for axis in axes[0]:  # all limits are known only now
        drawing.label_ends(axis)
    return fig


def _draw_curve(axis: Axes, curves: pd.DataFrame, row: str, mode: str, name: str, style: Mapping) -> None:
    """One row of the table: its first seed with a band and its name, the others as thin lines."""
    for seed, part in _curve(curves, row, mode).groupby("seed"):
        if seed:
            axis.plot(part["exit_layer"], part["value"], color=style["color"], linestyle="-", linewidth=0.6,
                      alpha=0.6)  # fmt: skip
        else:
            axis.plot(part["exit_layer"], part["value"], label=name, **style)
            axis.fill_between(part["exit_layer"], part["lo"], part["hi"], color=style["color"], alpha=0.1)
