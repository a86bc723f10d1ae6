"""What a user's vector is made of where no graph is asked: whose are needed, from which items, on which scale."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from eestudy.retriever.search import normalise


def users_needed(asked: pd.DataFrame, allowed: pd.DataFrame) -> np.ndarray:
    """Ids, ascending, of all whose vectors a look-up may touch: who asks, and who rated a target."""
    raters = allowed.loc[allowed["item_id"].isin(asked["item_id"]), "user_id"]
    return np.union1d(asked["user_id"].to_numpy(), raters.to_numpy())


def recent_items(allowed: pd.DataFrame, users: Iterable[int], n_recent: int) -> dict[int, pd.DataFrame]:
    """The latest interactions of each user, oldest first; ties in time by row.

    Args:
        allowed: row, user_id, item_id, rating, timestamp.
        users: ids.
        n_recent: interactions at most.
    """
    wanted = allowed[allowed["user_id"].isin(list(users))].sort_values(["user_id", "timestamp", "row"])
    return dict(list(wanted.groupby("user_id").tail(n_recent).groupby("user_id")))


def averaged(items_of: pd.DataFrame, item_vectors: np.ndarray, n_users: int) -> np.ndarray:
    """Every user as the mean of their items' directions.

    Args:
        items_of: user_id, item_id.
        item_vectors: [I, D].
        n_users: U.

    Returns:
        float32 [U, D]; zeros for a user without items.
    """
    pairs = (items_of["user_id"].to_numpy(), items_of["item_id"].to_numpy())
    shape = (n_users, len(item_vectors))
    of = csr_array((np.ones(len(items_of), dtype=np.float32), pairs), shape=shape)
    count = np.maximum(np.bincount(pairs[0], minlength=n_users), 1)[:, None]
    return (of @ normalise(item_vectors) / count).astype(np.float32)


def centred(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors less the mean of those that are not zero, which stay zero; and that mean.

    A decoder's states share one large direction: without this step all texts look alike.

    Args:
        vectors: [N, D].

    Returns:
        float32 [N, D] and [D].

    Source: Mu and Viswanath, "All-but-the-Top" (ICLR 2018), its first step.
    """
    known = vectors.any(axis=1, keepdims=True)
    mean = (vectors.sum(axis=0) / max(int(known.sum()), 1)).astype(np.float32)
    return np.where(known, vectors - mean, 0).astype(np.float32), mean
