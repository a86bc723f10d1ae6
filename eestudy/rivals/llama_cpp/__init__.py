"""llama.cpp on the same fine-tuned weights: export to GGUF, and two ways to score one request with it.

The exit head is built into the file: its output norm is 1, and its output matrix holds v in the row of "yes", −v in
the row of "no" and 0 elsewhere. So the logit of "yes" is z − b, and any other token's is 0.

- `open_server`: the in-process server, what its users call. Each slot reuses the prefix of its own last prompt; slots
  do not share it, so that one slot is fastest for one request.
- `open_packed`: llama.cpp's C interface, the prefix decoded once as a member of all sequences and the suffixes beside
  it in one batch. The strongest form, which the library's users would have to write themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eestudy.rivals.llama_cpp.export import QUANTISATIONS, export_gguf, interleave
from eestudy.rivals.llama_cpp.optional import LlamaCppError, available
from eestudy.rivals.llama_cpp.packed import open_packed
from eestudy.rivals.llama_cpp.serving import open_server

__all__ = [
    "QUANTISATIONS", "LlamaCppError", "available", "export_gguf", "interleave", "open_packed", "open_server",
    "score_request",
]


def score_request(
    server, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], yes_id: int, no_id: int, bias: float
) -> np.ndarray:
    """The head's logits z of one request.

    Args:
        server: what `open_server` or `open_packed` opened.
        prefix: token ids shared by all candidates.
        suffixes: C lists of token ids.
        yes_id, no_id: the `answers` of `export_gguf`.
        bias: the head's.

    Returns:
        [C].

    Raises:
        LlamaCppError: the request does not fit.
    """
    return server.logits(list(prefix), suffixes, yes_id, no_id) + bias
