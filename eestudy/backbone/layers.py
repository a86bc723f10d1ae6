"""Stepping through a model's layers: the only place that knows where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from eestudy.backbone.packs import Layout, Pack, answer_index, make_layout


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


def compact(hidden, positions, layout: Layout, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Layout]:
    """Drop the tokens of candidates that have left; the prefix stays for those that have not.

    Args:
        hidden: [1, T, D].
        positions: [T].
        layout: C candidates.
        keep: [C] bool, at least one True.

    Returns:
        The same three for the candidates that stay.
    """
    sizes = torch.tensor(layout.lengths, device=hidden.device)
    prefix = torch.ones(layout.n_prefix, dtype=torch.bool, device=hidden.device)
    tokens = torch.cat([prefix, keep.to(hidden.device).repeat_interleave(sizes)])  # [T]
    lengths = [n for n, stays in zip(layout.lengths, keep.tolist(), strict=True) if stays]
    return hidden[:, tokens], positions[tokens], make_layout(layout.n_prefix, lengths, hidden.device)


def last_states(model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Raw states after the last block from the library's own full forward, right-padded prompts.

    Args:
        model: the causal LM.
        input_ids, attention_mask: [B, T].

    Returns:
        [B, D]: the state of each prompt's last real token, before the final norm.
    """
    caught = []
    stack = decoder(model)
    hook = stack.norm.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))  # the library norms it
    try:
        stack(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    finally:
        hook.remove()
    return caught[0][torch.arange(len(input_ids)), attention_mask.sum(1) - 1]


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
    return norm.weight.detach().clone(), (weight[yes_id] - weight[no_id]).clone(), norm.variance_epsilon
