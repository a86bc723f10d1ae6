"""Metrics of click prediction and of retrieval, with intervals from a paired bootstrap over users.

Scores may be any real numbers for AUC and GAUC (only their order counts); log loss and ECE need probabilities.
A metric that is not defined on its rows (AUC where all labels agree) is NaN, never 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

METRICS = ("auc", "gauc", "log_loss", "ece")
EPSILON = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm
CHUNK_CELLS = 4_000_000  # rows x resamples held at once: 32 MB per float64 array


class MetricInputError(ValueError):
    """Labels, scores or user ids that do not belong together."""


def _checked(label, score, user_id=None) -> tuple[np.ndarray, ...]:
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
    label, score = _checked(label, score)
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
    label, score, user_id = _checked(label, score, user_id)
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


def _row_log_loss(label: np.ndarray, p: np.ndarray) -> np.ndarray:
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))  # [n] nats


def _checked_probability(label, p, user_id=None) -> tuple[np.ndarray, ...]:
    arrays = _checked(label, p, user_id)
    if len(arrays[1]) and not (0 <= arrays[1].min() and arrays[1].max() <= 1):
        raise MetricInputError("log loss and ECE need probabilities in [0, 1]; calibrate the scores first")
    return arrays


def log_loss(label, p) -> float:
    """Mean negative log likelihood, in nats per row; p [n] is kept within 1e-7 of the ends."""
    label, p = _checked_probability(label, p)
    return float(_row_log_loss(label, p).mean()) if len(p) else float("nan")


def ece(label, p, n_bins: int = 10) -> float:
    """Expected calibration error over bins of equal width.

    ECE = sum over bins of (rows in the bin / n) * |click rate in the bin - mean p in the bin|.

    Resampling adds gaps of its own, so bootstrap intervals of ECE lie towards larger values than the ECE itself.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), eq. 3, for p of a click.
    """
    label, p = _checked_probability(label, p)
    gap = np.bincount(_bin(p, n_bins), weights=label - p, minlength=n_bins)
    return float(np.abs(gap).sum() / len(p)) if len(p) else float("nan")


def _bin(p: np.ndarray, n_bins: int) -> np.ndarray:
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


def bootstrap_weights(user_id, n_bootstrap: int, seed: int) -> np.ndarray:
    """How often each user is drawn in each resample of users with replacement.

    Args:
        user_id: [n], any integers; the columns follow `np.unique(user_id)`.
        n_bootstrap: resamples B.
        seed: the same seed gives the same resamples, which is what makes differences paired.

    Returns:
        [B, n_unique_users] int64; each row sums to the number of users.
    """
    n_users = len(np.unique(np.asarray(user_id)))
    return np.random.default_rng(seed).multinomial(n_users, np.full(n_users, 1 / n_users), size=n_bootstrap)


def _auc_samples(label, score, user_index, weights) -> np.ndarray:
    """AUC of every resample [B], from one sort: each click counts the non-clicks below it, ties half."""
    order = np.argsort(score[label == 0], kind="stable")
    negative = score[label == 0][order]
    negative_user, positive_user = user_index[label == 0][order], user_index[label == 1]
    low = np.searchsorted(negative, score[label == 1], side="left")
    high = np.searchsorted(negative, score[label == 1], side="right")
    chunk = max(1, CHUNK_CELLS // max(1, len(label)))
    samples = []
    for start in range(0, len(weights), chunk):
        per_user = np.ascontiguousarray(weights[start : start + chunk].T, dtype=np.float64)  # [users, b]
        below = np.zeros((len(negative) + 1, per_user.shape[1]))  # below[k] = weight of the k lowest non-clicks
        np.cumsum(per_user[negative_user], axis=0, out=below[1:])
        click = per_user[positive_user]  # [clicks, b]
        wins = np.einsum("cb,cb->b", click, below[low]) + np.einsum("cb,cb->b", click, below[high])
        pairs = click.sum(0) * below[-1]
        samples.append(np.divide(wins / 2, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.concatenate(samples) if samples else np.empty(0)


def _ratio_samples(total: np.ndarray, count: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[B] weighted sum of per-user totals over weighted sum of per-user counts; NaN where nothing was drawn."""
    below = weights @ count
    return np.divide(weights @ total, below, out=np.full(len(weights), np.nan), where=below > 0)


def _samples(label, score, user_id, weights, metric: str, n_bins: int = 10) -> np.ndarray:
    """One metric of one score in every resample, [B]."""
    if metric not in METRICS:
        raise MetricInputError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    users, index = np.unique(user_id, return_inverse=True)
    if metric == "auc":
        return _auc_samples(label, score, index, weights)
    if metric == "gauc":
        per_user = auc_per_user(label, score, user_id)
        count = per_user["n"].to_numpy(float) * per_user["auc"].notna().to_numpy()
        return _ratio_samples(per_user["auc"].fillna(0).to_numpy() * count, count, weights)
    label, score = _checked_probability(label, score)
    count = np.bincount(index, minlength=len(users)).astype(float)
    if metric == "log_loss":
        return _ratio_samples(np.bincount(index, _row_log_loss(label, score), len(users)), count, weights)
    gap = np.zeros((len(users), n_bins))
    np.add.at(gap, (index, _bin(score, n_bins)), label - score)
    return np.abs(weights @ gap).sum(1) / (weights @ count)


def paired_bootstrap(
    label, scores: Mapping[str, np.ndarray], user_id, n_bootstrap: int = 2000, seed: int = 0, metric: str = "auc"
) -> dict[str, np.ndarray]:
    """A metric of several scores in the same resamples of users.

    Args:
        label: [n] in {0, 1}; user_id: [n].
        scores: name -> [n].
        n_bootstrap: resamples B.
        seed: of the resamples.
        metric: one of `METRICS`.

    Returns:
        name -> [B] samples; NaN in a resample where the metric is not defined (one class only).

    Source: Efron and Tibshirani (1993), resampling the independent unit, here the user.
    """
    weights = bootstrap_weights(user_id, n_bootstrap, seed)
    samples = {}
    for name, score in scores.items():
        checked_label, checked_score, users = _checked(label, score, user_id)
        samples[name] = _samples(checked_label, checked_score, users, weights, metric)
    return samples


def interval(samples, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of the defined samples; None where there are none. Undefined (NaN) ones are left out."""
    samples = np.asarray(samples, dtype=np.float64)
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def value_of(metric: str, label, score, user_id) -> float:
    """The metric by name on all rows."""
    if metric not in METRICS:
        raise MetricInputError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if metric == "gauc":
        return gauc(label, score, user_id)
    return {"auc": auc, "log_loss": log_loss, "ece": ece}[metric](label, score)


def estimate(label, score, user_id, n_bootstrap: int = 2000, seed: int = 0, metric: str = "auc") -> dict:
    """A metric with its interval.

    Returns:
        value, ci95 (low, high) or None, n (rows), n_undefined (resamples left out).
    """
    samples = paired_bootstrap(label, {"score": score}, user_id, n_bootstrap, seed, metric)["score"]
    return _result(value_of(metric, label, score, user_id), samples, len(np.asarray(label)))


def difference(label, score_a, score_b, user_id, n_bootstrap: int = 2000, seed: int = 0, metric: str = "auc") -> dict:
    """Metric of score_a minus metric of score_b, with the paired interval.

    Returns:
        value, ci95 (low, high) or None, n (rows), n_undefined (resamples left out).
    """
    samples = paired_bootstrap(label, {"a": score_a, "b": score_b}, user_id, n_bootstrap, seed, metric)
    value = value_of(metric, label, score_a, user_id) - value_of(metric, label, score_b, user_id)
    return _result(value, samples["a"] - samples["b"], len(np.asarray(label)))


def ratio_estimate(numerator, denominator, user_id, n_bootstrap: int = 2000, seed: int = 0) -> dict:
    """Ratio of two sums over rows (work done over work at full depth, say), with its interval over users.

    Args:
        numerator, denominator: [n] real, denominator summing to more than 0.
        user_id: [n].

    Returns:
        As `estimate`.
    """
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    index = np.unique(np.asarray(user_id), return_inverse=True)[1]
    weights = bootstrap_weights(user_id, n_bootstrap, seed)
    samples = _ratio_samples(np.bincount(index, numerator), np.bincount(index, denominator), weights)
    return _result(float(numerator.sum() / denominator.sum()), samples, len(numerator))


def _result(value: float, samples: np.ndarray, n: int) -> dict:
    return {"value": value, "ci95": interval(samples), "n": n, "n_undefined": int(np.isnan(samples).sum())}
