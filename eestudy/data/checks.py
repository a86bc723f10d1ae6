"""What the data cannot support, said before anything is trained, with figures and a remedy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import metrics
from eestudy.config import DataConfig
from eestudy.data.quarantine import DataError
from eestudy.data.splits import mix

FEW, TOO_FEW = 50, 5  # rows of the rarer class among the judged rows of a part: wide intervals; nothing to learn from
FEW_USERS = 30  # resampling users says little below
HALF = 0.5
MANY = 0.1  # share of the ratings' rows that are set aside for one reason
# Shares that stop the study. An item file may hold a part of the items only, and a log repeats itself.
STOPS = {"rating": HALF, "timestamp": HALF, "unknown": 0.9, "duplicate user and item": 1.0}
REMEDIES = {"unknown item": "Bring their titles, or the right item file."}
MOST_STARS = 10
FAIR = (0.48, 0.52)  # AUC of popularity alone, where opposites are drawn


@dataclass(frozen=True)
class Finding:
    """One thing that the data cannot support."""

    stops: bool  # whether the study cannot go on
    what: str  # with its figures
    remedy: str


def check_support(frames: dict[str, pd.DataFrame], data: DataConfig, n_checked: int) -> list[Finding]:
    """Look at prepared data before the study goes on.

    Args:
        frames: interactions, split and quarantine, from `prepare`.
        data: the dataset's settings.
        n_checked: ratings that were held to the rules of the quarantine, from `read`.

    Returns:
        What was found, what stops the study first; [] where all is well.
    """
    split = frames["split"].set_index(frames["interactions"].index)  # row by row the same: no copy is made of either
    rows = pd.concat([frames["interactions"], split.drop(columns="row")], axis=1)
    found = [*_classes(rows), *_clock(rows, data), *_heavy(rows), *_scale(rows, data), *_drawn(rows, data),
             *_set_aside(n_checked, frames["quarantine"])]  # fmt: skip
    return sorted(found, key=lambda finding: not finding.stops)


def refuse_unsupported(findings: list[Finding]) -> None:
    """Stop where a finding stops the study.

    Raises:
        DataError: names everything that stops it.
    """
    reasons = [f"{finding.what}. {finding.remedy}" for finding in findings if finding.stops]
    if reasons:
        raise DataError("this data cannot support the study:\n- " + "\n- ".join(reasons))


def _classes(rows: pd.DataFrame) -> list[Finding]:
    found = []
    judged = rows[rows["judged"]]
    part = judged["split"].where(judged["half"] == "", "validation half '" + judged["half"] + "'")
    for name in ("label", "validation half 'select'", "validation half 'risk'", "test"):
        chosen = judged[part == name]
        clicks = int(chosen["label"].sum())
        rarer = min(clicks, len(chosen) - clicks)
        if rarer < FEW:
            text = f"{name}: {clicks} clicks and {len(chosen) - clicks} others among {len(chosen)} judged rows"
            found.append(Finding(rarer < TOO_FEW and "risk" not in name, text,
                                 "Bring more rows, or move data.min_click_rating."))  # fmt: skip
        elif name == "test" and (n := chosen["user_id"].nunique()) < FEW_USERS:
            found.append(Finding(False, f"test: {n} users", "Bring more users: intervals are over users."))
    return found


def _clock(rows: pd.DataFrame, data: DataConfig) -> list[Finding]:
    if data.clock == "none":
        return []
    remedy = 'Say clock = "none" in [data]: the split is then drawn within each user.'
    if rows["timestamp"].nunique() == 1:
        return [Finding(True, f"every timestamp is {rows['timestamp'].iloc[0]}", remedy)]
    observed = rows["observed"].to_numpy()
    moment = np.sort(mix(*(rows[key].to_numpy()[observed] for key in ("user_id", "timestamp"))))
    again = moment[1:] == moment[:-1]  # equal ones stand side by side; two users' moments share 64 bits by no chance
    tied = (np.append(again, False) | np.append(False, again)).mean()
    if tied > 1 - MANY:
        return [Finding(False, f"{tied:.0%} of the rows share their timestamp with another row of their user", remedy)]
    return []


def _heavy(rows: pd.DataFrame) -> list[Finding]:
    found = []
    for kind in ("user", "item"):
        share = rows[f"{kind}_id"].value_counts(normalize=True).iloc[0]
        if share >= HALF:
            remedy = "Cap it (data.max_user_rows), or leave it out." if kind == "user" else "Leave it out of the file."
            found.append(Finding(True, f"one {kind} has {share:.0%} of the rows", remedy))
    return found


def _scale(rows: pd.DataFrame, data: DataConfig) -> list[Finding]:
    """The prompt shows one sign a rating."""
    if not data.has_stars:
        return []
    low, high = rows["rating"].min(), rows["rating"].max()
    if low < 0 or high > MOST_STARS:
        return [Finding(True, f"ratings lie between {low:g} and {high:g}", f"Bring them between 0 and {MOST_STARS}.")]
    broken = float((rows["rating"] % 1 != 0).mean())
    text = f"{broken:.0%} of the ratings are not whole: prompts show them rounded, halves up"
    return [Finding(False, text, "Nothing to do where that is fine.")] if broken else []


def _drawn(rows: pd.DataFrame, data: DataConfig) -> list[Finding]:
    """Popularity alone must not tell what was taken from what was drawn."""
    if data.has_stars:
        return []
    return [Finding(False, f"{part}: popularity alone tells what was taken with an AUC of {value:.3f}",
                    "Bring more users: opposites are drawn from each other's items.")
            for part, value in popularity_auc(rows).items() if value < FAIR[0] or value > FAIR[1]]  # fmt: skip


def popularity_auc(rows: pd.DataFrame) -> dict[str, float]:
    """AUC of the number of people who took an item in the graph part, by part; NaN where a part has one class only.

    Args:
        rows: item_id, label, split.
    """
    taken, found = rows["item_id"].map(rows.loc[rows["split"] == "graph", "item_id"].value_counts()).fillna(0), {}
    for part in ("label", "validation", "test"):
        here = rows["split"] == part
        both = rows.loc[here, "label"].nunique() == 2
        found[part] = metrics.auc(rows.loc[here, "label"], taken[here]) if both else float("nan")
    return found


def _set_aside(n_checked: int, quarantine: pd.DataFrame) -> list[Finding]:
    """Much of what was brought is not used: perhaps it was not understood."""
    found = []
    for (reason, remedy), n in quarantine.groupby(["reason", "remedy"]).size().items():
        stops = next((share for kind, share in STOPS.items() if reason.startswith(kind)), None)
        share = n / max(n_checked, 1)
        if stops is not None and share > MANY:
            text = f"{share:.0%} of the rows are set aside ({n:,} of {n_checked:,} rows): {reason}"
            found.append(Finding(share >= stops, text, REMEDIES.get(reason, remedy)))
    return found
