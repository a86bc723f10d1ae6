"""Figures in words: with their interval, and what a comparison shows once all count that were declared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy.metrics import LEVEL

MOST_DIGITS = 5  # after the point, of an interval
BARE = "_no_evidence"  # ending of a control's figures where the prompt shows none: it reads profile and titles there


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


def digits_of(ends: Sequence[float], digits: int, nothing: float = 0.0) -> int:
    """At least `digits` decimals: more, up to `MOST_DIGITS`, where an end of an interval would read as `nothing`."""
    while digits < MOST_DIGITS and any(end != nothing == round(end, digits) for end in ends):
        digits += 1
    return digits


def with_ends(
    value: float, low: float, high: float, sign: str = "", digits: int = 3, nothing: float = 0.0,
) -> str:  # fmt: skip
    """A number and its interval for reading: '0.712 [0.690, 0.731]'. An end other than `nothing` never reads as it.

    Args:
        value, low, high: NaN where there is none; without a value nothing is said, without ends the value alone.
        sign: '+' where a difference is told, ',' for thousands.
        digits: decimals; more are told, up to `MOST_DIGITS`, where an end would read as `nothing`.
        nothing: what no difference is; 1 for a ratio.
    """
    if not np.isfinite(value):
        return ""
    ends = [end for end in (low, high) if np.isfinite(end)]
    digits = digits_of(ends, digits, nothing)
    form = {"": "z", "+": "+z", ",": "z,"}[sign] + f".{digits}f"  # z: what rounds to 0 has no minus
    return f"{value:{form}}" + (f" [{', '.join(f'{end:{form}}' for end in ends)}]" if ends else "")


def said(table: pd.DataFrame, column: str, sign: str = "", digits: int = 3) -> list[str]:
    """A column and its interval (columns `_lo` and `_hi` beside it) for reading, one text a row; see `with_ends`."""
    columns = (table[f"{column}{end}"] for end in ("", "_lo", "_hi"))
    return [with_ends(*line, sign, digits) for line in zip(*columns, strict=True)]


def with_interval(item: Mapping | None, digits: int = 3, signed: bool = False) -> str:
    """An entry of `metrics.json` for reading: '0.801 [0.789, 0.812]'; "not measured" for null. See `with_ends`."""
    if item is None or item["value"] is None:
        return "not measured"
    ends = item.get("ci95") or (np.nan, np.nan)
    nothing = 1.0 if item.get("unit") == "ratio" else 0.0
    return with_ends(item["value"], *ends, "+" if signed else "", digits, nothing) or "not measured"


def word(item: Mapping, above: str, below: str, across: str, zero: float = 0.0) -> str:
    """What a measured difference's interval says: it lies above 0, below, or holds it (also where there is none).

    Args:
        item: {"value", "ci95"}; above, below, across: what to say; zero: what no difference is, 1 for a ratio.
    """
    low, high = item["ci95"] or (zero, zero)
    return above if low > zero else below if high < zero else across
