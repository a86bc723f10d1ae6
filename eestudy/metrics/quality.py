"""How good predictions and rankings are: one number from labels and scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

METRICS = ("auc", "gauc", "log_loss", "ece")
EPSILON = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm


class MetricInputError(ValueError):
    """Labels, scores or user ids that do not belong together."""


def checked(label, score, user_id=None) -> tuple[np.ndarray, ...]:
    """Arrays of one length: label in {0, 1}, score finite; raises MetricInputError otherwise."""
    label, score = np.asarray(label), np.asarray(score, dtype=np.float64)
    arrays = (label, score) if user_id is None else (label, score, np.asarray(user_id))
    if any(array.ndim != 1 or len(array) != len(label) for array in arrays):
        raise MetricInputError(f"one value per row expected, got shapes {[array.shape for array in arrays]}")
    if not np.isin(label, (0, 1)).all():
        raise MetricInputError("labels must be 0 or 1; make them with data.min_click_rating first")
    if not np.isfinite(score).all():
        where = int(np.flatnonzero(~np.isfinite(score))[0])
        raise MetricInputError(f"score {where} is not finite ({score[where]}); drop or fill such rows first")
    return (label.astype(np.int64), *arrays[1:])


def auc(label, score, weight=None) -> float:
    """Area under the ROC curve: the chance that a click scores above a non-click, ties counting half.

    Args:
        label: [n] in {0, 1}.
        score: [n] real.
        weight: [n] non-negative row weights, or None for 1 each.

    Returns:
        A number in [0, 1]; NaN where one of the classes has no weight.
    """
    label, score = checked(label, score)
    used = np.ones(len(label), bool) if weight is None else np.asarray(weight) > 0
    if len(np.unique(label[used])) < 2:
        return float("nan")
    return float(roc_auc_score(label, score, sample_weight=weight))


def auc_per_user(label, score, user_id) -> pd.DataFrame:
    """AUC within each user, from the ranks of the scores inside the user.

    Args:
        label, score, user_id: [n].

    Returns:
        Frame indexed by sorted user id: n (rows), n_clicks, auc (NaN for a user with one class).

    Source: Mann and Whitney (1947), U = R+ - n+ (n+ + 1) / 2 with mid-ranks.
    """
    label, score, user_id = checked(label, score, user_id)
    frame = pd.DataFrame({"user_id": user_id, "label": label, "score": score})
    frame["click_rank"] = frame.groupby("user_id")["score"].rank() * frame["label"]
    users = frame.groupby("user_id").agg(n=("label", "size"), n_clicks=("label", "sum"), ranks=("click_rank", "sum"))
    pairs = users["n_clicks"] * (users["n"] - users["n_clicks"])
    wins = users["ranks"] - users["n_clicks"] * (users["n_clicks"] + 1) / 2
    users["auc"] = (wins / pairs.where(pairs > 0)).astype(float)
    return users[["n", "n_clicks", "auc"]]


def gauc(label, score, user_id) -> float:
    """AUC within each user, averaged with the user's number of rows as weight.

    Users with one class have no AUC and are left out: see `gauc_coverage`. NaN where no user is left.

    Source: Zhu et al., "Optimized Cost per Click in Taobao Display Advertising" (KDD 2017), rows as weights.
    """
    users = auc_per_user(label, score, user_id).dropna()
    return float(np.average(users["auc"], weights=users["n"])) if len(users) else float("nan")


def gauc_coverage(label, user_id) -> dict:
    """How many users and rows GAUC is computed on.

    Returns:
        n_users, n_users_kept, user_fraction, n_rows, n_rows_kept, row_fraction.
    """
    users = auc_per_user(label, np.zeros(len(np.asarray(label))), user_id)
    kept = users["auc"].notna()
    rows, rows_kept = int(users["n"].sum()), int(users.loc[kept, "n"].sum())
    return {
        "n_users": len(users), "n_users_kept": int(kept.sum()), "user_fraction": float(kept.mean()),
        "n_rows": rows, "n_rows_kept": rows_kept, "row_fraction": rows_kept / rows if rows else float("nan"),
    }  # fmt: skip


def row_log_loss(label: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Log loss of each row in nats: [n], [n] -> [n]."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))  # [n] nats


def checked_probability(label, p, user_id=None) -> tuple[np.ndarray, ...]:
    """As `checked`, and p in [0, 1]; raises MetricInputError otherwise."""
    arrays = checked(label, p, user_id)
    if len(arrays[1]) and not (0 <= arrays[1].min() and arrays[1].max() <= 1):
        raise MetricInputError("log loss and ECE need probabilities in [0, 1]; calibrate the scores first")
    return arrays


def log_loss(label, p) -> float:
    """Mean negative log likelihood, in nats per row; p [n] is kept within 1e-7 of the ends."""
    label, p = checked_probability(label, p)
    return float(row_log_loss(label, p).mean()) if len(p) else float("nan")


def ece(label, p, n_bins: int = 10) -> float:
    """Expected calibration error over bins of equal width.

    ECE = sum over bins of (rows in the bin / n) * |click rate in the bin - mean p in the bin|.

    Resampling adds gaps of its own, so bootstrap intervals of ECE lie towards larger values than the ECE itself.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), eq. 3, for p of a click.
    """
    label, p = checked_probability(label, p)
    gap = np.bincount(bin_index(p, n_bins), weights=label - p, minlength=n_bins)
    return float(np.abs(gap).sum() / len(p)) if len(p) else float("nan")


def bin_index(p: np.ndarray, n_bins: int) -> np.ndarray:
    """Which of `n_bins` equal bins of [0, 1] each probability falls into: [n] int."""
    return np.minimum((p * n_bins).astype(np.int64), n_bins - 1)


def recall_at_k(ranked_relevance, n_relevant) -> float:
    """Share of a query's relevant items among its first k, averaged over the queries that have any.

    Args:
        ranked_relevance: [Q, k] bool, best ranked first.
        n_relevant: [Q] number of relevant items of each query.
    """
    ranked_relevance, n_relevant = np.asarray(ranked_relevance, bool), np.asarray(n_relevant)
    kept = n_relevant > 0
    return float((ranked_relevance[kept].sum(1) / n_relevant[kept]).mean()) if kept.any() else float("nan")


def ndcg_at_k(ranked_relevance, n_relevant) -> float:
    """Normalised discounted cumulative gain with binary relevance, averaged over queries that have any.

    Args:
        ranked_relevance: [Q, k] bool, best ranked first.
        n_relevant: [Q] number of relevant items of each query.

    Source: Jarvelin and Kekalainen (2002), discount 1 / log2(rank + 1).
    """
    ranked_relevance, n_relevant = np.asarray(ranked_relevance, bool), np.asarray(n_relevant)
    kept, k = n_relevant > 0, ranked_relevance.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))  # [k]
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(n_relevant[kept], k)]
    return float((ranked_relevance[kept] @ discount / ideal).mean()) if kept.any() else float("nan")
