"""Who leaves early, and is it fair: quality, loss against full depth and exit depth among users and items of a kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from eestudy import metrics
from eestudy.exit_policies.selection import head_matrix
from eestudy.exit_policies.walking import exit_scores

QUARTERS = ("lowest quarter", "second", "third", "highest quarter")
AGES = (0, 18, 25, 35, 50, np.inf)  # years; MovieLens-1M has these groups only
LEAST_ROWS = 30  # of a group that is told
MOST = 0.9  # of all rows: a group as large is told by the whole already


def kinds(rows: pd.DataFrame, evidence: pd.DataFrame, users: pd.DataFrame, stars: bool = True) -> dict[str, pd.Series]:
    """By what rows are grouped: question -> group of each row; NaN where it is not known.

    Args:
        rows: judged rows: row, user_id.
        evidence: the `evidence` table: row, n_user, n_item, others, own.
        users: the `users` table; its gender and age are asked for where there are any.
        stars: whether `others` holds a rating of each similar user; else it is one number, how many took the item.

    Returns:
        Series in the order of `rows`; a question that one answer fits is left out.
    """
    known = evidence.set_index("row").loc[rows["row"]]
    similar, what = known["others"].map(len), "ratings" if stars else "clicks"
    found = {f"the user's {what} before": _quarters(known["n_user"]),
             f"the item's {what} before": _quarters(known["n_item"]),
             "similar users found": _counts(similar) if stars else similar.map(lambda n: "some" if n else "none")}
    about = users.set_index("user_id").loc[rows["user_id"]]
    if "gender" in about:
        found["gender"] = about["gender"].replace({"M": "male", "F": "female", "": np.nan})
    if "age" in about:
        found["age"] = pd.cut(_years(about["age"]), AGES, right=False,
                              labels=[f"from {low}" for low in AGES[:-1]]).astype(object)  # fmt: skip
    found = {name: pd.Series(values.to_numpy(dtype=object)) for name, values in found.items()}
    return {name: values for name, values in found.items() if values.nunique() > 1}


def _years(age: pd.Series) -> pd.Series:
    """Age in years; of a span in words ("25-34", "under 18", "56 or more") its lower end."""
    text = age.astype(str)
    years = pd.to_numeric(text.str.extract(r"^(\d+)")[0])
    return years.mask(text.str.startswith("under"), 0)


def _quarters(count: pd.Series) -> pd.Series:
    """Quarters by rank, equal counts together."""
    share = count.rank(method="average", pct=True)
    return pd.cut(share, [0, 0.25, 0.5, 0.75, 1], labels=QUARTERS).astype(object)


def _counts(count: pd.Series) -> pd.Series:
    return pd.cut(count, [-1, 0, 3, 7, np.inf], labels=["none", "1 to 3", "4 to 7", "8 or more"]).astype(object)


def by_group(
    rows: pd.DataFrame, index: np.ndarray, groups: Mapping[str, pd.Series], n_bootstrap: int, seed: int
) -> pd.DataFrame:  # fmt: skip
    """Full depth's AUC, what leaving early changes in it, and how deep rows go, group by group.

    Args:
        rows: judged rows with label, user_id and p_yes_<layer>.
        index: [n] 0-based exit of each row.
        groups: from `kinds`.
        n_bootstrap, seed: of the intervals, users resampled.

    Returns:
        Columns kind, group, n, n_users, click_rate, auc_full, minus (early exit less full depth) with minus_lo and
        minus_hi, depth (mean share of the layers) with depth_lo and depth_hi. Groups of fewer than `LEAST_ROWS` rows,
        of one class, or of nearly all rows (`MOST`) are left out.
    """
    layers, p_yes = head_matrix(rows)
    early, lines = exit_scores(p_yes, index), []
    for kind, values in groups.items():
        for group in sorted(values.dropna().unique(), key=_place):
            inside = (values == group).to_numpy()
            part, shared = rows[inside], {"n_bootstrap": n_bootstrap, "seed": seed}
            if not LEAST_ROWS <= inside.sum() <= MOST * len(rows) or part["label"].nunique() < 2:
                continue
            user, full = part["user_id"], p_yes[inside, -1]
            gap = metrics.difference(part["label"], early[inside], full, user, metric="auc", **shared)
            deep = metrics.ratio_estimate(layers[index[inside]], np.full(inside.sum(), layers[-1]), user, **shared)
            lines.append({"kind": kind, "group": group, "n": len(part), "n_users": user.nunique(),
                          "click_rate": part["label"].mean(), "auc_full": metrics.auc(part["label"], full),
                          **_ends("minus", gap), **_ends("depth", deep)})  # fmt: skip
    return pd.DataFrame(lines)


def _ends(name: str, found: dict) -> dict:
    low, high = found["ci95"] or (np.nan, np.nan)
    return {name: found["value"], f"{name}_lo": low, f"{name}_hi": high}


def _place(group: str) -> tuple:
    """Groups in their natural order: quarters as listed, counts and ages by number, the rest by name."""
    order = (*QUARTERS, "none", "1 to 3", "4 to 7", "8 or more", *(f"from {low}" for low in AGES))
    return (order.index(group), "") if group in order else (len(order), group)
