"""The early-exit engine: layer by layer, candidates leave at their exit and their tokens leave the batch.

At an exit layer only the answer tokens are computed first. Whoever leaves there costs no more than that; the rest
of the layer is computed for those who stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from eestudy import artifacts, backbone, exit_heads
from eestudy.scorer.batches import unused
from eestudy.scorer.flow import Flow, attend, attend_answers, enter, join, without
from eestudy.scorer.prefixes import PrefixCache, Trail, close_trail, note, open_trail

ShouldExit = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Engine:
    """All that scoring needs."""

    fused: backbone.FusedBackbone
    heads: exit_heads.ExitHeads  # E heads
    calibration: np.ndarray  # [E, 2] slope and intercept


@dataclass(frozen=True)
class ExitRule:
    """When candidates leave."""

    should_exit: ShouldExit  # causal: (p_yes_so_far [n, e + 1], threshold) -> bool [n], each row for itself
    threshold: float = 0.0
    min_exit: int = 0  # 0-based exit before which nobody leaves
    exits: tuple[int, ...] | None = None  # 0-based exits that are visited; None: all. At the last one all leave


@dataclass(frozen=True)
class Scored:
    """The answer to one request."""

    p_yes: np.ndarray  # [C] calibrated probability at the exit
    exit_index: np.ndarray  # [C] 0-based exit at which each candidate left
    token_layers: int  # tokens times the layers they were in the batch; a prefix out of the cache costs nothing
    logits: np.ndarray  # [C, E] raw; NaN where no head was read


def never_exit(p_yes_so_far: np.ndarray, threshold: float) -> np.ndarray:
    """The policy of full depth: nobody leaves early."""
    return np.zeros(len(p_yes_so_far), dtype=bool)


def static_rule(exit_index: int) -> ExitRule:
    """Everybody leaves at the same 0-based exit; no other head is read."""
    return ExitRule(never_exit, exits=(exit_index,))


def build_engine(
    model, heads: exit_heads.ExitHeads, calibration=None, precision: str | None = None, sample: Sequence = (),
) -> Engine:  # fmt: skip
    """Fuse a model for scoring.

    Args:
        model: a causal LM, adapter merged.
        heads: E exit heads.
        calibration: [E, 2] slope and intercept per head; None: none (p_yes is the sigmoid of the logit).
        precision: of the matrix products, see `backbone.fuse`.
        sample: a few requests, scored once in full precision, on which int8 sees how large its inputs are.

    Raises:
        BackboneError: see `backbone.fuse`; a head or a calibration that is not finite.
    """
    backbone.refuse_nonfinite(heads, "Train again with a lower heads.head_lr")
    if calibration is None:
        calibration = np.tile([1.0, 0.0], (len(heads.exit_layers), 1))
    artifacts.refuse_nonfinite(np.asarray(calibration, float), "calibration (a row a head)", backbone.BackboneError)
    sizes = None
    if precision == "int8" and len(sample):
        exact, last = build_engine(model, heads), static_rule(len(heads.exit_layers) - 1)
        sizes = backbone.input_sizes(exact.fused, lambda seen: score(replace(exact, fused=seen), sample, last))
    return Engine(backbone.fuse(model, precision, sizes), heads, np.asarray(calibration, float))


@torch.inference_mode()
def score(engine: Engine, requests: Sequence, rule: ExitRule, cache: PrefixCache | None = None) -> list[Scored]:
    """Score requests together, in one flat batch without padding.

    Args:
        engine, rule: from `build_engine`; when candidates leave.
        requests: objects with `prefix` (token ids), `suffixes` (C lists of them) and, for a cache, `user` (hashable).
        cache: users' prefixes; read and refreshed.

    Returns:
        One `Scored` a request, in their order.

    Raises:
        BackboneError: an empty prefix or suffix, one that is too long, another engine's cache, exits out of order, a
            score that is not finite.
    """
    if not len(requests):
        return []
    if cache is not None:
        cache.bind(engine.fused)
    fused, exit_layers = engine.fused, engine.heads.exit_layers
    exits = _visited(rule, len(exit_layers))
    exit_at = {exit_layers[e] - 1: e for e in exits}  # 0-based layer -> exit
    trails = [open_trail(cache, request) for request in requests]
    answers = _open_answers(requests, len(exit_layers))
    flow = enter(fused, requests, trails)
    for depth, layer in enumerate(fused.layers[:exit_layers[exits[-1]]]):
        flow = join(fused, flow, trails, depth)
        qkv = backbone.project(fused, layer, flow.hidden, flow.angles)
        _note(fused, flow, depth, qkv, trails, answers, keep=cache is not None)
        if depth in exit_at:
            logits = _peek(engine, flow, qkv, trails, depth, exit_at[depth])
            stays = _decide(engine, flow.batch.rows, logits, exit_at[depth], exits[-1], rule, answers)
            if not stays.any():
                break
            flow, qkv = without(flow, stays, qkv)
        attended = attend(fused, flow.batch, qkv, trails, depth)
        flow = replace(flow, hidden=backbone.finish(fused, layer, flow.hidden, attended))
    for request, trail in zip(requests, trails, strict=True):
        close_trail(cache, request, trail)
    return _split(requests, answers)


def _visited(rule: ExitRule, n_exits: int) -> Sequence[int]:
    """The 0-based exits that a rule looks at."""
    exits = range(n_exits) if rule.exits is None else rule.exits
    if list(exits) != sorted(set(exits)):
        raise backbone.BackboneError(f"exits must ascend, not {exits}")
    return exits


def _open_answers(requests: Sequence, n_exits: int) -> Scored:
    """Answers of all requests on one sheet, to be filled in; token-layers by request."""
    n = sum(len(request.suffixes) for request in requests)
    counts = np.zeros(len(requests), dtype=np.int64)
    return Scored(np.full(n, np.nan), np.full(n, -1), counts, np.full((n, n_exits), np.nan))


def _split(requests: Sequence, sheet: Scored) -> list[Scored]:
    ends = np.cumsum([len(request.suffixes) for request in requests])[:-1]
    parts = (np.split(x, ends) for x in (sheet.p_yes, sheet.exit_index, sheet.logits))
    return [Scored(p, index, int(count), logits)
            for count, p, index, logits in zip(sheet.token_layers, *parts, strict=True)]  # fmt: skip


def _note(fused, flow: Flow, depth: int, qkv, trails: Sequence[Trail], answers: Scored, keep: bool) -> None:
    """Count each request's token-layers, and keep its prefix's keys and values."""
    for block in flow.batch.blocks:
        answers.token_layers[block.owner] += block.n_tokens
        if block.prefix_start is not None:
            answers.token_layers[block.owner] += block.n_prefix
            _, k, v = backbone.split(fused, qkv[block.prefix])
            note(trails[block.owner], depth, flow.hidden[block.prefix], k, v, keep)


def _peek(engine: Engine, flow: Flow, qkv, trails: Sequence[Trail], depth: int, exit: int) -> np.ndarray:
    """One head's logits [candidates] after 0-based layer `depth`; the layer's other tokens stay uncomputed."""
    attended = attend_answers(engine.fused, flow.batch, qkv, trails, depth)  # [candidates, H d]
    n = len(attended)
    hidden, attended = (F.pad(x, (0, 0, 0, unused(n))) for x in (flow.hidden[flow.batch.answers], attended))
    state = backbone.finish(engine.fused, engine.fused.layers[depth], hidden, attended)[:n]  # [candidates, D]
    return engine.heads.heads[exit](state).double().cpu().numpy()


def _decide(engine: Engine, rows, logits, exit: int, last_exit: int, rule: ExitRule, answers: Scored) -> np.ndarray:
    """Write down an exit's logits, ask the rule, answer for those who leave; returns who stays: [candidates]."""
    if not np.isfinite(logits).all():
        raise backbone.BackboneError(
            f"layer {engine.heads.exit_layers[exit]}: the score of candidate {rows[~np.isfinite(logits)][0]} (of all "
            "requests together, from 0) is not finite. Score in float32; if it stays so, train again")
    answers.logits[rows, exit] = logits
    p_yes = exit_heads.calibrate(answers.logits[rows, : exit + 1], engine.calibration[: exit + 1])
    if exit == last_exit:
        leaves = np.ones(len(rows), dtype=bool)
    elif exit < rule.min_exit:
        leaves = np.zeros(len(rows), dtype=bool)
    else:
        leaves = rule.should_exit(p_yes, rule.threshold)
    answers.exit_index[rows[leaves]] = exit
    answers.p_yes[rows[leaves]] = p_yes[leaves, exit]
    return ~leaves
