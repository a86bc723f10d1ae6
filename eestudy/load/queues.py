"""Arrivals, and one server that meets them in order, on a simulated clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


class LoadInputError(ValueError):
    """Arrivals, service times or settings that no server could have met."""


def poisson_arrivals(rate_rps: float, n_requests: int, rng: np.random.Generator) -> np.ndarray:
    """Arrival times of `n_requests` independent users, `rate_rps` a second on average: [n] ascending seconds."""
    check(rate_rps > 0, f"the arrival rate must be positive, got {rate_rps} requests per second")
    return np.cumsum(rng.exponential(1 / rate_rps, n_requests))


def piecewise_poisson(rates_rps: Sequence[float], durations_s: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Arrivals whose rate steps: `rates_rps[k]` for `durations_s[k]` seconds, one piece after the other. [n] seconds.

    Source: given their number, the arrivals of a Poisson process are uniform on its interval (Ross, Stochastic
    Processes, theorem 2.3.1).
    """
    ends = np.cumsum(durations_s)
    pieces = zip(rates_rps, ends - np.asarray(durations_s), ends, strict=True)
    times = [np.sort(rng.uniform(low, high, rng.poisson(rate * (high - low)))) for rate, low, high in pieces]
    return np.concatenate(times)


def mean_wait_s(rate_rps: float, service_s) -> float:
    """Mean waiting time in seconds at Poisson arrivals and service times like `service_s`; inf from utilisation 1 on.

    W = rate E[S^2] / (2 (1 - rate E[S])). Source: Pollaczek (1930) and Khinchine (1932), M/G/1.
    """
    service_s = np.asarray(service_s, dtype=np.float64)
    utilisation = rate_rps * service_s.mean()
    return float(rate_rps * np.mean(service_s**2) / (2 * (1 - utilisation))) if utilisation < 1 else float("inf")


def simulate(arrivals_s, service_s) -> pd.DataFrame:
    """One server, first come first served, every request with its own service time.

    Args:
        arrivals_s: [n] ascending.
        service_s: [n] seconds each request keeps the server.

    Returns:
        The served frame, setting 0.

    Source: Lindley, "The theory of queues with a single server" (1952): start[i] = max(arrival[i], finish[i - 1]);
    solved for start[i] = max over j <= i of arrival[j] + service[j] + .. + service[i - 1].
    """
    arrivals_s, service_s = checked(arrivals_s, service_s)
    before = np.cumsum(service_s) - service_s  # [n] work of all earlier requests
    start = np.maximum(before + np.maximum.accumulate(arrivals_s - before), arrivals_s)
    return served_frame(arrivals_s, start, start + service_s)


def served_frame(arrival_s: np.ndarray, start_s: np.ndarray, finish_s: np.ndarray, setting=0) -> pd.DataFrame:
    """The frame that every run returns, from [n] seconds each and the setting of each request."""
    return pd.DataFrame({"arrival_s": arrival_s, "start_s": start_s, "finish_s": finish_s, "setting": setting,
                         "waiting_s": start_s - arrival_s, "latency_s": finish_s - arrival_s})


def check(condition: bool, message: str) -> None:
    """LoadInputError with this message unless the condition holds."""
    if not condition:
        raise LoadInputError(message)


def checked(arrivals_s, service_s=None) -> tuple[np.ndarray, ...]:
    """Arrays of float64, one entry (or row) of service a request; raises LoadInputError otherwise."""
    arrivals_s = np.asarray(arrivals_s, dtype=np.float64)
    check(arrivals_s.ndim == 1 and len(arrivals_s) > 0, "arrivals must be one non-empty row of times")
    check(bool((np.diff(arrivals_s) >= 0).all()) and arrivals_s[0] >= 0, "arrivals must ascend from 0 on; sort them")
    if service_s is None:
        return (arrivals_s,)
    service_s = np.asarray(service_s, dtype=np.float64)
    check(len(service_s) == len(arrivals_s), f"{len(arrivals_s)} arrivals but {len(service_s)} service times")
    check(bool((service_s >= 0).all()), "service times must be non-negative numbers; measure the missing ones")
    return arrivals_s, service_s
