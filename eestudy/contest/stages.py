"""What each stage of a request takes, from raw tables to the answer."""

from __future__ import annotations

import pandas as pd

STAGES = ("retrieval", "prompt", "tokenisation", "scoring")
UNPREPARED = "retrieval_from_all_ratings"  # measured beside the stages, not one of them


def stage_shares(times: pd.DataFrame) -> pd.DataFrame:
    """What each stage takes of a request.

    Args:
        times: columns request, stage, seconds.

    Returns:
        Columns stage, n (requests), latency_ms_p50, latency_ms_p95, share (of the seconds of all stages of all
        requests): a row per stage, and last 'total'.
    """
    table = times.pivot(index="request", columns="stage", values="seconds")[list(STAGES)]  # [requests, stages]
    table["total"] = table.sum(axis=1)
    return pd.DataFrame({
        "stage": table.columns, "n": len(table), "latency_ms_p50": 1000 * table.median().to_numpy(),
        "latency_ms_p95": 1000 * table.quantile(0.95).to_numpy(),
        "share": (table.sum() / table["total"].sum()).to_numpy(),
    })  # fmt: skip
