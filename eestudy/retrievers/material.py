"""What every way starts from: the judged test rows of a run, and what may be known of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts
from eestudy.artifacts import Run
from eestudy.config import KNOWN_PARTS, StudyConfig

COLUMNS = ["row", "user_id", "item_id", "label", "request_id", "request_timestamp"]


@dataclass(frozen=True)
class Material:
    """A run that has come as far as its trained heads."""

    cfg: StudyConfig
    run: Run
    interactions: pd.DataFrame
    split: pd.DataFrame
    titles: list[str]  # [I] by item id
    n_users: int
    asked: pd.DataFrame  # judged test rows: COLUMNS
    reference: pd.DataFrame  # judged rows of the selection half, which say what a digit means: COLUMNS
    allowed: pd.DataFrame  # interactions of the graph and label part that were observed
    before: pd.DataFrame  # of these, of whoever asks, those before the first of their requests
    lines: pd.DataFrame  # of these, those that are lines of the graph


def load_material(cfg: StudyConfig, run: Run) -> Material:
    """Read a run's tables.

    Raises:
        artifacts.ArtifactError: the run has not come as far as notebook 03.
    """
    names = ("interactions", "split", "items", "users")
    interactions, split, items, users = (artifacts.read_table(run, f"{name}.parquet") for name in names)
    rows = interactions.merge(split, on="row", validate="one_to_one")
    judged = rows[rows["judged"]]
    asked = judged.loc[judged["split"] == "test", COLUMNS].sort_values(["request_id", "row"], ignore_index=True)
    reference = judged.loc[judged["half"] == "select", COLUMNS].reset_index(drop=True)
    allowed = rows.loc[rows["split"].isin(KNOWN_PARTS["test"]) & rows["observed"], interactions.columns]
    before = before_requests(allowed, asked)
    lines = before if cfg.retriever.edges == "rated" else before[before["label"] == 1]
    titles = items.sort_values("item_id")["title"].astype(str).tolist()
    return Material(cfg, run, interactions, split, titles, len(users), asked, reference, allowed, before, lines)


def before_requests(allowed: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """The interactions that a user's own vector may be made of: of whoever asks, those before their first request.

    Args:
        allowed: user_id, timestamp (s) and more.
        asked: user_id, request_timestamp (s).
    """
    first = allowed["user_id"].map(asked.groupby("user_id")["request_timestamp"].min())
    return allowed[first.isna() | (allowed["timestamp"] < first)]


def drawn_requests(asked: pd.DataFrame, n_rows: int | None, seed: int) -> np.ndarray:
    """Ids of whole requests, drawn at random, that together hold at least `n_rows` rows; None: all of them."""
    ids = np.random.default_rng([seed, 6]).permutation(asked["request_id"].unique())
    size = asked["request_id"].value_counts().loc[ids].cumsum().to_numpy()
    return ids if n_rows is None else ids[: 1 + np.searchsorted(size, n_rows)]
