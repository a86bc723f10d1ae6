"""From tables of text to ratings that can be trusted: checked row by row, one per pair, cut to what is dense enough.

A bad row goes to quarantine, named by file and line. A row that a setting leaves out (a rating of zero that means "not
rated", a user's rows beyond the cap, whatever is outside the k-core) is counted under that setting.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import ftfy
import pandas as pd

from eestudy.config import DataConfig
from eestudy.data.quarantine import DataError, quarantine_rows

FINE_CLOCKS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # timestamps above count nano-, micro-, milliseconds
LAST_SECOND = 253_402_300_799  # of the year 9999
LAST_POSITION = 2**53  # the largest whole number that every float up to it can say
REPEAT = "row_number() over (partition by {0} order by {1}) > 1"


def clean_title(title: str) -> str:
    """A title as people read it: HTML entities resolved, mojibake undone, one line."""
    return " ".join(ftfy.fix_text(title, unescape_html=True).split())


def _blank_titles(database: duckdb.DuckDBPyConnection) -> None:
    """Titles in which nobody sees anything, as '&nbsp;', become ''. Only those that may be so are cleaned here."""
    odd = r"not regexp_matches(title, '[\pL\pN]') or regexp_matches(title, '^\s*&')"
    found = database.execute(f"select line, title from items where {odd}").fetchall()
    blank = [(line,) for line, title in found if not any(map(_is_seen, clean_title(title)))]
    if blank:
        database.executemany("update items set title = '' where line = ?", blank)


def _is_seen(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace()


def clean_items(database: duckdb.DuckDBPyConnection, file: str) -> pd.DataFrame:
    """Keep the items that have an id and a title, the first of each id.

    Args:
        database: holds `items` (line, item_id, title, …), which is replaced.
        file: its name.

    Returns:
        The quarantine.

    Raises:
        DataError: no item stands.
    """
    faults = (
        ("item_id = ''", "item_id is empty", "Give the row its item_id."),
        ("title = ''", "title is empty", "Give the item a title: the language model reads nothing else of it."),
        (REPEAT.format("item_id", "line"), "duplicate item", "Keep one."),
    )
    _blank_titles(database)
    bad = set_aside(database, "items", faults, file)
    _refuse_empty(database, "items", file, bad)
    return bad


def clean_users(database: duckdb.DuckDBPyConnection, file: str) -> pd.DataFrame:
    """Keep the users that have an id, the first of each id. Arguments, returns, raises: as `clean_items`."""
    faults = (("user_id = ''", "user_id is empty", "Give the row its user_id."),
              (REPEAT.format("user_id", "line"), "duplicate user", "Keep one."))  # fmt: skip
    bad = set_aside(database, "users", faults, file)
    _refuse_empty(database, "users", file, bad)
    return bad


def clean_ratings(
    database: duckdb.DuckDBPyConnection, file: str, data: DataConfig
) -> tuple[pd.DataFrame, list[dict], int]:
    """Hold ratings to the items, the users (where there is a table of them), the scale and the clock.

    A timestamp is seconds since 1970, or a date with or without a time of day, in UTC where it names no zone. A number
    above 1e11 (as seconds, a year beyond 5000) counts milliseconds, and so on; what is below a second is cut off.

    Of several ratings of one item by one user the latest stands, without a clock one by a hash: a rule that looked at
    the ratings would move the share of clicks. Where nobody rates, the first time stands: then the item was new.

    Args:
        database: holds `items`, `users` or not, and `ratings` (line, user_id, item_id, rating, timestamp; all text),
            which is replaced by what stands; rating and timestamp become numbers.
        file: the ratings' name.
        data: scale, clock, and what is left out.

    Returns:
        The quarantine; what was left out: rule, n_rows, in the order in which it was done; and of how many rows the
        quarantine is a part.

    Raises:
        DataError: no row stands.
    """
    seconds = _seconds() if data.clock == "time" else "try_cast(timestamp as double)"
    database.execute("create or replace table ratings as select line, user_id, item_id, "
                     f"try_cast(rating as double) as rating, {seconds} as timestamp from ratings")  # fmt: skip
    left_out = []
    if data.zero_is_no_rating:
        left_out.append(_leave_out(database, "a rating of 0: not rated", "select line from ratings where rating = 0"))
    n_checked = _n_ratings(database)
    bad = [set_aside(database, "ratings", faults, file) for faults in (_faults(database, data), [_repeat(data)])]
    bad = pd.concat(bad, ignore_index=True)
    _refuse_empty(database, "ratings", file, bad)
    left_out += _thin(database, data)
    _refuse_empty(database, "ratings", file, bad[:0], "Lower data.min_ratings.")
    return bad, left_out, n_checked


def _repeat(data: DataConfig) -> tuple[str, str, str]:
    """All ratings of one item by one user but the one that stands; see `clean_ratings`."""
    order = ("timestamp" if not data.has_stars else "timestamp desc, rating" if data.clock != "none" else
             "md5(concat_ws(' ', user_id, item_id, rating))")  # fmt: skip
    return (REPEAT.format("user_id, item_id", f"{order}, line"), "duplicate user and item",
            f"Nothing to do where the {'latest' if data.has_stars else 'first'} may stand, else keep another one.")


def _seconds() -> str:
    """A timestamp's text as seconds, in SQL."""
    number = "try_cast(timestamp as double)"
    cases = " ".join(f"when {number} > {limit} then floor({number} / {unit})" for limit, unit in FINE_CLOCKS)
    return f"coalesce(case {cases} else {number} end, floor(epoch(try_cast(timestamp as timestamptz))))"


def _faults(database, data: DataConfig) -> list[tuple[str, str, str]]:
    """(condition, reason, remedy); a row with two faults is named once, by the first."""
    low, high = data.rating_range
    least, most = database.execute("select min(rating), max(rating) from ratings where isfinite(rating)").fetchone()
    last, clock = (LAST_SECOND, "date") if data.clock == "time" else (LAST_POSITION, "number")
    tables = {name for (name,) in database.execute("select table_name from duckdb_tables()").fetchall()}
    faults = [
        ("user_id = ''", "user_id is empty", "Give the row its user_id."),
        ("item_id = ''", "item_id is empty", "Give the row its item_id."),
        ("rating is null or not isfinite(rating)", "rating is not a number", "Write a plain number as rating."),
        (f"rating not between {low} and {high}", f"rating outside {low:g} to {high:g}",
         f"The file's lie between {least or 0:g} and {most or 0:g}: correct them, or say their scale as "
         "data.rating_range."),
        ("timestamp is null or not isfinite(timestamp)", "timestamp is neither a number nor a date",
         "Write Unix seconds, or a date as 2024-01-31 12:00:00."),
        ("timestamp < 0 or timestamp % 1 != 0", "timestamp is not whole seconds", "Use Unix seconds."),
        (f"timestamp > {last}", f"timestamp is no {clock} that anything here can have", "Correct it."),
        ("item_id not in (select item_id from items)", "unknown item", "Add the item to the item file."),
    ]  # fmt: skip
    if "users" in tables:
        faults.append(("user_id not in (select user_id from users)", "unknown user", "Add the user to the user file."))
    return faults


def set_aside(
    database: duckdb.DuckDBPyConnection, table: str, faults: Sequence[tuple[str, str, str]], file: str
) -> pd.DataFrame:
    """Take a table's bad rows out; returns their quarantine records. `faults`: condition, reason, remedy."""
    cases = " ".join(f"when {condition} then {k}" for k, (condition, _, _) in enumerate(faults))
    database.execute(f"create or replace temp table judged as select line, case {cases} end as fault from {table}")
    bad = database.execute("select line, fault from judged where fault is not null order by line").fetchdf()
    if len(bad):
        database.execute(f"delete from {table} where line in (select line from judged where fault is not null)")
    database.execute("drop table judged")
    _, reasons, remedies = ([faults[int(k)][part] for k in bad["fault"]] for part in range(3))
    return quarantine_rows(file, bad["line"], reasons, remedies)


def _leave_out(database, rule: str, lines: str) -> dict:
    """Delete the ratings that a query names by their lines; how many there were."""
    before = _n_ratings(database)
    database.execute(f"delete from ratings where line in ({lines})")
    return {"rule": rule, "n_rows": before - _n_ratings(database)}


def _n_ratings(database) -> int:
    return database.execute("select count(*) from ratings").fetchone()[0]


def _refuse_empty(database, table: str, file: str, bad: pd.DataFrame, remedy: str = "") -> None:
    """Where no row stands, say what most of them lack."""
    if database.execute(f"select count(*) from {table}").fetchone()[0]:
        return
    if len(bad):
        most = bad[bad["reason"] == bad["reason"].mode()[0]]
        file, remedy = f"{file}, row {most['row'].min()}", (
            f"{len(most):,} of {len(bad):,} rows: {most['reason'].iloc[0]}. {most['remedy'].iloc[0]}")  # fmt: skip
    raise DataError(f"{file}: no usable row is left. {remedy or 'All are left out: look at data.zero_is_no_rating.'}")


def _thin(database, data: DataConfig) -> list[dict]:
    """Cap the rows of a user, then cut to the k-core: every user and every item keeps `min_ratings` rows."""
    left_out = []
    if data.max_user_rows is not None:  # the latest; without a clock any, by a hash
        place = "row_number() over (partition by user_id order by timestamp desc, md5(user_id || ' ' || item_id))"
        lines = f"select line from (select line, {place} as place from ratings) where place > {data.max_user_rows:d}"
        left_out.append(_leave_out(database, f"a user's rows beyond {data.max_user_rows}", lines))
    if data.min_ratings > 1:
        rule, total = f"fewer than {data.min_ratings} ratings of its user or item", 0
        while removed := _leave_out(database, rule, _sparse(data.min_ratings))["n_rows"]:
            total += removed
        left_out.append({"rule": rule, "n_rows": total})
    return left_out


def _sparse(k: int) -> str:
    counts = "count(*) over (partition by user_id) as of_user, count(*) over (partition by item_id) as of_item"
    return f"select line from (select line, {counts} from ratings) where of_user < {k:d} or of_item < {k:d}"
