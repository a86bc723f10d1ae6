"""Stepping through a model's layers: the only place that knows where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from eestudy.backbone.packs import Layout, Pack, answer_index


def decoder(model) -> torch.nn.Module:
    """The stack that owns embeddings, layers, final norm and rotary embedding; sees through a peft wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model


def n_layers(model) -> int:
    """Number of decoder layers L."""
    return len(decoder(model).layers)


def embed(model, pack: Pack) -> torch.Tensor:
    """Token embeddings of a pack: [1, T, D]."""
    return decoder(model).embed_tokens(pack.ids[None])


def run_layers(model, hidden, positions, layout: Layout, start: int, stop: int) -> torch.Tensor:
    """Run decoder layers start … stop − 1 on packed hidden states.

    Args:
        model: the causal LM.
        hidden: [1, T, D], the state before layer `start` (0-based).
        positions: [T] token positions.
        layout: the pack's layout.
        start, stop: 0-based half-open range of layers.

    Returns:
        [1, T, D], the raw (un-normed) state after layer `stop` − 1.
    """
    stack = decoder(model)
    rotary = stack.rotary_emb(hidden, position_ids=positions[None])
    for layer in stack.layers[start:stop]:
        hidden = layer(hidden, attention_mask=None, position_ids=positions[None], position_embeddings=rotary,
                       layout=layout)
    return hidden


def exit_states(model, pack: Pack, exit_layers: Sequence[int]) -> Iterator[torch.Tensor]:
    """Raw states at the answer positions after each exit layer (1-based, ascending): yields [C, D] per exit."""
    hidden, done, answers = embed(model, pack), 0, answer_index(pack.layout)
    for layer in exit_layers:
        hidden = run_layers(model, hidden, pack.positions, pack.layout, done, layer)
        done = layer
        yield hidden[0, answers]


@contextmanager
def attention(model, name: str):
    """Use the attention function `name` inside the block, for example the library's own 'sdpa'."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.config._attn_implementation
    base.set_attn_implementation(name)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def answer_direction(model, yes_id: int, no_id: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """What the LLM's own last layer uses to answer: (norm weight [D], yes − no row of its LM head [D], norm eps)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    weight = base.get_output_embeddings().weight.detach()
    norm = decoder(model).norm
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return norm_weight(norm).clone(), (weight[yes_id] - weight[no_id]).clone(), eps


def norm_weight(norm) -> torch.Tensor:
    """What a norm multiplies by, float32 [D]; Gemma stores how far that is from one."""
    weight = norm.weight.detach().float()
    return 1 + weight if type(norm).__name__.startswith("Gemma") else weight
