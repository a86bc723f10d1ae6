"""How sure we are: the same metrics in resamples of users, paired between contenders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eestudy.metrics.quality import (
    METRICS,
    MetricInputError,
    auc,
    auc_per_user,
    bin_index,
    checked,
    checked_probability,
    ece,
    gauc,
    log_loss,
    row_log_loss,
)

LEVEL = 0.05  # below it, adjusted for the number of comparisons, a p is called a finding
CHUNK_CELLS = 4_000_000  # rows x resamples held at once: 32 MB per float64 array


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
    label, score = checked_probability(label, score)
    count = np.bincount(index, minlength=len(users)).astype(float)
    if metric == "log_loss":
        return _ratio_samples(np.bincount(index, row_log_loss(label, score), len(users)), count, weights)
    gap = np.zeros((len(users), n_bins))
    np.add.at(gap, (index, bin_index(score, n_bins)), label - score)
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
        checked_label, checked_score, users = checked(label, score, user_id)
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
