"""Graph embeddings as soft tokens: one more row of the vocabulary for every user and item, made from its vector.

A small network turns a vector of the graph into what a token's embedding is to the model; it is trained with the
adapter. Once trained it is worked out for everybody, and what scores is an ordinary, longer table of embeddings.

Source: Zhang et al., CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation, 2023.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from eestudy.backbone.layers import decoder


class SoftTokens(nn.Module):
    """Embeddings of tokens, and behind them, from id `first` on, of users and items."""

    def __init__(self, tokens: nn.Embedding, vectors: np.ndarray, first: int):
        """
        Args:
            tokens: the model's own table [V, D].
            vectors: [N, d] of the graph, users first, then items.
            first: id of the first soft token; at most V.
        """
        super().__init__()
        self.tokens, self.first = tokens, first
        known, width = torch.from_numpy(np.array(vectors, dtype=np.float32)), tokens.embedding_dim
        scale = known.square().mean().sqrt().clamp(min=1e-8)
        self.register_buffer("vectors", known / scale, persistent=False)
        self.project = nn.Sequential(nn.Linear(known.shape[1], width), nn.GELU(), nn.Linear(width, width))
        size = tokens(torch.arange(min(first, tokens.num_embeddings), device=tokens.weight.device)).float().std()
        self.register_buffer("size", size.detach(), persistent=False)  # so that a soft token is as large as a word

    def soft(self, index: torch.Tensor) -> torch.Tensor:
        """[…] of soft token numbers, from 0 on -> […, D]."""
        made = self.project(self.vectors[index])
        return (self.size * nn.functional.layer_norm(made, made.shape[-1:])).to(self.tokens.weight.dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids […] -> embeddings […, D]."""
        soft = ids >= self.first
        words = self.tokens(ids.masked_fill(soft, 0))
        return torch.where(soft[..., None], self.soft((ids - self.first).clamp(min=0)), words)

    @torch.no_grad()
    def table(self) -> nn.Embedding:
        """The same as one table [first + N, D]: same embeddings, nothing to work out."""
        device = self.tokens.weight.device
        words = self.tokens(torch.arange(self.first, device=device))
        return nn.Embedding.from_pretrained(torch.cat([words, self.soft(torch.arange(len(self.vectors)))]))


def add_soft_tokens(model, vectors: np.ndarray, first: int) -> SoftTokens:
    """Put soft tokens behind the model's own; returns the new table of embeddings, `first` being its first new id.

    Args:
        model: a causal LM, with or without an adapter.
        vectors: [N, d].
        first: one more than the largest id of the tokenizer.
    """
    stack = decoder(model)
    stack.embed_tokens = SoftTokens(stack.embed_tokens, vectors, first)
    return stack.embed_tokens


def settle_soft_tokens(model) -> None:
    """Where there are soft tokens, work them out once and for all: see `SoftTokens.table`."""
    stack = decoder(model)
    if isinstance(stack.embed_tokens, SoftTokens):
        stack.embed_tokens = stack.embed_tokens.table()
