"""Everybody who may be asked instead of the graph, behind one signature, and what each one's neighbours tell.

A way to retrieve is two choices: by whose users similar raters of the target are found, and by whose items the user's
own ratings are chosen. Evidence is looked up once per `Retriever`; the ways only combine its two sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eestudy.retriever.evidence import Retriever, Similarity, build_evidence
from eestudy.retriever.matches import SHOWN, add_digits, match_evidence

SIDES = {"others": ("others", "others_mean"), "own": ("own", "own_mean", "match")}  # columns of evidence


@dataclass(frozen=True)
class Way:
    """One row of the table: whose users, whose items (names of retrievers, None: this side is not shown)."""

    name: str
    users: str | None
    items: str | None
    words: str
    without_stars: str = ""  # the words where nobody rates, if they are others; what is shown are similarities there
    against: str = ""  # the graph's way of the same sides; of `gcn_own_gcn`: the user's own side alone

    @property
    def mode(self) -> str:
        """The kind of prompt that shows these sides; where only `own` is known, `others` reads 'none'."""
        return "both" if self.items else "similar_users" if self.users else "none"


WAYS = (
    Way("none", None, None, "nobody is asked"),
    Way("random", "random", None, "random raters of the target", "its buyers drawn at random, by the GCN's similarity",
        "gcn"),
    Way("most_active", "most active", None, "its most active raters", "its most active buyers, by the GCN's similarity",
        "gcn"),
    Way("cosine", "cosine on ratings", None, "raters by cosine of rating vectors", against="gcn"),
    Way("sentence", "sentence", None, "raters by sentence embedding of liked titles, averaged",
        "buyers by sentence embedding of titles taken, averaged", "gcn"),
    Way("llm_titles", "llm titles", None, "raters by LLM embedding of liked titles, averaged",
        "buyers by LLM embedding of titles taken, averaged", "gcn"),
    Way("llm", "llm", None, "raters by LLM embedding of the history's text (the paper's way, untuned)",
        "buyers by LLM embedding of the history's text (the paper's way, untuned)", "gcn"),
    Way("gcn_last_layer", "graph, last layer", None, "raters by GCN, last layer", "buyers by GCN, last layer", "gcn"),
    Way("gcn_folded_in", "graph, folded in", None, "raters by GCN, the asking user folded in",
        "buyers by GCN, the asking user folded in", "gcn"),
    Way("gcn", "graph", None, "raters by GCN, mean of layers (the paper's)",
        "buyers by GCN, mean of layers (the paper's)"),
    Way("own_gcn", None, "graph", "own ratings of similar items, by GCN (as ItemRAG)",
        "match with the user and with items taken, by GCN"),
    Way("own_llm", None, "llm", "own ratings of similar items, by LLM embedding of titles (ReLLa's SUBR)",
        "match with the user and with items taken, by LLM embedding", "own_gcn"),
    Way("own_sentence", None, "sentence", "own ratings of similar items, by sentence embedding",
        "match with the user and with items taken, by sentence embedding", "own_gcn"),
    Way("gcn_own_gcn", "graph", "graph", "GCN raters and GCN own items (this study's evidence)",
        "buyers and match, by GCN (this study's evidence)", "own_gcn"),
    Way("gcn_own_sentence", "graph", "sentence", "GCN raters and sentence-similar own items",
        "buyers by GCN, match by sentence embedding", "gcn_own_gcn"),
)


def ways_of(stars: bool) -> tuple[Way, ...]:
    """The ways that a dataset has, in its words: without stars there are no rating vectors."""
    if stars:
        return WAYS
    return tuple(replace(way, words=way.without_stars or way.words) for way in WAYS if way.name != "cosine")


def shown_by(users: str | None, stars: bool) -> str:
    """Whose similarity of the users found is shown where there are no ratings to show; '' for nobody's.

    Chance and activity choose users, but do not say how alike they are to who asks: the graph says it for them.
    """
    if stars or not users:
        return ""
    return "graph" if users in ("random", "most active") else users


def look_up(
    asked: pd.DataFrame, reference: pd.DataFrame, allowed: pd.DataFrame, retriever: Retriever,
    numbers: tuple[int, int], stars: bool, chosen_by: Similarity | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Evidence of the rows asked, as a prompt shows it.

    Args:
        asked: row, user_id, item_id, request_timestamp (s).
        reference: other such rows; without stars their similarities say which digit a similarity is. No label is read.
        allowed: the interactions that may be seen.
        retriever: who is similar.
        numbers: similar users and similar items to show, at most.
        stars: whether the dataset has any.
        chosen_by: without stars, who chooses the users whose similarity is shown; None: the retriever itself.

    Returns:
        Rows of `build_evidence`, or of `match_evidence` with `add_digits`, in the order asked.
    """
    if stars:
        return build_evidence(asked, allowed, retriever, *numbers)
    both = match_evidence(pd.concat([asked, reference]), allowed, retriever, numbers[0], chosen_by)
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
