"""From a dataset's files to labelled, split interactions: an adapter reads, `cleaning` checks, `splits` divides."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.config import DataConfig, StudyConfig
from eestudy.data.amazon import read_amazon
from eestudy.data.bookcrossing import read_bookcrossing
from eestudy.data.checks import Finding, check_support, popularity_auc, refuse_unsupported
from eestudy.data.ml_100k import parse_ml_100k, read_ml_100k
from eestudy.data.movielens import read_ml_1m
from eestudy.data.negatives import add_negatives, graph_negatives
from eestudy.data.own import read_own_data
from eestudy.data.quarantine import DataError, quarantine_summary
from eestudy.data.splits import (
    FOREVER,
    SPLIT_SEED,
    assign_halves,
    label_above_own_median,
    label_clicks,
    make_requests,
    mix,
    name_parts,
    positions_in_order,
    sample_judged,
    split_by_time,
    split_frame,
    time_split,
    unseen_user_share,
)

__all__ = [
    "ADAPTERS", "DataError", "Finding", "add_negatives", "assign_halves", "check_support", "graph_negatives",
    "keep_users", "label_clicks", "label_rows", "make_requests", "parse_ml_100k",
    "popularity_auc", "prepare", "quarantine_summary",
    "read", "refuse_unsupported", "sample_judged", "split_by_time", "split_frame", "time_split",
    "unseen_user_share",
]

ADAPTERS = {
    "ml-100k": read_ml_100k, "ml-1m": read_ml_1m, "bookcrossing": read_bookcrossing,
    "amazon-beauty": read_amazon, "amazon-video-games": read_amazon,
}  # fmt: skip


def sorted_ids(ids) -> list[str]:
    """Distinct source ids, numbers by value and before words: their place is the integer id, whatever the file."""
    return sorted(set(ids), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def keep_users(interactions: pd.DataFrame, max_users: int | None) -> pd.DataFrame:
    """Interactions of `max_users` users, those of lowest hash; all of them where it is None."""
    names = np.array(sorted_ids(interactions["user_id"].unique()), dtype=object)
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
        ids = interactions[f"{kind}_id"].astype("category").cat.remove_unused_categories()
        names = sorted_ids(ids.cat.categories)
        place = pd.Series(np.arange(len(names)), index=names).loc[ids.cat.categories].to_numpy()
        interactions[f"{kind}_id"] = place[ids.cat.codes]
        table = raw[f"{kind}s"].set_index(f"{kind}_id").loc[names, columns].reset_index(drop=True)
        table.insert(0, f"source_{kind}_id", names)
        table.insert(0, f"{kind}_id", np.arange(len(names)))
        frames[f"{kind}s"] = table
    interactions = interactions[["user_id", "item_id", "rating", "timestamp"]]
    interactions = interactions.astype({"rating": np.float32, "timestamp": np.int64})
    interactions.insert(0, "row", np.arange(len(interactions)))
    return {"interactions": interactions, **frames}


def read(data: DataConfig) -> dict[str, pd.DataFrame]:
    """A dataset's files, checked, ids as in the source; see `frames.collect`.

    Raises:
        DataError: no adapter for the dataset, or a file that cannot be used.
    """
    if data.ratings is None and data.name not in ADAPTERS:
        raise DataError(f"no adapter for {data.name!r}; there are: {', '.join(ADAPTERS)}. Add one to eestudy/data/.")
    nothing = {"left_out": pd.DataFrame({"rule": [], "n_rows": []})}
    return nothing | (ADAPTERS[data.name] if data.ratings is None else read_own_data)(data)


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
    quarantine = raw["quarantine"]
    del raw  # of large datasets a gigabyte, where the caller does not hold it
    interactions = frames["interactions"]
    if data.clock == "order" and interactions["timestamp"].max() >= FOREVER:  # positions that count something else
        interactions["timestamp"] = positions_in_order(interactions)
    is_development = frames["users"]["source_user_id"].isin(data.development_users).to_numpy()
    parts = name_parts(interactions, is_development, data)
    interactions.insert(4, "label", label_rows(interactions, parts, data))
    if data.label_rule == "sampled-negatives":
        interactions, parts = add_negatives(interactions, parts, SPLIT_SEED)
    else:
        interactions["observed"] = True
    split = split_frame(interactions, parts, data, cfg.seed)
    return {**frames, "interactions": interactions, "split": split, "quarantine": quarantine}


def label_rows(interactions: pd.DataFrame, parts, data: DataConfig) -> np.ndarray:
    """Clicks by the dataset's rule: int8 [n]. Of sampled negatives nothing is there yet: every row is a click."""
    if data.label_rule == "own-median":
        return label_above_own_median(interactions, parts)
    if data.label_rule == "sampled-negatives":
        return np.ones(len(interactions), dtype=np.int8)
    return label_clicks(interactions["rating"], data.min_click_rating)
