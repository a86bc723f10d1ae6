"""How the cost of scoring grows: along candidates, history, neighbours, layers and batch, against arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from eestudy import latency, prompts, scorer
from eestudy.backbone import FusedBackbone
from eestudy.bench.setup import BenchRequest, sized_requests
from eestudy.config import StudyConfig
from eestudy.progress import progress

SIZES = {
    "candidates": (1, 2, 4, 8, 16, 32, 64),  # per request
    "history": (32, 64, 128, 256, 512),  # prefix tokens
    "neighbours": (0, 4, 8, 16, 32, 64),  # ratings in each of a candidate's two lists
    "batch": (1, 2, 4, 8, 16),  # requests of one candidate, scored together
}  # the fifth dimension, layers, takes the layers that have a head


@dataclass(frozen=True)
class Point:
    """One measuring point."""

    dimension: str
    size: int
    requests: list  # scored in one call
    exit_index: int  # 0-based exit at which all leave


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one decoder layer, and what its weights cost per token: two operations each."""

    hidden: int  # D
    inner: int  # F
    width: int  # H d, of all query heads together
    qkv_width: int  # (H + 2 G) d

    @property
    def qkv_flop(self) -> int:
        """Of queries, keys and values."""
        return 2 * self.hidden * self.qkv_width

    @property
    def rest_flop(self) -> int:
        """Of the output projection and the MLP's three matrices."""
        return 2 * self.hidden * (self.width + 3 * self.inner)


def layer_shape(fused: FusedBackbone) -> LayerShape:
    """Read the sizes off one token sent through the first layer's products, whatever their precision."""
    layer, hidden = fused.layers[0], fused.embedding.shape[1]
    with torch.inference_mode():
        token = torch.zeros(1, hidden, device=fused.embedding.device)
        qkv, inner = layer.qkv(token).shape[1], layer.gate_up(token).shape[1] // 2
    return LayerShape(hidden, inner, qkv * fused.n_heads // (fused.n_heads + 2 * fused.n_groups), qkv)


def predicted_gflop(fused: FusedBackbone, requests: Sequence, n_layers: int) -> float:
    """What arithmetic says that scoring costs when all candidates leave after the same layer, nothing cached.

    A multiplication and an addition count as two operations. Per layer and token: two per weight. Attention: each
    query meets each key once for the score and once for the sum, 4 H d operations a pair; a prefix token meets the
    prefix up to itself, a suffix token the prefix and its own suffix, padded to the request's longest and masked
    afterwards, as the engine does it. In the last layer only q, k, v are computed for all tokens; attention, MLP and
    head for the answers alone. Norms, rotary embedding, softmax and activation are left out.

    Args:
        fused: the backbone.
        requests: objects with `prefix` and `suffixes`.
        n_layers: layers until the exit, the last one included, at least 1.

    Returns:
        10^9 floating-point operations of all requests together.
    """
    shape = layer_shape(fused)
    return sum(_request_flop(shape, request, n_layers) for request in requests) / 1e9


def _request_flop(shape: LayerShape, request, n_layers: int) -> int:
    n_prefix, lengths = len(request.prefix), [len(suffix) for suffix in request.suffixes]
    n_candidates, longest = len(lengths), max(lengths)
    tokens, reach = n_prefix + sum(lengths), n_prefix + longest  # keys that a suffix token meets
    pair = 4 * shape.width
    attention = pair * (n_prefix * (n_prefix + 1) // 2 + n_candidates * longest * reach)
    full = tokens * (shape.qkv_flop + shape.rest_flop) + attention
    last = tokens * shape.qkv_flop + n_candidates * (shape.rest_flop + pair * reach + 2 * shape.hidden)
    return (n_layers - 1) * full + last


def growth_points(
    engine: scorer.Engine, base_requests: Sequence, tokenizer, cfg: StudyConfig,
    sizes: Mapping[str, Sequence[int]] = SIZES, n_candidates: int = 16,
) -> list[Point]:  # fmt: skip
    """The points to be measured, made of real text.

    Args:
        engine: its exit layers are the sizes of the dimension 'layers'; elsewhere all candidates run to the last.
        base_requests: objects with `prefix` and `suffixes`, from prompts with evidence.
        tokenizer: the backbone's.
        cfg: how long a title may be.
        sizes: of the other four dimensions; one that is missing is left out.
        n_candidates: C where candidates do not vary.

    Returns:
        Points in a fixed order.
    """
    base, last = sized_requests(base_requests, n_candidates, 1)[0], len(engine.heads.exit_layers) - 1
    text = [token for request in base_requests for token in request.prefix]
    make = {
        "candidates": lambda n: sized_requests(base_requests, n, 1),
        "history": lambda n: [replace(base, prefix=(text * (n // len(text) + 1))[:n])],
        "neighbours": lambda n: [_with_neighbours(base, n, tokenizer, cfg)],
        "batch": lambda n: sized_requests(base_requests, 1, n),
    }
    points = [Point(name, n, make[name](n), last) for name in make for n in sizes.get(name, ())]
    return points + [Point("layers", layer, [base], e) for e, layer in enumerate(engine.heads.exit_layers)]


def _with_neighbours(base: BenchRequest, n: int, tokenizer, cfg: StudyConfig) -> BenchRequest:
    """The same candidates with `n` ratings, drawn at random, in each of their two lists of evidence."""
    rng = np.random.default_rng(n)
    titles = [text.split(". others ")[0] for text in tokenizer.batch_decode(base.suffixes)]
    titles = prompts.cut_titles(titles, tokenizer, cfg.prompt.max_title_tokens)
    texts = [prompts.suffix_text("both", title, *rng.integers(1, 6, (2, n))) for title in titles]
    return replace(base, suffixes=tokenizer(texts, add_special_tokens=False)["input_ids"])


def growth_curves(
    engine: scorer.Engine, base_requests: Sequence, tokenizer, cfg: StudyConfig, repeats: int,
    sizes: Mapping[str, Sequence[int]] = SIZES, n_candidates: int = 16, warmup: int = 1, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Time the engine along five dimensions, all points in turn, in a new random order each time.

    Args:
        engine, base_requests, tokenizer, cfg, sizes, n_candidates: as for `growth_points`.
        repeats: timed passes over all points.
        warmup: passes before the clock counts.
        seed: of the orders.

    Returns:
        Columns dimension, size, repeat, predicted_gflop, seconds; one row per point and repeat.
    """
    points = growth_points(engine, base_requests, tokenizer, cfg, sizes, n_candidates)
    layers, rng = engine.heads.exit_layers, np.random.default_rng(seed)
    gflop = [predicted_gflop(engine.fused, point.requests, layers[point.exit_index]) for point in points]
    order = [(repeat, i) for repeat in range(-warmup, repeats) for i in rng.permutation(len(points))]
    records = []
    for repeat, i in progress(order, "growth", unit="point"):
        point, rule = points[i], scorer.static_rule(points[i].exit_index)
        seconds = latency.time_once(lambda requests, rule=rule: scorer.score(engine, requests, rule), point.requests)
        if repeat >= 0:
            records.append((point.dimension, point.size, repeat, gflop[i], seconds))
    frame = pd.DataFrame(records, columns=["dimension", "size", "repeat", "predicted_gflop", "seconds"])
    return frame.sort_values(["dimension", "size", "repeat"], ignore_index=True)
