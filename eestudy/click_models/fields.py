"""Rows as click models read them: ids, numbers cut into bins, and what the user clicked before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch


def bin_edges(values, n_bins: int) -> np.ndarray:
    """Edges that cut the known values into bins of equal size; fewer where values repeat.

    Args:
        values: float [n], NaN where missing.
        n_bins: bins wanted.

    Returns:
        float64, ascending, at most n_bins - 1; empty where nothing is known.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    return np.unique(np.quantile(known, np.arange(1, n_bins) / n_bins)) if len(known) else np.zeros(0)


def binned(values, edges: np.ndarray) -> np.ndarray:
    """Which bin each value falls into: int64 [n], 1 for the lowest, 0 where it is missing."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(values), 0, 1 + np.digitize(values, edges))


def histories(user, before, known: pd.DataFrame, k: int) -> np.ndarray:
    """The last k items that each user clicked before a moment, oldest first.

    Args:
        user, before: int [n], whose items, and before which moment.
        known: user_id, item_id, moment (int) of the clicks that may be known.
        k: items at most.

    Returns:
        int64 [n, k]: item_id + 1; 0 stands on the left where there are fewer.
    """
    ordered = known.sort_values(["user_id", "moment", "item_id"])
    moment = ordered["moment"].to_numpy(np.int64)
    base = int(moment.max(initial=0)) + 2
    key = ordered["user_id"].to_numpy(np.int64) * base + moment  # one number that sorts by user, then moment
    first = np.asarray(user, np.int64) * base
    start = np.searchsorted(key, first)[:, None]  # [n, 1]
    end = np.searchsorted(key, first + np.clip(before, 0, base - 1))[:, None]
    place = end - k + np.arange(k)  # [n, k]
    items = np.append(ordered["item_id"].to_numpy(np.int64), -1)  # the last one is read where there is nothing
    return items[np.where(place >= start, place, -1)] + 1


def _turns(rows: pd.DataFrame) -> np.ndarray:
    """[n] how many rows of the same user, part and kind (taken, or sampled as its opposite) come before each.

    A sampled opposite thereby stands where the row stands that it was drawn for.
    """
    ordered = rows.reset_index(drop=True).sort_values(["user_id", "timestamp", "row"], kind="stable")
    return ordered.groupby(["user_id", "split", "observed"]).cumcount().sort_index().to_numpy()


def earlier_clicks(rows: pd.DataFrame, k: int) -> np.ndarray:
    """What each row may know of its user's clicks, by the forward split.

    A graph row sees the graph part's clicks before it; a label row the graph part before its request; a later row
    the graph and label part before its request. No row sees its own label, and none sees a later part.

    Args:
        rows: row, user_id, item_id, label, timestamp (s), observed, split, request_timestamp (s).
        k: clicks at most.

    Returns:
        int64 [n, k], as from `histories`.
    """
    graph, label = (rows["split"].to_numpy() == part for part in ("graph", "label"))
    clicked = (rows["label"] == 1).to_numpy() & rows["observed"].to_numpy(bool)
    turn, time, request = _turns(rows), rows["timestamp"].to_numpy(), rows["request_timestamp"].to_numpy()
    user, found = rows["user_id"].to_numpy(), np.zeros((len(rows), k), dtype=np.int64)
    for asked, known, moment, before in (
        (graph, graph & clicked, turn, turn),
        (label, graph & clicked, time, request),
        (~graph & ~label, (graph | label) & clicked, time, request),
    ):
        table = rows.loc[known, ["user_id", "item_id"]].assign(moment=moment[known])
        found[asked] = histories(user[asked], before[asked], table, k)
    return found


def encode(rows: pd.DataFrame, history: np.ndarray, edges: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Rows as the networks' input: int64 tensors by field.

    Args:
        rows: user_id, item_id and the numbers (NaN where missing).
        history: [n, K] from `earlier_clicks`.
        edges: number's name -> edges of its bins.

    Returns:
        user [n], item [n] (item_id + 1), history [n, K], and every number's bin [n].
    """
    fields = {"user": rows["user_id"].to_numpy(np.int64), "item": rows["item_id"].to_numpy(np.int64) + 1,
              "history": history, **{name: binned(rows[name], edge) for name, edge in edges.items()}}  # fmt: skip
    return {name: torch.tensor(np.asarray(value)) for name, value in fields.items()}
