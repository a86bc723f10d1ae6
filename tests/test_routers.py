"""Routers: causal where they claim to be, within their budget, equal to their loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exit_policies import BASE_RATE, LAYERS, judged, scores

from eestudy import exit_policies as ep
from eestudy.config import PolicyConfig

seeds = st.integers(0, 10_000)
few = settings(max_examples=30, deadline=None)


def test_agreement_is_with_the_last_head():
    p_yes = np.array([[0.9, 0.2, 0.8], [0.1, 0.2, 0.3]])
    assert ep.agrees(p_yes, BASE_RATE).tolist() == [[True, False, True], [True, True, True]]


def test_the_first_sure_exit_is_taken_else_the_last():
    sureness = np.array([[0.2, 0.9, 0.1], [0.8, 0.9, 1.0], [0.1, 0.2, 0.3]])
    assert ep.first_sure_exit(sureness, 0.8).tolist() == [1, 0, 2]


@given(seeds, st.integers(1, 40))
@few
def test_neighbour_agreement_equals_a_loop(seed, k):
    rng = np.random.default_rng(seed)
    known, asked, p_yes = rng.normal(3, [1, 50, 0.1], (25, 3)), rng.normal(3, [1, 50, 0.1], (6, 3)), scores(seed, 25)
    share = ep.neighbour_agreement(asked, known, p_yes, BASE_RATE, k)
    for row, key in zip(share, asked, strict=True):
        distance = (((known - key) / known.std(0)) ** 2).sum(1)
        near = np.argsort(distance)[:k]
        side = p_yes[near] > BASE_RATE
        assert row == pytest.approx([np.mean(side[:, e] == side[:, -1]) for e in range(5)])


def test_a_missing_key_counts_as_the_mean_and_an_empty_column_as_nothing():
    known = np.array([[0.0, np.nan, 7.0], [2.0, np.nan, 7.0], [np.nan, np.nan, 7.0]])
    p_yes = np.array([[0.9, 0.1], [0.9, 0.9], [0.9, 0.9]])
    asked = np.array([[0.1, np.nan, 7.0], [np.nan, 5.0, 7.0]])
    assert ep.neighbour_agreement(asked, known, p_yes, BASE_RATE, 1).tolist() == [[0.0, 1.0], [1.0, 1.0]]


@given(seeds)
@few
def test_the_learned_router_is_causal_and_row_wise(seed):
    router = ep.learned_router(scores(seed, 120), BASE_RATE)
    p_yes = scores(seed + 1, 20)
    for e in range(5):
        alone = np.concatenate([router.confidence(row[None, : e + 1]) for row in p_yes])
        assert router.confidence(p_yes[:, : e + 1]) == pytest.approx(alone)
        assert (alone >= 0).all() and (alone <= 1).all()
    for threshold in ep.threshold_grid(router, scores(seed, 120), 6):
        index = ep.exit_index(router, p_yes, threshold)
        for e in range(4):
            changed = np.hstack([p_yes[:, : e + 1], scores(seed + 2, 20)[:, e + 1 :]])
            assert np.array_equal(index[index <= e], ep.exit_index(router, changed, threshold)[index <= e])


def test_the_learned_router_learns_who_agrees():
    train, test = scores(0, 3000), scores(1, 3000)
    router = ep.learned_router(train, BASE_RATE)
    agreed = ep.agrees(test, BASE_RATE)
    for e in range(4):
        chance = router.confidence(test[:, : e + 1])
        assert abs(chance.mean() - agreed[:, e].mean()) < 0.03
        assert chance[agreed[:, e]].mean() > chance[~agreed[:, e]].mean() + 0.05
    assert (router.confidence(test) == 1).all(), "the last head agrees with itself"


def test_where_all_agree_nothing_is_fitted():
    for p in (np.full((6, 3), 0.9), np.array([[0.1, 0.9], [0.2, 0.8]])):
        router = ep.learned_router(p, BASE_RATE)
        expected = float(p[0, 0] > BASE_RATE)
        assert (router.confidence(p[:, :1]) == expected).all() and router.confidence(p[:0, :1]).shape == (0,)


def loop_budget(frame, budget):
    """The same, request by request, candidate by candidate."""
    layers, p_yes = ep.head_matrix(frame)
    odds, index = np.log(p_yes / (1 - p_yes)), np.zeros(len(frame), int)
    for request in frame["request_id"].unique():
        mine = np.flatnonzero(frame["request_id"] == request)
        prefix, suffix = frame["n_prefix_tokens"].iloc[mine[0]], frame["n_suffix_tokens"].to_numpy()[mine]
        most = budget * (prefix + suffix.sum()) * layers[-1]
        while True:
            options = []
            for place, row in enumerate(mine):
                others = [abs(odds[row, index[row]] - odds[other, index[other]]) for other in mine if other != row]
                if index[row] == len(layers) - 1 or not others:
                    continue
                then = index[mine].copy()
                then[place] += 1
                depth = layers[then]
                if prefix * depth.max() + suffix @ depth <= most * (1 + 1e-12):
                    options.append((min(others), place))
            if not options:
                break
            index[mine[min(options)[1]]] += 1
    return index


@given(seeds, st.floats(0, 1))
@few
def test_the_budget_equals_its_loop_and_is_kept(seed, budget):
    frame = judged(seed, 23).sample(frac=1, random_state=seed)  # requests of 4, one of 3, in any order
    index = ep.budget_exit_index(frame, budget)
    assert np.array_equal(index, loop_budget(frame, budget))
    spent, full = ep.work(frame, index), ep.work(frame, np.full(23, 4))
    request = frame["request_id"].to_numpy()
    for one in np.unique(request):
        mine = request == one
        assert spent[mine].sum() <= max(budget, LAYERS[0] / LAYERS[-1]) * full[mine].sum() * (1 + 1e-9)


def test_budget_extremes_and_who_is_alone():
    frame = judged(3, 24)
    assert (ep.budget_exit_index(frame, 0.0) == 0).all() and (ep.budget_exit_index(frame, 1.0) == 4).all()
    alone = frame.assign(request_id=np.arange(24))
    assert (ep.budget_exit_index(alone, 1.0) == 0).all(), "nothing to rank"
    with pytest.raises(ep.PolicyInputError, match="share of full depth"):
        ep.budget_exit_index(frame, 1.5)


def test_the_budget_goes_where_the_ranking_is_open():
    p_yes = np.array([[0.50, 0.5], [0.51, 0.6], [0.99, 0.99]])  # the first two are close, the third is far
    frame = pd.DataFrame(p_yes, columns=["p_yes_2", "p_yes_4"]).assign(
        request_id=0, n_prefix_tokens=0, n_suffix_tokens=1)
    assert ep.budget_exit_index(frame, 10 / 12).tolist() == [1, 1, 0]


@given(seeds, st.floats(0.05, 1.1))
@few
def test_around_cost_encloses_the_cost(seed, wanted):
    frame, rng = judged(seed), np.random.default_rng(seed)
    exits = np.column_stack([np.full(40, e) for e in rng.permutation(5)])
    pair, weight = ep.around_cost(frame, exits, wanted)
    cost = np.array([ep.cost(frame, index)["token_layer_fraction"] for index in pair.T])
    assert weight.sum() == pytest.approx(1) and (weight >= 0).all()
    assert cost @ weight == pytest.approx(np.clip(wanted, LAYERS[0] / LAYERS[-1], 1))
    assert ep.around_cost(frame, exits[:, :1], wanted)[1].tolist() == [1.0, 0.0]


def test_the_learned_router_takes_part_in_a_sweep():
    frame = judged(0, 80)
    router = ep.learned_router(ep.head_matrix(frame)[1], BASE_RATE)
    swept = ep.sweep(frame, [router], PolicyConfig(n_thresholds=5))
    assert swept["token_layer_fraction"].iloc[-1] == 1 and swept["token_layer_fraction"].is_monotonic_increasing
