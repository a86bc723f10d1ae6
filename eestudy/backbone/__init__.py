"""The language model: loading it offline, the packed attention, and stepping through its layers.

This is the only module that knows where a model keeps its layers. Any causal LM of the Llama, Qwen or Mistral
kind in transformers works: the attention is exchanged through the library's `AttentionInterface`, everything
else stays the library's.

A *pack* is one request: its prefix once, then one short suffix per candidate. The prefix attends causally to
itself; each suffix attends to the prefix and causally to itself, never to another suffix; positions restart
after the prefix. So every candidate sees exactly what it would see in a prompt of its own.
"""

from eestudy.backbone.encoding import text_vectors
from eestudy.backbone.finite import refuse_nonfinite
from eestudy.backbone.fused import (
    FusedBackbone,
    FusedLayer,
    finish,
    fuse,
    input_sizes,
    prefix_attention,
    project,
    rotary,
    split,
    suffix_attention,
)
from eestudy.backbone.layers import (
    answer_direction,
    attention,
    decoder,
    embed,
    exit_states,
    n_layers,
    run_layers,
)
from eestudy.backbone.loading import (
    FAMILIES,
    answer_ids,
    converted_asset,
    identity,
    load_model,
    load_tokenizer,
    template_gguf,
)
from eestudy.backbone.packs import (
    ATTENTION,
    BackboneError,
    Layout,
    Pack,
    answer_index,
    make_layout,
    make_pack,
    packed_attention,
)
from eestudy.backbone.precision import PRECISIONS, supported
from eestudy.backbone.soft_tokens import SoftTokens, add_soft_tokens, settle_soft_tokens

__all__ = [
    "ATTENTION", "FAMILIES", "PRECISIONS", "BackboneError", "FusedBackbone", "FusedLayer", "Layout", "Pack",
    "SoftTokens", "add_soft_tokens", "answer_direction", "answer_ids", "answer_index", "attention",
    "converted_asset", "decoder", "embed", "exit_states", "finish", "fuse", "identity", "input_sizes", "load_model",
    "load_tokenizer", "make_layout", "make_pack", "n_layers", "packed_attention", "prefix_attention", "project",
    "refuse_nonfinite", "rotary", "run_layers", "settle_soft_tokens", "split", "suffix_attention", "supported",
    "template_gguf", "text_vectors",
]
