"""Two at once, the dead, and a person's Ctrl-C."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import stand_in

from eestudy import holder
from eestudy.commands import GO_ON, INTERRUPTED
from faults.kills import Chain, hear_ctrl_c, smoke_chain, stand_in_chain
from faults.outcome import Outcome

SECONDS_TO_END = 5
SLEEPER = """
import os, sys
from pathlib import Path
import stand_in
from eestudy import chain, execution, pipeline
here = Path(sys.argv[1])
(here / "package").mkdir(parents=True, exist_ok=True)
stand_in.write_notebook(here / "notebooks", "a", "import time\\nprint('here', flush=True)\\ntime.sleep(60)")
project = chain.Project(here / "notebooks", here / "package", {"a": chain.Step(writes=("a.json",))})
execution.PROJECT = project
execution.execute.__defaults__ = (project,)
execution.main(["a", "--profile", "smoke"])
"""


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def _ends_well(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate()
    return process.returncode, output


def same_folder(folder: Path, n_cases: int, seed: int, n_real: int = 0) -> Outcome:
    """A second `make` is told who works there; after a kill the holder is dead, and the next one works.

    Args:
        folder: for the runs.
        n_cases: with stand-ins for notebooks.
        seed: of the moments.
        n_real: cases more, with the study itself, profile smoke.
    """
    outcome, rng = Outcome("two in one run folder", seed), random.Random(seed)  # noqa: S311
    for case in range(n_cases + n_real):
        made = (stand_in_chain(folder / str(case), seconds_each=0.2) if case < n_cases else
                smoke_chain(folder / str(case)))  # fmt: skip
        first = made.start()
        _wait_for(made.folder / holder.RECORD, first)
        time.sleep(rng.uniform(0, 2))
        status, said = made.finish()
        told = status != 0 and f"process {first.pid} on" in said and "works in" in said and "since" in said
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        done = made.finish()
        outcome.count(told, done[0] == 0 and len(made.result(made.folder)) > 0, (case, said[-500:], done[1][-500:]))
    return outcome


def other_folders(folder: Path, n_cases: int, seed: int, n_real: int = 0) -> Outcome:
    """Two runs beside each other do not disturb each other; arguments as of `same_folder`."""
    outcome = Outcome("two run folders", seed)
    for case in range(n_cases + n_real):
        pair = [(stand_in_chain if case < n_cases else smoke_chain)(folder / f"{case}-{k}") for k in (0, 1)]
        ended = [_ends_well(process) for process in [made.start() for made in pair]]
        results = [made.result(made.folder) for made in pair if ended[0][0] == ended[1][0] == 0]
        outcome.count(len(results) == 2, len(results) == 2 and results[0] == results[1], ended)
    return outcome


def _interrupt(process: subprocess.Popen) -> tuple[bool, str]:
    """Send Ctrl-C to the group; whether it ended in time, with the line that says how to go on, and left nobody."""
    family = psutil.Process(process.pid).children(recursive=True)
    start = time.perf_counter()
    os.killpg(process.pid, signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=4 * SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
    seconds = time.perf_counter() - start
    _, left = psutil.wait_procs(family, timeout=2)
    said = [line for line in output.splitlines() if line == GO_ON]
    return seconds < SECONDS_TO_END and len(said) == 1 and not left, f"{seconds:.1f} s, left {left}:\n{output[-1500:]}"


def interrupted_notebook(folder: Path, n_cases: int, seed: int) -> Outcome:
    """Ctrl-C while a real notebook is being executed, when its kernel starts and when it works."""
    outcome, rng = Outcome("Ctrl-C in a notebook", seed), random.Random(seed)  # noqa: S311
    environment = stand_in.environment(RUN_DIR=str(folder / "run"), PYTHONUNBUFFERED="1")
    environment["PYTHONPATH"] += f":{Path(stand_in.__file__).parent}"
    for case in range(n_cases):
        process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(folder)], env=environment, text=True,  # noqa: S603
                                   start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   preexec_fn=hear_ctrl_c)
        until = "here" if case % 2 == 0 else "== a"
        while (line := process.stdout.readline()) and not line.startswith(until):
            pass
        time.sleep(rng.uniform(0, 1))
        ended, what = _interrupt(process)
        outcome.count(ended and process.returncode == INTERRUPTED, not list(folder.rglob("*.tmp")), what)
    return outcome


def interrupted_chain(made: Chain, n_cases: int, longest: float, seed: int) -> Outcome:
    """Ctrl-C to a whole `make reproduce`, again and again, each time a notebook later; then it ends as it always does.

    Args:
        made: the chain; it begins anew where it came to its end before there were `n_cases`.
        n_cases: interruptions in all.
        longest: seconds after a notebook began.
        seed: of the moments.
    """
    outcome, rng = Outcome("Ctrl-C in the chain", seed), random.Random(seed)  # noqa: S311
    assert made.finish()[0] == 0
    wanted = made.result(made.folder)
    while outcome.tried < n_cases:
        shutil.rmtree(made.folder)
        ends: list[tuple[bool, str]] = []
        while outcome.tried + len(ends) < n_cases and (end := _interrupt_later(made, bool(ends), longest, rng)):
            ends.append(end)
        assert ends, "the chain ended before it could be interrupted: shorten `longest`"
        right = made.finish()[0] == 0 and made.result(made.folder) == wanted and not made.leftovers()
        for ended, what in ends:
            outcome.count(ended, right, what)
    return outcome


def _interrupt_later(made: Chain, is_second: bool, longest: float, rng) -> tuple[bool, str] | None:
    """Interrupt a chain in the first notebook that it begins, or in the second; None where it ended before."""
    process = made.start()
    for _ in range(1 + is_second):
        while (line := process.stdout.readline()) and not (line.startswith("== ") and " done in " not in line):
            pass
    if line:
        time.sleep(rng.uniform(0, longest))
    if not line or process.poll() is not None:
        process.communicate()
        return None
    return _interrupt(process)
