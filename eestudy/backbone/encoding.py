"""Texts as vectors: the mean of a frozen language model's last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from eestudy.backbone.layers import decoder

TOKENS_AT_ONCE = 1024  # of one batch, padding included


@torch.inference_mode()
def text_vectors(model, tokenizer, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """The mean over a text's tokens of the last layer's states, after the final norm.

    Shorter texts of a batch are padded behind their end. No mask is needed: a causal model never looks ahead, and the
    mean leaves the padding out.

    Args:
        model: a causal LM, as it came.
        tokenizer: its tokenizer.
        texts: [N].
        max_tokens: of a text; of a longer one the last are kept, in a history the newest.

    Returns:
        float32 [N, D]; zeros for a text without tokens.

    Source: the usual pooling where a decoder has to serve as an encoder; how the paper's LLM retriever pools is not
    known.
    """
    ids = [tokens[-max_tokens:] for tokens in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] \
        if len(texts) else []  # fmt: skip
    stack, lengths = decoder(model), np.array([len(tokens) for tokens in ids], dtype=np.int64)
    found = np.zeros((len(ids), stack.config.hidden_size), dtype=np.float32)
    for part in _batches(lengths):
        padded = torch.zeros(len(part), int(lengths[part].max()), dtype=torch.long)
        for place, text in enumerate(part):
            padded[place, :lengths[text]] = torch.tensor(ids[text])
        padded = padded.to(next(stack.parameters()).device)
        states = stack(input_ids=padded, use_cache=False).last_hidden_state.float()  # [B, T, D]
        length = torch.from_numpy(lengths[part]).to(states.device)[:, None]  # [B, 1]
        real = torch.arange(padded.shape[1], device=states.device) < length  # [B, T]
        found[part] = ((states * real[..., None]).sum(1) / length).cpu().numpy()
    return found


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Places of texts with tokens, those of like length together, `TOKENS_AT_ONCE` at most; one text at least."""
    order = np.argsort(lengths, kind="stable")
    order, start = order[lengths[order] > 0], 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or (end + 1 - start) * lengths[order[end]] > TOKENS_AT_ONCE
        if full:
            yield order[start:end]
            start = end
