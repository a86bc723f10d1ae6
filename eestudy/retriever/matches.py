"""Evidence without stars: who took the target, and how it fits what the user took.

Where nobody says how much they like an item, evidence is a similarity, shown to the language model as one digit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.retriever.evidence import (
    Retriever,
    Similarity,
    forward_parts,
    group_before,
    mean_of_each,
    most_similar,
    refuse_own_rating,
)
from eestudy.retriever.search import neighbors

N_DIGITS = 10
SHOWN = {"others": ("others_mean",), "own": ("match", "own_mean")}  # a digit each in the prompt


def match_evidence(
    rows: pd.DataFrame, allowed: pd.DataFrame, retriever: Retriever, n_similar_users: int,
    chosen_by: Similarity | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Three similarities per pair of a user and a target, from what was taken before its request only.

    Args:
        rows: row, user_id, item_id, request_timestamp (s) of the Q pairs to be judged.
        allowed: user_id, item_id, rating, timestamp (s) of what was taken and may be known; none of the Q pairs.
        retriever: with users and items in one space.
        n_similar_users: takers of the target whose similarity counts, at most.
        chosen_by: (the user, a taker) -> larger for whom to choose; None: the retriever. Its similarity of the chosen
            counts anyway.

    Returns:
        Q rows in the order given: row, n_user (what the user took), n_item (by how many the target was taken),
        others_mean (of those who took the target, the mean similarity of the ones chosen: the most similar to the
        user, the paper's similar users, unless `chosen_by` has them), match (of the user's and the target's place in
        the graph), own_mean (the largest similarity of the target to an item that the user took), own_items (that
        item's id, as a list); NaN or empty where there is nobody or nothing.

    Raises:
        ValueError: a pair to be judged is among those that may be known.
    """
    user, item = rows["user_id"].to_numpy(np.int64), rows["item_id"].to_numpy(np.int64)
    before = rows["request_timestamp"].to_numpy(np.int64)
    refuse_own_rating(rows, allowed)
    by_item = group_before(allowed, "item_id", "user_id", item, before)  # who took the target
    by_user = group_before(allowed, "user_id", "item_id", user, before)  # what the user took
    chosen = most_similar(by_item, user, chosen_by or retriever.user_similarity, n_similar_users)
    others = [near for _, near in chosen]
    if chosen_by:
        others = similarity_of_each(user, [by_item.other[at] for at, _ in chosen], retriever.user_similarity)
    closest = most_similar(by_user, item, retriever.item_similarity, 1)
    return pd.DataFrame({
        "row": rows["row"].to_numpy(), "n_user": by_user.count(), "n_item": by_item.count(),
        "others_mean": mean_of_each(others), "match": retriever.match(user, item).astype(np.float64),
        "own_mean": mean_of_each([near for _, near in closest]),
        "own_items": [by_user.other[places] for places, _ in closest],
    })  # fmt: skip


def similarity_of_each(query: np.ndarray, found: list[np.ndarray], similarity: Similarity) -> list[np.ndarray]:
    """How alike each query and the ids found for it are.

    Args:
        query: [Q] ids.
        found: Q arrays of ids.
        similarity: of a query and an id.

    Returns:
        Q arrays, as long as those found.
    """
    size = [len(ids) for ids in found]
    flat = similarity(np.repeat(query, size), np.concatenate([np.zeros(0, np.int64), *found]))
    return np.split(flat, np.cumsum(size)[:-1])


def digit_edges(values) -> np.ndarray:
    """Nine edges that cut values into ten equal parts, NaN left out: float64 [9]."""
    return np.nanquantile(np.asarray(values, dtype=np.float64), np.arange(1, N_DIGITS) / N_DIGITS)


def add_digits(evidence: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Every similarity as a digit, 0 to 9: which tenth of the reference's it lies in.

    Args:
        evidence: from `match_evidence`.
        reference: rows of it, whose similarities come from the same graph; no label is looked at.

    Returns:
        The evidence with others (buyers) and own (match, closest): lists of int8, empty where something is missing.
    """
    found = {}
    for name, columns in SHOWN.items():
        digits = np.stack([np.digitize(evidence[column], digit_edges(reference[column])) for column in columns], axis=1)
        known = evidence[list(columns)].notna().all(axis=1).to_numpy()
        found[name] = [row if whole else row[:0] for row, whole in zip(digits.astype(np.int8), known, strict=True)]
    return evidence.assign(**found)


def split_matches(
    interactions: pd.DataFrame, split: pd.DataFrame, retriever_label: Retriever, retriever_final: Retriever,
    n_similar_users: int,
) -> pd.DataFrame:  # fmt: skip
    """`evidence.split_evidence` without stars: the same forward split, the same columns `others` and `own`.

    Similarities of two graphs are not on one scale. So a digit says which tenth a similarity lies in among those of
    one graph: of label rows for the label part, of the selection half of validation for the later parts.

    Args:
        interactions: row, user_id, item_id, rating, timestamp, observed.
        split: row, split, half, request_timestamp.
        retriever_label, retriever_final: trained on the graph part; on graph and label part.
        n_similar_users: see `match_evidence`.

    Returns:
        Columns of `match_evidence` and `add_digits`, sorted by row.
    """
    first, second = forward_parts(interactions, split)
    early = match_evidence(*first, retriever_label, n_similar_users)
    late = match_evidence(*second, retriever_final, n_similar_users)
    chosen = late[(second[0]["half"] == "select").to_numpy()]
    found = pd.concat([add_digits(early, early), add_digits(late, chosen)], ignore_index=True)
    return found.sort_values("row").reset_index(drop=True)


def taken_by_neighbors(rows: pd.DataFrame, allowed: pd.DataFrame, user_emb: np.ndarray, k: int) -> np.ndarray:
    """Whether any of the k users most similar to the one who is asked took the target.

    Args:
        rows: user_id, item_id of the Q pairs.
        allowed: user_id, item_id of what was taken and may be known.
        user_emb: [U, D] graph embeddings.
        k: neighbours, the user aside.

    Returns:
        bool [Q].

    Source: the paper's retrieval, where nobody gives stars.
    """
    n_items = 1 + int(max(rows["item_id"].max(), allowed["item_id"].max()))
    taken = np.unique(allowed["user_id"].to_numpy(np.int64) * n_items + allowed["item_id"].to_numpy(np.int64))
    users, place = np.unique(rows["user_id"], return_inverse=True)
    near, _ = neighbors(user_emb, user_emb[users], min(k + 1, len(user_emb)))  # [u, k + 1], the user among them
    near = np.where(near == users[:, None], -1, near)
    pairs = near[place] * n_items + rows["item_id"].to_numpy(np.int64)[:, None]  # [Q, k + 1]
    at = np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)
    return (taken[at] == pairs).any(axis=1)
