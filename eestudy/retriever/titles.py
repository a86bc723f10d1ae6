"""What titles alone tell: how near a target's words lie to those of what the user liked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from eestudy.retriever.evidence import Similarity, forward_parts, group_before, in_chunks, mean_of_each, most_similar

TITLE_FEATURES = ("title_closest", "title_mean")
SENTENCE_FEATURES = ("sentence_closest", "sentence_mean")


def title_similarity(titles: Sequence[str]) -> Similarity:
    """Cosine of titles' TF-IDF vectors. Args: titles [I] by item id. Returns: (item ids [P], item ids [P]) -> [P]."""
    try:
        vectors = csr_array(TfidfVectorizer(sublinear_tf=True).fit_transform(titles))  # [I, W], rows of length 1 or 0
    except ValueError:  # not one word in all titles
        vectors = csr_array((len(titles), 1))
    return in_chunks(lambda left, right: np.asarray(vectors[left].multiply(vectors[right]).sum(axis=1)).ravel())


def title_evidence(rows: pd.DataFrame, liked: pd.DataFrame, similarity: Similarity, k: int) -> pd.DataFrame:
    """How near each target's title lies to the titles that its user liked before the request.

    Args:
        rows: row, user_id, item_id, request_timestamp (s) of Q pairs.
        liked: user_id, item_id, rating, timestamp (s) of the clicks that may be known.
        similarity: from `title_similarity`.
        k: nearest titles that `title_mean` is over.

    Returns:
        Q rows in the order given: row, title_closest, title_mean (cosines; NaN where the user liked nothing yet).
    """
    user, item = rows["user_id"].to_numpy(np.int64), rows["item_id"].to_numpy(np.int64)
    before = rows["request_timestamp"].to_numpy(np.int64)
    by_user = group_before(liked, "user_id", "item_id", user, before)
    found = [similarities for _, similarities in most_similar(by_user, item, similarity, k)]
    closest = [similarities[:1] for similarities in found]
    return pd.DataFrame({"row": rows["row"].to_numpy(), "title_closest": mean_of_each(closest),
                         "title_mean": mean_of_each(found)})  # fmt: skip


def split_titles(
    interactions: pd.DataFrame, split: pd.DataFrame, similarity: Similarity, k: int, name: str = "title"
) -> pd.DataFrame:  # fmt: skip
    """`title_evidence` of every label row and every later row, by the forward split of `split_evidence`.

    Args:
        interactions: row, user_id, item_id, rating, label, timestamp, observed.
        split: row, split, request_timestamp.
        similarity: of titles, by item id.
        k: see `title_evidence`.
        name: what the two columns are called: `<name>_closest` and `<name>_mean`.
    """
    found = [title_evidence(asked, known[known["label"] == 1], similarity, k)
             for asked, known in forward_parts(interactions, split)]  # fmt: skip
    found = pd.concat(found, ignore_index=True).sort_values("row").reset_index(drop=True)
    return found.rename(columns={column: column.replace("title", name, 1) for column in TITLE_FEATURES})
