"""Everybody who may be asked instead of the graph, behind one signature, and what each one's neighbours tell.

A way to retrieve is two choices: by whose users similar raters of the target are found, and by whose items the user's
own ratings are chosen. Evidence is looked up once per `Retriever`; the ways only combine its two sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from eestudy.retriever.evidence import Retriever, build_evidence, vector_similarity
from eestudy.retriever.matches import SHOWN, add_digits, match_evidence
from eestudy.retriever.search import normalise

SIDES = {"others": ("others", "others_mean"), "own": ("own", "own_mean", "match")}  # columns of evidence


@dataclass(frozen=True)
class Way:
    """One row of the table: whose users, whose items (names of retrievers, None: this side is not shown)."""

    name: str
    users: str | None
    items: str | None
    words: str
    against: str = ""  # the graph's way with the same sides, which it is compared with

    @property
    def mode(self) -> str:
        """The kind of prompt that shows these sides; where only `own` is known, `others` reads 'none'."""
        return "both" if self.items else "similar_users" if self.users else "none"


WAYS = (
    Way("none", None, None, "nobody is asked"),
    Way("random", "random", None, "random raters of the target", "gcn"),
    Way("most_active", "most active", None, "its most active raters", "gcn"),
    Way("cosine", "cosine on ratings", None, "raters by cosine of rating vectors", "gcn"),
    Way("sentence", "sentence", None, "raters by sentence embedding of liked titles, averaged", "gcn"),
    Way("llm_titles", "llm titles", None, "raters by LLM embedding of liked titles, averaged", "gcn"),
    Way("llm", "llm", None, "raters by LLM embedding of the history's text (the paper's LLM retriever)", "gcn"),
    Way("gcn_last_layer", "graph, last layer", None, "raters by GCN, last layer", "gcn"),
    Way("gcn_folded_in", "graph, folded in", None, "raters by GCN, the asking user folded in", "gcn"),
    Way("gcn", "graph", None, "raters by GCN, mean of layers (the paper's)"),
    Way("own_gcn", None, "graph", "own ratings of similar items, by GCN (as ItemRAG)"),
    Way("own_llm", None, "llm", "own ratings of similar items, by LLM embedding of titles (ReLLa's SUBR)", "own_gcn"),
    Way("own_sentence", None, "sentence", "own ratings of similar items, by sentence embedding", "own_gcn"),
    Way("gcn_own_gcn", "graph", "graph", "GCN raters and GCN own items (this study's evidence)"),
    Way("gcn_own_sentence", "graph", "sentence", "GCN raters and sentence-similar own items", "gcn_own_gcn"),
)


def ways_of(stars: bool) -> tuple[Way, ...]:
    """The ways that a dataset has: without stars there are no rating vectors."""
    return tuple(way for way in WAYS if stars or way.name != "cosine")


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


def embedding_retriever(name: str, users: np.ndarray, items: np.ndarray) -> Retriever:
    """Cosine of any vectors. Args: name; users [U, D] and items [I, D] in one space, received as arrays."""
    return Retriever(name, vector_similarity(users), vector_similarity(items), vector_similarity(users, items))


def look_up(
    asked: pd.DataFrame, reference: pd.DataFrame, allowed: pd.DataFrame, retriever: Retriever,
    numbers: tuple[int, int], stars: bool,
) -> pd.DataFrame:  # fmt: skip
    """Evidence of the rows asked, as a prompt shows it.

    Args:
        asked: row, user_id, item_id, request_timestamp (s).
        reference: other such rows; without stars their similarities say which digit a similarity is. No label is read.
        allowed: the interactions that may be seen.
        retriever: who is similar.
        numbers: similar users and similar items to show, at most.
        stars: whether the dataset has any.

    Returns:
        Rows of `build_evidence`, or of `match_evidence` with `add_digits`, in the order asked.
    """
    if stars:
        return build_evidence(asked, allowed, retriever, *numbers)
    both = match_evidence(pd.concat([asked, reference]), allowed, retriever, numbers[0])
    return add_digits(both.iloc[:len(asked)], both.iloc[len(asked):])


def combine(way: Way, evidence: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The evidence that one way shows: its two sides, each from its retriever's; a side not shown is empty.

    Args:
        way: one of `WAYS`.
        evidence: retriever name -> rows from `look_up`, all in one order.
    """
    first = next(iter(evidence.values()))
    found = {"row": first["row"].to_numpy()}
    for side, source in (("others", way.users), ("own", way.items)):
        for column in SIDES[side]:
            if column not in first:
                continue
            blank = [np.zeros(0, np.int8)] * len(first) if column == side else np.full(len(first), np.nan)
            found[column] = evidence[source][column].to_numpy() if source else blank
    return pd.DataFrame(found)


def signal(way: Way, shown: pd.DataFrame, stars: bool) -> np.ndarray | None:
    """One number a row that the neighbours alone say: the mean rank of what is shown, gaps in the middle.

    Ranks, so that two sides on different scales count alike and nothing is fitted; one number keeps its own order.

    Args:
        way: its sides.
        shown: from `combine`.
        stars: with them a side is its mean rating; without, its similarities.

    Returns:
        float64 [n] in (0, 1), or None where the way asks nobody.
    """
    sides = [side for side, source in (("others", way.users), ("own", way.items)) if source]
    columns = [column for side in sides for column in ((f"{side}_mean",) if stars else SHOWN[side])]
    if not columns:
        return None
    filled = shown[columns].fillna(shown[columns].mean()).fillna(0.0)
    return filled.rank(pct=True).mean(axis=1).to_numpy()


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
