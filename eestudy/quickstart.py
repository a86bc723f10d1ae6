"""`python -m eestudy.quickstart`: the late notebooks on a committed reference, then the pages. No torch, no LLM.

The policies are functions of the scores that a reference keeps, so the trade-off can be drawn again, and played with,
in two minutes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat

from eestudy import artifacts, config, execution, pipeline, replay, site
from eestudy.chain import PROJECT

NOTEBOOKS = ("06_exit_policies", "08_tradeoff", "09_report")


def execute(run: artifacts.Run, name: str) -> Path:
    """Run one notebook on the tables of a run that was made from a reference; returns its copy."""
    notebook = execution.run_papermill(name, run, PROJECT, None)
    text = nbformat.writes(execution.tidy(notebook, run, {"made_from": "reference"}))
    artifacts.write_bytes(run, pipeline.copy_name(name), text.encode())
    return pipeline.copy_path(run, name)


def main(arguments: list[str] | None = None) -> int:
    """Make a run of the reference, execute the notebooks, build the pages; 1 where there is no reference."""
    given = pipeline.parameters("The late notebooks on a committed reference.").parse_args(arguments)
    folder = artifacts.ROOT / (os.environ.get("SITE_DIR") or "results/run/site")
    execution.set_environment()
    try:
        config.load(given.dataset, given.profile, given.seed)
        run = replay.rebuild(artifacts.open_run(given.dataset, given.profile, given.seed))
        for name in NOTEBOOKS:
            print(f"Executed: {execute(run, name)}", flush=True)
        page = site.build(run, folder)
    except (artifacts.ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Pages: {page} (open it with a browser; nothing is fetched)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
