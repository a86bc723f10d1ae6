"""What a comparison of two trainings shows, once all comparisons count that were declared with it."""

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
