"""The Hugging Face library as a rival: plain prompts, the prefix reused through its cache, and fewer layers.

Everything here is the library's own forward at a fixed depth. What a skilled user would add is added: the decoder
stack without its LM head, no padding mask where causality already hides the padding, a prefix cache that is neither
copied nor changed, suffixes sorted by length where they are split into batches.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from eestudy import backbone
from eestudy.backbone import BackboneError
from eestudy.exit_heads import ExitHead


class SharedPrefixLayer(DynamicLayer):
    """One layer's keys and values [1, G, P, d] of a prefix, read by suffixes of any number and never changed.

    The library's own layer grows with every forward, so that it has to be copied and repeated for each batch.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Keys and values of prefix and suffixes, for [C, G, S, d] of the suffixes: two tensors [C, G, P + S, d]."""
        shape = (len(key_states), -1, -1, -1)
        return (torch.cat([self.keys.expand(shape), key_states], 2),
                torch.cat([self.values.expand(shape), value_states], 2))


def as_library(model, attention: str = "sdpa", dtype: torch.dtype | None = None):
    """The same model as the library would run it, set up once; `model` itself stays as it is.

    Args:
        model: the causal LM, adapter merged.
        attention: one of the library's attention functions, 'sdpa' or 'eager'.
        dtype: of the parameters; None shares them with `model`. Rotary buffers stay float32, as the library loads them.
    """
    same = _with_own_modules(model, dtype)
    backbone.decoder(same).set_attn_implementation(attention)
    return same


def truncate(model, n_layers: int):
    """The same model with only its first decoder layers: static depth as a user would deploy it.

    Args:
        model: the causal LM, adapter merged; it stays as it is.
        n_layers: decoder layers to keep, 1 … L. Read the answer with the exit head of that layer.

    Returns:
        A causal LM that shares its parameters with `model`.

    Raises:
        BackboneError: a depth that the model does not have.
    """
    if not 1 <= n_layers <= backbone.n_layers(model):
        raise BackboneError(f"cannot keep {n_layers} layers of {backbone.n_layers(model)}; choose 1 to all of them")
    short = _with_own_modules(model)
    stack = backbone.decoder(short)
    stack.layers = stack.layers[:n_layers]
    stack.config.num_hidden_layers = n_layers
    if getattr(stack.config, "layer_types", None):
        stack.config.layer_types = stack.config.layer_types[:n_layers]
    return short


@torch.inference_mode()
def score_prompts(model, head: ExitHead, prompts: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """Score whole prompts, of one request or of many.

    Args:
        model: the causal LM, from `as_library` or packed (then 'sdpa' is set for this call).
        head: the exit head of the model's last layer.
        prompts: N lists of token ids.
        batch_size: prompts per forward.

    Returns:
        Raw logits [N], before calibration.

    Raises:
        BackboneError: no prompt, or an empty one.
    """
    return _in_batches(model, head, prompts, batch_size)


def plain(
    model, head: ExitHead, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], batch_size: int,
) -> np.ndarray:
    """Score one request the plain way: `score_prompts` on prefix + suffix of each candidate. Returns raw logits [C].

    Raises:
        BackboneError: an empty prefix, no suffix, or an empty one.
    """
    _check(prefix, suffixes)
    return score_prompts(model, head, [[*prefix, *s] for s in suffixes], batch_size)


@torch.inference_mode()
def encode_prefix(model, prefix: Sequence[int]) -> Cache:
    """Compute a prefix once.

    Args:
        model: as for `score_prompts`.
        prefix: P token ids.

    Returns:
        The library's cache, one `SharedPrefixLayer` per layer; `score_suffixes` reads it any number of times.

    Raises:
        BackboneError: an empty prefix.
    """
    if not len(prefix):
        raise BackboneError("a prefix of no tokens has no cache; score whole prompts with `score_prompts` instead")
    cache = DynamicCache()
    with _library_attention(model):
        backbone.decoder(model)(input_ids=torch.tensor([list(prefix)], device=_device(model)), cache=cache,
                                use_cache=True)
    return Cache(layers=[SharedPrefixLayer(layer.keys, layer.values) for layer in cache.layers])


@torch.inference_mode()
def score_suffixes(
    model, head: ExitHead, cache: Cache, suffixes: Sequence[Sequence[int]], batch_size: int | None = None,
) -> np.ndarray:
    """Score suffixes after a prefix that has been computed before.

    Args:
        model: the model that computed the cache.
        head: the exit head of the model's last layer.
        cache: from `encode_prefix`; it stays as it is.
        suffixes: C lists of token ids.
        batch_size: suffixes per forward; None takes all at once.

    Returns:
        Raw logits [C], before calibration.

    Raises:
        BackboneError: no suffix, an empty one, or a cache of another depth.
    """
    if len(cache) != backbone.n_layers(model):
        raise BackboneError(f"the cache has {len(cache)} layers, the model {backbone.n_layers(model)}; "
                            "encode the prefix with the model that scores")
    return _in_batches(model, head, suffixes, batch_size or max(len(suffixes), 1), cache=cache, use_cache=True)


def prefix_reuse(
    model, head: ExitHead, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], batch_size: int | None = None,
) -> np.ndarray:
    """Score one request: `encode_prefix`, then `score_suffixes` on its cache. Returns raw logits [C].

    Raises:
        BackboneError: an empty prefix, no suffix, or an empty one.
    """
    _check(prefix, suffixes)
    return score_suffixes(model, head, encode_prefix(model, prefix), suffixes, batch_size)


def _in_batches(model, head, sequences, batch_size: int, **inputs) -> np.ndarray:
    """Raw logits of each sequence's last token; neighbours in length share a batch."""
    _check([0], sequences)
    if batch_size < 1:
        raise BackboneError(f"batch_size is {batch_size}; it needs at least one prompt per forward")
    order = np.argsort([len(s) for s in sequences], kind="stable")
    logits = np.empty(len(sequences))
    with _library_attention(model):
        for start in range(0, len(order), batch_size):
            index = order[start:start + batch_size]
            states = _last_states(model, [sequences[i] for i in index], **inputs)
            logits[index] = head(states).double().cpu().numpy()
    return logits


def _last_states(model, sequences, **inputs) -> torch.Tensor:
    """State of each sequence's last token after the last layer, before the final norm: [B, D].

    Padding stands on the right, where a causal model's real tokens never look: it needs no mask, and without one the
    library keeps its fast causal path.
    """
    stack, caught = backbone.decoder(model), []
    ids = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True).to(_device(model))  # [B, T]
    hook = stack.norm.register_forward_pre_hook(lambda _, args: caught.append(args[0]))  # the library norms it
    try:
        stack(input_ids=ids, **({"use_cache": False} | inputs))
    finally:
        hook.remove()
    return caught[0][torch.arange(len(ids)), torch.tensor([len(s) - 1 for s in sequences])]


def _with_own_modules(model, dtype: torch.dtype | None = None):
    """A copy with modules and configuration of its own and the same tensors, or parameters of another `dtype`."""
    # One configuration object serves all modules of a model: copying only its outer shell would leave the layers
    # with the original's attention. deepcopy keeps what its memo names, so the weights are not copied.
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    if dtype is not None:
        shared |= {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def _library_attention(model):
    """The model's own attention where it is the library's, 'sdpa' for the length of a block where it is ours."""
    packed = backbone.decoder(model).config._attn_implementation == backbone.ATTENTION
    return backbone.attention(model, "sdpa") if packed else nullcontext()


def _device(model) -> torch.device:
    return next(model.parameters()).device


def _check(prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> None:
    lengths = [len(s) for s in suffixes]
    if not len(prefix) or not lengths or min(lengths) < 1:
        raise BackboneError("a request needs a prefix and at least one suffix, none of them empty; "
                            f"got a prefix of {len(prefix)} tokens and suffixes of {lengths}")
