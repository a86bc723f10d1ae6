"""`python -m eestudy.site`: the results as pages, from this run or from the committed reference."""

from __future__ import annotations

import os
import sys

from eestudy import artifacts, config, pipeline
from eestudy.site.build import build


def main(arguments: list[str] | None = None) -> int:
    """Build the site and say where it lies; 1 where there is nothing to show."""
    parser = pipeline.parameters("Build the pages.")
    given = parser.parse_args(arguments)
    folder = artifacts.ROOT / (os.environ.get("SITE_DIR") or "results/run/site")
    try:
        config.load(given.dataset, given.profile, given.seed)
        page = build(artifacts.open_run(given.dataset, given.profile, given.seed), folder)
    except (artifacts.ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Pages: {page} (open it with a browser; nothing is fetched)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
