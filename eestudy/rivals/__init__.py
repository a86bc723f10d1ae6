"""Rivals: what people would use instead of our scorer, each in the strongest form that a skilled user would write.

They score the same requests with the same fine-tuned weights and exit heads, at a fixed depth, and know nothing of
policies: a rival gives raw logits, which the benchmark calibrates as it does ours. The rivals on the Hugging Face
library stand here; the one on llama.cpp is an optional dependency and is imported by name,
`from eestudy.rivals import llama_cpp`.
"""

from eestudy.rivals.huggingface import (
    SharedPrefixLayer,
    as_library,
    encode_prefix,
    plain,
    prefix_reuse,
    score_prompts,
    score_suffixes,
    truncate,
)

__all__ = [
    "SharedPrefixLayer", "as_library", "encode_prefix", "plain", "prefix_reuse", "score_prompts", "score_suffixes",
    "truncate",
]
