"""The in-process server, as llama.cpp's users call it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from eestudy.rivals.llama_cpp.optional import CACHES, LlamaCppError, need


def open_server(
    path: Path, n_threads: int, n_slots: int = 1, context_tokens: int = 1024, flash_attention: bool = True,
    cache: str = "F16",
):
    """The in-process server as a context manager.

    Args:
        path: from `export_gguf`.
        n_threads: for prompts and for generation.
        n_slots: prompts processed beside each other.
        context_tokens: what one slot can hold.
        flash_attention: bool.
        cache: keys and values in "F16", or in "F32", which is slower and, without flash attention, exact.

    Raises:
        LlamaCppError: a package is missing, or the file cannot be loaded.
    """
    need()
    return closing(_Server(path, n_threads, n_slots, context_tokens, flash_attention, cache))


class _Server:
    def __init__(self, path, n_threads, n_slots, context_tokens, flash_attention, cache):
        import xllamacpp

        p = xllamacpp.CommonParams()
        p.model.path, p.n_parallel, p.n_ctx, p.kv_unified = str(path), n_slots, context_tokens * n_slots, True
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = n_threads
        p.flash_attn_type = xllamacpp.llama_flash_attn_type(int(flash_attention))
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type(CACHES[cache])
        p.verbosity, p.fit_params, p.warmup = -1, False, False
        p.cache_ram_mib, p.cache_idle_slots, p.n_ctx_checkpoints = 0, False, 0  # no copies of a slot's cache
        try:
            self._server = xllamacpp.Server(p)
        except RuntimeError as error:
            raise LlamaCppError(f"llama.cpp cannot serve {path}: export it again") from error

    def logits(self, prefix: list[int], suffixes: Sequence[Sequence[int]], yes_id: int, no_id: int) -> np.ndarray:
        reply = self._server.handle_completions({
            "prompt": [prefix + list(s) for s in suffixes], "n_predict": 1, "n_probs": 2, "cache_prompt": True,
        })
        reply = reply[0] if isinstance(reply, list) else reply
        if "choices" not in reply:
            raise LlamaCppError(f"{reply['error']['message']} (context_tokens of `open_server`)")
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        return np.array([from_two_best(*c["logprobs"]["content"][0]["top_logprobs"], yes_id) for c in choices])

    def close(self) -> None:
        self._server = None  # the destructor stops its thread


def from_two_best(best: dict, second: dict, yes_id: int) -> float:
    """z − b from the two likeliest tokens {id, logprob}: one answer stands at |z − b|, all other tokens at 0."""
    margin = best["logprob"] - second["logprob"]
    return margin if best["id"] == yes_id else -margin
