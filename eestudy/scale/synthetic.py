"""A made-up graph of any size: taste groups are planted, so that it can be checked whether training finds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eestudy import retriever

ROUNDS = 50  # of redrawing edges that were drawn before; what is a duplicate even then is left out


@dataclass(frozen=True)
class PlantedGraph:
    """Edges and the truth behind them."""

    user_id: np.ndarray  # [M] int64, ascending
    item_id: np.ndarray  # [M] int64, ascending within each user: no pair occurs twice
    user_group: np.ndarray  # [U] int64
    item_group: np.ndarray  # [I] int64

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        return len(self.user_group), len(self.item_group)


def power_law_counts(n: int, total: int, exponent: float, largest: int) -> np.ndarray:
    """Whole numbers that fall like rank^-exponent, between 1 and `largest`, and sum up to `total`.

    Args:
        n: how many.
        total: their sum.
        exponent: 0 makes all equal; the number of counts above x then falls like x^(-1 / exponent).
        largest: upper bound of each.

    Returns:
        [n] int64, falling.

    Raises:
        ValueError: no such numbers: total < n or total > n * largest.
    """
    if not n <= total <= n * largest:
        raise ValueError(f"{n} counts between 1 and {largest} cannot sum up to {total}")
    share = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    low, high = 0.0, largest / share[-1]
    for _ in range(60):  # the sum grows with the scale: halve the interval in which it meets the total
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * share, 1, largest).sum() < total else (low, middle)
    exact = np.clip(low * share, 1, largest)
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1  # largest fractions first
    return np.sort(counts)[::-1]


def planted_graph(
    n_users: int, n_items: int, n_edges: int, *, n_groups: int = 32, within: float = 0.5,
    user_exponent: float = 0.6, item_exponent: float = 0.7, seed: int = 0,
) -> PlantedGraph:  # fmt: skip
    """Draw a bipartite graph with power-law activity and popularity, and planted taste groups.

    Every user and every item belongs to one of `n_groups` groups, at random and alike in size. The users' numbers of
    edges fall like rank^-user_exponent (at least 1, at most a tenth of the items), dealt out at random. Each edge
    goes, with probability `within`, to an item of the user's own group, else to any item (which may be of the group
    too); either way in proportion to the items' popularity, which falls like rank^-item_exponent within each group.
    An edge that the user has already is drawn anew, so that full groups spill over into the others.

    Args:
        n_users, n_items: U and I, n_items at least 10 * n_groups.
        n_edges: M, on average of at least 1 edge a user and at most the tenth of the items.
        n_groups: G; chance finds 1 / G of a user's neighbours in its own group.
        within: share of taste in the choice; 0 plants nothing.
        user_exponent, item_exponent: of activity and popularity by rank.
        seed: of everything that is drawn.

    Returns:
        A `PlantedGraph` of n_edges edges without duplicates (a few less where users have nearly everything).

    Raises:
        ValueError: fewer than 10 items a group, or see `power_law_counts`.
    """
    if n_items < 10 * n_groups:
        raise ValueError(f"{n_groups} groups need at least {10 * n_groups} items, not {n_items}")
    rng = np.random.default_rng(seed)
    user_group = rng.permutation(np.arange(n_users) % n_groups)  # [U]
    item_group = rng.permutation(np.arange(n_items) % n_groups)  # [I]
    counts = rng.permutation(power_law_counts(n_users, n_edges, user_exponent, n_items // 10))  # [U]
    draw = _item_sampler(user_group, item_group, within, item_exponent, rng)
    key = _distinct_edges(counts, n_items, draw)  # [M]
    return PlantedGraph(key // n_items, key % n_items, user_group, item_group)


def _item_sampler(user_group, item_group, within, exponent, rng):
    """A function users [B] -> items [B], one draw each, by inverting the cumulative popularity of items by group."""
    by_group = np.argsort(item_group, kind="stable")  # [I]
    start = np.searchsorted(item_group[by_group], np.arange(item_group.max() + 2))  # [G + 1]
    rank = np.arange(len(by_group)) - start[item_group[by_group]]  # [I] within the group
    edge = np.concatenate([[0.0], np.cumsum((1.0 + rank) ** -exponent)])  # [I + 1]

    def draw(user: np.ndarray) -> np.ndarray:
        group = np.where(rng.random(len(user)) < within, user_group[user], -1)
        low = np.where(group < 0, 0.0, edge[start[group]])
        high = np.where(group < 0, edge[-1], edge[start[group + 1]])
        place = np.searchsorted(edge, low + (high - low) * rng.random(len(user)), side="right") - 1
        return by_group[np.minimum(place, len(by_group) - 1)]

    return draw


def _distinct_edges(counts: np.ndarray, n_items: int, draw) -> np.ndarray:
    """Ascending keys user * n_items + item, without duplicates, `counts` [U] of each user."""
    finished, key, missing = [], np.empty(0, dtype=np.int64), counts
    for _ in range(ROUNDS):
        user = np.repeat(np.arange(len(counts)), missing)  # [B]
        if len(user) == 0:
            break
        key = np.unique(np.concatenate([key, user * n_items + draw(user)]))
        owner = key // n_items
        missing = np.where(missing > 0, counts - np.bincount(owner, minlength=len(counts)), 0)
        open_ = missing[owner] > 0  # only their edges have to be compared with further draws
        finished.append(key[~open_])
        key = key[open_]
    return np.sort(np.concatenate([*finished, key]))


def recovered_groups(
    user_emb: np.ndarray, user_group: np.ndarray, k: int = 10, n_asked: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Whether users who are near each other are of the same planted group: what training should have found.

    Args:
        user_emb: [U, D].
        user_group: [U] int.
        k: nearest users by cosine, the user itself left out.
        n_asked: users drawn to be asked.
        seed: of the draw.

    Returns:
        The share of neighbours in the asking user's group, and the share that chance would find there.
    """
    asked = np.random.default_rng(seed).permutation(len(user_emb))[:n_asked]  # [Q]
    ids, _ = retriever.neighbors(user_emb, user_emb[asked], k + 1)  # [Q, k + 1]
    counted = (ids >= 0) & (ids != asked[:, None])
    same = user_group[ids] == user_group[asked][:, None]
    chance = np.square(np.bincount(user_group) / len(user_group)).sum()
    return float(same[counted].mean()), float(chance)
