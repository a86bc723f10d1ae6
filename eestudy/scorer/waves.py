"""Many requests: waves of a bounded number of tokens, and the answers as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from eestudy.progress import progress
from eestudy.scorer.engine import Engine, ExitRule, Scored, score
from eestudy.scorer.prefixes import PrefixCache

# Matrix products reach their full rate at some 400 tokens; longer waves only cost memory (about 20 kB a token).
MAX_TOKENS = 512


def n_tokens(request) -> int:
    """Tokens of a request: its prefix once, and its suffixes."""
    return len(request.prefix) + sum(len(suffix) for suffix in request.suffixes)


def waves(requests: Sequence, max_tokens: int = MAX_TOKENS) -> Iterator[Sequence]:
    """Consecutive requests, as many as fit into `max_tokens` together, one at least; nothing is padded."""
    start, held = 0, 0
    for end, request in enumerate(requests):
        if end > start and held + n_tokens(request) > max_tokens:
            yield requests[start:end]
            start, held = end, 0
        held += n_tokens(request)
    if start < len(requests):
        yield requests[start:]


def score_all(
    engine: Engine, requests: Sequence, rule: ExitRule, cache: PrefixCache | None = None, max_tokens: int = MAX_TOKENS,
) -> list[Scored]:  # fmt: skip
    """Score any number of requests, wave by wave, in bounded memory.

    Args:
        engine, requests, rule, cache: as for `score`.
        max_tokens: tokens of a wave.

    Returns:
        One `Scored` a request, in their order.
    """
    return [found for wave in waves(requests, max_tokens) for found in score(engine, wave, rule, cache)]


def score_table(engine: Engine, requests: Sequence, rule: ExitRule, cache: PrefixCache | None = None) -> pd.DataFrame:
    """The real early exit on every request, as a table.

    Args:
        engine, rule, cache: as for `score`.
        requests: those of `score`, with `rows` [C] too.

    Returns:
        Columns row, exit_index, p_yes, token_layers (of the whole request).
    """
    tables = []
    for wave in progress(list(waves(requests)), "real early exit", unit="wave"):
        for request, found in zip(wave, score(engine, wave, rule, cache), strict=True):
            tables.append(pd.DataFrame({"row": np.asarray(request.rows), "exit_index": found.exit_index,
                                        "p_yes": found.p_yes, "token_layers": found.token_layers}))  # fmt: skip
    return pd.concat(tables, ignore_index=True)
