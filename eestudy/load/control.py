"""A server that sheds depth when the queue grows: how it chooses, and the loop it serves in, simulated or real."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy.load.queues import check, checked, served_frame


@dataclass(frozen=True)
class Controller:
    """Chooses, whenever the server is free, the deepest setting that still answers everybody in time.

    Settings are ordered from fastest to most accurate. Let all who wait now be served at setting s: the j-th of them
    will then have waited (its wait so far) + (sum of the expected service of 1..j). The controller takes the last s
    at which all these predictions stay within a target, and setting 0 where none does. It looks at the queue, at what
    is known of a request before it is served, and at finished requests: never at arrivals or service times to come.
    The choice is made anew for each request, which costs nothing (a threshold is one number), so no hysteresis.

    Predictions err, so the target is not the budget itself: it starts there, falls by step * budget * (1 - risk) with
    every answer that came too late, and rises by step * budget * risk, up to the budget, with every one in time. While
    it has not fallen to 0, at most n * risk + 1 / step of n answers were late, however wrong `expected_s` is. Close to
    the load that even the fastest setting cannot serve it does fall to 0: there the fastest setting, held fixed, keeps
    the budget a little longer, because it never lets a queue stand.

    Source: quantile tracking (Angelopoulos, Candes and Tibshirani, "Conformal PID Control for Time Series Prediction",
    2023) for the target; the rest is our choice.
    """

    expected_s: np.ndarray  # [S], or [n, S] where more is known of each request than that it is one
    budget_s: float  # latency to hold
    risk: float = 0.04  # share of late answers aimed at; less than 5 %, so that p95 is held with room to spare
    step: float = 0.1  # how fast the target follows, as a share of the budget


def choose_setting(waited_s: np.ndarray, expected_s: np.ndarray, target_s: float) -> int:
    """The last setting at which all who wait are predicted to be answered within the target, else 0.

    Args:
        waited_s: [k] seconds waited so far, first in line first.
        expected_s: [k, S] expected service of each of them at each setting.
        target_s: latency to keep.
    """
    waited_s, expected_s = np.asarray(waited_s)[:, None], np.asarray(expected_s)
    # Where the first in line is late at every setting, nobody behind it can change the choice.
    # Setting 0 alone does not tell: settings ascend on average, not for every request.
    if not (waited_s[:1] + expected_s[:1] <= target_s).all(0).any():
        return 0
    predicted = waited_s + np.cumsum(expected_s, axis=0)  # [k, S]
    holds = np.flatnonzero((predicted <= target_s).all(0))
    return int(holds[-1]) if len(holds) else 0


def next_target(controller: Controller, target_s: float, latency_s: float) -> float:
    """The target after one more answer: lower if it came too late, a little higher if it did not."""
    late = latency_s > controller.budget_s
    moved = target_s + controller.step * controller.budget_s * (controller.risk - late)
    return min(max(moved, 0.0), controller.budget_s)


def serve_open_loop(
    arrivals_s, serve: Callable[[int, int], object], controller: Controller | None = None,
    clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep,
) -> pd.DataFrame:
    """Serve requests one by one at their arrival times, on the clock that is handed in.

    No thread is needed: with one server, whoever arrives during an answer would have had to wait anyway.

    Args:
        arrivals_s: [n] ascending.
        serve: (position of the request, setting) -> anything; returns when the answer is there.
        controller: chooses settings; None serves everything at setting 0.
        clock, sleep: the real ones, or `virtual_clock`'s.
    """
    (arrivals_s,) = checked(arrivals_s)
    expected = None if controller is None else _expected(controller, len(arrivals_s))
    target = None if controller is None else controller.budget_s
    start, finish = np.empty(len(arrivals_s)), np.empty(len(arrivals_s))
    setting = np.zeros(len(arrivals_s), dtype=np.int64)
    zero = clock()
    for i, arrival in enumerate(arrivals_s):
        if (left := arrival - (clock() - zero)) > 0:
            sleep(left)
        start[i] = max(clock() - zero, arrival)  # a clock may round a sleep down
        if controller is not None:
            waiting = slice(i, np.searchsorted(arrivals_s, start[i], side="right"))
            setting[i] = choose_setting(start[i] - arrivals_s[waiting], expected[waiting], target)
        serve(i, int(setting[i]))
        finish[i] = clock() - zero
        if controller is not None:
            target = next_target(controller, target, finish[i] - arrival)
    return served_frame(arrivals_s, start, finish, setting)


def virtual_clock() -> tuple[Callable[[], float], Callable[[float], None]]:
    """A clock that stands still until its `sleep` moves it: (clock, sleep)."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return (lambda: now[0]), sleep


def simulate_controlled(arrivals_s, service_s, controller: Controller) -> pd.DataFrame:
    """`serve_open_loop` on a virtual clock: what the controller would have chosen, and what users would have waited.

    Args:
        arrivals_s: [n] ascending.
        service_s: [n, S] seconds of each request at each setting; the controller sees them only as time gone by.
        controller: its settings are the columns.
    """
    service_s = checked(arrivals_s, service_s)[1]
    n_settings = np.shape(controller.expected_s)[-1]
    check(service_s.shape[1:] == (n_settings,), f"{n_settings} settings, but service times of shape {service_s.shape}")
    clock, sleep = virtual_clock()
    return serve_open_loop(arrivals_s, lambda i, setting: sleep(service_s[i, setting]), controller, clock, sleep)


def _expected(controller: Controller, n: int) -> np.ndarray:
    """[n, S] expected seconds, checked to ascend from fastest to most accurate on average."""
    expected = np.atleast_2d(np.asarray(controller.expected_s, dtype=np.float64))
    check(len(expected) in (1, n), f"expected_s is for {len(expected)} requests, {n} arrive; index it by request")
    check(bool((np.diff(expected.mean(0)) >= 0).all()), "settings must be ordered from fastest to slowest")
    return np.broadcast_to(expected, (n, expected.shape[1]))
