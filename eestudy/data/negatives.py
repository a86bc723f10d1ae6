"""Sampled negatives: what stands against a user's next item where nobody has said what they dislike."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.config import SPLITS

TRIES = 100
# each part and those before it
UNTIL = {"label": ("graph", "label"), "validation": ("graph", "label", "validation"),
         "test": SPLITS, "development": SPLITS}  # fmt: skip


def _pairs(interactions: pd.DataFrame, n_items: int) -> np.ndarray:
    """Users and items as one number each, sorted."""
    return np.sort(interactions["user_id"].to_numpy(np.int64) * n_items + interactions["item_id"].to_numpy(np.int64))


def draw_negatives(user_id, pool_user, pool_item, known: np.ndarray, n_items: int, seed: int) -> np.ndarray:
    """For each target an item that is another user's target, and that the user is not known to have.

    Uniform negatives would be rarer items than targets are, and popularity alone would tell them apart; items drawn
    from others' targets are as popular as targets.

    Args:
        user_id: [n] the targets' users.
        pool_user, pool_item: [m] the targets to draw from.
        known: sorted int64, user_id * n_items + item_id of what is never drawn for a user: the targets, at least.
        n_items: I.
        seed: of the draw.

    Returns:
        int64 [n] item ids; -1 where `TRIES` draws found none.
    """
    rng, user_id = np.random.default_rng(seed), np.asarray(user_id, dtype=np.int64)
    pool_user, pool_item = np.asarray(pool_user, dtype=np.int64), np.asarray(pool_item, dtype=np.int64)
    found = np.full(len(user_id), -1, dtype=np.int64)
    open_ = np.arange(len(user_id)) if len(pool_item) else np.zeros(0, dtype=np.int64)
    for _ in range(TRIES):
        if not len(open_):
            break
        drawn = rng.integers(len(pool_item), size=len(open_))
        key = user_id[open_] * n_items + pool_item[drawn]
        at = np.minimum(np.searchsorted(known, key), len(known) - 1)
        good = (known[at] != key) & (pool_user[drawn] != user_id[open_])
        found[open_[good]] = pool_item[drawn[good]]
        open_ = open_[~good]
    return found


def graph_negatives(interactions: pd.DataFrame, split, seed: int) -> pd.DataFrame:
    """One opposite for every row of the graph part, for models that need both classes there: user_id, item_id, label 0.

    Args:
        interactions: user_id, item_id, observed.
        split: [n] the part of each.
        seed: of the draw.
    """
    n_items = 1 + int(interactions["item_id"].max())
    graph = interactions[np.asarray(split) == "graph"]
    ids = (graph["user_id"], graph["item_id"])
    drawn = draw_negatives(ids[0], *ids, _pairs(graph, n_items), n_items, seed)
    found = pd.DataFrame({"user_id": graph["user_id"].to_numpy(), "item_id": drawn, "label": np.int8(0)})
    return found[found["item_id"] >= 0].reset_index(drop=True)


def add_negatives(interactions: pd.DataFrame, split: np.ndarray, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Give every target of the label part and later one negative of its own part.

    A negative is nothing that its user has in that part or before. What they take later may be drawn: to leave it out
    would tell models that learn from the label part what no user of the test part will take.

    Args:
        interactions: row, user_id, item_id, rating, label, timestamp: observed rows only.
        split: [n] the part of each.
        seed: of the draw.

    Returns:
        The interactions with the negatives after them (rating 0, label 0, `observed` False, the timestamp of their
        target, new row numbers), and their parts. A target for which there is none stays without.
    """
    n_items = 1 + int(interactions["item_id"].max())
    pieces, parts = [interactions.assign(observed=True)], [split]
    for number, part in enumerate(sorted(set(split) - {"graph"})):
        targets = interactions[split == part]
        known = _pairs(interactions[np.isin(split, UNTIL[part])], n_items)
        ids = (targets["user_id"], targets["item_id"])
        drawn = draw_negatives(ids[0], *ids, known, n_items, seed + number)
        negatives = targets.assign(item_id=drawn, rating=np.float32(0), label=np.int8(0), observed=False)[drawn >= 0]
        pieces.append(negatives)
        parts.append(np.full(len(negatives), part, dtype=object))
    rows = pd.concat(pieces, ignore_index=True)
    return rows.assign(row=np.arange(len(rows)), item_id=rows["item_id"].astype(np.int64)), np.concatenate(parts)
