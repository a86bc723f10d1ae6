"""Evidence without stars: how well a target matches a user's taste, and how close it is to what the user took.

Where nobody says how much they like an item, a neighbour's opinion is a similarity. It is shown to the language model
as one digit, from 0 to 9.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.retriever.evidence import Retriever

N_DIGITS = 10


def match_evidence(rows: pd.DataFrame, allowed: pd.DataFrame, retriever: Retriever) -> pd.DataFrame:
    """Two similarities per pair of a user and a target.

    Args:
        rows: row, user_id, item_id of the Q pairs to be judged.
        allowed: user_id, item_id of what was taken and may be known; none of the Q pairs.
        retriever: with users and items in one space.

    Returns:
        Q rows in the order given: row, n_user (what the user took), n_item (by how many the target was taken),
        others_mean (match: of the user's and the target's place in the graph), own_mean (closest: the largest
        similarity of the target to an item that the user took; NaN where there is none).

    Raises:
        ValueError: a pair to be judged is among those that may be known.
    """
    both = rows[["row", "user_id", "item_id"]].merge(allowed[["user_id", "item_id"]], on=["user_id", "item_id"])
    if len(both):
        raise ValueError(f"{len(both)} judged pairs are among the visible interactions, e.g. row {both['row'].iloc[0]}"
                         ". Give `allowed` earlier parts of the split only.")
    place = rows[["user_id", "item_id"]].assign(place=np.arange(len(rows)))
    pairs = place.merge(allowed[["user_id", "item_id"]].rename(columns={"item_id": "own"}), on="user_id")
    pairs["similarity"] = retriever.item_similarity(pairs["own"].to_numpy(), pairs["item_id"].to_numpy())
    closest = pairs.groupby("place")["similarity"].max().reindex(np.arange(len(rows)))
    n_user, n_item = (rows[key].map(allowed[key].value_counts()).fillna(0).astype(np.int64).to_numpy()
                      for key in ("user_id", "item_id"))  # fmt: skip
    return pd.DataFrame({
        "row": rows["row"].to_numpy(), "n_user": n_user, "n_item": n_item,
        "others_mean": retriever.match(rows["user_id"].to_numpy(), rows["item_id"].to_numpy()).astype(np.float64),
        "own_mean": closest.to_numpy(np.float64),
    })  # fmt: skip


def digit_edges(values) -> np.ndarray:
    """Nine edges that cut values into ten equal parts, NaN left out: float64 [9]."""
    return np.nanquantile(np.asarray(values, dtype=np.float64), np.arange(1, N_DIGITS) / N_DIGITS)


def to_digits(values, edges: np.ndarray) -> list[np.ndarray]:
    """Each value as a list of one digit, 0 to 9; NaN as an empty list."""
    digits = np.digitize(values, edges).astype(np.int8)
    return [digits[i:i + 1] if np.isfinite(value) else digits[:0] for i, value in enumerate(values)]


def split_matches(
    interactions: pd.DataFrame, split: pd.DataFrame, retriever_label: Retriever, retriever_final: Retriever
) -> pd.DataFrame:
    """`evidence.split_evidence` without stars: the same forward split, the same columns `others` and `own`.

    Each similarity becomes a digit among those of the label rows: label rows are what the language model learns from.

    Args:
        interactions: row, user_id, item_id, observed.
        split: row, split.
        retriever_label, retriever_final: trained on the graph part; on graph and label part.

    Returns:
        Columns of `match_evidence`, and others and own (lists of one digit at most), sorted by row.
    """
    frame = interactions.merge(split[["row", "split"]], on="row", validate="one_to_one")
    part, observed = frame["split"], frame["observed"]
    graph, label = frame[part == "graph"], frame[part == "label"]
    later = frame[part.isin(["validation", "test", "development"])]
    early = match_evidence(label, graph, retriever_label)
    late = match_evidence(later, pd.concat([graph, label[observed[label.index]]]), retriever_final)
    found = pd.concat([early, late], ignore_index=True)
    for mean, digits in (("others_mean", "others"), ("own_mean", "own")):
        found[digits] = to_digits(found[mean].to_numpy(), digit_edges(early[mean]))
    return found.sort_values("row").reset_index(drop=True)
