"""MovieLens-100K from the atomic files in RecBole's wheel, which is pinned in `assets.txt`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from eestudy import assets
from eestudy.config import DataConfig
from eestudy.data.frames import collect
from eestudy.data.movielens import ATOMIC, read_atomic
from eestudy.data.tables import open_database

ASSET, FOLDER = "recbole", "recbole/dataset_example/ml-100k/ml-100k"
COLUMNS = ATOMIC | {  # as MovieLens-1M's but for
    "items": ("item", {"item_id": "item_id:token", "title": "movie_title:token_seq", "year": "release_year:token",
                       "genres": "class:token_seq"}),
    "users": ("user", {"user_id": "user_id:token", "age": "age:token", "gender": "gender:token",
                       "occupation": "occupation:token"}),
}  # fmt: skip


def read_ml_100k(data: DataConfig) -> dict[str, pd.DataFrame]:
    """MovieLens-100K, checked; ids are the source's.

    Returns:
        See `frames.collect`.

    Raises:
        DataError: a file that cannot be used.
    """
    members = {ending: f"{FOLDER}.{ending}" for ending, _ in COLUMNS.values()}
    return _read({ending: assets.extract_member(ASSET, member) for ending, member in members.items()}, data)


def parse_ml_100k(contents: Mapping[str, bytes], data: DataConfig) -> dict[str, pd.DataFrame]:
    """As `read_ml_100k`, from the bytes of the three files (keys inter, item, user)."""
    with tempfile.TemporaryDirectory(prefix="eestudy-") as folder:
        files = {ending: Path(folder) / f"ml-100k.{ending}" for ending in contents}
        for ending, path in files.items():
            path.write_bytes(contents[ending])
        return _read(files, data)


def _read(files: Mapping[str, Path], data: DataConfig) -> dict[str, pd.DataFrame]:
    with open_database() as database:
        bad = read_atomic(database, files, COLUMNS)
        return collect(database, data, {name: files[ending].name for name, (ending, _) in COLUMNS.items()}, bad)
