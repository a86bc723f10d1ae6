"""What `make probes` found, for notebooks and report: the run's own table, or the committed one of its dataset."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy import artifacts
from eestudy.verdicts import said, word
from eestudy.wordings import WORDINGS

ALL, HELD_OUT_HALF = -1, -2  # settings: every wording together; those that no training has shown
PLACES = {"target": "of the candidate itself", "history title": "of the latest item in the history",
          "evidence title": "in the evidence (a form that is not the usual one)"}  # fmt: skip
USUAL, QUOTES, INSTRUCTION, STRIPPING, SPELLED = "usual", "quotes", "instruction", "stripping", "evidence with titles"
SAME_BUDGET, HARDENED = "same budget", "hostile titles in training"  # models that were trained apart
FORMS = {USUAL: "nothing", QUOTES: "titles in quotes", INSTRUCTION: "an instruction before all else",
         STRIPPING: "the prompt's own words taken out of titles", SAME_BUDGET: "nothing, the small model",
         HARDENED: "the small model, trained on such titles"}  # fmt: skip
UNDEFENDED, AT_READING = (USUAL, SPELLED), (QUOTES, INSTRUCTION, STRIPPING)
MISSING = "not measured for this dataset and profile (`make probes`)."


def told(run: artifacts.Run) -> pd.DataFrame | None:
    """The run's own table, else the committed one of its dataset and profile, else None; one of older code is none.

    Raises:
        artifacts.ArtifactError: the run's table is damaged.
    """
    table = artifacts.measured_or_committed(run, artifacts.PROBES)
    return table if {"form", "silent", "beyond"} <= set(table) else None


def wordings(table: pd.DataFrame) -> pd.DataFrame:
    """All instructions together beside their harmless twins, by place: shift of p_yes, scores moved, sides changed.

    The difference of the two shifts is paired, row by row and wording by wording.
    """
    part = table[(table["setting"] == ALL) & table["form"].isin(UNDEFENDED)]
    return pd.DataFrame({
        "title": part["probe"].map(PLACES), "wording": np.where(_instructs(part), "instructs", "harmless twin"),
        "shift of p_yes": said(part, "shift", "+"), "beyond its twin": said(part, "beyond", "+"),
        "scores that move": part["moved"], "answers that turn": part["flipped"],
    }).set_index(["title", "wording"])  # fmt: skip


def defences(table: pd.DataFrame, place: str = "target") -> pd.DataFrame:
    """Every defence on the wordings that no training has shown: what it stops, and what it costs.

    Args:
        table: from `told`.
        place: of the titles: 'target' or 'history title'.

    Returns:
        By defence: shift of p_yes by titles that instruct, by their harmless twins, the difference (paired), the same
        less without the defence (paired), share of answers that instructions turn, AUC of unchanged titles less without
        the defence.
    """
    rows, part = {}, table[(table["probe"] == place) & (table["setting"] == HELD_OUT_HALF)]
    for form, name in FORMS.items():
        here, plain = part[part["form"] == form], table[(table["probe"] == "as trained") & (table["form"] == form)]
        hostile, harmless = here[_instructs(here)], here[~_instructs(here)]
        if len(hostile):
            rows[name] = {"shift by instructions": said(hostile, "shift", "+")[0],
                          "by harmless twins": said(harmless, "shift", "+")[0],
                          "difference": said(hostile, "beyond", "+")[0],
                          "less without it": said(hostile, "beyond_minus", "+")[0],
                          "answers that turn": hostile["flipped"].iloc[0],
                          "cost in AUC": "" if form in (USUAL, SAME_BUDGET) else said(plain, "auc_minus", "+")[0]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("defence")


def groups(table: pd.DataFrame) -> pd.DataFrame:
    """Aggregates in place of the similar users' ratings: AUC, its paired difference, and how many rows show nothing."""
    part = table[(table["probe"] == "groups") | (table["probe"] == "as trained") & (table["form"] == USUAL)]
    part = part.sort_values("setting")
    return pd.DataFrame({"shown of others": [_group(k) for k in part["setting"]], "AUC": said(part, "auc"),
                         "less the usual prompt's": said(part, "auc_minus", "+"), "scores that move": part["moved"],
                         "rows that show nothing": part["silent"], "rows": part["n"],
                         }).set_index("shown of others")  # fmt: skip


def _group(least: int) -> str:
    return f"an aggregate, of at least {int(least)} people" if least else "as trained"


def strongest(table: pd.DataFrame, place: str) -> pd.Series:
    """The line of the single instruction that raises p_yes most at a place of `PLACES`."""
    part = table[(table["probe"] == place) & (table["setting"] >= 0) & table["form"].isin(UNDEFENDED)]
    part = part[_instructs(part)]
    return part.loc[part["shift"].idxmax()]


def _instructs(part: pd.DataFrame) -> pd.Series:
    return part["hostile"].astype(str).str.lower() == "true"


def amount_findings(table: pd.DataFrame | None) -> list[str]:
    """What neighbours and history are worth, a sentence each; how to measure it where nothing is known."""
    if table is None:
        return [f"What each part of the prompt is worth to the trained model: {MISSING}"]
    return [_amount_sentence(table, *pair) for pair in (("neighbors", "similar users"), ("history", "recent titles"))]


def injection_findings(table: pd.DataFrame | None) -> list[str]:
    """How far titles that instruct move an answer, by place, and what each defence changes; how to measure it."""
    if table is None:
        return [f"Whether a title can bend the model's answer: {MISSING}"]
    there = set(table.loc[table["setting"] == ALL, "probe"])
    return [*(_wording_sentence(table, place) for place in PLACES if place in there),
            *(_defence_sentence(table, form) for form in (*AT_READING, HARDENED))]  # fmt: skip


def privacy_findings(table: pd.DataFrame | None) -> list[str]:
    """What it costs to show aggregates in place of single ratings, a sentence a size of the group."""
    if table is None:
        return [f"What it costs to show no single person's rating: {MISSING}"]
    part = table[table["probe"] == "groups"].sort_values("setting")
    before = table.loc[(table["probe"] == "as trained") & (table["form"] == USUAL), "silent"].iloc[0]
    return [f"Of similar users only an aggregate, of at least {int(line['setting'])} people, shown to a model that "
            f"learnt from single ratings: AUC changes by {gap} "
            f"({_word(line, 'auc_minus', 'a gain', 'a loss', 'no difference shown')}); {line['silent']:.0%} of the "
            f"prompts then show nothing of other people, {before:.0%} before."
            for line, gap in zip(part.to_dict("records"), said(part, "auc_minus", "+"), strict=True)]  # fmt: skip


def _word(line, column: str, above: str, below: str, across: str) -> str:
    """`verdicts.word` of a column of a table's row."""
    return word({"ci95": (line[f"{column}_lo"], line[f"{column}_hi"])}, above, below, across)


def _amount_sentence(table: pd.DataFrame, probe: str, what: str) -> str:
    part = table[table["probe"] == probe].sort_values("setting")
    told = dict(zip(part["setting"].astype(int), said(part, "auc_minus", "+"), strict=True))
    least, most = min(told), max(told)
    sure = part.loc[(part["auc_minus_lo"] > 0) | (part["auc_minus_hi"] < 0), "setting"].astype(int)
    between = [f"with {n} by {told[n]}" for n in sure if n not in (least, most)]
    more = f" In between, where the interval leaves out no change: {', '.join(between)}." if between else ""
    return (f"With at most {least} {what} instead of the usual number AUC changes by {told[least]}, with at most "
            f"{most} by {told[most]}.{more}")


def _wording_sentence(table: pd.DataFrame, place: str) -> str:
    part = table[(table["probe"] == place) & (table["setting"] == ALL) & table["form"].isin(UNDEFENDED)]
    lines = {bool(flag): (line, text) for flag, line, text in zip(_instructs(part), part.to_dict("records"),
                                                                  said(part, "shift", "+"), strict=True)}  # fmt: skip
    (hostile, moved), (harmless, twin) = lines[True], lines[False]
    worst = strongest(table, place)
    counts = _word(hostile, "beyond", "the order counts", "it does the opposite", "no effect of the order is shown")
    beyond, strongest_shift = (said(pd.DataFrame([line]), name, "+")[0]
                               for line, name in ((hostile, "beyond"), (worst, "shift")))  # fmt: skip
    return (f"A title {PLACES[place]} that asks for a yes, by order or by false praise, moves p_yes by {moved}, a "
            f"harmless one of as many tokens by {twin}, a difference of {beyond} ({counts}); "
            f"{hostile['flipped']:.1%} and {harmless['flipped']:.1%} of the answers turn, one way or the other. "
            f"The strongest, picked afterwards, “{WORDINGS[int(worst['setting'])][0]}”, moves it by {strongest_shift}.")


def _defence_sentence(table: pd.DataFrame, form: str) -> str:
    """Of one defence, on the candidate's title: does an instruction do less beyond its twin, and at what cost?"""
    lines = table[(table["probe"] == "target") & (table["setting"] == HELD_OUT_HALF) & (table["form"] == form)]
    lines = lines[_instructs(lines)]
    if lines.empty:
        return f"{FORMS[form].capitalize()}: not measured (`make ablations` in this run folder, then `make probes`)."
    line, plain = lines.iloc[0], table[(table["probe"] == "as trained") & (table["form"] == form)]
    cost = _word(plain.iloc[0], "auc_minus", "a gain", "a cost", "no difference shown")
    once = ""
    if form == HARDENED:
        once = " One training of each, read at the exit its selection rows choose; another training may give another."
    return (f"{FORMS[form].capitalize()}: instructions in the candidate's title move p_yes by "
            f"{said(lines, 'beyond', '+')[0]} beyond their twins, {said(lines, 'beyond_minus', '+')[0]} against the "
            f"same without it ({_helped(line)}); AUC of unchanged titles {said(plain, 'auc_minus', '+')[0]} "
            f"({cost}).{once}")


def _helped(line: pd.Series) -> str:
    """Whether what instructions do beyond their twins came nearer to 0 than it is without the defence."""
    nearer = abs(line["beyond"]) < abs(line["beyond"] - line["beyond_minus"])
    change = "they do less" if nearer else "they do more"
    return _word(line, "beyond_minus", change, change, "no difference shown")
