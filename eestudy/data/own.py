"""Own data, as a study's toml describes it."""

from __future__ import annotations

from pathlib import Path

from eestudy.config import DataConfig, TableConfig
from eestudy.data.frames import collect
from eestudy.data.quarantine import DataError
from eestudy.data.tables import TableFile, find_file, open_database, read_table

NEEDED = {"ratings": ("user_id", "item_id"), "items": ("item_id", "title")}
KNOWN = {"ratings": ("user_id", "item_id", "rating", "timestamp"), "items": ("item_id", "title", "year", "genres")}


def read_own_data(data: DataConfig) -> dict:
    """The files that a toml names, checked.

    Returns:
        See `frames.collect`. Without a column of ratings all are 1; without timestamps, or where `clock` says
        that they mean nothing, all are 0.

    Raises:
        DataError: a column that is needed and not named, a rule that needs a column that is not there, a missing file,
            or one that cannot be used.
    """
    described = {"ratings": data.ratings, "items": data.items}
    for name, table in described.items():
        _check_columns(name, table, data)
    files = {name: own_file(table, data) for name, table in described.items()}
    with open_database() as database:
        bad = [read_table(database, name, file) for name, file in files.items()]
        for column, value in (("rating", "1"), ("timestamp", "0")):
            if column not in data.ratings.columns:
                database.execute(f"alter table ratings add column {column} varchar default '{value}'")
        if data.clock == "none":
            database.execute("update ratings set timestamp = '0'")
        return collect(database, data, {name: file.path.name for name, file in files.items()}, bad)


def _check_columns(name: str, table: TableConfig, data: DataConfig) -> None:
    named = set(table.columns)
    where = f"{data.name}.toml, [data.{name}]"
    if missing := [column for column in NEEDED[name] if column not in named]:
        raise DataError(f"{where}: columns must say which column is {' and which is '.join(missing)}")
    if unknown := sorted(named - set(KNOWN[name])):
        raise DataError(f"{where}: {', '.join(unknown)} is not among {', '.join(KNOWN[name])}")
    if name == "ratings" and data.has_stars and "rating" not in named:
        raise DataError(f"{where}: no rating column. Name one, or say label_rule = \"sampled-negatives\" in [data].")
    if name == "ratings" and data.clock != "none" and "timestamp" not in named:
        raise DataError(f"{where}: no timestamp column. Name one, or say clock = \"none\" in [data].")


def own_file(table: TableConfig, data: DataConfig) -> TableFile:
    """The file that a table of the toml names, and how it is read; raises DataError where it is missing."""
    path = Path(data.folder) / table.file  # a full path stays as it is
    found = find_file(path.parent, [path.name], f"where {data.name}.toml says it lies")
    return TableFile(found, table.columns, table.delimiter, table.encoding, table.header, table.escape)
