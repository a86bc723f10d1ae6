"""What arithmetic predicts is what the engine really multiplies, and the fits find what was put in."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from eestudy import backbone, exit_heads, scorer
from eestudy.bench import growth
from eestudy.config import BackboneConfig
from eestudy.growth import fit_exponents

LAYERS = (1, 2, 3, 4, 5, 6)
TOKENIZER = toys.byte_tokenizer()
SIZES = {"candidates": (1, 3), "history": (5, 40), "neighbours": (0, 2, 5), "batch": (1, 2, 4)}


@dataclass(frozen=True)
class Request:
    prefix: list
    suffixes: list


@pytest.fixture(scope="module", autouse=True)
def no_unused_rows():
    """Counts are compared with arithmetic: batches as long as their tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eestudy.scorer.batches.ROWS", 1)
        yield


@pytest.fixture(scope="module")
def engine():
    model = backbone.load_model(BackboneConfig(source="random-llama"))
    heads = exit_heads.ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))
    return scorer.build_engine(model, heads, precision="float32")  # whose products torch counts


@pytest.fixture(scope="module")
def base_requests():
    texts = [f" Film {i}. others 543 4.0, own 44 4.0. Like?" for i in range(9)]
    ids = TOKENIZER(texts, add_special_tokens=False)["input_ids"]
    return [Request(TOKENIZER.encode(f"writer {i}. Recent: Babe 4. Movie:"), ids[3 * i:3 * i + 3]) for i in range(3)]


def random_request(rng, n_candidates, longest=30):
    return Request(rng.integers(1, 250, rng.integers(1, longest)).tolist(),
                   [rng.integers(1, 250, rng.integers(1, longest)).tolist() for _ in range(n_candidates)])


def counted(engine, requests, exit_index):
    """Operations that torch counts in the engine's real call; the library's own formula for the CPU's attention."""
    def whole_square(query, key, value, *_, out_shape=None, **__):
        return sdpa_flop_count(query, key, value)

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: whole_square}) as counter:
        scorer.score(engine, requests, scorer.static_rule(exit_index))
    return counter.get_total_flops()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 5))
def test_the_prediction_is_what_torch_counts(engine, seed, sizes, exit_index):
    """But for two differences that can be told: torch counts the prefix's attention as a whole square where half is
    masked and need not be computed, and it does not count a matrix times a vector, which is what a head is."""
    rng, n_layers = np.random.default_rng(seed), LAYERS[exit_index]
    requests = [random_request(rng, n) for n in sizes]
    width, hidden = growth.layer_shape(engine.fused).width, engine.fused.embedding.shape[1]
    masked = sum(4 * width * len(r.prefix) * (len(r.prefix) - 1) // 2 for r in requests) * (n_layers - 1)
    heads = 2 * hidden * sum(sizes)
    predicted = 1e9 * growth.predicted_gflop(engine.fused, requests, n_layers)
    assert round(predicted) == counted(engine, requests, exit_index) - masked + heads


def test_the_two_differences_are_small_for_a_request_like_ours(engine):
    rng = np.random.default_rng(0)
    request = Request(rng.integers(1, 250, 90).tolist(), [rng.integers(1, 250, 26).tolist() for _ in range(16)])
    predicted = 1e9 * growth.predicted_gflop(engine.fused, [request], 6)
    assert predicted == pytest.approx(counted(engine, [request], 5), rel=0.05)


def test_layer_shape_reads_the_model(engine):
    assert growth.layer_shape(engine.fused) == growth.LayerShape(hidden=32, inner=64, width=32, qkv_width=64)


def test_prediction_is_linear_in_the_batch_and_in_full_layers(engine):
    request = random_request(np.random.default_rng(1), 4)
    gflop = [growth.predicted_gflop(engine.fused, [request], n) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(np.diff(gflop), gflop[1] - gflop[0])
    assert growth.predicted_gflop(engine.fused, [request] * 5, 3) == pytest.approx(5 * gflop[2])


def test_points_have_the_sizes_they_say(engine, base_requests):
    points = growth.growth_points(engine, base_requests, TOKENIZER, toys.study(), SIZES, n_candidates=4)
    assert {p.dimension for p in points} == {*SIZES, "layers"}
    text = [token for request in base_requests for token in request.prefix]
    for p in points:
        n_candidates = {"candidates": p.size, "batch": 1}.get(p.dimension, 4)
        assert all(len(r.suffixes) == n_candidates for r in p.requests)
        assert len(p.requests) == (p.size if p.dimension == "batch" else 1)
        assert LAYERS[p.exit_index] == (p.size if p.dimension == "layers" else LAYERS[-1])
        if p.dimension == "history":
            assert p.requests[0].prefix == (text * 10)[: p.size]


def test_neighbours_lengthen_a_candidate_by_their_ratings_alone(engine, base_requests):
    points = growth.growth_points(engine, base_requests, TOKENIZER, toys.study(), {"neighbours": (2, 5)}, 4)[:2]
    two, five = (TOKENIZER.batch_decode(p.requests[0].suffixes) for p in points)
    assert [text.split(".")[0] for text in two] == [text.split(".")[0] for text in five]  # the titles, found again
    assert all(text.startswith(" Film ") for text in two)
    assert {len(b) - len(a) for a, b in zip(*(p.requests[0].suffixes for p in points), strict=True)} == {6}


def test_curves_have_a_row_per_point_and_repeat(engine, base_requests):
    frame = growth.growth_curves(engine, base_requests, TOKENIZER, toys.study(), 2, SIZES, 4)
    n_points = sum(map(len, SIZES.values())) + len(LAYERS)
    assert len(frame) == 2 * n_points and (frame["seconds"] > 0).all()
    assert (frame.groupby(["dimension", "size"])["repeat"].agg(set) == {0, 1}).all()
    assert (frame.groupby("dimension")["predicted_gflop"].is_monotonic_increasing).all()
    assert set(fit_exponents(frame, 20)["dimension"]) == {*SIZES, "layers"}
