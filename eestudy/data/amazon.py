"""Amazon reviews in their three official forms, and as ordered sequences without stars."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pandas as pd

from eestudy import artifacts
from eestudy.config import DataConfig
from eestudy.data.frames import collect
from eestudy.data.quarantine import DataError, quarantine_rows
from eestudy.data.tables import NOT_AN_OBJECT, TableFile, find_file, open_database, opened, read_table

OFFICIAL = {
    "sequences": "a sequential-recommendation benchmark (columns user_id, item_id, position; item_id, title)",
    "2014": "https://jmcauley.ucsd.edu/data/amazon/ (5-core and metadata)",
    "2018": "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/ (5-core and metadata)",
    "2023": "https://amazon-reviews-2023.github.io/ (5-core, rating only; item metadata)",
}
# form -> the official files' names; {0} and {1} are the dataset's category in 2014 and since
FILES = {"2014": ("reviews_{0}_5.json", "meta_{0}.json"), "2018": ("{1}_5.json", "meta_{1}.json"),
         "2023": ("{1}.csv", "meta_{1}.jsonl")}  # fmt: skip
CATEGORIES = {"amazon-beauty": ("Beauty", "All_Beauty"), "amazon-video-games": ("Video_Games", "Video_Games")}
# form -> names of the ratings' columns, of the items' columns
REVIEWS = ({"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
           {"item_id": "asin", "title": "title"})  # fmt: skip
COLUMNS = {
    "sequences": ({"user_id": "user_id", "item_id": "item_id", "timestamp": "position"},
                  {"item_id": "item_id", "title": "title"}),
    "2014": REVIEWS, "2018": REVIEWS,
    "2023": ({"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
             {"item_id": "parent_asin", "title": "title"}),
}  # fmt: skip
SCRIPT_ELEMENT, TAG = r"(?is)<(script|style)\b.*?(</(script|style)>|$)", r"</?[a-zA-Z][^<>]*>"
SCRIPT = r"\bvar \w+ ?=|\bfunction ?\w*\(|getTime\(\)"  # some titles of 2018 are a piece of the shop's page


def read_amazon(data: DataConfig) -> dict:
    """Reviews of titled items, checked. Which form the files have is `data.form`; which files, `data.files`, else the
    official names. Official titles lose their HTML tags; one that is a page's script is missing.

    Returns:
        See `frames.collect`. Sequences have no stars: their ratings are 1, their timestamps the user's positions.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    folder, official = artifacts.data_dir() / data.name, OFFICIAL[data.form]
    files = data.files or tuple(name.format(*CATEGORIES[data.name]) for name in FILES[data.form])
    if len(files) != 2:
        raise DataError(f"data.files of {data.name} must name the reviews and the items, not {files}")
    reviews, items = (find_file(folder, [name], official) for name in files)
    return read_reviews(reviews, items, data)


def read_reviews(reviews: Path, items: Path, data: DataConfig) -> dict:
    """As `read_amazon`, from two paths."""
    rated, about = COLUMNS[data.form]
    with open_database() as database:
        read_items = _read_loose if data.form == "2014" else read_table
        bad = [read_table(database, "ratings", TableFile(reviews, rated)),
               read_items(database, "items", TableFile(items, about))]  # fmt: skip
        if "rating" not in rated:
            database.execute("alter table ratings add column rating varchar default '1'")
        else:
            _strip_titles(database)
        return collect(database, data, {"ratings": reviews.name, "items": items.name}, bad)


def _strip_titles(database) -> None:
    bare = "trim(regexp_replace(regexp_replace(title, ?, ' ', 'g'), ?, ' ', 'g'))"
    database.execute(f"update items set title = case when regexp_matches({bare}, ?) then '' else {bare} end",
                     [SCRIPT_ELEMENT, TAG, SCRIPT, SCRIPT_ELEMENT, TAG])  # fmt: skip


def _read_loose(database, name: str, file: TableFile) -> pd.DataFrame:
    """`read_table` for the metadata of 2014, whose lines are written as Python writes a dictionary, not as JSON."""
    rows, bad = [], []
    with opened(file.path, "rt", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            value = _literal(line)
            if isinstance(value, dict):
                fields = [value.get(theirs) for theirs in file.columns.values()]
                rows.append((number, *("" if field is None else " ".join(str(field).split()) for field in fields)))
            else:
                bad.append(number)
    if not rows:
        raise DataError(f"{file.path.name}, row 1: no usable row ({NOT_AN_OBJECT[0]}). Fetch the file again.")
    found = pd.DataFrame(rows, columns=["line", *file.columns])  # noqa: F841 - DuckDB finds it by its name
    database.execute(f"create or replace table {name} as select * from found")
    return quarantine_rows(file.path.name, bad, *NOT_AN_OBJECT)


def _literal(line: str):
    """A line's value, JSON or a Python literal; None where it is neither."""
    for read in (json.loads, ast.literal_eval):  # neither runs code
        try:
            return read(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None
