"""`PYTHONPATH=tests python -m faults [kind ...] [--seed N] [--share 0.1] [--list]`: the long form of every fault."""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed

from faults.kinds import ALONE, KINDS, inject
from faults.outcome import Outcome, keep


def _inject_all(kinds: list[str], n_at_once: int, seed: int, share: float) -> list[Outcome]:
    """Several kinds, each in a fresh process; their rows of the table are kept kind by kind."""
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(n_at_once, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(inject, kind, seed, share) for kind in kinds]):
            for found in done.result():
                keep(found)
            outcomes += done.result()
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Run the kinds that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"among {', '.join(KINDS)}; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of faults")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args(arguments)
    if given.list or not set(given.kinds) <= set(KINDS):
        print("\n".join(KINDS))
        return int(not given.list)
    kinds = [kind for kind in KINDS if kind in (given.kinds or KINDS)]
    alone, others = [kind for kind in kinds if kind == ALONE], [kind for kind in kinds if kind != ALONE]
    outcomes = _inject_all(alone, 1, given.seed, given.share) + _inject_all(others, 2, given.seed, given.share)
    return int(not all(found.is_clean for found in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
