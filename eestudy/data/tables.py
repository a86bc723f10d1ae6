"""Files of any size as DuckDB tables of text, with the line that each row stands on; broken rows go to quarantine.

DuckDB reads CSV, JSON lines and Parquet, compressed or not, in bounded memory, and says which lines it refused. Every
line of a file is a row's or in quarantine: where DuckDB's rows do not add up to the file's lines, as after a quotation
mark that nobody closed, the file is read again line by line, slower.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from eestudy.config import on_disk
from eestudy.data.quarantine import DataError, quarantine_rows

MEMORY_MB = 1000
NO_DELIMITER = "\x01"  # a whole line is one field
ENCODINGS = {"utf-8": "utf-8", "ascii": "utf-8", "iso8859-1": "latin-1"}  # Python's name -> DuckDB's; others: a copy
BLOCK_BYTES, CHUNK_ROWS = 2**24, 100_000
MAX_SPAN = 100  # lines of a quoted value: where it is longer, a quotation mark is not closed
REFUSALS = {
    "MISSING COLUMNS": ("wrong number of fields", "Give every row as many fields as the header."),
    "TOO MANY COLUMNS": ("wrong number of fields", "Give every row as many fields as the header."),
    "UNQUOTED VALUE": ("a quotation mark is not closed", "Close it, or double those inside a value."),
    "INVALID ENCODING": ("not valid text in the file's encoding", "Save the file in its stated encoding."),
    "EMPTY LINE": ("the line is empty", "Delete it."),
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
    escape: str = '"'  # what stands before a quotation mark inside a value

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
            database.execute("set TimeZone = 'UTC'")  # of dates that do not say theirs
            try:
                yield database
            except duckdb.OutOfMemoryException as error:
                raise MemoryError(str(error)) from error


def find_file(folder: Path, names: Sequence[str], official: str) -> Path:
    """The first of `names` that lies in `folder`, as it stands or with `.gz`.

    Raises:
        DataError: none does; the message names the folder, the files, and where they come from.
    """
    for name in names:
        if (path := on_disk(folder / name)).is_file():
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
    read = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}[file.form]
    try:
        with _known_encoding(file) as known:
            refused = read(database, name, known)
    except duckdb.OutOfMemoryException:
        raise  # says nothing about the file
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
    with opened(file.path, "rt", encoding=file.encoding, errors="replace") as lines:
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


def opened(path: Path, mode: str, **options):
    """`open`, or `gzip.open` where the file's name ends in .gz."""
    return (gzip.open if path.suffix == ".gz" else open)(path, mode, **options)


@contextmanager
def _known_encoding(file: TableFile) -> Iterator[TableFile]:
    """The file, or its copy in UTF-8 where DuckDB does not know the encoding; what is no text stays so in the copy."""
    codec = codecs.lookup(file.encoding).name
    if file.form == "parquet" or codec in ENCODINGS:
        yield replace(file, encoding=ENCODINGS.get(codec, "utf-8"))
        return
    with tempfile.TemporaryDirectory(prefix="eestudy-") as folder:
        copy, options = Path(folder) / file.path.name, {"errors": "surrogateescape", "newline": ""}
        with opened(file.path, "rt", encoding=codec, **options) as source, \
                opened(copy, "wt", encoding="utf-8", **options) as target:  # fmt: skip
            shutil.copyfileobj(source, target)
        yield replace(file, path=copy, encoding="utf-8")


def _read_lines(database, name: str, file: TableFile, columns: Mapping[str, int], n_fields: int,
                quote: str = '"') -> pd.DataFrame:  # fmt: skip
    """Delimited text into the table `name`; `columns`: our name -> the field's place. Returns the quarantine."""
    n_lines, empty, is_mixed = _count_lines(file.path)
    n_lines -= file.header
    try:
        refused = _scan(database, name, file, columns, n_fields, quote)
        n_read = len(refused) + database.execute(f"select count(*) from {name}").fetchone()[0]
        if is_mixed and len(refused):  # DuckDB numbers what it refuses wrongly among line ends of two kinds
            n_read = None
    except duckdb.InvalidInputException:  # a value without an end
        n_read = None
    if n_read == n_lines - len(empty) and len(empty):  # DuckDB passed them over
        passed = pd.DataFrame({"line": empty, "kind": "EMPTY LINE"})
        refused = pd.concat([refused, passed], ignore_index=True).sort_values("line", ignore_index=True)
    elif n_read != n_lines:
        return _records(file, _read_line_by_line(database, name, file, columns, n_fields, quote))
    _make_room(database, name, refused["line"].to_numpy(np.int64), 1 + file.header)
    return _records(file, refused)


def _count_lines(path: Path) -> tuple[int, np.ndarray, bool]:
    r"""How many lines a file has, which are empty (from 1, ascending), and whether some end in \r\n and some do not."""
    n_lines, n_returns, empty, rest = 0, 0, [], b""
    with opened(path, "rb") as content:
        while block := content.read(BLOCK_BYTES):
            block = rest + block
            letters = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(letters == ord("\n"))
            length = np.diff(ends, prepend=-1) - 1
            n_returns += np.count_nonzero((length > 0) & (letters[ends - 1] == ord("\r")))
            for place in np.flatnonzero(length <= 1):
                if length[place] == 0 or block[ends[place] - 1] == ord("\r"):
                    empty.append(n_lines + place + 1)
            n_lines += len(ends)
            rest = block[ends[-1] + 1 :] if len(ends) else block
    return n_lines + bool(rest), np.array(empty, dtype=np.int64), 0 < n_returns < n_lines


def _scan(database, name: str, file: TableFile, columns: Mapping[str, int], n_fields: int, quote: str) -> pd.DataFrame:
    """DuckDB's reading: the good rows, numbered, into the table; returns line and kind of what it refused."""
    spec = "{" + ", ".join(f"'c{k}': 'VARCHAR'" for k in range(n_fields)) + "}"
    selected = ", ".join(f"{_clean(f'c{place}')} as {ours}" for ours, place in columns.items())
    for table in (f"{name}_refused", f"{name}_scans"):
        database.execute(f"drop table if exists {table}")
    database.execute(
        f"create or replace table {name} as select row_number() over () + {int(file.header)} as line, {selected} "
        "from read_csv(?, delim=?, "
        f"quote=?, escape=?, header=?, encoding=?, columns={spec}, auto_detect=false, store_rejects=true, "
        f"rejects_table='{name}_refused', rejects_scan='{name}_scans', rejects_limit=0)",
        [glob.escape(str(file.path)), file.delimiter, quote, quote and file.escape, file.header, file.encoding],
    )
    return database.execute(
        f"select line, min(error_type) as kind from {name}_refused group by line order by line"
    ).fetchdf()


def _make_room(database, name: str, gaps: np.ndarray, first: int) -> None:
    """Number a table's rows, which stand in the file's order, by the lines from `first` on that are no gaps."""
    if len(gaps):
        n_lines = database.execute(f"select count(*) from {name}").fetchone()[0] + len(gaps)
        lines = np.delete(np.arange(first, first + n_lines), gaps - first)
        numbers = pd.DataFrame({"n": lines})  # noqa: F841 - DuckDB finds it by its name
        database.execute(f"create or replace table {name} as select t.* replace (n as line) "
                         f"from {name} t positional join numbers")  # fmt: skip


def _read_line_by_line(database, name: str, file: TableFile, columns: Mapping[str, int], n_fields: int,
                       quote: str) -> pd.DataFrame:  # fmt: skip
    """As `_scan`, with the lines of the file; a quotation mark that is not closed costs its own line only."""
    refused, rows = [], _walk(file, n_fields, quote)
    fields = ", ".join(f"{ours} varchar" for ours in columns)
    database.execute(f"create or replace table {name} (line bigint, {fields})")
    selected = ", ".join(_clean(ours) for ours in columns)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        refused += [(line, row) for line, row in chunk if isinstance(row, str)]
        good = [(line, *(row[place] for place in columns.values())) for line, row in chunk if not isinstance(row, str)]
        found = pd.DataFrame(good, columns=["line", *columns])  # noqa: F841 - DuckDB finds it by its name
        if good:
            database.execute(f"insert into {name} select line, {selected} from found")
    return pd.DataFrame(refused, columns=["line", "kind"])


def _walk(file: TableFile, n_fields: int, quote: str) -> Iterator[tuple[int, list[str] | str]]:
    """Every row's first line with its fields, or with the kind of its refusal."""
    number, ahead = 1, deque()
    with opened(file.path, "rt", encoding=file.encoding, errors="surrogateescape") as lines:
        while ahead or (ahead := deque(islice(lines, 1))):
            row, n_used = ([], 1) if number == 1 and file.header else _parse(file, [ahead[0]], n_fields, quote)
            if row == "UNQUOTED VALUE":
                ahead.extend(islice(lines, MAX_SPAN - len(ahead)))
                row, n_used = _parse(file, ahead, n_fields, quote)
            if number > 1 or not file.header:
                yield number, row
            for _ in range(n_used):
                ahead.popleft()
            number += n_used


def _parse(file: TableFile, lines: Sequence[str], n_fields: int, quote: str) -> tuple[list[str] | str, int]:
    """The row that begins with the first of some lines, or the kind of its refusal; and how many lines it takes."""
    delimiter, doubled = file.delimiter, file.escape == quote
    if len(delimiter) > 1:
        lines, delimiter = [line.replace(delimiter, NO_DELIMITER) for line in lines], NO_DELIMITER
    rules = {"quotechar": quote, "doublequote": doubled, "escapechar": None if doubled else file.escape}
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True, **(rules if quote else {"quoting": 3}))
    try:
        row = next(reader)
        "".join(lines[k] for k in range(reader.line_num)).encode()
    except csv.Error:
        return "UNQUOTED VALUE", 1
    except UnicodeEncodeError:
        return "INVALID ENCODING", 1
    if reader.line_num == 1 and len(row) != n_fields:
        return "MISSING COLUMNS" if row else "EMPTY LINE", 1
    inside = (_parse(file, [lines[k]], n_fields, quote)[0] for k in range(1, reader.line_num - 1))
    if len(row) != n_fields or any(isinstance(other, list) for other in inside):  # rows of their own: it swallows them
        return "UNQUOTED VALUE", 1
    return row, reader.line_num


def _records(file: TableFile, refused: pd.DataFrame) -> pd.DataFrame:
    """Quarantine records of lines and their kinds of refusal."""
    named = [REFUSALS.get(kind, (kind.lower(), "Correct the row.")) for kind in refused["kind"]]
    reasons, remedies = ([pair[k] for pair in named] for k in (0, 1))
    return quarantine_rows(file.path.name, refused["line"], reasons, remedies)


def _read_csv(database, name: str, file: TableFile) -> pd.DataFrame:
    names = read_header(file)
    return _read_lines(database, name, file, _places(file, names), len(names))


def _read_json(database, name: str, file: TableFile) -> pd.DataFrame:
    read_header(file)  # an empty file is named here
    text = replace(file, delimiter=NO_DELIMITER, header=False)
    refused = _read_lines(database, f"{name}_text", text, {"text": 0}, 1, quote="")
    is_object = "case when json_valid(text) then json_type(text) = 'OBJECT' else false end"
    bad = database.execute(f"select line from {name}_text where not ({is_object}) order by line").fetchdf()
    paths = [f'$."{theirs}"' for theirs in file.columns.values()]
    selected = ", ".join(f"{_clean('json_extract_string(text, ?)')} as {ours}" for ours in file.columns)
    database.execute(f"create or replace table {name} as select line, {selected} from {name}_text where {is_object}",
                     paths)  # fmt: skip
    database.execute(f"drop table {name}_text")
    _refuse_absent(database, name, file)
    return pd.concat([refused, quarantine_rows(file.path.name, bad["line"], *NOT_AN_OBJECT)], ignore_index=True)


def _refuse_absent(database, name: str, file: TableFile) -> None:
    """Where no object has a key, it is misspelt."""
    absent = ", ".join(f"bool_and({ours} = '')" for ours in file.columns)
    for (ours, theirs), is_absent in zip(file.columns.items(), database.execute(
            f"select {absent} from {name}").fetchone(), strict=True):  # fmt: skip
        if is_absent:
            raise DataError(f"{file.path.name}, row 1: no row says {theirs!r}. It is needed as {ours}; the first row "
                            f"is {read_header(replace(file, delimiter=NO_DELIMITER))[0][:200]}")  # fmt: skip


def _as_text(column: str, kind: str) -> str:
    """A column as text, in SQL; 7.0 is 7, as ids become floats wherever one was missing."""
    name = '"' + column.replace('"', '""') + '"'
    whole = f"{name} = floor({name}) and abs({name}) < {2**53}" if kind in ("DOUBLE", "FLOAT") else "false"
    return f"case when {whole} then cast(cast({name} as hugeint) as varchar) else cast({name} as varchar) end"


def _read_parquet(database, name: str, file: TableFile) -> pd.DataFrame:
    path = glob.escape(str(file.path))
    relation = database.read_parquet(path)
    _places(file, relation.columns)
    kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
    selected = ", ".join(f"{_clean(_as_text(theirs, kinds[theirs]))} as {ours}"
                         for ours, theirs in file.columns.items())  # fmt: skip
    database.execute(f"create or replace table {name} as select row_number() over () as line, {selected} "
                     "from read_parquet(?)", [path])  # fmt: skip
    return quarantine_rows(file.path.name, [], "", "")
