"""The results as a folder of static pages that need no network and no server."""

from eestudy.site.build import build
from eestudy.site.explorer import study

__all__ = ["build", "study"]
