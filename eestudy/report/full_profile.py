"""The page of the `full` profile: what large language models need, by arithmetic and from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from eestudy.config import MODES, DataConfig, HeadsConfig
from eestudy.report.page import number, to_markdown


@dataclass(frozen=True)
class Shape:
    """What a decoder's size follows from, as its published configuration states it."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool  # whether input and output embedding are one
    query_norm: bool = False  # a norm on queries and keys (Qwen 3)

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's weight matrices: query, key, value, output, gate, up, down."""
        wide, narrow = self.heads * self.head_dim, self.key_heads * self.head_dim
        return ((self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden),
                (self.hidden, self.inner), (self.hidden, self.inner), (self.inner, self.hidden))  # fmt: skip

    @property
    def in_layers(self) -> int:
        """Parameters that every token is multiplied with: those of all layers."""
        norms = 2 * self.hidden + 2 * self.head_dim * self.query_norm
        return self.layers * (sum(a * b for a, b in self.linear) + norms)

    @property
    def parameters(self) -> int:
        """All of them, embeddings too."""
        return self.in_layers + self.hidden + (1 if self.tied else 2) * self.vocabulary * self.hidden

    @property
    def kept_per_token(self) -> float:
        """Bytes that a layer keeps of every token for its way back: bfloat16, and float32 copies for norms and adapter.

        Counted with autograd's hooks for saved tensors and fitted to the widths; the adapter's own states are left out.
        """
        wide, narrow = self.heads * self.head_dim, self.key_heads * self.head_dim
        norms = 11.5 * (wide + narrow) * self.query_norm
        return 30 * self.hidden + 9 * wide + 4 * narrow + 14 * self.inner + norms

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA on every matrix of every layer."""
        return self.layers * rank * sum(a + b for a, b in self.linear)


MEASURED = "ml-100k"  # whose training on the CPU is told
SMALL = Shape("SmolLM2-135M", 576, 30, 9, 3, 64, 1536, 49152, True)  # what was measured
LARGE = (
    Shape("Qwen3-4B", 2560, 36, 32, 8, 128, 9728, 151936, True, True),
    Shape("Vicuna-7B-v1.5", 4096, 32, 32, 32, 128, 11008, 32000, False),
    Shape("Llama-3-8B", 4096, 32, 32, 8, 128, 14336, 128256, False),
)
CUDA_GB = 1.0  # context and kernels; about
GPUS = (24, 48, 80, 141)  # GB that GPUs on the market have
PEAK = 1e15  # multiplications and additions a second of a large data-centre GPU in bfloat16; about
SHARES = (0.4, 0.1)  # of it that training reaches: with full batches, and with one request at a time


def training_memory(shape: Shape, rank: int, tokens: int, checkpointing: bool) -> dict[str, float]:
    """GB (10^9 bytes) on one GPU while training, bfloat16 weights, float32 adapter with AdamW.

    Args:
        shape: the model's.
        rank: of LoRA.
        tokens: of one step on this GPU.
        checkpointing: keep the states between layers only, and one layer's activations.

    Returns:
        weights, adapter (itself, gradients, two moments), activations.
    """
    one_layer = shape.kept_per_token * tokens
    states = 2 * tokens * shape.hidden * shape.layers
    activations = states + one_layer if checkpointing else shape.layers * one_layer
    return {"weights": 2 * shape.parameters / 1e9, "adapter": 16 * shape.adapter(rank) / 1e9,
            "activations": activations / 1e9}  # fmt: skip


def work(shape: Shape, train_tokens: float, score_tokens: float, checkpointing: bool) -> tuple[float, float]:
    """Floating-point operations of training and of scoring: two per parameter and token forwards, two more backwards.

    Frozen weights need no gradient of their own, so backwards costs as much as forwards; recomputing costs a forward.
    """
    passes = 3 if checkpointing else 2
    return 2 * passes * shape.in_layers * train_tokens, 2 * shape.in_layers * score_tokens


def tokens_of(metrics: dict) -> dict[str, float]:
    """Tokens of a reference's requests as they are packed, all evidence shown.

    Args:
        metrics: its `metrics.json`.

    Returns:
        label (per label, prefix shared), request (of the most candidates), train (one pass over all label rows), score
        (all rows of validation and test, in all modes).
    """
    value = {(item["name"], item["split"]): item["value"] for item in metrics["metrics"]}
    prefix, suffix, saved = (value[f"{name}", "all"] for name in
                             ("prefix_tokens_mean", "suffix_tokens_mean", "token_ratio_plain_vs_packed"))  # fmt: skip
    per_label = (prefix + suffix) / saved
    scored = value["n_rows", "validation"] + value["n_rows", "test"]
    return {"label": per_label, "request": prefix + DataConfig.model_fields["max_candidates"].default * suffix,
            "train": per_label * value["n_rows", "label"], "score": per_label * scored * len(MODES)}  # fmt: skip


def _fits(gigabytes: float) -> str:
    """The smallest usual GPU that holds so much, with a tenth to spare."""
    return next((f"{size} GB" for size in GPUS if gigabytes < 0.9 * size), "none alone")


def _memory_rows(tokens: float) -> list[tuple[str, ...]]:
    rank, rows = HeadsConfig().lora_rank, []
    for shape in LARGE:
        need, less = (training_memory(shape, rank, tokens, kept) for kept in (False, True))
        totals = CUDA_GB + sum(need.values()), CUDA_GB + sum(less.values())
        rows.append((shape.name, f"{shape.parameters / 1e9:.2f}", f"{need['weights']:.1f}",
                     f"{shape.adapter(rank) / 1e6:.0f}, {need['adapter']:.2f}",
                     f"{need['activations']:.1f}, {less['activations']:.1f}", f"{totals[0]:.0f}, {totals[1]:.0f}",
                     _fits(totals[0])))  # fmt: skip
    return rows


def _hours_rows(references: Sequence[dict]) -> list[tuple[str, ...]]:
    rows = []
    for metrics in references:
        tokens = tokens_of(metrics)
        needs = [sum(work(shape, tokens["train"], tokens["score"], False)) / PEAK / 3600 for shape in LARGE]
        rows.append((metrics["dataset"], f"{tokens['train'] / 1e6:.1f}, {tokens['score'] / 1e6:.1f}",
                     *(" to ".join(number(need / share, 2) for share in SHARES) for need in needs)))  # fmt: skip
    return rows


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return to_markdown([("table", pd.DataFrame(rows, columns=columns))])


def full_profile_blocks(references: Sequence[dict]) -> dict[str, str]:
    """What stands between the markers of `results/full_profile.md`.

    Args:
        references: `metrics.json` of all datasets at `laptop` size.
    """
    first = next((metrics for metrics in references if metrics["dataset"] == MEASURED), references[0])
    tokens = tokens_of(first)
    labels_per_s = next(item["value"] for item in first["metrics"] if item["name"] == "training_labels_per_s")
    here = work(SMALL, tokens["label"] * labels_per_s, 0, False)[0]
    days = sum(work(LARGE[-1], tokens["train"], tokens["score"], False)) / here / 86400
    return {
        "request": f"{number(tokens['request'], 0)} tokens on {first['dataset']}",
        "memory": "\n" + _table(("model", "parameters (10^9)", "weights (GB)", "adapter (10^6, GB with optimiser)",
                                 "activations (GB): kept, recomputed", "together (GB): kept, recomputed",
                                 "fits a GPU of"), _memory_rows(tokens["request"])),
        "hours": "\n" + _table(("dataset", "tokens (10^6): trained, scored", *(f"{shape.name} (h)" for shape in LARGE)),
                               _hours_rows(references)),
        "here": f"{SMALL.name} trains on {number(labels_per_s, 1)} labels a second, "
                f"{number(tokens['label'] * labels_per_s, 0)} tokens, which by the same count is "
                f"{number(here / 1e9, 0)} GFLOP/s. At that rate {LARGE[-1].name} on {first['dataset']} would take "
                f"{number(days, 0)} days.",
    }  # fmt: skip
