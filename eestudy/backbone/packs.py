"""Packs: one request's tokens, its prefix once and one suffix per candidate, and the attention over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "packed"


class BackboneError(ValueError):
    """The language model cannot be used as asked; the message says what to change."""


@dataclass(frozen=True)
class Layout:
    """Where prefix and suffixes lie in a packed sequence of T tokens."""

    n_prefix: int
    lengths: tuple[int, ...]  # [C] tokens per suffix
    padded_index: torch.Tensor  # [C, S] position among the suffix tokens; padding repeats the last token
    packed_index: torch.Tensor  # [T - n_prefix] position in the flattened [C * S]
    mask: torch.Tensor  # [S, n_prefix + S] True where a suffix token may look


@dataclass(frozen=True)
class Pack:
    """One request as the model reads it."""

    ids: torch.Tensor  # [T]
    positions: torch.Tensor  # [T]
    layout: Layout


def make_layout(n_prefix: int, lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of a prefix of `n_prefix` tokens and C suffixes of `lengths` tokens.

    Raises:
        BackboneError: an empty prefix, no suffix, or an empty suffix.
    """
    if n_prefix < 1 or not lengths or min(lengths) < 1:
        raise BackboneError(f"a pack needs a prefix and non-empty suffixes, got {n_prefix} and {list(lengths)}")
    size = torch.tensor(lengths)  # [C]
    longest = int(size.max())
    step = torch.arange(longest)
    start = torch.cumsum(size, 0) - size  # [C]
    padded = start[:, None] + torch.minimum(step, size[:, None] - 1)  # [C, S]
    packed = (torch.arange(len(lengths))[:, None] * longest + step)[step < size[:, None]]  # [T - P]
    own = step[:, None] >= step  # [S, S] causal; real tokens never look at padding, which comes after them
    mask = torch.cat([torch.ones(longest, n_prefix, dtype=torch.bool), own], 1)
    return Layout(n_prefix, tuple(lengths), padded.to(device), packed.to(device), mask.to(device))


def make_pack(prefix: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Pack:
    """Pack token ids of one request: prefix [P] once, then C suffixes; positions restart after the prefix."""
    layout = make_layout(len(prefix), [len(s) for s in suffixes], device)
    ids = torch.tensor([*prefix, *(i for s in suffixes for i in s)], device=device)  # [T]
    positions = torch.tensor(
        [*range(len(prefix)), *(len(prefix) + i for s in suffixes for i in range(len(s)))], device=device
    )
    return Pack(ids, positions, layout)


def answer_index(layout: Layout) -> torch.Tensor:
    """Position in the packed sequence of each suffix's last token, where the answer is read: [C]."""
    ends = torch.cumsum(torch.tensor(layout.lengths, device=layout.mask.device), 0) - 1
    return layout.n_prefix + ends


def packed_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, layout=None, **kwargs):
    """Attention over a pack, without a dense mask over its T tokens.

    Args:
        module: the attention module that calls.
        query: [1, H, T, d].
        key, value: [1, G, T, d] with G key-value heads, H a multiple of G.
        attention_mask: used only without `layout` (ordinary batches).
        scaling: factor on the scores.
        dropout: attention dropout probability.
        layout: the pack's `Layout`; None for an ordinary causal batch.
        kwargs: what the library passes to every attention function.

    Returns:
        ([1, T, H, d], None), as the library expects.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)  # [1, H, T, d]
    options = {"dropout_p": dropout if module.training else 0.0, "scale": scaling}
    if layout is None:
        causal = attention_mask is None and query.shape[2] > 1
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, is_causal=causal, **options)
        return out.transpose(1, 2).contiguous(), None
    n_prefix, n_suffixes = layout.n_prefix, len(layout.lengths)
    q, k, v = (x[:, :, :n_prefix] for x in (query, key, value))
    prefix = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)  # [1, H, P, d]
    own_q, own_k, own_v = (
        x[0, :, n_prefix:].transpose(0, 1)[layout.padded_index].transpose(1, 2) for x in (query, key, value)
    )  # [C, H, S, d]
    k = torch.cat([k.expand(n_suffixes, -1, -1, -1), own_k], 2)  # [C, H, P + S, d]
    v = torch.cat([v.expand(n_suffixes, -1, -1, -1), own_v], 2)
    out = F.scaled_dot_product_attention(own_q, k, v, attn_mask=layout.mask, **options)  # [C, H, S, d]
    suffix = out.transpose(1, 2).flatten(0, 1)[layout.packed_index]  # [T - P, H, d]
    return torch.cat([prefix[0].transpose(0, 1), suffix])[None], None


def _packed_mask(*args, attention_mask=None, **kwargs):
    """No mask for packs and unpadded prompts; the library's own for padded batches."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return _library_mask(*args, attention_mask=attention_mask, **kwargs)


_library_mask = AttentionMaskInterface()["sdpa"]
AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _packed_mask)
