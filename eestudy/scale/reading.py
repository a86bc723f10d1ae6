"""What reading and preparing a file of ratings costs, as the number of its rows grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from eestudy import artifacts
from eestudy.scale.synthetic import PlantedGraph

STUDY = """
[data.ratings]
file = "ratings.csv"
columns = { user_id = "userId", item_id = "itemId", rating = "rating", timestamp = "timestamp" }
[data.items]
file = "items.csv"
columns = { item_id = "itemId", title = "title" }
"""


def write_study(folder: Path, graph: PlantedGraph, seed: int) -> Path:
    """Write a graph's edges as a reader would bring ratings: whole stars, seconds, a titled item each.

    Args:
        folder: where ratings.csv, items.csv and made_up.toml go.
        graph: one rating an edge, in the order of the edges.
        seed: of stars and times.

    Returns:
        The toml.
    """
    rng, n, items = np.random.default_rng(seed), len(graph.user_id), np.arange(len(graph.item_group))
    ratings = pd.DataFrame({  # noqa: F841 - DuckDB finds it by its name
        "userId": graph.user_id, "itemId": graph.item_id, "rating": rng.integers(1, 6, n),
        "timestamp": rng.integers(10**9, 2 * 10**9, n),
    })  # fmt: skip
    with duckdb.connect() as database:
        database.execute("set enable_progress_bar = false")
        database.sql("select * from ratings").write_csv(str(folder / "ratings.csv"))
    pd.DataFrame({"itemId": items, "title": [f"Item {k}" for k in items]}).to_csv(folder / "items.csv", index=False)
    toml = folder / "made_up.toml"
    toml.write_text(STUDY)
    return toml


def measure_reading(graph: PlantedGraph, seed: int) -> pd.DataFrame:
    """Time and memory of what notebook 01 does with a file of ratings, in a process that does nothing else.

    Args:
        graph: what is written and read.
        seed: of stars and times.

    Returns:
        One row: dimension 'rows', size (ratings in the file), repeat 0, predicted_gflop (in proportion to the size:
        the table fits `growth.fit_exponents`), seconds (of all), read_s, prepare_s, check_s, peak_mb (2^20 bytes, the
        whole process), file_mb and kept (rows that stand).

    Raises:
        RuntimeError: the file could not be prepared.
    """
    with tempfile.TemporaryDirectory(prefix="eestudy-") as folder:
        toml = write_study(Path(folder), graph, seed)
        command = [sys.executable, "-m", "eestudy.data", str(toml)]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}  # of `make scale`
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=artifacts.ROOT,  # noqa: S603
                              env=plain)  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{len(graph.user_id):,} ratings could not be prepared: {done.stderr}{done.stdout}")
        found, file_mb = json.loads(done.stdout), (toml.parent / "ratings.csv").stat().st_size / 2**20
    size, spent = len(graph.user_id), found["seconds"]
    return pd.DataFrame([{
        "dimension": "rows", "size": size, "repeat": 0, "predicted_gflop": size / 1e9, "seconds": sum(spent.values()),
        **{f"{name}_s": value for name, value in spent.items()}, "peak_mb": found["peak_mb"], "file_mb": file_mb,
        "kept": found["n_interactions"],
    }])  # fmt: skip
