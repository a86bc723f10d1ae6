"""The rivals give the same answers as ours, so that only speed tells them apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import backbone, rivals, training
from eestudy.backbone import BackboneError
from eestudy.config import BackboneConfig
from eestudy.exit_heads import ExitHeads

LAYERS = (1, 2, 3, 4, 5, 6)
LAST = len(LAYERS) - 1
SHAPES = {"seed": st.integers(0, 10**6), "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=20),
          "n_prefix": st.integers(1, 12), "batch_size": st.integers(1, 21)}


@pytest.fixture(scope="module")
def model():
    return backbone.load_model(BackboneConfig(source="random-llama"))


@pytest.fixture(scope="module")
def heads(model):
    heads = ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))
    for depth, head in enumerate(heads.heads):  # a head for another layer must be told apart
        torch.nn.init.normal_(head.weight, std=0.2, generator=torch.Generator().manual_seed(depth))
    return heads


@pytest.fixture(scope="module")
def library(model):
    return rivals.as_library(model)


def random_request(seed, n_prefix, lengths):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 400, n_prefix).tolist(), [rng.integers(1, 400, n).tolist() for n in lengths]


def offline(model, heads, prefix, suffixes):
    """[C, E] logits of the packed forward at every head."""
    request = training.Request(prefix, suffixes, *(np.arange(len(suffixes)) for _ in range(3)))
    return training.head_logits(training.ExitModel(model, heads), [request])


@settings(max_examples=20, deadline=None)
@given(**SHAPES)
def test_whole_prompts_equal_the_packed_forward(model, heads, library, seed, lengths, n_prefix, batch_size):
    prefix, suffixes = random_request(seed, n_prefix, lengths)
    found = rivals.plain(library, heads.heads[LAST], prefix, suffixes, batch_size)
    np.testing.assert_allclose(found, offline(model, heads, prefix, suffixes)[:, LAST], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_a_reused_prefix_equals_whole_prompts(heads, library, seed, lengths, n_prefix, batch_size):
    prefix, suffixes = random_request(seed, n_prefix, lengths)
    plain = rivals.plain(library, heads.heads[LAST], prefix, suffixes, 4)
    split = rivals.prefix_reuse(library, heads.heads[LAST], prefix, suffixes, batch_size)
    np.testing.assert_allclose(split, plain, atol=1e-5)
    order = np.random.default_rng(seed).permutation(len(suffixes))
    shuffled = rivals.prefix_reuse(library, heads.heads[LAST], prefix, [suffixes[i] for i in order])
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-5)


def test_a_warm_prefix_is_read_many_times_and_never_changed(heads, library):
    prefix, suffixes = random_request(1, 11, [3, 1, 7, 2, 5])
    head, cache = heads.heads[LAST], rivals.encode_prefix(library, prefix)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    cold = rivals.prefix_reuse(library, head, prefix, suffixes)
    for batch_size in (None, 1, 2, None):
        warm = rivals.score_suffixes(library, head, cache, suffixes, batch_size)
        np.testing.assert_allclose(warm, cold, atol=1e-5)
    assert cache.get_seq_length() == len(prefix)
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)


def test_the_cache_depends_on_the_prefix(heads, library):
    prefix, suffixes = random_request(2, 8, [3, 4])
    other = rivals.encode_prefix(library, prefix[::-1])
    cold = rivals.prefix_reuse(library, heads.heads[LAST], prefix, suffixes)
    assert not np.allclose(rivals.score_suffixes(library, heads.heads[LAST], other, suffixes), cold, atol=1e-3)


@pytest.mark.parametrize("n_layers", LAYERS)
def test_a_truncated_model_is_one_column_of_the_offline_scores(model, heads, n_layers):
    prefix, suffixes = random_request(3, 9, [2, 6, 1, 4])
    short = rivals.truncate(model, n_layers)
    wanted = offline(model, heads, prefix, suffixes)[:, n_layers - 1]
    for rival in (short, rivals.as_library(short), rivals.truncate(rivals.as_library(model), n_layers)):
        head = heads.heads[n_layers - 1]
        np.testing.assert_allclose(rivals.plain(rival, head, prefix, suffixes, 3), wanted, atol=1e-5)
        np.testing.assert_allclose(rivals.prefix_reuse(rival, head, prefix, suffixes), wanted, atol=1e-5)
    only = ExitHeads((n_layers,), *backbone.answer_direction(short, 5, 9))
    only.heads[0] = heads.heads[n_layers - 1]
    np.testing.assert_allclose(offline(short, only, prefix, suffixes)[:, 0], wanted, atol=1e-5)


def test_copies_share_the_weights_and_leave_the_original_alone(model):
    weights = {id(p) for p in model.parameters()}
    short, eager = rivals.truncate(model, 2), rivals.as_library(model, "eager")
    narrow = rivals.as_library(model, dtype=torch.bfloat16)
    assert {id(p) for p in short.parameters()} < weights == {id(p) for p in eager.parameters()}
    assert backbone.n_layers(short) == short.config.num_hidden_layers == 2
    assert backbone.n_layers(model) == model.config.num_hidden_layers == len(LAYERS)
    assert backbone.decoder(eager).layers[0].self_attn.config._attn_implementation == "eager"
    assert backbone.decoder(model).layers[0].self_attn.config._attn_implementation == backbone.ATTENTION
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert narrow.lm_head.weight is narrow.model.embed_tokens.weight  # tied before, tied still
    assert backbone.decoder(narrow).rotary_emb.inv_freq.dtype == torch.float32


def test_the_packed_model_itself_can_be_scored_and_is_put_back(model, heads):
    prefix, suffixes = random_request(4, 5, [3, 8])
    wanted = offline(model, heads, prefix, suffixes)[:, LAST]
    for found in (rivals.plain(model, heads.heads[LAST], prefix, suffixes, 2),
                  rivals.prefix_reuse(model, heads.heads[LAST], prefix, suffixes)):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert model.config._attn_implementation == backbone.ATTENTION


@pytest.mark.parametrize("attention, dtype, atol", [("eager", None, 1e-5), ("sdpa", torch.bfloat16, 0.2)])
def test_other_settings_of_the_library_give_the_same_answers(model, heads, library, attention, dtype, atol):
    prefix, suffixes = random_request(5, 10, [2, 9, 4])
    head, other = heads.heads[LAST], rivals.as_library(model, attention, dtype)
    wanted = rivals.plain(library, head, prefix, suffixes, 3)
    assert wanted.std() > 2 * atol  # otherwise anything would do
    for found in (rivals.plain(other, head, prefix, suffixes, 2), rivals.prefix_reuse(other, head, prefix, suffixes)):
        np.testing.assert_allclose(found, wanted, atol=atol)


def test_prompts_of_many_requests_share_a_batch(heads, library):
    requests = [random_request(seed, 3 + seed, [1 + seed, 4]) for seed in range(4)]
    prompts = [[*prefix, *s] for prefix, suffixes in requests for s in suffixes]
    together = rivals.score_prompts(library, heads.heads[LAST], prompts, 5)
    apart = np.concatenate([rivals.plain(library, heads.heads[LAST], *request, 1) for request in requests])
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("prefix, suffixes", [([], [[1]]), ([1, 2], []), ([1, 2], [[3], []])])
def test_a_request_without_prefix_or_suffix_is_an_error(heads, library, prefix, suffixes):
    for call in (lambda *x: rivals.plain(library, heads.heads[LAST], *x, 2),
                 lambda *x: rivals.prefix_reuse(library, heads.heads[LAST], *x)):
        with pytest.raises(BackboneError, match="empty"):
            call(prefix, suffixes)


def test_wrong_settings_name_the_remedy(model, heads, library):
    for n_layers in (0, 7):
        with pytest.raises(BackboneError, match="1 to all"):
            rivals.truncate(model, n_layers)
    with pytest.raises(BackboneError, match="at least one"):
        rivals.plain(library, heads.heads[LAST], [1], [[2]], 0)
    with pytest.raises(BackboneError, match="with the model that scores"):
        rivals.score_suffixes(rivals.truncate(library, 2), heads.heads[1], rivals.encode_prefix(library, [1]), [[2]])
    with pytest.raises(BackboneError, match="empty"):
        rivals.score_suffixes(library, heads.heads[LAST], rivals.encode_prefix(library, [1]), [])
    with pytest.raises(BackboneError, match="score_prompts"):
        rivals.encode_prefix(library, [])
