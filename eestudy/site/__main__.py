"""`python -m eestudy.site`: the results as pages, from this run or from the committed reference."""

from __future__ import annotations

from eestudy.site.command import show

if __name__ == "__main__":
    show("Build the pages.", None, lambda run: run)
