"""Which measurement is told: the run's own, or the committed one."""

from __future__ import annotations

import pandas as pd

from eestudy import artifacts


def measured(run: artifacts.Run) -> tuple[dict[str, pd.DataFrame], bool] | None:
    """The tables of `python -m eestudy.scale` by name: reading, graph, search; and whether they are the run's own.

    They are about made-up graphs, the same for every dataset: where the run has none the committed ones are told, None
    where there are not all of them.
    """
    if all(artifacts.artifact_hash(run, name) for name in artifacts.SCALE):
        return {_part(name): artifacts.read_table(run, name) for name in artifacts.SCALE}, True
    folder = artifacts.reference_dir() / "scale"
    if not all((folder / name).exists() for name in artifacts.SCALE):
        return None
    return {_part(name): pd.read_csv(folder / name) for name in artifacts.SCALE}, False


def _part(name: str) -> str:
    return name.removeprefix("scale_").removesuffix(".csv")
