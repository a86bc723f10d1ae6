"""The backbone with its adapter and exit heads as one module, and its trained part as named arrays."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from torch.distributed.tensor import DTensor

from eestudy import artifacts, backbone, exit_heads
from eestudy.artifacts import Run
from eestudy.config import StudyConfig
from eestudy.training.requests import VECTORS

ADAPTER, HEADS = "adapter.safetensors", "exit_heads.safetensors"
# what trained weights depend on; scoring comes after them, and so do the fused layers
SOURCES = ("training/loop.py", "training/model.py", "training/requests.py", "backbone/layers.py",
           "backbone/loading.py", "backbone/packs.py", "backbone/soft_tokens.py", "exit_heads.py", "prompts.py")
INPUTS = ("prompts.parquet", "split.parquet", "interactions.parquet", VECTORS)
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn")


class ExitModel(nn.Module):
    """The backbone with its exit heads, as one module: a pack in, logits of all heads out."""

    def __init__(self, model, heads: exit_heads.ExitHeads):
        super().__init__()
        self.backbone, self.heads = model, heads
        self._no_split_modules = list(model._no_split_modules)  # the layers by which accelerate shards a model

    def forward(self, pack: backbone.Pack) -> torch.Tensor:
        """Logits [E, C] of the pack's C candidates."""
        return self.heads(backbone.exit_states(self.backbone, pack, self.heads.exit_layers))


def build_model(cfg: StudyConfig, tokenizer, vectors: Mapping[str, np.ndarray] | None = None) -> ExitModel:
    """The backbone with a fresh LoRA adapter and untrained heads, and with soft tokens where `soft_vectors` has any."""
    model = backbone.load_model(cfg.backbone, cfg.seed)
    layers = exit_heads.check_exit_layers(cfg.heads.exit_layers, backbone.n_layers(model))
    norm_weight, direction, eps = backbone.answer_direction(model, *backbone.answer_ids(tokenizer, cfg.backbone))
    heads = exit_heads.ExitHeads(layers, norm_weight, direction, eps)
    torch.manual_seed(cfg.seed)
    lora = LoraConfig(r=cfg.heads.lora_rank, lora_alpha=cfg.heads.lora_alpha, target_modules="all-linear")
    adapted = get_peft_model(model, lora)
    if not cfg.heads.train_adapter:  # an adapter that never learns adds nothing: its second factor starts at 0
        adapted.requires_grad_(False)
    if vectors:
        both = np.concatenate([vectors["users"], vectors["items"]])
        backbone.add_soft_tokens(adapted, both, len(tokenizer))
    return ExitModel(adapted, heads)


def merge_adapter(model: ExitModel) -> ExitModel:
    """The same model with the adapter merged into the weights, for scoring: same logits, fewer products."""
    merged = model.backbone.merge_and_unload()
    backbone.settle_soft_tokens(merged)
    return ExitModel(merged, model.heads).eval()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is, or gathered where the processes hold a part of it each; then all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained_arrays(model: ExitModel) -> dict[str, np.ndarray]:
    """Adapter, soft tokens, heads as named arrays: `adapter.*`, `soft.*`, `heads.*`. All processes have to ask."""
    # peft finds the adapter by its modules' names, accelerate's checkpointing puts its own name between them
    adapter = get_peft_model_state_dict(model.backbone, state_dict=dict(model.backbone.named_parameters()))
    state = {f"adapter.{k.replace('_checkpoint_wrapped_module.', '')}": v for k, v in adapter.items()}
    state |= {f"soft.{k}": v for k, v in _soft_part(model).state_dict().items()}
    state |= {f"heads.{k}": v for k, v in model.heads.state_dict().items()}
    return {k: whole(v.detach()).float().cpu().numpy().copy() for k, v in state.items()}


def _soft_part(model: ExitModel) -> nn.Module:
    """What turns the graph's vectors into soft tokens; a module without parameters where there are none."""
    table = backbone.decoder(model.backbone).embed_tokens
    return table.project if isinstance(table, backbone.SoftTokens) else nn.Identity()


def load_trained(model: ExitModel, arrays: dict[str, np.ndarray]) -> None:
    """Put arrays from `trained_arrays` back into the model."""
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    adapter = {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")}
    set_peft_model_state_dict(model.backbone, adapter)
    for prefix, part in (("soft.", _soft_part(model)), ("heads.", model.heads)):
        part.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def make_optimizer(model: ExitModel, cfg: StudyConfig) -> torch.optim.Optimizer:
    """AdamW with one group for the adapter and one per head, each with its own learning rate."""
    rates = exit_heads.head_learning_rates(model.heads.exit_layers, cfg.heads.head_lr, cfg.heads.shallow_lr_factor)
    groups = [{"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": cfg.heads.lora_lr}]
    groups += [{"params": list(h.parameters()), "lr": lr} for h, lr in zip(model.heads.heads, rates, strict=True)]
    return torch.optim.AdamW(groups, weight_decay=cfg.heads.weight_decay)


def schedule(step: int, n_steps: int, warmup_fraction: float) -> float:
    """Factor on every learning rate: linear warm-up, then a cosine to 0."""
    warmup = max(1, round(warmup_fraction * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def training_fingerprint(cfg: StudyConfig, run: Run) -> str:
    """Hash of everything that trained weights depend on: settings, inputs, sources, library versions."""
    package = Path(__file__).resolve().parents[1]
    return artifacts.fingerprint({
        "config": cfg.model_dump(mode="json", include={"seed", "prompt", "backbone", "heads"}),
        "inputs": [artifacts.artifact_hash(run, name) for name in INPUTS],
        "backbone": backbone.identity(cfg.backbone),
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path)
                    for name in SOURCES for path in package.glob(name)},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    })
