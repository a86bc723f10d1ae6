"""What `make probes` found, for the notebooks: the run's own table, or the committed one of its dataset."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy import artifacts

PLACES = {"target": "of the candidate itself", "history title": "of the latest item in the history"}


def told(run: artifacts.Run) -> pd.DataFrame | None:
    """The run's own table, else the committed one of its dataset and profile, else None.

    Raises:
        artifacts.ArtifactError: the run's table is damaged.
    """
    if artifacts.artifact_hash(run, artifacts.PROBES):
        return artifacts.read_table(run, artifacts.PROBES)
    path = artifacts.reference_dir() / artifacts.study_name(run.dataset) / run.profile / artifacts.PROBES
    return pd.read_csv(path) if path.exists() else None


def said(table: pd.DataFrame, column: str, sign: str = "", digits: int = 3) -> list[str]:
    """A column with its interval, as text; '' where it was not measured."""
    return [f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if np.isfinite(value) else ""
            for value, low, high in zip(*(table[f"{column}{end}"] for end in ("", "_lo", "_hi")), strict=True)]


def amounts(table: pd.DataFrame, probe: str) -> pd.DataFrame:
    """Of 'neighbors' or 'history': AUC, its difference to the unchanged prompt, and how often a score moves."""
    part = table[table["probe"] == probe].sort_values("setting")
    return pd.DataFrame({"at most": part["setting"].astype(int), "AUC": said(part, "auc"),
                         "less the unchanged prompt's": said(part, "auc_minus", "+"), "scores that move": part["moved"],
                         "rows": part["n"]}).set_index("at most")  # fmt: skip


def wordings(table: pd.DataFrame) -> pd.DataFrame:
    """All instructions together beside their harmless twins, by place: shift of p_yes, scores moved, sides changed."""
    part = table[table["setting"] == -1]
    return pd.DataFrame({
        "title": part["probe"].map(PLACES), "wording": np.where(_instructs(part), "instructs", "harmless twin"),
        "shift of p_yes": said(part, "shift", "+"), "scores that move": part["moved"],
        "answers that turn": part["flipped"],
        "less the unchanged prompt's AUC": said(part, "auc_minus", "+"),
    }).set_index(["title", "wording"])  # fmt: skip


def strongest(table: pd.DataFrame, place: str) -> pd.Series:
    """The line of the single instruction that raises p_yes most at a place ('target' or 'history title')."""
    part = table[(table["probe"] == place) & (table["setting"] >= 0)]
    part = part[_instructs(part)]
    return part.loc[part["shift"].idxmax()]


def _instructs(part: pd.DataFrame) -> pd.Series:
    return part["hostile"].astype(str).str.lower() == "true"


def findings(table: pd.DataFrame | None) -> list[str]:
    """One sentence a probe: what it found, with intervals; how to measure it where nothing is known."""
    if table is None:
        return ["What each part of the prompt is worth to the trained model, and whether a title can bend its answer: "
                "not measured for this dataset and profile (`make probes`)."]  # fmt: skip
    amounts_of = (("neighbors", "similar users"), ("history", "recent titles"))
    return [*(_amount_sentence(table, *pair) for pair in amounts_of),
            *(_wording_sentence(table, place) for place in PLACES)]  # fmt: skip


def _amount_sentence(table: pd.DataFrame, probe: str, what: str) -> str:
    part = table[table["probe"] == probe].sort_values("setting")
    ends = [(int(line["setting"]), text) for line, text in zip(part.to_dict("records"), said(part, "auc_minus", "+"),
                                                               strict=True)]  # fmt: skip
    return (f"With at most {ends[0][0]} {what} instead of the usual number AUC changes by {ends[0][1]}, with at most "
            f"{ends[-1][0]} by {ends[-1][1]}.")


def _wording_sentence(table: pd.DataFrame, place: str) -> str:
    part = table[(table["probe"] == place) & (table["setting"] == -1)]
    lines = {bool(flag): (line, text) for flag, line, text in zip(_instructs(part), part.to_dict("records"),
                                                                  said(part, "shift", "+"), strict=True)}  # fmt: skip
    (hostile, moved), (harmless, twin) = lines[True], lines[False]
    return (f"A title {PLACES[place]} that instructs to answer yes moves p_yes by {moved}, a harmless one of the same "
            f"length by {twin}; {hostile['flipped']:.1%} and {harmless['flipped']:.1%} of the answers turn.")
