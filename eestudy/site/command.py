"""What the two commands that end in pages share: arguments, the folder of the pages, plain errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from eestudy import artifacts, config, pipeline
from eestudy.site.build import build


def show(about: str, arguments: list[str] | None, prepare: Callable[[artifacts.Run], artifacts.Run]) -> int:
    """Prepare the run that the arguments name, build its pages, say where they lie; 1 where there is nothing to show.

    Args:
        about: the command in a sentence, for its help.
        arguments: of the command line.
        prepare: gets the run, returns the one to show.
    """
    given = pipeline.parameters(about).parse_args(arguments)
    folder = artifacts.ROOT / (os.environ.get("SITE_DIR") or "results/run/site")
    try:
        config.load(given.dataset, given.profile, given.seed)
        page = build(prepare(artifacts.open_run(given.dataset, given.profile, given.seed)), folder)
    except (artifacts.ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Pages: {page} (open it with a browser; nothing is fetched)")
    return 0
