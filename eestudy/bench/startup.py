"""Start-up and memory of one contender, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from eestudy.artifacts import Run
from eestudy.progress import progress

SECONDS_BETWEEN_LOOKS = 0.005


def resident_mb() -> float:
    """Memory that this process holds now, in MB (2^20 bytes); NaN where the system does not tell (not Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")


def peak_mb(call: Callable[[], object]) -> float:
    """The most memory that this process holds while a call runs, in MB."""
    peak, done = [resident_mb()], threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            peak[0] = max(peak[0], resident_mb())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        call()
    finally:
        done.set()
        thread.join()
    return max(peak[0], resident_mb())


def measure(open_it: Callable[[], object], borrowed_mb: float, requests: Sequence) -> dict:
    """Open a contender and let it answer.

    Args:
        open_it: returns the `Contender`.
        borrowed_mb: of the library's model, that part which the contender goes on using; it was there before.
        requests: answered one by one.

    Returns:
        open_s (weights fused, quantised or handed to a server), first_answer_s, memory_mb (the most it held while
        it answered, over what was there before, and what it borrows).
    """
    before, start = resident_mb(), time.perf_counter()
    contender = open_it()
    opened = time.perf_counter()
    contender.one(requests[0])
    answered = time.perf_counter()
    peak = peak_mb(lambda: [contender.one(request) for request in requests])
    return {"open_s": opened - start, "first_answer_s": answered - opened, "memory_mb": peak - before + borrowed_mb}


def startup_table(run: Run, names: Sequence[str], n_candidates: int) -> pd.DataFrame:
    """`measure` of every contender, each in a fresh process.

    Args:
        run: names the run for the processes.
        names: contenders.
        n_candidates: per request.

    Returns:
        Columns contender, load_s (imports, data, the library's model), open_s, first_answer_s, memory_mb.
    """
    lines = []
    for name in progress(names, "start-up and memory", unit="contender"):
        words = ["--dataset", run.dataset, "--profile", run.profile, "--seed", str(run.seed), "--startup-of", name,
                 "--candidates", str(n_candidates)]  # fmt: skip
        command = [sys.executable, "-m", "eestudy.bench", *words, "--started", str(time.time())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"{name} does not start:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        lines.append({"contender": name, **found})
    return pd.DataFrame(lines)
