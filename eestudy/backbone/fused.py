"""The same decoder with its weights fused for scoring: q, k and v in one product, gate and up in another.

Nothing here knows requests or exits: the arithmetic of one layer on a flat batch of tokens, split where a scorer
has to step in (after q, k and v are known, before anything else is computed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from eestudy.backbone.layers import decoder
from eestudy.backbone.packs import BackboneError
from eestudy.backbone.precision import Linear, channel_sizes, make_linear, supported

PACKED = "float32_packed"


@dataclass(frozen=True)
class FusedLayer:
    """One decoder layer: four products instead of seven."""

    qkv: Linear  # [T, D] -> [T, (H + 2 G) d]
    out: Linear  # [T, H d] -> [T, D]
    gate_up: Linear  # [T, D] -> [T, 2 F]
    down: Linear  # [T, F] -> [T, D]
    norms: tuple[torch.Tensor, torch.Tensor]  # [D] before attention, [D] before the MLP
    qk_norms: tuple[torch.Tensor, torch.Tensor] | None  # [d] each, where the family has them
    activation: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class FusedBackbone:
    """What scoring needs of a language model; the LM head is not part of it."""

    embedding: torch.Tensor  # [vocabulary, D]
    layers: tuple[FusedLayer, ...]
    rotary: torch.nn.Module
    eps: float
    n_heads: int
    n_groups: int  # key-value heads
    max_tokens: int  # prefix and one suffix together


def fuse(model, precision: str | None = None, sizes: Sequence[dict] | None = None) -> FusedBackbone:
    """Fuse the weights of a Llama-like causal LM (adapter merged); the model itself stays as it is.

    Args:
        model: from `load_model`, families `FAMILIES`.
        precision: of the matrix products, one of `PRECISIONS`; everything between them is float32. None: that of the
            model's own weights where this machine is fast at it, else float32, packed where it can be.
        sizes: from `input_sizes`; int8 needs them.

    Raises:
        BackboneError: an adapter that is not merged, a precision that this machine cannot do, or int8 without sizes.
    """
    stack, config = decoder(model), model.config
    if hasattr(model, "get_base_model"):
        raise BackboneError("merge the adapter first: model.merge_and_unload()")
    precision = precision or _own_precision(stack.embed_tokens.weight)
    if precision == "int8" and sizes is None:
        raise BackboneError("int8 needs to know how large its inputs are: hand in `sizes` from `input_sizes`")
    sizes = sizes or [{}] * len(stack.layers)
    window = config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else None
    return FusedBackbone(
        stack.embed_tokens.weight.detach(),
        tuple(_fuse_layer(*pair, precision) for pair in zip(stack.layers, sizes, strict=True)),
        stack.rotary_emb, config.rms_norm_eps, config.num_attention_heads, config.num_key_value_heads,
        window or config.max_position_embeddings,
    )


def _own_precision(weight: torch.Tensor) -> str:
    own = str(weight.dtype).removeprefix("torch.")
    if own != "float32" and supported(own, weight.device):
        return own
    return PACKED if supported(PACKED, weight.device) else "float32"


def _fuse_layer(layer, sizes: dict, precision: str) -> FusedLayer:
    def fused(name: str, *linears) -> Linear:
        weight = torch.cat([linear.weight.detach() for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        return make_linear(weight, torch.cat(biases).detach() if biases else None, precision, sizes.get(name))

    attention, mlp = layer.self_attn, layer.mlp
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return FusedLayer(
        fused("qkv", attention.q_proj, attention.k_proj, attention.v_proj), fused("out", attention.o_proj),
        fused("gate_up", mlp.gate_proj, mlp.up_proj), fused("down", mlp.down_proj),
        tuple(n.weight.detach().float() for n in (layer.input_layernorm, layer.post_attention_layernorm)),
        tuple(n.weight.detach().float() for n in norms) if norms[0] is not None else None, mlp.act_fn,
    )  # fmt: skip


def input_sizes(fused: FusedBackbone, run: Callable[[FusedBackbone], object]) -> list[dict[str, torch.Tensor]]:
    """How large the inputs of every product are, by channel, while `run` uses the backbone.

    Args:
        fused: an exact one.
        run: called with a backbone that watches; a few requests suffice.

    Returns:
        One mapping a layer: qkv, out, gate_up, down -> [in].
    """
    seen = [{name: [] for name in ("qkv", "out", "gate_up", "down")} for _ in fused.layers]

    def watch(layer: FusedLayer, inputs: dict) -> FusedLayer:
        return replace(layer, **{name: _noting(getattr(layer, name), inputs[name]) for name in inputs})

    run(replace(fused, layers=tuple(watch(*pair) for pair in zip(fused.layers, seen, strict=True))))
    return [{name: channel_sizes(torch.cat(inputs)) for name, inputs in layer.items()} for layer in seen]


def _noting(linear: Linear, inputs: list) -> Linear:
    def noted(x: torch.Tensor) -> torch.Tensor:
        inputs.append(x.clone())
        return linear(x)

    return noted


def rotary(fused: FusedBackbone, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary embedding at positions [T]: two tensors [T, 1, d]."""
    cos, sin = fused.rotary(fused.embedding.new_zeros(1, dtype=torch.float32), position_ids=positions[None])
    return cos[0, :, None], sin[0, :, None]


def project(fused: FusedBackbone, layer: FusedLayer, hidden, angles) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of a flat batch of tokens.

    Args:
        fused, layer: the backbone and one of its layers.
        hidden: [T, D], the state before the layer.
        angles: from `rotary`, for the T tokens.

    Returns:
        q [T, H, d], rotated; k [T, G, d], rotated; v [T, G, d].
    """
    n_heads, n_groups = fused.n_heads, fused.n_groups
    qkv = layer.qkv(F.rms_norm(hidden, hidden.shape[-1:], layer.norms[0], fused.eps))
    qkv = qkv.view(len(hidden), n_heads + 2 * n_groups, -1)  # [T, H + 2 G, d]
    qk, v = qkv[:, : n_heads + n_groups], qkv[:, n_heads + n_groups:]
    if layer.qk_norms:
        q, k = qk[:, :n_heads], qk[:, n_heads:]
        qk = torch.cat([F.rms_norm(x, x.shape[-1:], w, fused.eps)
                        for x, w in zip((q, k), layer.qk_norms, strict=True)], 1)
    cos, sin = angles
    first, second = qk.chunk(2, dim=-1)
    qk = qk * cos + torch.cat([-second, first], -1) * sin
    return qk[:, :n_heads], qk[:, n_heads:], v


def finish(fused: FusedBackbone, layer: FusedLayer, hidden, attended) -> torch.Tensor:
    """The rest of a layer after attention: [T, D] and [T, H d] -> [T, D]."""
    hidden = layer.out(attended).add_(hidden)
    gate, up = layer.gate_up(F.rms_norm(hidden, hidden.shape[-1:], layer.norms[1], fused.eps)).chunk(2, dim=-1)
    return layer.down(layer.activation(gate).mul_(up)).add_(hidden)


def prefix_attention(q, k, v) -> torch.Tensor:
    """Causal attention of a prefix over itself: q [P, H, d], k and v [P, G, d] -> [P, H d]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H | G, P, d]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


def suffix_attention(q, k, v, prefix_k, prefix_v, bias) -> torch.Tensor:
    """Attention of C suffixes over one shared prefix and over themselves, without repeating the prefix.

    Args:
        q: [C, Q, H, d], padded queries.
        k, v: [C, S, G, d], padded keys and values of the same suffixes.
        prefix_k, prefix_v: [P, G, d].
        bias: [1 | C, Q, S], 0 where a query may look, -inf elsewhere; each query sees one key at least.

    Returns:
        [C, Q, H d].
    """
    (n, n_q, n_heads, d), n_prefix, n_groups = q.shape, *prefix_k.shape[:2]
    shared = n_heads // n_groups  # R query heads share a key head
    q = q.view(n, n_q, n_groups, shared, d).permute(2, 0, 1, 3, 4).reshape(n_groups, -1, d)  # [G, C Q R, d]
    q = q / math.sqrt(d)
    on_prefix = q @ prefix_k.permute(1, 2, 0)  # [G, C Q R, P]
    on_self = q.view(n_groups, n, -1, d) @ k.permute(2, 0, 3, 1)  # [G, C, Q R, S]
    on_self = on_self.view(n_groups, n, n_q, shared, -1) + bias[:, :, None]
    weights = torch.cat([on_prefix, on_self.flatten(1, 3)], -1).softmax(-1)  # [G, C Q R, P + S]
    own = weights[..., n_prefix:].reshape(n_groups, n, n_q * shared, -1)
    out = weights[..., :n_prefix] @ prefix_v.transpose(0, 1)  # [G, C Q R, d]
    out = out + (own @ v.permute(2, 0, 1, 3)).view(out.shape)
    return out.view(n_groups, n, n_q, shared, d).permute(1, 2, 0, 3, 4).reshape(n, n_q, -1)
