"""`python -m eestudy.lab`: JupyterLab on the first notebook, for the run that its arguments name; it asks no network.

The kernels inherit what papermill's get, but for the progress: here somebody looks on. What follows the three
parameters goes to JupyterLab as it is, such as `--no-browser`.
"""

from __future__ import annotations

import os

from eestudy import config, execution, pipeline
from eestudy.artifacts import ROOT, ArtifactError
from eestudy.commands import ends_plainly

FIRST = "notebooks/00_start_here.ipynb"
OPTIONS = (f"--LabApp.default_url=/lab/tree/{FIRST}",)
# It turns off the announcements, which would ask whether to ask the network for news.
CONFIG = ROOT / ".jupyter"


def prepare(arguments: list[str] | None = None) -> list[str]:
    """Choose the run for the kernels, by what they inherit.

    Args:
        arguments: of the command line.

    Returns:
        JupyterLab's arguments.

    Raises:
        ValueError: there is no such dataset or profile.
    """
    given, more = pipeline.parameters("JupyterLab on the notebooks.").parse_known_args(arguments)
    config.load(given.dataset, given.profile, given.seed)
    execution.set_environment(bars=True)
    os.environ |= {"DATASET": given.dataset, "PROFILE": given.profile, "SEED": str(given.seed)}
    paths = [str(CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
    return [*OPTIONS, *more]


def main(arguments: list[str] | None = None) -> None:
    """Serve the folder in which it is started, until it is ended."""
    with ends_plainly(ValueError, ArtifactError):
        options = prepare(arguments)
    from jupyterlab import labapp

    labapp.main(options)


if __name__ == "__main__":
    main()
