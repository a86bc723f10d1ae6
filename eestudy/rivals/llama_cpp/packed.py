"""llama.cpp's C interface, which the wheel exports: one batch in which all sequences share the prefix's tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np

from eestudy.rivals.llama_cpp.optional import CACHES, LlamaCppError, need

ANOTHER_LAYOUT = "this xllamacpp has another parameter layout than the one in requirements.txt: `make llama`"
DEFAULTS = (512, 2048, 512, 1, -1, 1, 1, False, True, True, True, True, False)  # they tell that the layout is as below
Pointer, Int, Address = ctypes.c_void_p, ctypes.c_int32, np.uint64


def open_packed(
    path: Path, n_threads: int, n_beside: int = 16, context_tokens: int = 1024, flash_attention: bool = True,
    cache: str = "F16",
):
    """The C interface as a context manager.

    Args:
        path: from `export_gguf`.
        n_threads: for every product.
        n_beside: candidates in one batch; the prefix is computed in the first batch alone.
        context_tokens: what one batch can hold, prefix included.
        flash_attention: bool.
        cache: keys and values in "F16", or in "F32", which is slower and, without flash attention, exact.

    Raises:
        LlamaCppError: a package is missing or of another version, or the file cannot be loaded.
    """
    need()
    return closing(_Packed(path, n_threads, n_beside, context_tokens, flash_attention, cache))


class _ModelParams(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint8 * 256)]  # larger than llama_model_params; handed on as it came


class _ContextParams(ctypes.Structure):
    """llama_context_params as far as it is used, with room behind it."""

    _fields_ = [(name, Int) for name in (
        "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq", "n_threads",
        "n_threads_batch", "ctx_type", "rope_scaling", "pooling", "attention", "flash_attn",
    )] + [("unused", ctypes.c_uint8 * 48), ("type_k", Int), ("type_v", Int), ("unused_too", ctypes.c_uint8 * 24),
          ("flags", ctypes.c_bool * 5), ("kv_unified", ctypes.c_bool), ("room", ctypes.c_uint8 * 256)]


class _Batch(ctypes.Structure):
    _fields_ = [("n_tokens", Int), ("token", Pointer), ("embd", Pointer), ("pos", Pointer), ("n_seq_id", Pointer),
                ("seq_id", Pointer), ("logits", Pointer)]


PROTOTYPES = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, Pointer, Pointer),
    "llama_model_default_params": (_ModelParams,),
    "llama_context_default_params": (_ContextParams,),
    "llama_model_load_from_file": (Pointer, ctypes.c_char_p, _ModelParams),
    "llama_init_from_model": (Pointer, Pointer, _ContextParams),
    "llama_n_ctx_seq": (ctypes.c_uint32, Pointer),
    "llama_n_ubatch": (ctypes.c_uint32, Pointer),
    "llama_n_seq_max": (ctypes.c_uint32, Pointer),
    "llama_n_threads_batch": (Int, Pointer),
    "llama_get_memory": (Pointer, Pointer),
    "llama_memory_clear": (None, Pointer, ctypes.c_bool),
    "llama_memory_seq_rm": (ctypes.c_bool, Pointer, Int, Int, Int),
    "llama_decode": (Int, Pointer, _Batch),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), Pointer, Int),
    "llama_free": (None, Pointer),
    "llama_model_free": (None, Pointer),
}
# The library keeps the address of this log function: it must live as long as the process.
_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, Pointer)(lambda *_: None)


@lru_cache
def _library() -> ctypes.CDLL:
    from xllamacpp import xllamacpp

    library = ctypes.CDLL(xllamacpp.__file__)
    for name, (result, *arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    return library


class _Packed:
    def __init__(self, path, n_threads, n_beside, context_tokens, flash_attention, cache):
        self._library, self._model, self._context = _library(), None, None
        self._library.llama_log_set(_SILENT, None)
        self._n_beside, self._context_tokens = n_beside, context_tokens
        self._model = self._library.llama_model_load_from_file(
            str(path).encode(), self._library.llama_model_default_params()
        )
        if not self._model:
            raise LlamaCppError(f"llama.cpp cannot load {path}: export it again")
        p = self._library.llama_context_default_params()
        found = (p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.flash_attn, p.type_k, p.type_v, *p.flags, p.kv_unified)
        if found != DEFAULTS:
            self.close()
            raise LlamaCppError(ANOTHER_LAYOUT)
        p.n_ctx = p.n_batch = p.n_ubatch = context_tokens
        p.n_seq_max = p.n_outputs_max = n_beside
        p.n_threads = p.n_threads_batch = n_threads
        p.flash_attn, p.type_k, p.type_v = int(flash_attention), CACHES[cache], CACHES[cache]
        p.kv_unified = True  # one cache for all sequences, so that they can share
        self._context = self._library.llama_init_from_model(self._model, p)
        self._check(n_threads)

    def _check(self, n_threads: int) -> None:
        """What was asked for has arrived where it belongs."""
        if not self._context:
            self.close()
            raise LlamaCppError(f"llama.cpp opens no context for {self._n_beside} sequences: open fewer")
        names = ("llama_n_seq_max", "llama_n_threads_batch", "llama_n_ubatch")
        got = [getattr(self._library, name)(self._context) for name in names]
        shared = self._library.llama_n_ctx_seq(self._context) >= self._context_tokens  # else a share for each sequence
        if got != [self._n_beside, n_threads, self._context_tokens] or not shared:
            self.close()
            raise LlamaCppError(ANOTHER_LAYOUT)

    def logits(self, prefix: list[int], suffixes: Sequence[Sequence[int]], yes_id: int, no_id: int) -> np.ndarray:
        memory = self._library.llama_get_memory(self._context)
        self._library.llama_memory_clear(memory, False)
        found = []
        for start in range(0, len(suffixes), self._n_beside):
            for sequence in range(self._n_beside if start else 0):  # the prefix stays, the last suffixes go
                self._library.llama_memory_seq_rm(memory, sequence, len(prefix), -1)
            group = suffixes[start:start + self._n_beside]
            found += self._decode([] if start else prefix, len(prefix), group, yes_id)
        return np.array(found)

    def _decode(self, prefix: list[int], offset: int, group: Sequence[Sequence[int]], yes_id: int) -> list[float]:
        arrays, ends, _alive = batch_arrays(prefix, offset, group, self._n_beside)
        token, pos, n_seq_id, seq_id, logits = (array.ctypes.data for array in arrays)
        batch = _Batch(len(arrays[0]), token, None, pos, n_seq_id, seq_id, logits)
        if len(arrays[0]) > self._context_tokens or self._library.llama_decode(self._context, batch):
            raise LlamaCppError(f"{len(arrays[0])} tokens do not fit: open with more context_tokens or fewer n_beside")
        return [self._library.llama_get_logits_ith(self._context, int(end))[yes_id] for end in ends]

    def close(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._model = self._context = None


def batch_arrays(prefix: Sequence[int], offset: int, group: Sequence[Sequence[int]], n_sequences: int):
    """The arrays of one llama_batch of T tokens: the prefix in all sequences, suffix c in sequence c alone.

    Args:
        prefix: token ids; empty where the cache holds it already.
        offset: position of the suffixes' first token.
        group: C ≤ n_sequences lists of token ids.
        n_sequences: S.

    Returns:
        ((token [T], position [T], number of sequences [T], address of the first sequence id [T], output? [T]),
        index of each suffix's last token [C], the ids that the addresses point to [S]).
    """
    sizes, n_prefix, ids = np.array([len(s) for s in group]), len(prefix), np.arange(n_sequences, dtype=np.int32)
    token = np.array([*prefix, *(i for s in group for i in s)], dtype=np.int32)
    position = np.concatenate([np.arange(n_prefix), *(offset + np.arange(n) for n in sizes)]).astype(np.int32)
    count = np.where(np.arange(len(token)) < n_prefix, n_sequences, 1).astype(np.int32)
    owner = np.concatenate([np.zeros(n_prefix, int), np.repeat(np.arange(len(group)), sizes)])  # [T]
    address = Address(ids.ctypes.data) + Address(ids.itemsize) * owner.astype(Address)
    ends = n_prefix + np.cumsum(sizes) - 1
    output = np.zeros(len(token), dtype=np.int8)
    output[ends] = 1
    return (token, position, count, address, output), ends, ids
