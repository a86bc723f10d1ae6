"""Files of any size as DuckDB tables of text, with the line that each row stands on; broken rows go to quarantine.

DuckDB reads CSV, JSON lines and Parquet, compressed or not, in bounded memory, and says which lines it refused.
"""

from __future__ import annotations

import csv
import gzip
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from eestudy.data.reading import DataError, quarantine_rows

MEMORY_MB = 1000
NO_DELIMITER = "\x01"  # a whole line is one field
REFUSALS = {
    "MISSING COLUMNS": ("wrong number of fields", "Give every row as many fields as the header."),
    "TOO MANY COLUMNS": ("wrong number of fields", "Give every row as many fields as the header."),
    "UNQUOTED VALUE": ("a quotation mark is not closed", "Close it, or double those inside a value."),
    "INVALID ENCODING": ("not valid text in the file's encoding", "Save the file in its stated encoding."),
}
NOT_AN_OBJECT = ("not a JSON object", "Write one JSON object a line.")


@dataclass(frozen=True)
class TableFile:
    """A file, and which of its columns is what."""

    path: Path  # *.parquet, *.json or *.jsonl (JSON lines), else delimited text; the last two may end in .gz
    columns: Mapping[str, str]  # our name -> the file's; without a header its place, counted from 0
    delimiter: str = ","
    encoding: str = "utf-8"
    header: bool = True

    @property
    def form(self) -> str:
        """'parquet', 'json' or 'csv'."""
        kind = self.path.name.removesuffix(".gz").rsplit(".", 1)[-1]
        return {"parquet": "parquet", "json": "json", "jsonl": "json"}.get(kind, "csv")


@contextmanager
def open_database(memory_mb: int = MEMORY_MB) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in a temporary folder; it holds at most `memory_mb` MB in memory."""
    with tempfile.TemporaryDirectory(prefix="eestudy-") as folder:
        settings = {"memory_limit": f"{memory_mb}MB", "preserve_insertion_order": True}
        with duckdb.connect(str(Path(folder) / "tables.duckdb"), config=settings) as database:
            with suppress(duckdb.Error):  # in Jupyter, where there is no such setting without ipywidgets
                database.execute("set enable_progress_bar = false")  # it would print into whatever reads our output
            yield database


def find_file(folder: Path, names: Sequence[str], official: str) -> Path:
    """The first of `names` that lies in `folder`, as it stands or with `.gz`.

    Raises:
        DataError: none does; the message names the folder, the files, and where they come from.
    """
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(f"{folder} holds none of {', '.join(names)}. Get the file from {official} and put it there "
                    "(or name another folder: DATA_DIR=...).")


def read_table(database: duckdb.DuckDBPyConnection, name: str, file: TableFile) -> pd.DataFrame:
    """Make the table `name`: line (1-based, a Parquet file's row), and `file.columns` as text, white space normalised.

    Args:
        database: from `open_database`.
        name: of the table; replaced where it exists.
        file: what to read.

    Returns:
        The quarantine: rows that cannot be read.

    Raises:
        DataError: an empty file, a missing column, a column that stands there twice, or no usable row.
    """
    try:
        refused = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}[file.form](database, name, file)
    except (duckdb.Error, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file.path.name}, row 1: the file cannot be read ({str(error).splitlines()[0]}). "
                        "Fetch or export it again.") from error
    if not database.execute(f"select count(*) from {name}").fetchone()[0]:
        why = "it holds a header only" if refused.empty else f"every row is bad: {refused.reason.iloc[0]}"
        raise DataError(f"{file.path.name}, row 2: no usable row ({why}). Fetch or export the file again.")
    return refused


def read_header(file: TableFile) -> list[str]:
    """The first line's fields.

    Raises:
        DataError: the file is empty.
    """
    opener = gzip.open if file.path.suffix == ".gz" else open
    with opener(file.path, "rt", encoding=file.encoding, errors="replace", newline="") as lines:
        first = next(lines, "").removeprefix("\ufeff").rstrip("\r\n")
    if not first.strip():
        raise DataError(f"{file.path.name}, row 1: the file is empty. Fetch or export it again.")
    fields = next(csv.reader([first], delimiter=file.delimiter)) if len(file.delimiter) == 1 else \
        first.split(file.delimiter)  # fmt: skip
    return [field.strip() for field in fields]


def _places(file: TableFile, names: Sequence[str]) -> dict[str, int]:
    """Where each wanted column stands."""
    if not file.header:
        wrong = [place for place in file.columns.values() if int(place) >= len(names)]
        if wrong:
            raise DataError(f"{file.path.name}, row 1: there is no column {wrong[0]}, there are {len(names)} fields.")
        return {ours: int(place) for ours, place in file.columns.items()}
    for ours, theirs in file.columns.items():
        if list(names).count(theirs) != 1:
            what = "stands there twice" if theirs in names else f"is missing, there are {list(names)}"
            raise DataError(f"{file.path.name}, row 1: column {theirs!r} {what}. It is needed as {ours}.")
    return {ours: list(names).index(theirs) for ours, theirs in file.columns.items()}


def _clean(expression: str) -> str:
    return f"trim(regexp_replace(coalesce({expression}, ''), '\\s+', ' ', 'g'))"


def _read_lines(database, name: str, file: TableFile, columns: Mapping[str, str], n_fields: int, delimiter: str,
                quote: str, header: bool) -> pd.DataFrame:  # fmt: skip
    """Delimited text into the table `name`; `columns`: our name -> SQL expression of the fields c0, c1, …"""
    spec = "{" + ", ".join(f"'c{k}': 'VARCHAR'" for k in range(n_fields)) + "}"
    selected = ", ".join(f"{_clean(expression)} as {ours}" for ours, expression in columns.items())
    for table in (f"{name}_refused", f"{name}_scans"):
        database.execute(f"drop table if exists {table}")
    database.execute(
        f"create or replace table {name} as select row_number() over () + {int(header)} as line, {selected} "
        "from read_csv(?, delim=?, "
        f"quote=?, escape=?, header=?, encoding=?, columns={spec}, auto_detect=false, store_rejects=true, "
        f"rejects_table='{name}_refused', rejects_scan='{name}_scans', rejects_limit=0)",
        [str(file.path), delimiter, quote, quote, header, file.encoding],
    )
    refused = database.execute(
        f"select line, min(error_type) as kind from {name}_refused group by line order by line"
    ).fetchdf()
    if len(refused):
        _count_refused(database, name, refused["line"].to_numpy(np.int64))
    reasons = [REFUSALS.get(kind, (kind.lower(), "Correct the row.")) for kind in refused["kind"]]
    return _records(file, refused["line"], reasons)


def _records(file: TableFile, lines, reasons: Sequence[tuple[str, str]]) -> pd.DataFrame:
    frame = quarantine_rows(file.path.name, lines, "", "")
    return frame.assign(reason=[reason for reason, _ in reasons], remedy=[remedy for _, remedy in reasons])


def _count_refused(database, name: str, refused: np.ndarray) -> None:
    """Refused lines are not among a table's rows: every row after them stands further down in the file."""
    next_good = refused - np.arange(len(refused))  # the line number that the next good row was given
    gaps = pd.DataFrame({"next_good": next_good})  # noqa: F841 - DuckDB finds it by its name
    database.execute(f"update {name} set line = line + (select count(*) from gaps where next_good <= {name}.line)")


def _read_csv(database, name: str, file: TableFile) -> pd.DataFrame:
    names = read_header(file)
    columns = {ours: f"c{place}" for ours, place in _places(file, names).items()}
    return _read_lines(database, name, file, columns, len(names), file.delimiter, '"', file.header)


def _read_json(database, name: str, file: TableFile) -> pd.DataFrame:
    read_header(file)  # an empty file is named here
    refused = _read_lines(database, f"{name}_text", file, {"text": "c0"}, 1, NO_DELIMITER, "", False)
    is_object = "case when json_valid(text) then json_type(text) = 'OBJECT' else false end"
    bad = database.execute(f"select line from {name}_text where not ({is_object}) order by line").fetchdf()
    paths = [f'$."{theirs}"' for theirs in file.columns.values()]
    selected = ", ".join(f"{_clean('json_extract_string(text, ?)')} as {ours}" for ours in file.columns)
    database.execute(f"create or replace table {name} as select line, {selected} from {name}_text where {is_object}",
                     paths)  # fmt: skip
    database.execute(f"drop table {name}_text")
    return pd.concat([refused, _records(file, bad["line"], [NOT_AN_OBJECT] * len(bad))], ignore_index=True)


def _read_parquet(database, name: str, file: TableFile) -> pd.DataFrame:
    relation = database.read_parquet(str(file.path))
    _places(file, relation.columns)
    quoted = {ours: '"' + theirs.replace('"', '""') + '"' for ours, theirs in file.columns.items()}
    selected = ", ".join(f"{_clean(f'cast({theirs} as varchar)')} as {ours}" for ours, theirs in quoted.items())
    database.execute(f"create or replace table {name} as select row_number() over () as line, {selected} "
                     "from read_parquet(?)", [str(file.path)])  # fmt: skip
    return quarantine_rows(file.path.name, [], "", "")
