"""From a dataset's official files to labelled, split interactions: `reading` checks the files, `splits` divides."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.config import DataConfig, StudyConfig
from eestudy.data.reading import ADAPTERS, DataError, parse_ml_100k, quarantine_summary
from eestudy.data.splits import (
    SPLIT_SEED,
    assign_halves,
    label_clicks,
    make_requests,
    mix,
    sample_judged,
    split_by_time,
    split_frame,
    time_split,
    unseen_user_share,
)

__all__ = [
    "DataError",
    "assign_halves",
    "keep_users",
    "label_clicks",
    "make_requests",
    "parse_ml_100k",
    "prepare",
    "quarantine_summary",
    "read",
    "sample_judged",
    "split_by_time",
    "split_frame",
    "time_split",
    "unseen_user_share",
]


def sorted_ids(ids) -> list[str]:
    """Distinct source ids, numbers by value and before words: their place is the integer id, whatever the file."""
    return sorted(set(ids), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def keep_users(interactions: pd.DataFrame, max_users: int | None) -> pd.DataFrame:
    """Interactions of `max_users` users, those of lowest hash; all of them where it is None."""
    names = np.array(sorted_ids(interactions["user_id"]), dtype=object)
    if max_users is None or max_users >= len(names):
        return interactions
    kept = names[np.argsort(mix(np.arange(len(names)), SPLIT_SEED), kind="stable")[:max_users]]
    return interactions[interactions["user_id"].isin(kept)]


def index_ids(raw: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Replace source ids by contiguous integers; users and items without any interaction are left out.

    Args:
        raw: what an adapter returns.

    Returns:
        "interactions" (row, user_id, item_id, rating, timestamp), "users", "items" (with source_user_id and
        source_item_id), dtypes as in the artifacts.
    """
    interactions = raw["interactions"].reset_index(drop=True)
    frames = {}
    for kind, columns in (("user", ["age", "gender", "occupation"]), ("item", ["title", "year", "genres"])):
        names = sorted_ids(interactions[f"{kind}_id"])
        place = pd.Series(np.arange(len(names)), index=names)
        interactions[f"{kind}_id"] = place.loc[interactions[f"{kind}_id"]].to_numpy()
        table = raw[f"{kind}s"].set_index(f"{kind}_id").loc[names, columns].reset_index(drop=True)
        table.insert(0, f"source_{kind}_id", names)
        table.insert(0, f"{kind}_id", np.arange(len(names)))
        frames[f"{kind}s"] = table
    interactions = interactions[["user_id", "item_id", "rating", "timestamp"]]
    interactions = interactions.astype({"rating": np.float32, "timestamp": np.int64})
    interactions.insert(0, "row", np.arange(len(interactions)))
    return {"interactions": interactions, **frames}


def read(data: DataConfig) -> dict[str, pd.DataFrame]:
    """A dataset's files, checked, ids as in the source: "interactions", "users", "items", "quarantine".

    Raises:
        DataError: no adapter for the dataset, or a file that cannot be used.
    """
    if data.name not in ADAPTERS:
        raise DataError(f"no adapter for {data.name!r}; there are: {', '.join(ADAPTERS)}. Add one to eestudy/data/.")
    return ADAPTERS[data.name](data)


def prepare(cfg: StudyConfig, raw: dict[str, pd.DataFrame] | None = None) -> dict[str, pd.DataFrame]:
    """Everything notebook 01 hands on.

    Args:
        cfg: the study's settings.
        raw: what `read` returns; read here when None.

    Returns:
        "interactions", "users", "items", "split" and "quarantine" frames, columns as in the artifacts.

    Raises:
        DataError: as `read`.
    """
    data = cfg.data
    raw = read(data) if raw is None else raw
    frames = index_ids({**raw, "interactions": keep_users(raw["interactions"], data.max_users)})
    interactions = frames["interactions"]
    interactions.insert(4, "label", label_clicks(interactions["rating"], data.min_click_rating))
    is_development = frames["users"]["source_user_id"].isin(data.development_users).to_numpy()
    split = split_frame(interactions, is_development, data, cfg.seed)
    return {**frames, "split": split, "quarantine": raw["quarantine"]}
