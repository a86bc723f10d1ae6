"""Labels, splits, requests and samples: pure functions of ids and times, none of them looks at file order.

Time decides; rows of one second are ordered by a hash of their user and item ids. Where a dataset has no clock
(all timestamps are 0) the hash alone decides: a seeded split within each user.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.config import SPLITS, DataConfig

SPLIT_SEED = 0  # the split, its halves and the rows judged are the same for every seed of a study
FOREVER = 2**40  # a request's time (s) where times of different users cannot be compared: later than any timestamp


def mix(*keys) -> np.ndarray:
    """A uint64 hash of integer keys, the same on every machine.

    Args:
        keys: integer arrays [n] or scalars, broadcast together.

    Returns:
        uint64 [n].

    Source: the splitmix64 finaliser (Steele, Lea, Flood 2014), folded over the keys.
    """
    value = np.zeros(np.broadcast_shapes(*(np.shape(key) for key in keys)) or 1, dtype=np.uint64)
    for key in keys:
        value += np.asarray(key).astype(np.uint64)  # in place: the arrays may be long
        value += np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            value ^= value >> np.uint64(shift)
            value *= np.uint64(factor)
    return value


def label_clicks(rating, min_click_rating: float) -> np.ndarray:
    """1 where the rating is at or above `min_click_rating` (stars), else 0; int8 [n]."""
    return (np.asarray(rating) >= min_click_rating).astype(np.int8)


def label_above_own_median(interactions: pd.DataFrame, split) -> np.ndarray:
    """1 where the rating is above the median of its user's ratings in the graph part, else 0; int8 [n].

    Whoever has no rating there is held to the median of all. A rating of the graph part is among those that its
    median is taken from; later ones are not.
    """
    graph = interactions[np.asarray(split) == "graph"]
    median = interactions["user_id"].map(graph.groupby("user_id")["rating"].median())
    return (interactions["rating"] > median.fillna(graph["rating"].median())).to_numpy().astype(np.int8)


def part_ends(n_rows, fractions) -> np.ndarray:
    """Where the parts of users with `n_rows` rows end.

    Each end is the cumulated share of the rows, rounded half up; so no part is off by more than one row, and of a
    user's very few rows the earlier parts get theirs first (1 row: graph; 2: graph, label).

    Args:
        n_rows: int [U].
        fractions: P shares that sum to 1.

    Returns:
        int64 [U, P], ascending; the last column is n_rows.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ValueError(f"split fractions must be at least 0 and sum to 1, not {tuple(fractions)}")
    shares = np.asarray(n_rows)[:, None] * np.cumsum(fractions)
    return np.floor(np.round(shares, 6) + 0.5).astype(np.int64)


def last_three_ends(n_rows) -> np.ndarray:
    """As `part_ends`, one row each for label, validation and test, the rest for the graph; the earlier parts first."""
    n_rows, place = np.asarray(n_rows)[:, None], np.arange(4)
    return np.maximum(n_rows - 3 + place, np.minimum(n_rows, place + 1)).astype(np.int64)


def time_order(interactions: pd.DataFrame, seed: int = SPLIT_SEED, within_user: bool = True) -> np.ndarray:
    """Positions of the rows in order of (user and) time; rows of one second stand in hash order. int64 [n]."""
    user_id, item_id = interactions["user_id"].to_numpy(), interactions["item_id"].to_numpy()
    keys = (mix(user_id, item_id, seed), interactions["timestamp"].to_numpy())
    return np.lexsort((*keys, user_id) if within_user else keys)


def position_in_group(group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values of a grouped array; int64 [n]."""
    place = np.arange(len(group))
    is_first = np.r_[True, group[1:] != group[:-1]][: len(group)]
    return place - np.maximum.accumulate(np.where(is_first, place, 0))


def positions_in_order(interactions: pd.DataFrame) -> np.ndarray:
    """Each row's place among its user's distinct timestamps, from 0: int64 [n]."""
    return interactions.groupby("user_id")["timestamp"].rank("dense").to_numpy(np.int64) - 1


def split_by_time(interactions: pd.DataFrame, fractions, seed: int = SPLIT_SEED) -> np.ndarray:
    """Split each user's rows by time.

    Args:
        interactions: user_id, item_id, timestamp (s), any order.
        fractions: shares of graph, label, validation, test; None: the last three rows, see `last_three_ends`.
        seed: decides between rows of one user and one second.

    Returns:
        object [n]: the part's name per row. Ratings are not looked at.
    """
    order = time_order(interactions, seed)
    user_id = interactions["user_id"].to_numpy()[order]
    _, inverse, counts = np.unique(user_id, return_inverse=True, return_counts=True)
    ends = last_three_ends(counts) if fractions is None else part_ends(counts, fractions)  # [U, 4]
    place, part = position_in_group(user_id), np.zeros(len(user_id), dtype=np.int8)
    for end in ends.T[:-1]:  # one after the other: [n, 4] would be the largest array of the whole preparation
        part += place >= end[inverse]
    split = np.empty(len(interactions), dtype=object)
    split[order] = np.array(SPLITS[:4], dtype=object)[part]
    return split


def time_split(interactions: pd.DataFrame, fractions, seed: int = SPLIT_SEED) -> np.ndarray:
    """The stricter rival: one clock for all users. Arguments and result as for `split_by_time`."""
    order = time_order(interactions, seed, within_user=False)
    ends = part_ends([len(order)], fractions)[0]
    split = np.empty(len(order), dtype=object)
    split[order] = np.repeat(np.array(SPLITS[:4], dtype=object), np.diff(ends, prepend=0))
    return split


def unseen_user_share(user_id, split) -> float:
    """Share of the test users who have no row in the parts that models learn from (graph, label)."""
    user_id, split = np.asarray(user_id), np.asarray(split)
    seen = np.unique(user_id[np.isin(split, ("graph", "label"))])
    tested = np.unique(user_id[split == "test"])
    return float("nan") if len(tested) == 0 else float((~np.isin(tested, seen)).mean())


def assign_halves(user_id, split, seed: int = SPLIT_SEED) -> np.ndarray:
    """Divide the validation users in two: "select" (stopping, calibration, choice) and "risk" (risk control).

    Returns:
        object [n]: "select" or "risk" on validation rows, "" elsewhere; a user is in one half only.
    """
    user_id, split = np.asarray(user_id), np.asarray(split)
    is_validation = split == "validation"
    users = np.unique(user_id[is_validation])
    shuffled = users[np.argsort(mix(users, seed, 1), kind="stable")]
    half = np.full(len(split), "", dtype=object)
    selected = np.isin(user_id[is_validation], shuffled[: (len(users) + 1) // 2])
    half[is_validation] = np.where(selected, "select", "risk").astype(object)
    return half


def make_requests(
    interactions: pd.DataFrame, split, max_candidates: int, seed: int = SPLIT_SEED, one_clock: bool = True
) -> pd.DataFrame:
    """Group rows into requests: up to `max_candidates` consecutive rows of one user in one part.

    Without one clock for all users a request's time is `FOREVER`: what it may know is decided by the parts alone.

    Returns:
        request_id (int64, -1 on graph rows) and request_timestamp (int64 s: the earliest candidate's; -1 on graph
        rows), in the order of `interactions`.
    """
    order = time_order(interactions, seed)
    order = order[np.asarray(split)[order] != "graph"]
    part = pd.factorize(np.asarray(split)[order])[0]
    user_part = interactions["user_id"].to_numpy()[order] * (len(SPLITS) + 1) + part
    is_first = position_in_group(user_part) % max_candidates == 0
    request = np.cumsum(is_first) - 1
    request_id = np.full(len(interactions), -1, dtype=np.int64)
    request_timestamp = request_id.copy()
    timestamp = interactions["timestamp"].to_numpy()[order]
    request_id[order] = request
    # rows are in time order: the first is the earliest
    request_timestamp[order] = timestamp[is_first][request] if one_clock else FOREVER
    return pd.DataFrame({"request_id": request_id, "request_timestamp": request_timestamp}, copy=False)


def sample_requests(request_id, user_id, n_rows: int | None, seed: int, spread_users: bool) -> np.ndarray:
    """Draw whole requests until they hold `n_rows` rows.

    Args:
        request_id, user_id: int [n], the rows to draw from.
        n_rows: rows wanted; the last request may overshoot. None takes all.
        seed: decides the draw.
        spread_users: take no second request of a user before every user has one.

    Returns:
        bool [n]: whether the row is drawn.
    """
    request_id, user_id = np.asarray(request_id), np.asarray(user_id)
    if n_rows is None or n_rows >= len(request_id):
        return np.ones(len(request_id), dtype=bool)
    requests, first, sizes = np.unique(request_id, return_index=True, return_counts=True)
    owner, draw = user_id[first], mix(requests, seed, 2)
    turn = np.zeros(len(requests), dtype=np.int64)
    if spread_users:
        by_user = np.lexsort((draw, owner))
        turn[by_user] = position_in_group(owner[by_user])
    order = np.lexsort((draw, turn))
    n_before = np.cumsum(sizes[order]) - sizes[order]
    return np.isin(request_id, requests[order[n_before < n_rows]])


def sample_judged(split: pd.DataFrame, user_id, data: DataConfig, seed: int) -> np.ndarray:
    """The rows that the LLM trains on or is judged on: whole requests.

    Args:
        split: split, half, request_id per row.
        user_id: int [n].
        data: how many rows of each kind.
        seed: draws the label rows; validation and test rows are the same for every seed.

    Returns:
        bool [n]; never true on graph and development rows.
    """
    user_id = np.asarray(user_id)
    is_judged = np.zeros(len(split), dtype=bool)
    kinds = (
        (split["split"] == "label", data.n_label_rows, seed, False),
        (split["half"] == "select", data.n_select_rows, SPLIT_SEED, True),
        (split["half"] == "risk", data.n_risk_rows, SPLIT_SEED, True),
        (split["split"] == "test", data.n_test_rows, SPLIT_SEED, True),
    )
    for is_kind, n_rows, draw_seed, spread_users in kinds:
        rows = np.flatnonzero(is_kind)
        request_id = split["request_id"].to_numpy()[rows]
        is_judged[rows] = sample_requests(request_id, user_id[rows], n_rows, draw_seed, spread_users)
    return is_judged


def name_parts(interactions: pd.DataFrame, is_development_user, data: DataConfig) -> np.ndarray:
    """The part of every row: object [n]. Arguments as for `split_frame`."""
    split = split_by_time(interactions, data.split_fractions if data.split_rule == "fractions" else None)
    split[(split == "test") & np.asarray(is_development_user)[interactions["user_id"].to_numpy()]] = "development"
    return split


def split_frame(interactions: pd.DataFrame, split, data: DataConfig, seed: int) -> pd.DataFrame:
    """The `split` artifact: row, split, half, request_id, request_timestamp, judged.

    Args:
        interactions: row, user_id, item_id, timestamp.
        split: [n] from `name_parts`; development rows are never judged.
        data: clock, request size, numbers of rows.
        seed: of the run.
    """
    user_id = interactions["user_id"].to_numpy()
    frame = pd.DataFrame({"row": interactions["row"], "split": split, "half": assign_halves(user_id, split)})
    requests = make_requests(interactions, split, data.max_candidates, one_clock=data.clock == "time")
    frame = pd.concat([frame, requests.set_index(frame.index)], axis=1)
    frame["judged"] = sample_judged(frame, user_id, data, seed)
    return frame
