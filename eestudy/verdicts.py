"""Figures in words: with their interval, and what a comparison shows once all count that were declared with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eestudy.metrics import LEVEL


def shown(value: float, ends: Sequence[float], p: float | None, higher: str, lower: str) -> str:
    """In words; who is ahead is said only where a difference is shown.

    Args:
        value, ends: the difference and its 95 % interval (low, high).
        p: adjusted for the number of comparisons; None or NaN where no model was trained twice.
        higher, lower: what to say of a difference above 0, below it.
    """
    if p is None or not np.isfinite(p):
        return "undecided: no model was trained twice"
    said = higher if value > 0 else lower
    if p < LEVEL:
        return said
    alone = ends[0] > 0 or ends[1] < 0
    return f"{said} by itself, not once all declared comparisons count" if alone else "no difference shown"


def with_ends(value: float, low: float, high: float, sign: str = "", digits: int = 3) -> str:
    """A number and its interval for reading: '0.712 [0.690, 0.731]'.

    Args:
        value, low, high: NaN where there is none; without a value nothing is said, without ends the value alone.
        sign: '+' where a difference is told, ',' for thousands.
        digits: decimals.
    """
    if not np.isfinite(value):
        return ""
    said, *ends = (f"{one:{sign}.{digits}f}" for one in (value, low, high))
    return f"{said} [{', '.join(ends)}]" if np.isfinite(low) else said
