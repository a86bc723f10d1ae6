"""`python -m eestudy.quickstart`: the late notebooks on a committed reference, then the pages. No torch, no LLM.

The policies are functions of the scores that a reference keeps, so the trade-off can be drawn again, and played with,
in two minutes.
"""

from __future__ import annotations

import sys

from eestudy import artifacts, execution, replay
from eestudy.site.command import show

NOTEBOOKS = ("06_exit_policies", "08_tradeoff", "09_report")


def replayed(run: artifacts.Run) -> artifacts.Run:
    """A run made of the reference, with the late notebooks executed anew."""
    made = replay.rebuild(run)
    for name in NOTEBOOKS:
        print(f"Executed: {execution.execute_beside(name, made, 'reference')}", flush=True)
    return made


if __name__ == "__main__":
    sys.exit(show("The late notebooks on a committed reference.", None, replayed))
