"""Export to GGUF: the fine-tuned weights, the exit head as the output matrix, the tokenizer from a template."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from eestudy import backbone, exit_heads
from eestudy.rivals.llama_cpp.optional import LlamaCppError, need

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
TENSORS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}


def export_gguf(
    model, head: exit_heads.ExitHead, path: Path, template: Path, quantisation: str, answers: tuple[int, int],
    n_layers: int | None = None,
) -> None:
    """Write the model, the exit head as its output, as one GGUF file, whole or not at all.

    Args:
        model: a Llama causal LM of the library, adapter merged.
        head: the exit head after layer `n_layers`; its bias stays with the caller.
        path: the file to write.
        template: a GGUF file whose tokenizer fields are copied; its vocabulary is the model's.
        quantisation: one of QUANTISATIONS, for the layers; embedding and head stay in 16 bits (32 for "F32").
        answers: token ids of "yes" and "no".
        n_layers: keep only the first so many layers; None = all.

    Raises:
        LlamaCppError: a package is missing, another family, an unknown quantisation, or a head with another eps.
    """
    need()
    from gguf import GGUFWriter

    if model.config.model_type != "llama" or model.config.rope_parameters.get("rope_type") != "default":
        raise LlamaCppError(f"only Llama with default rotations is exported, not {model.config.model_type!r}")
    if quantisation not in QUANTISATIONS:
        raise LlamaCppError(f"quantisation {quantisation!r} is not among {', '.join(QUANTISATIONS)}")
    if head.eps != model.config.rms_norm_eps:
        raise LlamaCppError(f"the head's eps {head.eps} is not the model's {model.config.rms_norm_eps}")
    depth = n_layers or backbone.n_layers(model)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = GGUFWriter(temporary, "llama")
    _add_fields(writer, model.config, depth, template)
    for name, weight in _named_tensors(model, head, answers, depth):
        _add_tensor(writer, name, weight, quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, path)


def _add_fields(writer, cfg, depth: int, template: Path) -> None:
    from gguf import GGUFReader

    writer.add_block_count(depth)
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(cfg.num_attention_heads)
    writer.add_head_count_kv(cfg.num_key_value_heads)
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    writer.add_rope_freq_base(cfg.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(cfg.hidden_size // cfg.num_attention_heads)
    writer.add_vocab_size(cfg.vocab_size)
    for key, field in GGUFReader(template).fields.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(key, field.contents(), *field.types[:2])


def _named_tensors(model, head, answers: tuple[int, int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    stack, cfg = backbone.decoder(model), model.config
    heads = {"attn_q": cfg.num_attention_heads, "attn_k": cfg.num_key_value_heads}
    yield "token_embd.weight", stack.embed_tokens.weight
    for i in range(depth):
        for name, module in TENSORS.items():
            weight = stack.layers[i].get_submodule(module).weight
            yield f"blk.{i}.{name}.weight", interleave(weight, heads[name]) if name in heads else weight
    yield "output_norm.weight", torch.ones(cfg.hidden_size)
    output = torch.zeros(cfg.vocab_size, cfg.hidden_size)
    output[answers[0]], output[answers[1]] = head.weight.detach(), -head.weight.detach()
    yield "output.weight", output


def interleave(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Reorder rows of a query or key weight from halves (the library's rotation) to pairs (llama.cpp's): [H·d, D].

    Source: `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    return weight.view(n_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _add_tensor(writer, name: str, weight: torch.Tensor, quantisation: str) -> None:
    from gguf import GGMLQuantizationType, quants

    if weight.ndim == 1:
        quantisation = "F32"
    elif name in ("token_embd.weight", "output.weight") and quantisation != "F32":
        quantisation = "F16"  # a head in 8 bits would cost more accuracy than all layers in 8 bits, and saves no time
    kind = GGMLQuantizationType[quantisation]
    writer.add_tensor(name, quants.quantize(weight.detach().float().contiguous().numpy(), kind), raw_dtype=kind)
