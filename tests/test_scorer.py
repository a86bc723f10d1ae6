"""The real early exit equals the offline policy, in whatever company a request is scored."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import backbone, exit_heads, exit_policies, scorer, training
from eestudy.backbone import precision
from eestudy.config import BackboneConfig, PolicyConfig
from eestudy.scorer.batches import drop, make_batch

LAYERS = (1, 2, 3, 4, 5, 6)
POLICIES = exit_policies.policies(0.55, PolicyConfig())
CALIBRATION = np.array([[0.6, 0.1 * e] for e in range(len(LAYERS))])
NAMES = st.sampled_from(["confidence", "max_probability", "ratio", "patience_confidence", "static"])
BUDGET = 10**9


@dataclass(frozen=True)
class Request:
    prefix: list
    suffixes: list
    user: int = 0
    rows: np.ndarray = field(default=None)


@pytest.fixture(scope="module")
def model():
    model = backbone.load_model(BackboneConfig(source="random-llama"))
    heads = exit_heads.ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))
    return training.ExitModel(model, heads)


@pytest.fixture(scope="module")
def engine(model):
    return scorer.build_engine(model.backbone, model.heads, CALIBRATION)


def random_request(rng, n_candidates, user=0):
    prefix = rng.integers(1, 400, rng.integers(1, 12)).tolist()
    return Request(prefix, [rng.integers(1, 400, rng.integers(1, 7)).tolist() for _ in range(n_candidates)], user)


def offline(model, request, rule):
    """exit_index [C] and p_yes [C] from the library's own layers and the offline policy."""
    p_yes = exit_heads.calibrate(training.head_logits(model, [request]).astype(float), CALIBRATION)  # [C, E]
    allowed = range(len(LAYERS)) if rule.exits is None else rule.exits
    exits = np.full(len(p_yes), allowed[-1])
    for e in reversed(allowed[:-1]):
        if e >= rule.min_exit:
            exits[rule.should_exit(p_yes[:, : e + 1], rule.threshold)] = e
    return exits, p_yes[np.arange(len(p_yes)), exits]


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found.exit_index, wanted[0])
    np.testing.assert_allclose(found.p_yes, wanted[1], atol=1e-5)


def make_rule(name, threshold, min_exit=0):
    threshold = round(threshold * 3) if name == "static" else threshold
    return scorer.ExitRule(POLICIES[name].should_exit, threshold, min_exit)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0, 1.5), NAMES, st.integers(0, 5))
def test_the_real_early_exit_equals_the_offline_policy(model, engine, seed, n_candidates, threshold, name, min_exit):
    request = random_request(np.random.default_rng(seed), n_candidates)
    rule = make_rule(name, threshold, min_exit)
    assert_equal(scorer.score(engine, [request], rule)[0], offline(model, request, rule))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.floats(0, 1.5), NAMES)
def test_together_equals_one_by_one(model, engine, seed, sizes, threshold, name):
    rng = np.random.default_rng(seed)
    requests, rule = [random_request(rng, n) for n in sizes], make_rule(name, threshold)
    for found, request in zip(scorer.score(engine, requests, rule), requests, strict=True):
        assert_equal(found, offline(model, request, rule))
        assert found.token_layers == scorer.score(engine, [request], rule)[0].token_layers


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.floats(0, 1.5)), min_size=2,
                                       max_size=8), st.sampled_from([0, 3000, 12000, BUDGET]), st.integers(1, 3))
def test_any_state_of_the_cache_gives_the_same_answers(model, engine, seed, calls, budget, batch):
    """Cold, warm, partly warm (an earlier call left early), evicted, alone and together."""
    rng = np.random.default_rng(seed)
    prefixes = [rng.integers(1, 400, rng.integers(1, 12)).tolist() for _ in range(4)]
    cache = scorer.PrefixCache(budget)
    for start in range(0, len(calls), batch):
        some = calls[start:start + batch]
        rule = make_rule("confidence", some[0][2])
        requests = [Request(prefixes[user], random_request(rng, n).suffixes, user) for user, n, _ in some]
        for found, request in zip(scorer.score(engine, requests, rule, cache), requests, strict=True):
            assert_equal(found, offline(model, request, rule))
        assert cache.n_bytes <= budget


def test_a_hundred_candidates_and_one(model, engine):
    rule = make_rule("confidence", 0.4)
    for n in (1, 100):
        request = random_request(np.random.default_rng(n), n)
        assert_equal(scorer.score(engine, [request], rule)[0], offline(model, request, rule))


def test_the_order_of_candidates_changes_no_answer(engine):
    rng, rule = np.random.default_rng(4), make_rule("confidence", 0.5)
    request, order = random_request(rng, 7), rng.permutation(7)
    one = scorer.score(engine, [request], rule)[0]
    two = scorer.score(engine, [Request(request.prefix, [request.suffixes[i] for i in order])], rule)[0]
    np.testing.assert_array_equal(one.exit_index[order], two.exit_index)
    np.testing.assert_allclose(one.p_yes[order], two.p_yes, atol=1e-5)


def test_token_layers_are_those_of_the_cost_model(engine):
    request = random_request(np.random.default_rng(3), 6)
    found = scorer.score(engine, [request], make_rule("confidence", 0.4))[0]
    layers = np.array(LAYERS)[found.exit_index]
    assert len(set(found.exit_index)) > 1  # otherwise nothing was dropped on the way
    assert found.token_layers == len(request.prefix) * layers.max() + sum(
        len(suffix) * layer for suffix, layer in zip(request.suffixes, layers, strict=True))


def test_a_cached_prefix_costs_nothing_until_it_has_to_go_deeper(engine):
    request, cache = random_request(np.random.default_rng(6), 2), scorer.PrefixCache(BUDGET)
    suffix_tokens = sum(map(len, request.suffixes))
    first = scorer.score(engine, [request], scorer.static_rule(2), cache)[0]
    again = scorer.score(engine, [request], scorer.static_rule(2), cache)[0]
    deeper = scorer.score(engine, [request], scorer.static_rule(5), cache)[0]
    assert first.token_layers - again.token_layers == 3 * len(request.prefix)
    assert again.token_layers == 3 * suffix_tokens
    assert deeper.token_layers == 6 * suffix_tokens + 3 * len(request.prefix)  # the three layers that were missing


@pytest.mark.parametrize("exit", range(len(LAYERS)))
def test_a_static_exit_reads_one_head_and_no_other(model, engine, exit):
    request = random_request(np.random.default_rng(2), 4)
    found = scorer.score(engine, [request], scorer.static_rule(exit))[0]
    np.testing.assert_allclose(found.logits[:, exit], training.head_logits(model, [request])[:, exit], atol=1e-5)
    assert np.isnan(np.delete(found.logits, exit, axis=1)).all() and (found.exit_index == exit).all()
    assert found.token_layers == LAYERS[exit] * (len(request.prefix) + sum(map(len, request.suffixes)))


def test_a_changed_history_invalidates_its_entry(model, engine):
    rng, cache, rule = np.random.default_rng(7), scorer.PrefixCache(BUDGET), scorer.static_rule(5)
    old, new = random_request(rng, 2, user=1), random_request(rng, 2, user=1)
    scorer.score(engine, [old], rule, cache)
    assert cache.get(1, old.prefix) is not None
    assert_equal(scorer.score(engine, [new], rule, cache)[0], offline(model, new, rule))
    assert len(cache) == 1 and cache.get(1, new.prefix).tokens == tuple(new.prefix)
    assert cache.get(1, old.prefix) is None and len(cache) == 0


def test_the_least_recently_used_prefix_leaves_first(engine):
    rng, rule = np.random.default_rng(8), scorer.static_rule(5)
    prefix = [3] * 10
    requests = [Request(prefix, random_request(rng, 1).suffixes, user) for user in range(4)]
    roomy = scorer.PrefixCache(BUDGET)
    scorer.score(engine, requests[:1], rule, roomy)
    cache = scorer.PrefixCache(3 * roomy.n_bytes)
    for user in (0, 1, 2, 0, 3):  # 1 is the one not used for longest when 3 comes
        scorer.score(engine, [requests[user]], rule, cache)
    assert [cache.get(user, prefix) is not None for user in range(4)] == [True, False, True, True]


def test_the_cache_holds_what_it_says_and_no_more(engine):
    """The tensors it keeps are its own, not views that keep whole batches alive."""
    rng, cache = np.random.default_rng(9), scorer.PrefixCache(BUDGET)
    scorer.score(engine, [random_request(rng, 5, user) for user in range(6)], scorer.static_rule(5), cache)
    states = [cache._states[user] for user in range(6)]
    tensors = [x for state in states for x in (state.hidden, *(t for pair in state.keys_values for t in pair))]
    assert sum(x.untyped_storage().nbytes() for x in tensors) + 8 * sum(len(s.tokens) for s in states) == cache.n_bytes


def test_without_a_cache_nothing_is_kept_between_calls(engine):
    request = random_request(np.random.default_rng(10), 3)
    costs = {scorer.score(engine, [request], scorer.static_rule(5))[0].token_layers for _ in range(3)}
    assert len(costs) == 1


@pytest.mark.parametrize("request_", [Request([], [[1]]), Request([1], []), Request([1], [[2], []])])
def test_an_empty_part_is_refused(engine, request_):
    with pytest.raises(backbone.BackboneError, match="request 0 needs a prefix and non-empty suffixes"):
        scorer.score(engine, [request_], scorer.static_rule(0))


def test_a_prompt_longer_than_the_model_reads_is_refused(engine):
    with pytest.raises(backbone.BackboneError, match="lower prompt.max_prefix_tokens"):
        scorer.score(engine, [Request([1] * engine.fused.max_tokens, [[1]])], scorer.static_rule(0))


def test_an_adapter_must_be_merged_first(model):
    class Wrapped:
        config = model.backbone.config

        def get_base_model(self):
            return model.backbone

    with pytest.raises(backbone.BackboneError, match="merge"):
        backbone.fuse(Wrapped())


def test_int8_must_see_its_inputs_first(model):
    with pytest.raises(backbone.BackboneError, match="input_sizes"):
        scorer.build_engine(model.backbone, model.heads, precision="int8")


@pytest.mark.skipif(not backbone.supported("int8"), reason="this processor has no AVX512-VNNI")
def test_int8_stays_near_the_exact_engine(model, engine):
    rng = np.random.default_rng(11)
    requests = [random_request(rng, 8) for _ in range(6)]
    eighth = scorer.build_engine(model.backbone, model.heads, CALIBRATION, "int8", requests[:3])
    exact, found = (np.concatenate([s.p_yes for s in scorer.score(e, requests[3:], scorer.static_rule(5))])
                    for e in (engine, eighth))
    assert 0 < np.abs(found - exact).mean() < 0.03


def test_inputs_are_watched_product_by_product(engine):
    fused, ids = engine.fused, torch.tensor([5, 6, 7, 8])
    hidden = fused.embedding[ids]

    def run(watched):
        for layer in watched.layers:
            backbone.project(watched, layer, hidden, backbone.rotary(watched, torch.arange(4)))
            backbone.finish(watched, layer, hidden, torch.ones(4, hidden.shape[1]))

    sizes = backbone.input_sizes(fused, run)
    assert len(sizes) == len(fused.layers)
    normed = torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=fused.eps)
    torch.testing.assert_close(sizes[2]["qkv"], precision.channel_sizes(normed))
    torch.testing.assert_close(sizes[2]["out"], precision.channel_sizes(torch.ones(4, hidden.shape[1])))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_dropping_candidates_equals_a_batch_made_without_them(seed, sizes):
    rng = np.random.default_rng(seed)
    requests = [random_request(rng, n) for n in sizes]
    cached = rng.random(len(sizes)) < 0.4
    ids, batch = make_batch(requests, cached, torch.device("cpu"))
    stays = rng.random(sum(sizes)) < 0.5
    stays[rng.integers(len(stays))] = True
    index, small = drop(batch, stays)
    shares = np.split(stays, np.cumsum(sizes)[:-1])
    left = [(Request(r.prefix, [s for s, stay in zip(r.suffixes, share, strict=True) if stay]), c)
            for r, share, c in zip(requests, shares, cached, strict=True) if share.any()]
    wanted_ids, wanted = make_batch([r for r, _ in left], [c for _, c in left], torch.device("cpu"))
    assert ids[index].tolist() == wanted_ids.tolist()
    assert small.positions.tolist() == wanted.positions.tolist()
    assert small.answers.tolist() == wanted.answers.tolist()
    for one, two in zip(small.blocks, wanted.blocks, strict=True):
        assert (one.start, one.prefix_start) == (two.start, two.prefix_start)
        assert one.lengths.tolist() == two.lengths.tolist()
    assert small.rows.tolist() == np.flatnonzero(stays).tolist()


@pytest.mark.parametrize("exits", [(3, 1), (2, 2), (1, 4, 3)])
def test_exits_that_do_not_ascend_are_refused(engine, exits):
    with pytest.raises(backbone.BackboneError, match="must ascend"):
        rule = scorer.ExitRule(scorer.never_exit, exits=exits)
        scorer.score(engine, [random_request(np.random.default_rng(0), 3)], rule)


def test_a_prefix_too_deep_for_the_budget_leaves_the_shallow_one(engine):
    request, shallow = random_request(np.random.default_rng(1), 4), scorer.static_rule(0)
    probe = scorer.PrefixCache(2**30)
    scorer.score(engine, [request], shallow, probe)
    small = scorer.PrefixCache(probe.n_bytes)
    scorer.score(engine, [request], shallow, small)
    scorer.score(engine, [request], scorer.static_rule(5), small)
    assert len(small) == 1 and small.n_bytes == probe.n_bytes
