"""`python -m eestudy.quickstart`: the late notebooks on a committed reference, then the pages. No torch, no LLM.

The policies are functions of the scores that a reference keeps, so the trade-off can be drawn again, and played with,
in two minutes.
"""

from __future__ import annotations

from eestudy import artifacts, chain, execution, replay
from eestudy.site.command import show

NOTEBOOKS = ("06_exit_policies", "08_tradeoff", "09_report")


def complete(run: artifacts.Run) -> artifacts.Run:
    """The run, if its reference keeps all that the late notebooks read today.

    Raises:
        artifacts.ArtifactError: the reference is an older version's.
    """
    lacks = {file for name in NOTEBOOKS for files in chain.unfinished(run, name).values() for file in files}
    lacks -= {file for name in NOTEBOOKS for file in chain.STEPS[name].writes}
    if lacks:
        renew = run.command.replace("make reproduce", "make reference")
        raise artifacts.ArtifactError(
            f"the reference of {run.dataset} was made by an older version of the study and lacks "
            f"{', '.join(sorted(lacks))}. Choose another dataset, or make it anew: {run.command} && {renew}"
        )
    return run


def replayed(run: artifacts.Run) -> artifacts.Run:
    """A run made of the reference, with the late notebooks executed anew.

    Raises:
        artifacts.ArtifactError: there is no reference, or one that is too old.
    """
    made = complete(replay.rebuild(run))
    for name in NOTEBOOKS:
        print(f"Executed: {execution.execute_beside(name, made, 'reference')}", flush=True)
    return made


if __name__ == "__main__":
    show("The late notebooks on a committed reference.", None, replayed)
