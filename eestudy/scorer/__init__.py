"""Scoring requests with early exit: one engine for a request alone, for many together, and for returning users."""

from eestudy.scorer.batches import unused
from eestudy.scorer.engine import (
    Engine,
    ExitRule,
    Scored,
    ShouldExit,
    build_engine,
    never_exit,
    score,
    static_rule,
)
from eestudy.scorer.prefixes import PrefixCache, PrefixState
from eestudy.scorer.requests import Question, TokenRequest, tokenize
from eestudy.scorer.waves import MAX_TOKENS, n_tokens, score_all, score_table, waves

__all__ = [
    "MAX_TOKENS", "Engine", "ExitRule", "PrefixCache", "PrefixState", "Question", "Scored", "ShouldExit",
    "TokenRequest", "build_engine", "n_tokens", "never_exit", "score", "score_all", "score_table", "static_rule",
    "tokenize", "unused", "waves",
]
