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
    angles: torch.Tensor  # [T, 1, d / 2] complex, of the rotary embedding


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
    q, k, v = backbone.split(fused, backbone.project(fused, fused.layers[depth], hidden, angles))
    return backbone.finish(fused, fused.layers[depth], hidden, backbone.prefix_attention(q, k, v))


def attend(fused: FusedBackbone, batch: Batch, qkv: torch.Tensor, trails: Sequence[Trail], depth: int) -> torch.Tensor:
    """Attention of every token in the batch: qkv [T, H + 2 G, d] -> [T, H d]."""
    attended = qkv.new_zeros(len(qkv), fused.n_heads * qkv.shape[2])
    for block in batch.blocks:
        q, k, v = backbone.split(fused, qkv[block.suffixes][block.padded])  # [C, S, H | G, d]
        out = backbone.suffix_attention(q, k, v, *trails[block.owner].keys_values[depth], block.causal)
        attended[block.suffixes] = out.flatten(0, 1)[block.packed]
        if block.prefix_start is not None:
            attended[block.prefix] = backbone.prefix_attention(*backbone.split(fused, qkv[block.prefix]))
    return attended


def attend_answers(fused: FusedBackbone, batch: Batch, qkv, trails: Sequence[Trail], depth: int) -> torch.Tensor:
    """The same for the answer tokens only, candidate by candidate: [candidates, H d]."""
    answers, attended, start = qkv[batch.answers][:, None, :fused.n_heads], [], 0  # [candidates, 1, H, d]
    for block in batch.blocks:
        _, k, v = backbone.split(fused, qkv[block.suffixes][block.padded])  # [C, S, G, d]
        pair, end = trails[block.owner].keys_values[depth], start + len(block.rows)
        attended.append(backbone.suffix_attention(answers[start:end], k, v, *pair, block.up_to_answer)[:, 0])
        start = end
    return torch.cat(attended)


def without(flow: Flow, stays: np.ndarray, qkv: torch.Tensor) -> tuple[Flow, torch.Tensor]:
    """The flow, and what was projected from it, without the tokens of those that leave; `stays` [candidates]."""
    if stays.all():
        return flow, qkv
    kept, batch = drop(flow.batch, stays)
    return replace(flow, batch=batch, hidden=flow.hidden[kept], angles=flow.angles[kept]), qkv[kept]
