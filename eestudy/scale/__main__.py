"""Measure how reading, graph training and look-up grow: `make scale`. Needs no notebook before it.

Every size is one table of the run's folder; what was measured by the same code on the same processor is kept, so
that a killed measurement goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from eestudy import artifacts, config, latency, pipeline
from eestudy.commands import ends_plainly
from eestudy.scale import measure, reading

SOURCES = {
    "reading": ("scale/*.py", "data/*.py"),
    "graph": ("scale/*.py", "retriever/graph.py"),
    "search": ("scale/*.py", "retriever/graph.py", "retriever/search.py"),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure every size that is not there yet."""
    parser = pipeline.parameters("Measure how reading, graph training and look-up grow.")
    parser.add_argument("--small", action="store_true", help="a few thousand edges only, to try the code out")
    given = parser.parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        run = artifacts.open_run(given.dataset, given.profile, given.seed)
        measure_all(run, cfg, measure.SMALL if given.small else measure.FULL)


def measure_all(run: artifacts.Run, cfg: config.StudyConfig, sizes: measure.Sizes) -> None:
    """Every size of reading, training and look-up, each kept as soon as it is measured; then one table of each.

    Args:
        run: where the tables go: scale_reading.csv, scale_graph.csv, scale_search.csv and one of each size. The users'
            vectors are kept too (scale_users_<edges>.safetensors).
        cfg: the settings of the training, and the seed of everything.
        sizes: what is measured.
    """
    wanted = {name: fingerprint(cfg, sizes, name) for name in SOURCES}

    def part(name: str, make) -> pd.DataFrame:
        file, state = f"scale_{name}.csv", wanted[name.partition("_")[0]]
        if not artifacts.is_current(run, file, state):
            start = time.perf_counter()
            artifacts.write_table(run, file, make().assign(processor=latency.processor()), fingerprint=state)
            print(f"== scale {name}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
        return artifacts.read_table(run, file)

    def train(n_edges: int) -> pd.DataFrame:
        frame, user_emb = measure.measure_training(n_edges, cfg.retriever, sizes, cfg.seed)
        artifacts.write_arrays(run, _vectors(n_edges), {"user": user_emb}, fingerprint=wanted["graph"])
        return frame

    def search(n_edges: int) -> pd.DataFrame:
        if not artifacts.is_current(run, _vectors(n_edges), wanted["graph"]):
            train(n_edges)
        user_emb = artifacts.read_arrays(run, _vectors(n_edges))["user"]
        return measure.measure_search(n_edges, user_emb, sizes, cfg.seed)

    def read(n_rows: int) -> pd.DataFrame:
        return reading.measure_reading(measure.graph_of(n_rows, cfg.seed), cfg.seed)

    for name, make, each in (("reading", read, sizes.rows), ("graph", train, sizes.edges),
                             ("search", search, sizes.searched)):  # fmt: skip
        tables = [part(f"{name}_{n}", lambda n=n, make=make: make(n)) for n in each]
        part(name, lambda tables=tables: pd.concat(tables, ignore_index=True))


def _vectors(n_edges: int) -> str:
    return f"scale_users_{n_edges}.safetensors"


def fingerprint(cfg: config.StudyConfig, sizes: measure.Sizes, name: str) -> str:
    """Hash of all that one of `SOURCES` depends on: settings, sizes, sources, libraries, processor."""
    package = Path(__file__).resolve().parents[1]
    sources = [path for pattern in SOURCES[name] for path in sorted(package.glob(pattern))]
    return artifacts.fingerprint({
        "settings": cfg.model_dump(mode="json", include={"retriever", "seed"}), "sizes": vars(sizes),
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in sources},
        "environment": latency.environment(),
    })


if __name__ == "__main__":
    main()
