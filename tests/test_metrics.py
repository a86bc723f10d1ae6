"""Metrics against scikit-learn, against loops over users, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from eestudy import metrics


def rows(seed: int, n: int = 120, n_users: int = 15, levels: int = 7):
    """Random labels, tied probabilities in [0, 1] and users."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    score = (rng.integers(0, levels, n) + label) / levels
    return label, np.clip(score, 0, 1), rng.integers(0, n_users, n) * 3 + 5


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_bootstrap_auc_equals_sklearn_in_every_resample(seed, levels):
    label, score, user_id = rows(seed, n=40, n_users=6, levels=levels)
    weights = metrics.bootstrap_weights(user_id, 10, seed)
    samples = metrics.paired_bootstrap(label, {"s": score}, user_id, 10, seed)["s"]
    index = np.unique(user_id, return_inverse=True)[1]
    for sample, per_user in zip(samples, weights, strict=True):
        expected = metrics.auc(label, score, per_user[index])
        assert np.isclose(sample, expected, equal_nan=True)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_bootstrap_equals_repeating_the_drawn_users(metric):
    label, score, user_id = rows(3)
    users = np.unique(user_id)
    weights = metrics.bootstrap_weights(user_id, 8, 1)
    samples = metrics.paired_bootstrap(label, {"s": score}, user_id, 8, 1, metric)["s"]
    for sample, per_user in zip(samples, weights, strict=True):
        drawn = np.repeat(users, per_user)
        take = [np.flatnonzero(user_id == user) for user in drawn]
        copies = np.repeat(np.arange(len(drawn)), [len(part) for part in take])  # each copy is a user of its own
        take = np.concatenate(take)
        assert np.isclose(sample, metrics.value_of(metric, label[take], score[take], copies))


def test_chunks_do_not_change_the_samples(monkeypatch):
    label, score, user_id = rows(4)
    whole = metrics.paired_bootstrap(label, {"s": score}, user_id, 25, 0)["s"]
    monkeypatch.setattr(metrics.resampling, "CHUNK_CELLS", 3 * len(label))
    assert np.array_equal(whole, metrics.paired_bootstrap(label, {"s": score}, user_id, 25, 0)["s"])


def test_weights_sum_to_the_number_of_users_and_follow_the_seed():
    user_id = np.array([7, 7, 3, 9])
    weights = metrics.bootstrap_weights(user_id, 50, 0)
    assert weights.shape == (50, 3) and (weights.sum(1) == 3).all()
    assert np.array_equal(weights, metrics.bootstrap_weights(user_id, 50, 0))
    assert not np.array_equal(weights, metrics.bootstrap_weights(user_id, 50, 1))


def test_undefined_resamples_are_counted_and_left_out():
    label, score, user_id = np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 2, 2])
    result = metrics.estimate(label, score, user_id, n_bootstrap=100, seed=0)
    assert result["value"] == 1.0 and result["ci95"] == (1.0, 1.0)
    assert 20 < result["n_undefined"] < 80  # one of the two users is missing in half of the resamples
    assert metrics.interval([np.nan, np.nan]) is None


def test_difference_of_a_score_with_itself_is_zero_and_paired():
    label, score, user_id = rows(5)
    same = metrics.difference(label, score, score, user_id, n_bootstrap=50)
    assert same["value"] == 0 and same["ci95"] == (0, 0)
    noise = np.random.default_rng(0).random(len(label))
    result = metrics.difference(label, score, noise, user_id, n_bootstrap=200)
    assert result["value"] == metrics.auc(label, score) - metrics.auc(label, noise)
    assert result["ci95"][0] < result["value"] < result["ci95"][1]


def test_ratio_estimate_is_the_ratio_of_sums_and_exact_where_users_agree():
    user_id = np.array([1, 1, 2, 3])
    constant = metrics.ratio_estimate([1, 3, 2, 5], [2, 6, 4, 10], user_id, 50)
    assert constant["value"] == 0.5 and constant["ci95"] == (0.5, 0.5)
    varied = metrics.ratio_estimate([1, 1, 0, 0], [1, 1, 1, 1], user_id, 200)
    assert varied["value"] == 0.5 and varied["ci95"] == (0.0, 1.0)


def test_paired_interval_is_narrower_than_the_unpaired_one():
    label, score, user_id = rows(6, n=600, n_users=60, levels=50)
    near = np.clip(score + np.random.default_rng(1).normal(0, 0.01, len(score)), 0, 1)
    pair = metrics.paired_bootstrap(label, {"a": score, "b": near}, user_id, 300, 0)
    paired = np.ptp(metrics.interval(pair["a"] - pair["b"]))
    assert paired < np.ptp(metrics.interval(pair["a"])) / 3


def test_gauc_equals_a_loop_over_users_and_is_blind_to_user_offsets():
    label, score, user_id = rows(7)
    total = weight = 0.0
    for user in np.unique(user_id):
        mine = user_id == user
        if len(np.unique(label[mine])) == 2:
            total += mine.sum() * roc_auc_score(label[mine], score[mine])
            weight += mine.sum()
    assert metrics.gauc(label, score, user_id) == pytest.approx(total / weight)
    assert metrics.gauc(label, score + user_id, user_id) == pytest.approx(total / weight)


def test_gauc_leaves_out_users_with_one_class_and_counts_them():
    label, user_id = np.array([1, 0, 1, 1, 0]), np.array([1, 1, 2, 2, 3])
    score = np.array([0.9, 0.1, 0.5, 0.4, 0.3])
    assert metrics.gauc(label, score, user_id) == 1.0
    coverage = metrics.gauc_coverage(label, user_id)
    assert (coverage["n_users_kept"], coverage["n_users"]) == (1, 3)
    assert (coverage["n_rows_kept"], coverage["row_fraction"]) == (2, 0.4)
    assert np.isnan(metrics.gauc([1, 1], [0.1, 0.2], [1, 2]))


def test_log_loss_and_ece():
    label, p, _ = rows(8)
    assert metrics.log_loss(label, p) == pytest.approx(sklearn_log_loss(label, np.clip(p, 1e-7, 1 - 1e-7)))
    # two bins: 2 rows at 0.9 of which 1 clicks (gap 0.4), 2 rows at 0.1 of which none clicks (gap 0.1)
    assert metrics.ece([1, 0, 0, 0], [0.9, 0.9, 0.1, 0.1]) == pytest.approx(0.25)
    assert metrics.ece([1, 1, 0], [1.0, 1.0, 0.0]) == 0
    assert metrics.log_loss([1], [0.0]) < 20  # finite


def test_recall_and_ndcg_by_hand():
    relevance = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    n_relevant = np.array([4, 0, 1])  # the second query has nothing to find and is left out
    assert metrics.recall_at_k(relevance, n_relevant) == pytest.approx((2 / 4 + 1) / 2)
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert metrics.ndcg_at_k(relevance, n_relevant) == pytest.approx(((1 + 1 / 2) / ideal + 1 / np.log2(3)) / 2)
    assert metrics.ndcg_at_k(np.ones((2, 3), bool), [3, 9]) == pytest.approx(1)
    assert np.isnan(metrics.recall_at_k(relevance[1:2], [0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auc([0, 1], [0.1]), "shapes"),
        (lambda: metrics.auc([0, 5], [0.1, 0.2]), "labels must be 0 or 1"),
        (lambda: metrics.auc([0, 1], [0.1, np.nan]), "score 1 is not finite"),
        (lambda: metrics.log_loss([0, 1], [0.1, 1.5]), "probabilities"),
        (lambda: metrics.estimate([0, 1], [0.1, 0.5], [1, 2], 5, metric="f1"), "unknown metric"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(metrics.MetricInputError, match=message):
        call()


def test_one_class_is_undefined():
    assert np.isnan(metrics.auc([1, 1], [0.2, 0.3]))
    assert np.isnan(metrics.auc([1, 0], [0.2, 0.3], weight=[1, 0]))
