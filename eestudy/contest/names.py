"""The contenders' names: family, then what is cut or known, then a reduced precision."""

from __future__ import annotations

PLAIN, PREFIX_REUSE, LLAMA = "hf_plain", "hf_prefix_reuse", "llama_cpp"
FULL_DEPTH, EARLY_EXIT = "ours_full_depth", "ours_early_exit"
TRUNCATED, WARM = "_truncated", "_warm_prefix"
OURS_TRUNCATED = "ours" + TRUNCATED
PEAK = "matmul_peak"
REDUCED = ("bfloat16", "int8")
ALL_AT_ONCE = -1  # in a race's column `request`: all requests waited together
WORDS = {
    PLAIN: "library: one prompt a pair", PREFIX_REUSE: "library: prefix reused", LLAMA: "llama.cpp",
    FULL_DEPTH: "ours: full depth", EARLY_EXIT: "ours: early exit", OURS_TRUNCATED: "ours: one static exit",
    PEAK: "bare matrix products",
}  # fmt: skip


def suffix(precision: str) -> str:
    """What a contender's name ends with; nothing for the exact one."""
    return f"_{precision}" if precision else ""


def precision_of(name: str) -> str:
    """The reduced precision that a contender's name ends with; '' for an exact one."""
    return next((p for p in REDUCED if name.endswith(f"_{p}")), "")


def exact_name(name: str) -> str:
    """The exact contender of the same work."""
    return name.removesuffix(suffix(precision_of(name)))


def in_words(name: str) -> str:
    """A contender's name for tables and figures."""
    start = max((key for key in WORDS if name.startswith(key)), key=len)
    marks = {"bfloat16": "bfloat16", "int8": "int8", TRUNCATED: "truncated", WARM: "prefix known"}
    rest = name.removeprefix(start)
    return ", ".join([WORDS[start], *(word for mark, word in marks.items() if mark in rest)])
