"""Tokens on their way through the layers: entering, attending, being joined by prefixes, leaving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from eestudy import backbone
from eestudy.backbone import FusedBackbone
from eestudy.scorer.batches import Batch, drop, join_prefixes, make_batch
from eestudy.scorer.prefixes import Trail


@dataclass(frozen=True)
class Flow:
    """A flat batch between two layers."""

    batch: Batch
    hidden: torch.Tensor  # [T, D]
    angles: tuple[torch.Tensor, torch.Tensor]  # [T, 1, d] each, of the rotary embedding


def enter(fused: FusedBackbone, requests: Sequence, trails: Sequence[Trail]) -> Flow:
    """The requests' tokens before the first layer; prefixes that are known stay out.

    Raises:
        BackboneError: an empty prefix or suffix, or a prompt longer than the model reads.
    """
    ids, batch = make_batch(requests, [bool(trail.keys_values) for trail in trails], fused.embedding.device)
    longest = int(batch.positions.max()) + 1
    if longest > fused.max_tokens:
        raise backbone.BackboneError(f"a prompt of {longest} tokens, but the model reads {fused.max_tokens}; "
                                     "lower prompt.max_prefix_tokens or prompt.max_suffix_tokens")
    return Flow(batch, fused.embedding[ids].float(), backbone.rotary(fused, batch.positions))


def join(fused: FusedBackbone, flow: Flow, trails: Sequence[Trail], depth: int) -> Flow:
    """Let the prefixes in whose knowledge ends before 0-based layer `depth`, from their last known state on."""
    owners = [b.owner for b in flow.batch.blocks if b.prefix_start is None and depth not in trails[b.owner].keys_values]
    if not owners:
        return flow
    resumed = [_resume(fused, trails[owner], depth - 1) for owner in owners]
    batch = join_prefixes(flow.batch, owners)
    hidden = torch.cat([flow.hidden, *resumed])
    hidden = F.pad(hidden, (0, 0, 0, len(batch.positions) - len(hidden)))
    return Flow(batch, hidden, backbone.rotary(fused, batch.positions))


def _resume(fused: FusedBackbone, trail: Trail, depth: int) -> torch.Tensor:
    """The state [P, D] of a known prefix after 0-based layer `depth`, the last one whose keys and values it has."""
    hidden = trail.state.hidden
    angles = backbone.rotary(fused, torch.arange(len(hidden), device=hidden.device))
    q, k, v = backbone.project(fused, fused.layers[depth], hidden, angles)
    return backbone.finish(fused, fused.layers[depth], hidden, backbone.prefix_attention(q, k, v))


def attend(batch: Batch, q, k, v, trails: Sequence[Trail], depth: int) -> torch.Tensor:
    """Attention of every token in the batch: q [T, H, d], k and v [T, G, d] -> [T, H d]."""
    attended = q.new_zeros(len(q), q.shape[1] * q.shape[2])
    for block in batch.blocks:
        at = block.suffixes
        own_q, own_k, own_v = (x[at][block.padded] for x in (q, k, v))  # [C, S, H | G, d]
        out = backbone.suffix_attention(own_q, own_k, own_v, *trails[block.owner].keys_values[depth], block.causal)
        attended[at] = out.flatten(0, 1)[block.packed]
        if block.prefix_start is not None:
            attended[block.prefix] = backbone.prefix_attention(q[block.prefix], k[block.prefix], v[block.prefix])
    return attended


def attend_answers(batch: Batch, q, k, v, trails: Sequence[Trail], depth: int) -> torch.Tensor:
    """The same for the answer tokens only, candidate by candidate: [candidates, H d]."""
    answers, attended, start = q[batch.answers][:, None], [], 0  # [candidates, 1, H, d]
    for block in batch.blocks:
        own_q = answers[start:start + len(block.rows)]
        own_k, own_v = (x[block.suffixes][block.padded] for x in (k, v))  # [C, S, G, d]
        pair = trails[block.owner].keys_values[depth]
        attended.append(backbone.suffix_attention(own_q, own_k, own_v, *pair, block.up_to_answer)[:, 0])
        start += len(block.rows)
    return torch.cat(attended)


def without(flow: Flow, stays: np.ndarray, *per_token: torch.Tensor) -> tuple[Flow, tuple[torch.Tensor, ...]]:
    """The flow, and other tensors [T, …], without the tokens of those that leave; `stays` [candidates]."""
    if stays.all():
        return flow, per_token
    kept, batch = drop(flow.batch, stays)
    angles = tuple(x[kept] for x in flow.angles)
    return replace(flow, batch=batch, hidden=flow.hidden[kept], angles=angles), tuple(x[kept] for x in per_token)
