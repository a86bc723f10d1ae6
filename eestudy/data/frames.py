"""From checked tables to the frames that the study goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pandas as pd

from eestudy.config import DataConfig
from eestudy.data.cleaning import clean_items, clean_ratings, clean_title, clean_users

ABOUT_USERS, ABOUT_ITEMS = ("age", "gender", "occupation"), ("title", "year", "genres")


def collect(
    database: duckdb.DuckDBPyConnection, data: DataConfig, files: Mapping[str, str], bad: Sequence[pd.DataFrame]
) -> dict:
    """Check the tables and fetch what stands.

    Args:
        database: holds `ratings` (line, user_id, item_id, rating, timestamp), `items` (line, item_id, title and any of
            year, genres) and, where the dataset has one, `users` (line, user_id and any of age, gender, occupation).
        data: the dataset's settings.
        files: names of the three files, for messages.
        bad: quarantine records of reading.

    Returns:
        "interactions" (user_id, item_id, rating, timestamp, line), "users", "items" (ids as in the source, text
        columns '' where the source has none), "quarantine", "left_out" (rule, n_rows), and "n_checked" (ratings that
        were held to the rules of the quarantine).

    Raises:
        DataError: no usable row is left in one of them.
    """
    bad = [*bad, clean_items(database, files["items"])]
    if "users" in files:
        bad.append(clean_users(database, files["users"]))
    more, left_out, n_checked = clean_ratings(database, files["ratings"], data)
    if "users" not in files:
        database.execute("create table users as select min(line) as line, user_id from ratings group by user_id")
    items = _text_table(database, "items", "item_id", ABOUT_ITEMS)
    items["title"] = [clean_title(title) for title in items["title"]]
    return {
        "interactions": _ratings(database), "users": _text_table(database, "users", "user_id", ABOUT_USERS),
        "items": items, "quarantine": pd.concat([*bad, more], ignore_index=True),
        "left_out": pd.DataFrame(left_out, columns=["rule", "n_rows"]), "n_checked": n_checked,
    }  # fmt: skip


def _ratings(database) -> pd.DataFrame:
    """The ratings in the file's order; ids as categories, so that a name is held once."""
    for kind in ("user", "item"):
        database.execute(f"create type {kind}_name as enum (select distinct {kind}_id from ratings order by 1)")
    return database.execute(
        "select user_id::user_name as user_id, item_id::item_name as item_id, rating, timestamp::bigint as timestamp, "
        "line from ratings order by line"
    ).fetchdf()


def _text_table(database, name: str, key: str, about: Sequence[str]) -> pd.DataFrame:
    """The rows whose id has ratings; a column that the source lacks is empty."""
    there = {column[0] for column in database.execute(f"describe {name}").fetchall()}
    columns = ", ".join(column if column in there else f"'' as {column}" for column in about)
    wanted = f"select {key}, {columns} from {name} where {key} in (select {key} from ratings) order by line"
    return database.execute(wanted).fetchdf()
