"""Progress of long work: a bar for a person, one plain line every 30 s under make. And how much memory it took."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30


def progress(items: Iterable, label: str, total: int | None = None, unit: str = "step", initial: int = 0):
    """Iterate over `items` and show how far it is and what is left.

    Args:
        items: what to iterate over.
        label: what is being done.
        total: number of items, when `items` has no length.
        unit: what one item is.
        initial: items that an earlier, interrupted call had finished.

    Returns:
        An iterator over `items`. With EESTUDY_PLAIN_PROGRESS set (make sets it) it prints plain lines to
        standard output, at most one every 30 s; otherwise a tqdm bar, of signs, not a widget: it needs no package
        more, and stays in the notebook. On standard output, too: a notebook paints the other red, like an error.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items) + initial
    if not os.environ.get("EESTUDY_PLAIN_PROGRESS"):
        # TQDM_DISABLE is about the libraries' bars
        return tqdm(items, desc=label, total=total, unit=unit, initial=initial, file=sys.stdout, disable=False)
    return _plain(items, label, total, unit, initial)


def _plain(items: Iterable, label: str, total: int | None, unit: str, initial: int):
    start = last = time.perf_counter()
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.perf_counter()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            seconds_each = (now - start) / (done - initial)
            left = f", about {(total - done) * seconds_each / 60:.1f} min left" if total else ""
            print(f"[progress] {label}: {done}/{total or '?'} {unit}s{left}", flush=True)


def most_held_mb() -> float:
    """The most memory that this process has held so far, in MB (2^20 bytes)."""
    status = Path("/proc/self/status")  # Linux, where getrusage counts what the parent held at the start too
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
