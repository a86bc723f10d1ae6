"""Measuring time honestly: warm-up, synchronise, fixed threads, contenders interleaved, medians and ratios."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy.progress import progress

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "torch-geometric", "faiss-cpu", "scikit-learn", "numpy")


def environment() -> dict:
    """What a measured time depends on: processor, cores, memory, operating system, library versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"processor": processor(), "cores": os.cpu_count(), "memory_mb": memory_mb(), "system": platform.system(),
            "machine": platform.machine(), "python": platform.python_version(), "versions": versions}


def processor() -> str:
    """The processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory_mb() -> int | None:
    """Physical memory in MB, None where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return None


def set_threads(n_threads: int) -> None:
    """Fix torch's intra-op threads for everything that is timed."""
    import torch

    torch.set_num_threads(n_threads)


def synchronize() -> None:
    """Wait for an accelerator, where there is one, so that the clock stops when the work has."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_once(call: Callable[[object], object], request) -> float:
    """Seconds of one call on one request."""
    synchronize()
    start = time.perf_counter()
    call(request)
    synchronize()
    return time.perf_counter() - start


def interleave(
    contenders: Mapping[str, Callable[[object], object]], requests: Sequence, warmup: int, repeats: int
) -> pd.DataFrame:
    """Time every contender on every request, in turn, the order of the contenders drawn anew for every request.

    Args:
        contenders: name -> function of one request.
        requests: what they are given.
        warmup: requests run by everyone before the clock counts.
        repeats: passes over the requests.

    Returns:
        Columns contender, repeat, request (position), seconds.
    """
    names = list(contenders)
    for request in requests[:warmup]:
        for name in names:
            contenders[name](request)
    records, rng = [], np.random.default_rng(0)
    order = [(repeat, position) for repeat in range(repeats) for position in range(len(requests))]
    for repeat, position in progress(order, "timing", unit="request"):
        for name in rng.permutation(names).tolist():  # in a fixed cycle everybody would always follow the same one
            seconds = time_once(contenders[name], requests[position])
            records.append((name, repeat, position, seconds))
    return pd.DataFrame(records, columns=["contender", "repeat", "request", "seconds"])


def summarise(times: pd.DataFrame) -> pd.DataFrame:
    """Per contender: latency_ms_p50, _p95, _p99 of a request and throughput_rps (requests over total seconds)."""
    groups = times.groupby("contender", sort=False)["seconds"]
    table = pd.DataFrame({f"latency_ms_p{q}": groups.quantile(q / 100) * 1000 for q in (50, 95, 99)})
    table["throughput_rps"] = groups.count() / groups.sum()
    return table.reset_index()


def throughput_ratio(times: pd.DataFrame, contender: str, against: str, n_bootstrap: int, seed: int) -> dict:
    """How many times more requests per second `contender` serves than `against`, on the same requests.

    Args:
        times: from `interleave`.
        contender, against: names.
        n_bootstrap: resamples of requests (both contenders are resampled together).
        seed: of the resampling.

    Returns:
        {"value", "ci95", "n"}: ratio of total seconds, its 95 % interval, number of requests.
    """
    seconds = times.pivot_table(index="request", columns="contender", values="seconds", aggfunc="sum")
    slow, fast = seconds[against].to_numpy(), seconds[contender].to_numpy()  # [n requests]
    draws = np.random.default_rng(seed).integers(0, len(slow), (n_bootstrap, len(slow)))
    ratios = slow[draws].sum(1) / fast[draws].sum(1)
    return {"value": float(slow.sum() / fast.sum()), "n": len(slow),
            "ci95": tuple(float(q) for q in np.quantile(ratios, (0.025, 0.975)))}
