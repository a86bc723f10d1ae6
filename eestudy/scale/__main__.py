"""Measure how training and look-up of the graph grow: `python -m eestudy.scale`. Needs no notebook before it.

Every size is one table of the run's folder; what was measured by the same code on the same processor is kept, so
that a killed measurement goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd

from eestudy import artifacts, config, latency, pipeline
from eestudy.scale import measure

SOURCES = ("scale/*.py", "retriever/graph.py", "retriever/search.py")


def main(arguments: list[str] | None = None) -> None:
    """Measure every size that is not there yet."""
    parser = pipeline.parameters("Measure how training and look-up of the graph grow.")
    parser.add_argument("--small", action="store_true", help="a few thousand edges only, to try the code out")
    given = parser.parse_args(arguments)
    try:
        cfg = config.load(given.dataset, given.profile, given.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    run = artifacts.open_run(given.dataset, given.profile, given.seed)
    measure_all(run, cfg, measure.SMALL if given.small else measure.FULL)


def measure_all(run: artifacts.Run, cfg: config.StudyConfig, sizes: measure.Sizes) -> None:
    """Every size of training, then of look-up, each kept as soon as it is measured; then one table of each.

    Args:
        run: where the tables go: scale_graph.csv, scale_search.csv and one of each size. The users' vectors are
            kept too (scale_users_<edges>.safetensors).
        cfg: the settings of the training, and the seed of everything.
        sizes: what is measured.
    """
    meta = {"fingerprint": fingerprint(cfg, sizes), "processor": latency.processor()}

    def part(name: str, make) -> pd.DataFrame:
        file = f"scale_{name}.csv"
        if not artifacts.is_current(run, file, meta["fingerprint"]):
            start = time.perf_counter()
            artifacts.write_table(run, file, make(), **meta)
            print(f"== scale {name}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
        return artifacts.read_table(run, file)

    def train(n_edges: int) -> pd.DataFrame:
        frame, user_emb = measure.measure_training(n_edges, cfg.retriever, sizes, cfg.seed)
        artifacts.write_arrays(run, _vectors(n_edges), {"user": user_emb}, **meta)
        return frame

    def search(n_edges: int) -> pd.DataFrame:
        if not artifacts.is_current(run, _vectors(n_edges), meta["fingerprint"]):
            train(n_edges)
        user_emb = artifacts.read_arrays(run, _vectors(n_edges))["user"]
        return measure.measure_search(n_edges, user_emb, sizes, cfg.seed)

    for name, make, edges in (("graph", train, sizes.edges), ("search", search, sizes.searched)):
        tables = [part(f"{name}_{n_edges}", lambda n=n_edges, make=make: make(n)) for n_edges in edges]
        part(name, lambda tables=tables: pd.concat(tables, ignore_index=True))


def _vectors(n_edges: int) -> str:
    return f"scale_users_{n_edges}.safetensors"


def fingerprint(cfg: config.StudyConfig, sizes: measure.Sizes) -> str:
    """Hash of all that a measurement depends on: settings, sizes, sources, libraries, processor."""
    package = Path(__file__).resolve().parents[1]
    sources = [path for name in SOURCES for path in sorted(package.glob(name))]
    return artifacts.fingerprint({
        "settings": cfg.model_dump(mode="json", include={"retriever", "seed"}), "sizes": vars(sizes),
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in sources},
        "environment": latency.environment(),
    })


if __name__ == "__main__":
    main()
