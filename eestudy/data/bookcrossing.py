"""Book-Crossing from its official files. A rating of 0 says that somebody has the book, not what they think of it."""

from __future__ import annotations

from eestudy import artifacts
from eestudy.config import DataConfig
from eestudy.data.frames import collect
from eestudy.data.tables import TableFile, find_file, open_database, read_table

OFFICIAL = "http://www2.informatik.uni-freiburg.de/~cziegler/BX/ (BX-CSV-Dump.zip)"
RATINGS, TITLES, OFFICIAL_TITLES = "BX-Book-Ratings.csv", "BX-Books-titles.csv", "BX-Books.csv"


def read_bookcrossing(data: DataConfig) -> dict:
    """Ratings of titled books, checked; an ISBN's spaces and small letters are undone. No clock: timestamps are 0.

    Titles come from the official BX-Books.csv, or from a BX-Books-titles.csv (UTF-8, commas) where that is there.

    Returns:
        See `frames.collect`.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    folder = artifacts.data_dir() / data.name
    ratings = find_file(folder, [RATINGS], OFFICIAL)
    titles = find_file(folder, [TITLES, OFFICIAL_TITLES], OFFICIAL)
    official = titles.name.startswith(OFFICIAL_TITLES)
    dump = {"delimiter": ";", "encoding": "latin-1", "escape": "\\"}
    about = {"item_id": "ISBN", "title": "Book-Title", "year": "Year-Of-Publication", "genres": "Book-Author"}
    with open_database() as database:
        bad = [
            read_table(database, "ratings", TableFile(ratings, {"user_id": "User-ID", "item_id": "ISBN",
                                                                "rating": "Book-Rating"}, **dump)),
            read_table(database, "items", TableFile(titles, about, **(dump if official else {}))),
        ]  # fmt: skip
        for table in ("ratings", "items"):
            database.execute(f"update {table} set item_id = upper(replace(item_id, ' ', ''))")
        _mend_quotes(database)
        database.execute("alter table ratings add column timestamp varchar default '0'")
        return collect(database, data, {"ratings": ratings.name, "items": titles.name}, bad)


def _mend_quotes(database) -> None:
    """Copies of the official dump kept backslashes, or these in place of quotation marks, and one mark at the end."""
    database.execute("create temp table odd as select line from items where contains(title, '\\')")
    odd = "where line in (select line from odd)"
    database.execute(f"update items set title = replace(replace(title, '\\\"', '\"'), '\\', '\"') {odd}")
    database.execute(f"""update items set title = title[:-2] {odd} and title like '%"'
                         and length(replace(title, '"', '')) % 2 <> length(title) % 2""")
    database.execute("drop table odd")
