"""The same decoder with its weights fused for scoring: q, k and v in one product, gate and up in another.

Three more things happen once, at load, instead of at every token. A norm's weights are multiplied into the product
after it. Queries come out of theirs already divided by the square root of d. And the channels of queries and keys are
reordered so that the two which the rotary embedding turns together lie side by side: turning them is then one complex
product, and queries meet keys as before.

Nothing here knows requests or exits: the arithmetic of one layer on a flat batch of tokens, split where a scorer
has to step in (after q, k and v are known, before anything else is computed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from eestudy.backbone.finite import refuse_nonfinite
from eestudy.backbone.layers import decoder, norm_weight
from eestudy.backbone.packs import BackboneError
from eestudy.backbone.precision import Linear, channel_sizes, combine_sizes, make_linear, supported

PACKED = "float32_packed"


@dataclass(frozen=True)
class FusedLayer:
    """One decoder layer: four products instead of seven."""

    qkv: Linear  # [T, D] -> [T, (H + 2 G) d], query and key channels in pairs
    out: Linear  # [T, H d] -> [T, D]
    gate_up: Linear  # [T, D] -> [T, 2 F]
    down: Linear  # [T, F] -> [T, D]
    qk_norms: tuple[torch.Tensor, torch.Tensor] | None  # [d] each, in pairs too, where the family has them
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
        BackboneError: an adapter that is not merged, a precision that this machine cannot do, int8 without sizes, or a
            weight that is not finite.
    """
    stack, config = decoder(model), model.config
    if hasattr(model, "get_base_model"):
        raise BackboneError("merge the adapter first: model.merge_and_unload()")
    refuse_nonfinite(stack, "Fetch the weights again, or train again with a lower heads.lora_lr")
    precision = precision or _own_precision(stack.embed_tokens.weight)
    if precision == "int8" and sizes is None:
        raise BackboneError("int8 needs to know how large its inputs are: hand in `sizes` from `input_sizes`")
    sizes = sizes or [{}] * len(stack.layers)
    window = config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else None
    return FusedBackbone(
        _embedding(stack.embed_tokens),
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
    attention, mlp, d = layer.self_attn, layer.mlp, layer.self_attn.head_dim
    before, between = (norm_weight(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    norms = [_in_pairs(norm_weight(getattr(attention, name)), d) for name in ("q_norm", "k_norm")
             if hasattr(attention, name)]
    if norms:
        norms[0] *= d**-0.5
    parts = {
        "qkv": [_parameters(attention.q_proj, before, d, 1.0 if norms else d**-0.5),  # a norm would undo the scale
                _parameters(attention.k_proj, before, d), _parameters(attention.v_proj, before)],
        "out": [_parameters(attention.o_proj)],
        "gate_up": [_parameters(mlp.gate_proj, between), _parameters(mlp.up_proj, between)],
        "down": [_parameters(mlp.down_proj)],
    }  # fmt: skip
    products = {name: _product(part, precision, sizes.get(name)) for name, part in parts.items()}
    return FusedLayer(**products, qk_norms=tuple(norms) or None, activation=mlp.act_fn)


def _embedding(table) -> torch.Tensor:
    """Token embeddings [vocabulary, D] as they enter the first layer; Gemma scales them, in their own precision."""
    weight, scale = table.weight.detach(), getattr(table, "embed_scale", None)
    return weight if scale is None else weight * scale.to(weight.dtype)


def _product(parts: Sequence[tuple], precision: str, sizes: torch.Tensor | None) -> Linear:
    """One product in place of several, from their weights and biases."""
    weights, biases = zip(*parts, strict=True)
    return make_linear(torch.cat(weights), None if biases[0] is None else torch.cat(biases), precision, sizes)


def _parameters(linear, norm: torch.Tensor | None = None, d: int | None = None, scale: float = 1.0) -> tuple:
    """Weight [out, in] and bias [out] or None: a norm's weights [in] taken in, in pairs for head size `d`, scaled."""
    weight, bias = linear.weight.detach().float(), linear.bias
    weight = weight if norm is None else weight * norm
    order = (lambda x: _in_pairs(x, d)) if d else (lambda x: x.detach().float())
    return order(weight) * scale, None if bias is None else order(bias) * scale


def _in_pairs(x: torch.Tensor, d: int) -> torch.Tensor:
    """Channels 0 … d - 1 of every head in the order 0, d/2, 1, d/2 + 1, …: [heads d, …] -> the same shape."""
    return x.detach().float().unflatten(0, (-1, 2, d // 2)).transpose(1, 2).flatten(0, 2)


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
    return [{name: combine_sizes(noted) for name, noted in layer.items()} for layer in seen]


def _noting(linear: Linear, sizes: list[tuple[int, torch.Tensor]]) -> Linear:
    def noted(x: torch.Tensor) -> torch.Tensor:
        sizes.append((len(x), channel_sizes(x)))  # not x itself: all inputs of all products are a gigabyte
        return linear(x)

    return noted


def normed(x: torch.Tensor, eps: float) -> torch.Tensor:
    """x [… n] over the root mean square of its last axis: the norm of these models, without its weights."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def rotary(fused: FusedBackbone, positions: torch.Tensor) -> torch.Tensor:
    """The rotary embedding at positions [T] as complex numbers [T, 1, d / 2]."""
    cos, sin = fused.rotary(fused.embedding.new_zeros(1, dtype=torch.float32), position_ids=positions[None])
    half = cos.shape[-1] // 2  # the library repeats them for the other half of the channels
    return torch.complex(cos[0, :, None, :half], sin[0, :, None, :half])


def project(fused: FusedBackbone, layer: FusedLayer, hidden, angles) -> torch.Tensor:
    """Queries, keys and values of a flat batch of tokens.

    Args:
        fused, layer: the backbone and one of its layers.
        hidden: [T, D], the state before the layer.
        angles: from `rotary`, for the T tokens.

    Returns:
        [T, H + 2 G, d]: H queries, rotated and divided by the square root of d; G keys, rotated; G values.
    """
    n_turned = fused.n_heads + fused.n_groups
    qkv = layer.qkv(normed(hidden, fused.eps))
    qkv = qkv.view(len(hidden), n_turned + fused.n_groups, -1)
    for heads, weight in zip(split(fused, qkv), layer.qk_norms or (), strict=False):
        heads.copy_(normed(heads, fused.eps).mul_(weight))
    torch.view_as_complex(qkv[:, :n_turned].unflatten(-1, (-1, 2))).mul_(angles)
    return qkv


def split(fused: FusedBackbone, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of queries [… H, d], keys [… G, d] and values [… G, d]."""
    return qkv.split((fused.n_heads, fused.n_groups, fused.n_groups), dim=-2)


def finish(fused: FusedBackbone, layer: FusedLayer, hidden, attended) -> torch.Tensor:
    """The rest of a layer after attention: [T, D] and [T, H d] -> [T, D]."""
    hidden = layer.out(attended).add_(hidden)
    gate, up = layer.gate_up(normed(hidden, fused.eps)).chunk(2, dim=-1)
    return layer.down(layer.activation(gate).mul_(up)).add_(hidden)


def prefix_attention(q, k, v) -> torch.Tensor:
    """Causal attention of a prefix over itself: q [P, H, d], scaled, k and v [P, G, d] -> [P, H d]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H | G, P, d]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


def suffix_attention(q, k, v, prefix_k, prefix_v, bias) -> torch.Tensor:
    """Attention of C suffixes over one shared prefix and over themselves, without repeating the prefix.

    Args:
        q: [C, Q, H, d], padded queries, scaled.
        k, v: [C, S, G, d], padded keys and values of the same suffixes.
        prefix_k, prefix_v: [P, G, d].
        bias: [1 | C, Q, S], 0 where a query may look, -inf elsewhere; each query sees one key at least.

    Returns:
        [C, Q, H d].
    """
    (n, n_q, n_heads, d), n_prefix, n_groups = q.shape, *prefix_k.shape[:2]
    shared = n_heads // n_groups  # R query heads share a key head
    q = q.view(n, n_q, n_groups, shared, d).permute(2, 0, 1, 3, 4).reshape(n_groups, -1, d)  # [G, C Q R, d]
    on_prefix = q @ prefix_k.permute(1, 2, 0)  # [G, C Q R, P]
    on_self = q.view(n_groups, n, -1, d) @ k.permute(2, 0, 3, 1)  # [G, C, Q R, S]
    on_self = on_self.view(n_groups, n, n_q, shared, -1) + bias[:, :, None]
    weights = torch.cat([on_prefix, on_self.flatten(1, 3)], -1).softmax(-1)  # [G, C Q R, P + S]
    own = weights[..., n_prefix:].reshape(n_groups, n, n_q * shared, -1)
    out = weights[..., :n_prefix] @ prefix_v.transpose(0, 1)  # [G, C Q R, d]
    out = out + (own @ v.permute(2, 0, 1, 3)).view(out.shape)
    return out.view(n_groups, n, n_q, shared, d).permute(1, 2, 0, 3, 4).reshape(n, n_q, -1)
