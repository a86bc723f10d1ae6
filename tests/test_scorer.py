"""The real early exit equals the offline policy, and the packed way equals the plain way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import backbone, exit_policies, scorer, training
from eestudy.config import BackboneConfig, PolicyConfig
from eestudy.exit_heads import ExitHeads

LAYERS = (1, 2, 3, 4, 5, 6)
BASE_RATE = 0.55


@pytest.fixture(scope="module")
def parts():
    model = backbone.load_model(BackboneConfig(source="random-llama"))
    heads = ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))
    calibration = np.array([[0.6, 0.1 * e] for e in range(len(LAYERS))])
    return model, heads, calibration


def offline(parts, pack):
    model, heads, calibration = parts
    logits = training.head_logits(training.ExitModel(model, heads), [_request(pack)])
    return scorer.exit_heads.calibrate(logits.astype(float), calibration)


def _request(pack):
    n = pack.layout.n_prefix
    ids, suffixes, start = pack.ids.tolist(), [], n
    for length in pack.layout.lengths:
        suffixes.append(ids[start:start + length])
        start += length
    return training.Request(ids[:n], suffixes, np.arange(len(suffixes)), np.zeros(len(suffixes), int),
                            np.zeros(len(suffixes), int))


def random_pack(rng, n_candidates):
    prefix = rng.integers(1, 400, rng.integers(1, 12)).tolist()
    return backbone.make_pack(prefix, [rng.integers(1, 400, rng.integers(1, 7)).tolist() for _ in range(n_candidates)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0, 1.5), st.sampled_from(
    ["confidence", "max_probability", "ratio", "patience_confidence", "static"]))
def test_the_real_early_exit_equals_the_offline_policy(parts, seed, n_candidates, threshold, name):
    rng = np.random.default_rng(seed)
    pack = random_pack(rng, n_candidates)
    policy = exit_policies.policies(BASE_RATE, PolicyConfig())[name]
    threshold = round(threshold * 3) if name == "static" else threshold
    found = scorer.score_request(*parts, pack, policy.should_exit, threshold)
    p_yes = offline(parts, pack)
    wanted = exit_policies.exit_index(policy, p_yes, threshold)
    np.testing.assert_array_equal(found.exit_index, wanted)
    np.testing.assert_allclose(found.p_yes, p_yes[np.arange(n_candidates), wanted], atol=1e-5)


def test_token_layers_are_those_of_the_cost_model(parts):
    pack = random_pack(np.random.default_rng(3), 6)
    policy = exit_policies.policies(BASE_RATE, PolicyConfig())["confidence"]
    found = scorer.score_request(*parts, pack, policy.should_exit, 0.4)
    layers = np.array(LAYERS)[found.exit_index]
    wanted = pack.layout.n_prefix * layers.max() + (np.array(pack.layout.lengths) * layers).sum()
    assert len(set(found.exit_index)) > 1  # otherwise nothing was dropped on the way
    assert found.token_layers == wanted


def test_never_exiting_is_the_plain_way_at_full_depth(parts):
    pack = random_pack(np.random.default_rng(1), 5)
    request = _request(pack)
    full = scorer.score_request(*parts, pack)
    assert (full.exit_index == len(LAYERS) - 1).all()
    for size in (1, 2, 8):
        plain = scorer.score_plain(*parts, request.prefix, request.suffixes, size)
        np.testing.assert_allclose(full.p_yes, plain, atol=1e-5)


@pytest.mark.parametrize("exit", range(len(LAYERS)))
def test_a_static_exit_is_one_column_of_the_offline_scores(parts, exit):
    pack = random_pack(np.random.default_rng(2), 4)
    found = scorer.score_static(*parts, pack, exit)
    np.testing.assert_allclose(found.p_yes, offline(parts, pack)[:, exit], atol=1e-5)
    assert found.token_layers == LAYERS[exit] * len(pack.ids)


def test_the_order_of_candidates_changes_no_answer(parts):
    rng = np.random.default_rng(4)
    request = _request(random_pack(rng, 7))
    policy = exit_policies.policies(BASE_RATE, PolicyConfig())["confidence"]
    order = rng.permutation(7)
    one = scorer.score_request(*parts, backbone.make_pack(request.prefix, request.suffixes), policy.should_exit, 0.5)
    shuffled = backbone.make_pack(request.prefix, [request.suffixes[i] for i in order])
    two = scorer.score_request(*parts, shuffled, policy.should_exit, 0.5)
    np.testing.assert_array_equal(one.exit_index[order], two.exit_index)
    np.testing.assert_allclose(one.p_yes[order], two.p_yes, atol=1e-5)


def test_min_exit_holds_everybody_back(parts):
    pack = random_pack(np.random.default_rng(5), 4)
    policy = exit_policies.policies(BASE_RATE, PolicyConfig())["confidence"]
    found = scorer.score_request(*parts, pack, policy.should_exit, -1.0, min_exit=2)
    assert (found.exit_index == 2).all()


def test_scoring_requests_returns_every_row_once(parts):
    rng = np.random.default_rng(6)
    requests = [_request(random_pack(rng, n)) for n in (1, 4, 2)]
    table = scorer.score_requests(*parts, requests, scorer.never_exit, 0.0)
    assert len(table) == 7 and set(table.columns) == {"row", "exit_index", "p_yes", "token_layers"}


def test_the_attention_is_put_back_after_the_plain_way(parts):
    scorer.score_plain(*parts, [1, 2], [[3]], 1)
    assert parts[0].config._attn_implementation == backbone.ATTENTION
