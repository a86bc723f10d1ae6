"""Whether the optional packages are there, and the error that says how to get them."""

from __future__ import annotations

import importlib.util

INSTALL = "llama.cpp is not installed: `make llama`, or `pip install xllamacpp gguf`"

CACHES = {"F32": 0, "F16": 1}  # llama.cpp's numbers of the types that keys and values are kept in


class LlamaCppError(RuntimeError):
    """llama.cpp cannot be used as asked; the message says what to change."""


def available() -> bool:
    """Whether both optional packages are installed."""
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf"))


def need() -> None:
    """Raise unless both optional packages are installed.

    Raises:
        LlamaCppError: one is missing; the message is the command that installs it.
    """
    if not available():
        raise LlamaCppError(INSTALL)
