"""What a run under load says: percentiles, curves over the arrival rate and over time, rows for AUC, service times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from eestudy.load.queues import check, poisson_arrivals

Run = Callable[[np.ndarray, np.ndarray], pd.DataFrame]  # (arrivals_s [n], request [n]) -> served


@dataclass(frozen=True)
class ServiceModel:
    """Seconds of a request = fixed_s + token_layer_s * its token-layers."""

    fixed_s: float
    token_layer_s: float


def fit_service(token_layers, seconds) -> ServiceModel:
    """Least squares of measured seconds [n] on token-layers [n], neither part below 0: of few requests noise can say
    that more work takes less time, and no server may plan with that."""
    work, seconds = np.asarray(token_layers, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    check(len(np.unique(work)) > 1, "token-layers are all equal; time requests of different sizes or thresholds")
    scale = work.max()
    fixed, slope = nnls(np.column_stack([np.ones_like(work), work / scale]), seconds)[0]
    return ServiceModel(float(fixed), float(slope / scale))


def service_seconds(model: ServiceModel, token_layers) -> np.ndarray:
    """Modelled seconds of any array of token-layers; for expectations hand in tokens times the mean layers."""
    return model.fixed_s + model.token_layer_s * np.asarray(token_layers, dtype=np.float64)


def summary(served: pd.DataFrame) -> dict:
    """What users of one run met, and whether it could have gone on like that.

    Returns:
        latency_ms_p50, _p95, _p99; utilisation (busy seconds per second of arrivals); last_over_first_quarter (mean
        latency of the last quarter of the requests over the first's: about 7 where a queue grows steadily, about 1
        where it does not); grows: utilisation is at least 1 and that ratio at least 2.
    """
    latency, quarter = served["latency_s"].to_numpy(), max(len(served) // 4, 1)
    busy = float((served["finish_s"] - served["start_s"]).sum() / served["arrival_s"].iloc[-1])
    ratio = float(latency[-quarter:].mean() / latency[:quarter].mean())
    table = {f"latency_ms_p{q}": float(np.quantile(latency, q / 100) * 1000) for q in (50, 95, 99)}
    return table | {"utilisation": busy, "last_over_first_quarter": ratio, "grows": busy >= 1 and ratio >= 2}


def offered_load_curve(
    rates_rps: Sequence[float], contenders: Mapping[str, Run], n_pool: int, n_requests: int, seed: int,
) -> pd.DataFrame:
    """Latency against arrival rate; all contenders meet the same requests, at each rate in the same rhythm.

    Args:
        rates_rps: requests per second to try.
        contenders: name -> (arrivals_s [n], request [n]) -> served frame; `request` are positions in the pool, so a
            contender looks up what it measured: `lambda at, request: load.simulate(at, seconds[request])`.
        n_pool: number of different requests; they are drawn with replacement.
        n_requests: of each run; the queue starts empty, so near utilisation 1 short runs look better than long ones.
        seed: of arrivals and requests.

    Returns:
        Columns contender, rate_rps and those of `summary`, ordered by contender and rate.
    """
    rng = np.random.default_rng(seed)
    rhythm, request = poisson_arrivals(1.0, n_requests, rng), rng.integers(0, n_pool, n_requests)
    rows = []
    for name, run in contenders.items():
        for rate in rates_rps:
            served = run(rhythm / rate, request)
            rows.append({"contender": name, "rate_rps": rate} | summary(served))
    return pd.DataFrame(rows)


def over_time(served: pd.DataFrame, width_s: float) -> pd.DataFrame:
    """Requests by time of arrival, in windows of `width_s`: time_s (middle), n, latency_ms_p50, _p95, mean_setting."""
    window = (served["arrival_s"] // width_s).astype(int)
    groups = served.groupby(window.rename("window"))
    table = pd.DataFrame({"n": groups.size(), "latency_ms_p50": groups["latency_s"].quantile(0.5) * 1000,
                          "latency_ms_p95": groups["latency_s"].quantile(0.95) * 1000,
                          "mean_setting": groups["setting"].mean()})
    return table.assign(time_s=(table.index + 0.5) * width_s).reset_index(drop=True)


def served_rows(row_request, request, setting) -> tuple[np.ndarray, np.ndarray]:
    """Which rows were answered, and at which setting: what AUC under load is computed on.

    With `p_yes_by_setting` [n_rows, S] the answers are `p_yes_by_setting[row, setting]`, labels `label[row]`.

    Args:
        row_request: [n_rows] position of each row's request in the pool.
        request: [n] position in the pool of each request served; a request may come several times.
        setting: [n] that served it.

    Returns:
        (row [m], setting [m]), one for each row of each request served, in the order served.
    """
    row_request = np.asarray(row_request)
    order = np.argsort(row_request, kind="stable")
    low, high = (np.searchsorted(row_request[order], request, side=side) for side in ("left", "right"))
    check((high > low).all(), "a served request has no rows; row_request and request must be of one pool")
    rows = [order[a:b] for a, b in zip(low, high, strict=True)]
    return np.concatenate(rows), np.repeat(np.asarray(setting), high - low)
