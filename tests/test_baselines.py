"""Baselines: means equal a loop, nothing after the known rows is read, and probabilities are calibrated."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import baselines, metrics
from eestudy.config import BaselineConfig

SETTINGS = BaselineConfig(mf_dim=4, mf_epochs=4, mf_lr=0.05, mf_batch_size=64)


def world(seed: int = 0, n_users: int = 40, n_items: int = 30, n_rows: int = 900):
    """Interactions whose clicks depend on a user and an item effect, with parts and halves at random."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, size=n_rows, replace=False)
    frame = pd.DataFrame({"row": np.arange(n_rows), "user_id": pairs // n_items, "item_id": pairs % n_items})
    taste = rng.normal(size=n_users)[frame["user_id"]] + rng.normal(size=n_items)[frame["item_id"]]
    frame["rating"] = np.clip(np.round(3.5 + taste + rng.normal(size=n_rows) / 2), 1, 5).astype(np.float32)
    frame["label"] = (frame["rating"] >= 4).astype(np.int8)
    frame["observed"] = True
    parts = ["graph", "label", "validation", "test", "development"]
    split = pd.DataFrame({"split": rng.choice(parts, n_rows, p=[0.5, 0.2, 0.1, 0.15, 0.05])})
    split["half"] = np.where(split["split"] == "validation", rng.choice(["select", "risk"], n_rows), "")
    return frame, split, (n_users, n_items)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0, 10))
def test_smoothed_mean_equals_a_loop(seed, n, shrinkage):
    rng = np.random.default_rng(seed)
    value, group = rng.normal(size=n), rng.integers(0, 4, n)
    slow = []
    for g in range(5):  # group 4 is always empty
        inside = value[group == g]
        pulled = inside.sum() + shrinkage * value.mean()
        slow.append(pulled / (len(inside) + shrinkage) if len(inside) else value.mean())
    np.testing.assert_allclose(baselines.smoothed_mean(value, group, 5, shrinkage), slow)


def test_rate_features_describe_unknown_users_and_items_by_the_mean_of_all():
    history = pd.DataFrame({"user_id": [0, 0], "item_id": [0, 1], "rating": [5.0, 2.0]})
    rows = pd.DataFrame({"user_id": [0, 3], "item_id": [0, 2]})
    features = baselines.rate_features(history, rows, shrinkage=1.0)
    np.testing.assert_allclose(features, [[(5 + 3.5) / 2, 3.5], [3.5, 3.5]])


def test_scores_are_probabilities_of_all_rows_after_the_known_parts():
    frame, split, shape = world()
    scores, losses = baselines.baseline_scores(frame, split, shape, SETTINGS, seed=0)
    assert scores.columns.tolist() == ["row", *baselines.BASELINES]
    assert scores["row"].tolist() == np.flatnonzero(split["split"].isin(baselines.SCORED_SPLITS)).tolist()
    p = scores[list(baselines.BASELINES)].to_numpy()
    assert ((p > 0) & (p < 1)).all()
    assert losses["epoch"].tolist() == [1, 2, 3, 4]


def test_ratings_of_scored_rows_reach_no_score():
    frame, split, shape = world()
    before, _ = baselines.baseline_scores(frame, split, shape, SETTINGS, seed=0)
    hidden = split["split"].isin(["test", "development"]) | (split["half"] == "risk")
    changed = frame.assign(
        rating=frame["rating"].where(~hidden, 6 - frame["rating"]),
        label=frame["label"].where(~hidden, 1 - frame["label"]),
    )
    after, _ = baselines.baseline_scores(changed, split, shape, SETTINGS, seed=0)
    pd.testing.assert_frame_equal(before, after)


def test_selection_rows_only_choose_the_epoch_of_the_factorisation():
    frame, split, _ = world()
    before = baselines.rate_scores(frame, split["split"], 5.0)
    is_selected = split["half"] == "select"
    changed = frame.assign(rating=frame["rating"].where(~is_selected, 1.0), label=frame["label"].where(~is_selected, 0))
    pd.testing.assert_frame_equal(before, baselines.rate_scores(changed, split["split"], 5.0))


def test_calibration_reads_graph_statistics_for_label_rows():
    """A label row's own rating must not be among the statistics that its probability is fitted on."""
    frame, split, _ = world()
    label_rows, graph = frame[split["split"] == "label"], frame[split["split"] == "graph"]
    features = baselines.rate_features(graph, label_rows, 5.0)
    flipped = label_rows.assign(rating=6 - label_rows["rating"])
    np.testing.assert_array_equal(features, baselines.rate_features(graph, flipped, 5.0))
    model = baselines.fit_probability(features, label_rows["label"])
    scored = frame[split["split"].isin(baselines.SCORED_SPLITS)]
    known = frame[split["split"].isin(["graph", "label"])]
    expected = model.predict_proba(baselines.rate_features(known, scored, 5.0))[:, 1]
    scores = baselines.rate_scores(frame, split["split"], 5.0)["item_plus_user_mean"]
    np.testing.assert_allclose(scores, expected)


def test_recalibration_keeps_the_order_and_meets_the_click_rate_of_its_rows():
    rng = np.random.default_rng(0)
    logit, is_fitted = rng.normal(size=3000), rng.random(3000) < 0.5
    label = (rng.random(3000) < 1 / (1 + np.exp(-(2 * logit - 1)))).astype(int)
    p = 1 / (1 + np.exp(-logit))
    better = baselines.recalibrate(p, label, is_fitted)
    assert (np.argsort(better) == np.argsort(p)).all()
    assert better[is_fitted].mean() == pytest.approx(label[is_fitted].mean(), abs=1e-3)
    assert metrics.log_loss(label[~is_fitted], better[~is_fitted]) < metrics.log_loss(label[~is_fitted], p[~is_fitted])
    constant = baselines.recalibrate(np.full(3000, 0.9), label, is_fitted)
    np.testing.assert_allclose(constant, label[is_fitted].mean(), atol=1e-4)


def test_recalibration_keeps_a_score_that_says_almost_nothing_from_becoming_a_constant():
    p, label = np.linspace(0.4, 0.6, 60_000), np.tile([0, 1], 30_000)  # pairs as alike as can be: a slope near 0
    better = baselines.recalibrate(p, label, np.ones(60_000, bool))
    assert metrics.auc(label, better) == pytest.approx(metrics.auc(label, p), abs=1e-9) and metrics.auc(label, p) > 0.5


def test_more_knowledge_ranks_better_than_less():
    frame, split, shape = world(n_users=80, n_items=60, n_rows=4000)
    scores, _ = baselines.baseline_scores(frame, split, shape, SETTINGS, seed=0)
    label = frame["label"].to_numpy()[scores["row"]]
    value = {name: metrics.auc(label, scores[name]) for name in baselines.BASELINES}
    assert value["click_rate"] == 0.5
    assert value["item_plus_user_mean"] > max(value["item_mean"], value["user_mean"]) > 0.6
    loss = {name: metrics.log_loss(label, scores[name]) for name in baselines.BASELINES}
    assert max(loss["item_plus_user_mean"], loss["logistic_mf"]) < loss["click_rate"]


def test_factorisation_logits_equal_a_loop():
    model = baselines.LogisticMF(3, 4, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.bias.fill_(0.3), model.user_bias.normal_(), model.item_bias.normal_()
    users, items = torch.tensor([0, 2, 2]), torch.tensor([3, 0, 3])
    slow = [
        model.bias + model.user_bias[u] + model.item_bias[i] + sum(a * b for a, b in zip(
            model.user_factors[u], model.item_factors[i], strict=True))
        for u, i in zip(users.tolist(), items.tolist(), strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(model(users, items), torch.stack(slow))


def test_factorisation_keeps_its_best_epoch_and_repeats():
    frame, split, shape = world()
    train, select = frame[split["split"].isin(["graph", "label"])], frame[split["half"] == "select"]
    longer = SETTINGS.model_copy(update={"mf_epochs": 40})  # long enough to overfit
    model, losses = baselines.train_logistic_mf(train, select, shape, longer, seed=1)
    kept = metrics.log_loss(select["label"], baselines.predict_mf(model, select))
    assert kept == pytest.approx(losses["select_log_loss"].min())
    assert losses["select_log_loss"].idxmin() < len(losses) - 1
    again, _ = baselines.train_logistic_mf(train, select, shape, longer, seed=1)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)


def test_evaluation_agrees_with_the_metrics_and_its_intervals_hold_the_value():
    frame, split, shape = world()
    scores, _ = baselines.baseline_scores(frame, split, shape, SETTINGS, seed=0)
    rows = frame.loc[scores["row"]]
    by_name = {name: scores[name].to_numpy() for name in ("click_rate", "item_mean")}
    table = baselines.evaluate(rows["label"], by_name, rows["user_id"], 200, 0)
    assert len(table) == len(metrics.METRICS) * len(by_name)
    for entry in table.to_dict("records"):
        expected = metrics.value_of(entry["metric"], rows["label"], by_name[entry["name"]], rows["user_id"])
        assert entry["value"] == pytest.approx(expected, nan_ok=True)
        if entry["metric"] != "ece":  # resampled calibration error is biased upwards
            assert entry["low"] <= entry["value"] <= entry["high"]
