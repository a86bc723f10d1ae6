"""What the two commands that end in pages share: arguments, the folder of the pages, plain errors."""

from __future__ import annotations

import os
from collections.abc import Callable

from eestudy import artifacts, config, pipeline
from eestudy.commands import ends_plainly
from eestudy.site.build import build


def show(about: str, arguments: list[str] | None, prepare: Callable[[artifacts.Run], artifacts.Run]) -> None:
    """Prepare the run that the arguments name, build its pages, say where they lie.

    Args:
        about: the command in a sentence, for its help.
        arguments: of the command line.
        prepare: gets the run, returns the one to show.
    """
    given = pipeline.parameters(about).parse_args(arguments)
    folder = artifacts.ROOT / (os.environ.get("SITE_DIR") or "results/run/site")
    with ends_plainly(artifacts.ArtifactError, ValueError):
        config.load(given.dataset, given.profile, given.seed)
        page = build(prepare(artifacts.open_run(given.dataset, given.profile, given.seed)), folder)
    print(f"Pages: {page} (open it with a browser; nothing is fetched)")
