"""Scoring requests for real: layer by layer, candidates leave at their exit and their tokens leave the batch.

Beside it stands what it is measured against: the plain way, one prompt per user-item pair at full depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from eestudy import backbone, exit_heads
from eestudy.progress import progress

ShouldExit = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Scored:
    """The answer to one request."""

    p_yes: np.ndarray  # [C] calibrated probability at the exit
    exit_index: np.ndarray  # [C] 0-based exit at which each candidate left
    token_layers: int  # token-layers computed, prefix included


def never_exit(p_yes_so_far: np.ndarray, threshold: float) -> np.ndarray:
    """The policy of full depth: nobody leaves early."""
    return np.zeros(len(p_yes_so_far), dtype=bool)


@torch.inference_mode()
def score_request(
    model, heads: exit_heads.ExitHeads, calibration: np.ndarray, pack: backbone.Pack,
    should_exit: ShouldExit = never_exit, threshold: float = 0.0, min_exit: int = 0,
) -> Scored:
    """Score one request with early exit.

    Args:
        model: the backbone, adapter merged.
        heads: E exit heads.
        calibration: [E, 2] slope and intercept per head.
        pack: the request, C candidates.
        should_exit: a causal policy: (p_yes_so_far [n, e + 1], threshold) -> bool [n], each row for itself.
        threshold: handed to the policy.
        min_exit: 0-based exit before which nobody leaves.

    Returns:
        p_yes, exit_index and the token-layers spent.
    """
    n_candidates, n_exits = len(pack.layout.lengths), len(heads.exit_layers)
    p_so_far = np.full((n_candidates, n_exits), np.nan)
    exit_index = np.full(n_candidates, n_exits - 1)
    active = np.arange(n_candidates)  # candidates still in the batch, in the layout's order
    hidden, positions, layout = backbone.embed(model, pack), pack.positions, pack.layout
    spent, depth = 0, 0
    for e, layer in enumerate(heads.exit_layers):
        hidden = backbone.run_layers(model, hidden, positions, layout, depth, layer)
        spent, depth = spent + (layer - depth) * hidden.shape[1], layer
        logit = heads.heads[e](hidden[0, backbone.answer_index(layout)]).double().cpu().numpy()  # [n active]
        p_so_far[active, e] = exit_heads.calibrate(logit[:, None], calibration[e:e + 1])[:, 0]
        if e + 1 == n_exits or e < min_exit:
            continue
        leaves = should_exit(p_so_far[active, : e + 1], threshold)
        exit_index[active[leaves]] = e
        active = active[~leaves]
        if not len(active):
            break
        if leaves.any():
            hidden, positions, layout = backbone.compact(hidden, positions, layout, torch.from_numpy(~leaves))
    return Scored(p_so_far[np.arange(n_candidates), exit_index], exit_index, spent)


@torch.inference_mode()
def score_static(model, heads: exit_heads.ExitHeads, calibration: np.ndarray, pack: backbone.Pack, exit: int) -> Scored:
    """Score one request with every candidate leaving at the same 0-based exit; only that head is evaluated."""
    layer = heads.exit_layers[exit]
    hidden = backbone.run_layers(model, backbone.embed(model, pack), pack.positions, pack.layout, 0, layer)
    logit = heads.heads[exit](hidden[0, backbone.answer_index(pack.layout)]).double().cpu().numpy()  # [C]
    p_yes = exit_heads.calibrate(logit[:, None], calibration[exit:exit + 1])[:, 0]
    return Scored(p_yes, np.full(len(logit), exit), layer * hidden.shape[1])


@torch.inference_mode()
def score_plain(
    model, heads: exit_heads.ExitHeads, calibration: np.ndarray, prefix: Sequence[int],
    suffixes: Sequence[Sequence[int]], batch_size: int,
) -> np.ndarray:
    """Score one request the plain way: the library's forward, one whole prompt per candidate, full depth.

    Args:
        model: the backbone, adapter merged.
        heads: the last one is used.
        calibration: [E, 2].
        prefix: token ids shared by the candidates, repeated in every prompt here.
        suffixes: C lists of token ids.
        batch_size: prompts per forward.

    Returns:
        p_yes [C].
    """
    device = next(heads.parameters()).device
    logits = []
    with backbone.attention(model, "sdpa"):
        for start in range(0, len(suffixes), batch_size):
            prompts = [torch.tensor([*prefix, *s]) for s in suffixes[start:start + batch_size]]
            ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)  # [B, T]
            sizes = torch.tensor([len(p) for p in prompts], device=device)
            mask = (torch.arange(ids.shape[1], device=device) < sizes[:, None]).long()  # [B, T]
            logits.append(heads.heads[-1](backbone.last_states(model, ids, mask)).double().cpu().numpy())
    return exit_heads.calibrate(np.concatenate(logits)[:, None], calibration[-1:])[:, 0]


def score_requests(
    model, heads: exit_heads.ExitHeads, calibration: np.ndarray, requests: Sequence, should_exit: ShouldExit,
    threshold: float, min_exit: int = 0,
) -> pd.DataFrame:
    """The real early exit on every request.

    Args:
        model, heads, calibration, should_exit, threshold, min_exit: as for `score_request`.
        requests: objects with `prefix`, `suffixes` and `rows` [C].

    Returns:
        Columns row, exit_index, p_yes, token_layers (of the whole request).
    """
    device = next(heads.parameters()).device
    tables = []
    for request in progress(requests, "real early exit on the test rows", unit="request"):
        pack = backbone.make_pack(request.prefix, request.suffixes, device)
        scored = score_request(model, heads, calibration, pack, should_exit, threshold, min_exit)
        tables.append(pd.DataFrame({"row": request.rows, "exit_index": scored.exit_index, "p_yes": scored.p_yes,
                                    "token_layers": scored.token_layers}))
    return pd.concat(tables, ignore_index=True)
