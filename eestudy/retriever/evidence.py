"""Evidence: what the request may know about a user and a target, one leakage-safe row per pair.

A retriever is two similarity functions, user-user and item-item, that score pairs of ids; whom to ask among
those whom time and split allow is the same code for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from eestudy.retriever.search import normalise, refuse_nonfinite

MOST_IN_TABLE = 15_000  # users or items whose similarities are held as one table, of 0.9 GB
PAIRS_PER_CHUNK = 2_000_000  # bounds memory: a pair takes some 40 bytes and two gathered vectors of D floats

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (left ids [P], right ids [P]) -> [P]


@dataclass(frozen=True)
class Retriever:
    """A name and functions that score pairs of ids, larger = more similar."""

    name: str
    user_similarity: Similarity
    item_similarity: Similarity
    match: Similarity | None = None  # (user ids, item ids), where users and items lie in one space


def in_chunks(similarity: Similarity) -> Similarity:
    """The same similarity, some pairs at a time: their vectors are gathered, and there may be millions of pairs."""
    def chunked(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        parts = np.array_split(np.arange(len(left)), max(1, len(left) // 100_000))
        return np.concatenate([similarity(left[part], right[part]) for part in parts])

    return chunked


def vector_similarity(vectors: np.ndarray, others: np.ndarray | None = None) -> Similarity:
    """Cosine between rows. Args: vectors [N, D]; the right ones' [M, D], None: the same. Returns: a `Similarity`."""
    unit = normalise(refuse_nonfinite(vectors))  # [N, D]
    other = unit if others is None else normalise(refuse_nonfinite(others))  # [M, D]
    return in_chunks(lambda left, right: np.einsum("pd,pd->p", unit[left], other[right]))


def rating_matrix(allowed: pd.DataFrame, n_users: int, n_items: int) -> np.ndarray:
    """Ratings as a dense matrix. Args: frame with user_id, item_id, rating. Returns: [U, I] float32, 0 = none."""
    shape = (n_users, n_items)
    entries = (allowed["rating"].to_numpy(np.float32), (allowed["user_id"].to_numpy(), allowed["item_id"].to_numpy()))
    return csr_array(entries, shape=shape).toarray()


def table_similarity(vectors: np.ndarray) -> Similarity:
    """`vector_similarity` looked up in a table of all pairs. Args: vectors [N, D], N in the thousands at most."""
    unit = normalise(refuse_nonfinite(vectors))
    table = unit @ unit.T  # [N, N]: where vectors are about as long as N, cheaper than one product per pair
    return lambda left, right: table[left, right]


def graph_retriever(user_emb: np.ndarray, item_emb: np.ndarray) -> Retriever:
    """Cosine of graph embeddings. Args: [U, D] and [I, D]. Source: the paper's retrieval, users' side."""
    return Retriever("graph", vector_similarity(user_emb), vector_similarity(item_emb),
                     vector_similarity(user_emb, item_emb))  # fmt: skip


def rival_retrievers(
    allowed: pd.DataFrame, n_users: int, n_items: int, seed: int, stars: bool = True
) -> list[Retriever]:  # fmt: skip
    """What the graph has to beat: anyone, the most active, and cosine on the rating vectors.

    The last one where there are stars, and no more than `MOST_IN_TABLE` users and items: it needs all pairs at once.

    Args:
        allowed: the interactions the graph was built from: user_id, item_id, rating.
        n_users: U.
        n_items: I.
        seed: of the random retriever.
        stars: whether the dataset has any.
    """
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((n, 16)) for n in (n_users, n_items)]
    random = Retriever("random", *map(vector_similarity, vectors), vector_similarity(*vectors))
    counts = [np.bincount(allowed[key], minlength=n) for key, n in (("user_id", n_users), ("item_id", n_items))]
    by_count = [(lambda left, right, count=count: count[right]) for count in counts]
    rivals = [random, Retriever("most active", *by_count, by_count[1])]
    if stars and max(n_users, n_items) <= MOST_IN_TABLE:
        ratings = rating_matrix(allowed, n_users, n_items)
        rivals.append(Retriever("cosine on ratings", table_similarity(ratings), table_similarity(ratings.T)))
    return rivals


@dataclass(frozen=True)
class _Grouped:
    """Interactions sorted by (key, time): those of one key before a time are one slice [start, end)."""

    other: np.ndarray  # [M] the id on the other side
    rating: np.ndarray  # [M] stars
    total: np.ndarray  # [M + 1] float64 running sum of ratings
    start: np.ndarray  # [Q]
    end: np.ndarray  # [Q]

    def count(self) -> np.ndarray:
        return self.end - self.start

    def mean(self) -> np.ndarray:
        """[Q] mean rating of each slice, NaN where it is empty."""
        n = self.count()
        return np.where(n > 0, (self.total[self.end] - self.total[self.start]) / np.maximum(n, 1), np.nan)


def group_before(allowed: pd.DataFrame, key: str, other: str, wanted: np.ndarray, before: np.ndarray) -> _Grouped:
    """For each query the allowed interactions whose `key` is `wanted` and whose time is < `before`.

    Args:
        allowed: user_id, item_id, rating, timestamp (s).
        key, other: 'user_id' and 'item_id', or the other way round.
        wanted, before: [Q] ids of the side `key`, times (s).
    """
    ordered = allowed.sort_values([key, "timestamp", other])
    time = ordered["timestamp"].to_numpy(np.int64)
    before = np.minimum(before, time.max(initial=0) + 1)  # whatever is later sees the same, and the product stays small
    base = 1 + max(time.max(initial=0), before.max(initial=0))
    place = ordered[key].to_numpy(np.int64) * base + time  # one number that sorts by key, then time
    wanted = wanted.astype(np.int64)
    rating = ordered["rating"].to_numpy()
    return _Grouped(
        other=ordered[other].to_numpy(np.int64),
        rating=rating,
        total=np.concatenate([[0.0], np.cumsum(rating, dtype=np.float64)]),
        start=np.searchsorted(place, wanted * base, side="left"),
        end=np.searchsorted(place, wanted * base + before, side="left"),
    )


def most_similar(
    group: _Grouped, query: np.ndarray, similarity: Similarity, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """The k most similar entries of each query's slice, most similar first; ties: smaller id.

    Args:
        group: from `group_before`.
        query: [Q] ids that are compared with the entries' ids.
        similarity: of a query and an entry.
        k: entries at most.

    Returns:
        Q pairs: places [<= k] in the group's arrays, similarities [<= k].
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    count = group.count()
    chunk = np.cumsum(count) // PAIRS_PER_CHUNK
    for part in np.split(np.arange(len(query)), np.flatnonzero(np.diff(chunk)) + 1):
        n = count[part]  # [q]
        first = np.cumsum(n) - n  # [q] where each query's pairs begin
        row = np.repeat(np.arange(len(part)), n)  # [P]
        at = np.arange(n.sum()) - np.repeat(first, n) + np.repeat(group.start[part], n)  # [P] into the slices
        score = similarity(query[part][row], group.other[at])  # [P]
        for low, start, size in zip(group.start[part], first, n, strict=True):
            kept = _best(score[start:start + size], group.other[low:low + size], k)
            found.append((low + kept, score[start + kept]))
    return found


def _best(score: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest scores, the largest first; ties: smaller id."""
    kept = np.arange(len(score))
    if len(score) > k:  # without this step, sorting long lists takes most of the time
        kept = np.flatnonzero(score >= np.partition(score, -k)[-k])
    return kept[np.lexsort((ids[kept], -score[kept]))[:k]]


def mean_of_each(lists: list[np.ndarray]) -> np.ndarray:
    """[Q] float64: the mean of each of Q arrays, NaN where it is empty."""
    return np.array([values.mean(dtype=np.float64) if len(values) else np.nan for values in lists])


def build_evidence(
    rows: pd.DataFrame, allowed: pd.DataFrame, retriever: Retriever, n_similar_users: int, n_similar_items: int
) -> pd.DataFrame:
    """One row of evidence per pair, from ratings made before its request only.

    Args:
        rows: row, user_id, item_id, request_timestamp (s) of the Q pairs to be judged.
        allowed: row, user_id, item_id, rating, timestamp (s) of the interactions that may be seen.
        retriever: who is similar.
        n_similar_users: ratings of the target to show, at most.
        n_similar_items: ratings of the user's own similar items to show, at most.

    Returns:
        Q rows in the order given: row, user_mean, n_user (the user's allowed ratings before the request),
        item_mean, n_item (the target's), others (int8 ratings of the target by its most similar raters),
        others_mean, own (int8 ratings by the user of the items most similar to the target), own_items (their ids),
        own_mean.
        Means are plain and NaN where there is nothing.

    Raises:
        ValueError: a pair to be judged is among the interactions that may be seen.

    Source: `others` is the paper's retrieval; `own` and the rule of time are ours.
    """
    user, item = rows["user_id"].to_numpy(np.int64), rows["item_id"].to_numpy(np.int64)
    before = rows["request_timestamp"].to_numpy(np.int64)
    refuse_own_rating(rows, allowed)
    by_item = group_before(allowed, "item_id", "user_id", item, before)  # who rated the target
    by_user = group_before(allowed, "user_id", "item_id", user, before)  # what the user rated
    others = [by_item.rating[places] for places, _ in
              most_similar(by_item, user, retriever.user_similarity, n_similar_users)]  # fmt: skip
    mine = [places for places, _ in most_similar(by_user, item, retriever.item_similarity, n_similar_items)]
    own = [by_user.rating[places] for places in mine]
    return pd.DataFrame({
        "row": rows["row"].to_numpy(), "user_mean": by_user.mean(), "n_user": by_user.count(),
        "item_mean": by_item.mean(), "n_item": by_item.count(),
        "others": _whole(others), "others_mean": mean_of_each(others),
        "own": _whole(own), "own_items": [by_user.other[places] for places in mine], "own_mean": mean_of_each(own),
    })  # fmt: skip


def _whole(lists: list[np.ndarray]) -> list[np.ndarray]:
    """Ratings as the prompt shows them: int8, halves rounded up."""
    return [np.floor(values + 0.5).astype(np.int8) for values in lists]


def refuse_own_rating(rows: pd.DataFrame, allowed: pd.DataFrame) -> None:
    """A pair's own rating must be out of reach by id, not only by time.

    Raises:
        ValueError: a pair of `rows` (row, user_id, item_id) is among `allowed`.
    """
    n_items = 1 + max(rows["item_id"].max(), allowed["item_id"].max()) if len(rows) and len(allowed) else 1
    judged = rows["user_id"].to_numpy(np.int64) * n_items + rows["item_id"].to_numpy(np.int64)
    seen = allowed["user_id"].to_numpy(np.int64) * n_items + allowed["item_id"].to_numpy(np.int64)
    both = np.isin(judged, seen)
    if both.any():
        first = rows[both].iloc[0]
        raise ValueError(
            f"{both.sum()} judged pairs are among the visible interactions, e.g. row {first['row']}: user "
            f"{first['user_id']}, item {first['item_id']}. Give `allowed` earlier parts of the split only."
        )


def forward_parts(interactions: pd.DataFrame, split: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The forward split: what is asked, and what of the earlier parts may be known of it.

    Args:
        interactions: row, observed and more.
        split: row, split, half, judged, request_timestamp, or what of them is wanted.

    Returns:
        (rows of the label part, the graph part), and (later rows, the graph part with what was observed of the label
        part), each with the columns of both tables.
    """
    frame = interactions.merge(split, on="row", validate="one_to_one")
    graph, label = frame[frame["split"] == "graph"], frame[frame["split"] == "label"]
    later = frame[frame["split"].isin(["validation", "test", "development"])]
    return [(label, graph), (later, pd.concat([graph, label[label["observed"]]]))]


def split_evidence(
    interactions: pd.DataFrame, split: pd.DataFrame, retriever_label: Retriever, retriever_final: Retriever,
    n_similar_users: int, n_similar_items: int,
) -> pd.DataFrame:  # fmt: skip
    """Evidence of every label, validation, test and development row, by the forward split.

    Label rows see the graph part (60 %) through a retriever trained on it; the later rows see graph and label
    part (80 %) through one trained on both: a training prompt is no better informed than a test prompt.

    Args:
        interactions: row, user_id, item_id, rating, timestamp, observed.
        split: row, split, request_timestamp.
        retriever_label: trained on the graph part.
        retriever_final: trained on graph and label part.
        n_similar_users: see `build_evidence`.
        n_similar_items: see `build_evidence`.

    Returns:
        As `build_evidence`, sorted by row.
    """
    k = (n_similar_users, n_similar_items)
    parts = [build_evidence(asked, known, retriever, *k) for (asked, known), retriever in
             zip(forward_parts(interactions, split), (retriever_label, retriever_final), strict=True)]  # fmt: skip
    return pd.concat(parts).sort_values("row").reset_index(drop=True)
