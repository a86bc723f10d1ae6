"""Read a dataset's official files: what is wrong with a file as a whole is a `DataError`, a single bad row goes to
quarantine, counted and named by file and line.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy import assets
from eestudy.config import DataConfig

ML_100K_ASSET = "recbole"  # as named in assets.txt
ML_100K_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
INTERACTION_COLUMNS = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}
ITEM_COLUMNS = {"item_id": "token", "movie_title": "token_seq", "release_year": "token", "class": "token_seq"}
USER_COLUMNS = {"user_id": "token", "age": "token", "gender": "token", "occupation": "token"}
QUARANTINE_COLUMNS = ["file", "row", "reason", "remedy"]


class DataError(ValueError):
    """A data file cannot be used as it is; the message names the file, the row and the remedy."""


def quarantine_rows(file: str, rows, reason, remedy) -> pd.DataFrame:
    """Quarantine records, one per bad row: file, row (1-based line in the file), reason, remedy (one, or one each)."""
    rows = np.asarray(rows, dtype=np.int64)
    reason, remedy = (text if isinstance(text, str) else pd.Series(text, dtype=object) for text in (reason, remedy))
    return pd.DataFrame({"file": file, "row": rows, "reason": reason, "remedy": remedy}, columns=QUARANTINE_COLUMNS)


def decode(content: bytes, file: str) -> list[str]:
    """The lines of a UTF-8 text file.

    Raises:
        DataError: the file is empty, or not UTF-8 (the message names the first line that is not).
    """
    if not content.strip():
        raise DataError(f"{file}, row 1: the file is empty. Fetch or export it again.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, row {row}: not valid UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def parse_atomic(content: bytes, file: str, columns: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a RecBole atomic file: tab-separated text whose header says `name:type`.

    Args:
        content: the file's bytes.
        file: its name, for messages.
        columns: wanted columns and their types (token, token_seq, float); others are ignored.

    Returns:
        (frame, quarantine): the wanted columns and `line` (1-based line in the file); tokens are strings with their
        white space normalised, floats are float64. Quarantine holds rows with a wrong number of fields, an empty
        id, or a float that is not a finite number.

    Raises:
        DataError: empty file, broken encoding, missing column, column of another type, or no usable row.
    """
    lines = decode(content, file)
    header = [name.strip() for name in lines[0].split("\t")]
    places = _find_columns(header, file, columns)
    fields = [line.split("\t") for line in lines[1:]]
    is_whole = np.array([len(row) == len(header) for row in fields], dtype=bool)
    line = np.arange(2, len(lines) + 1)
    remedy = f"Give the row {len(header)} tab-separated fields, as in the header."
    quarantine = [quarantine_rows(file, line[~is_whole], "wrong number of fields", remedy)]
    whole = [row for row, keep in zip(fields, is_whole, strict=True) if keep]
    frame = pd.DataFrame({name: [" ".join(row[place].split()) for row in whole] for name, place in places.items()})
    frame["line"] = line[is_whole]
    for name, kind in columns.items():
        frame, bad = _convert(frame, name, kind, file)
        quarantine.append(bad)
    quarantine = pd.concat(quarantine, ignore_index=True)
    if frame.empty:
        reason = "it holds a header only" if quarantine.empty else f"every row is bad: {quarantine.reason.iloc[0]}"
        raise DataError(f"{file}, row 2: no usable row ({reason}). Fetch or export the file again.")
    return frame, quarantine


def _find_columns(header: list[str], file: str, columns: dict[str, str]) -> dict[str, int]:
    """Place of each wanted column in the header."""
    types = dict(name.partition(":")[::2] for name in header)
    names = list(types)
    if len(names) < len(header):
        raise DataError(f"{file}, row 1: a column stands there twice. Keep one of each name.")
    for name, kind in columns.items():
        if name not in types:
            raise DataError(f"{file}, row 1: column {name!r} is missing, there are {names}. Add {name}:{kind}.")
        if types[name] != kind:
            raise DataError(f"{file}, row 1: column {name!r} has type {types[name]!r}. It must be {name}:{kind}.")
    return {name: names.index(name) for name in columns}


def _convert(frame: pd.DataFrame, name: str, kind: str, file: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give one column its type; rows where that fails go to quarantine."""
    if kind == "float":
        number = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
        is_bad = ~np.isfinite(number.to_numpy())
        reason, remedy = f"{name} is not a number", f"Write a plain number as {name}."
        frame = frame.assign(**{name: number})
    else:
        is_bad = (frame[name] == "").to_numpy() if name.endswith("_id") else np.zeros(len(frame), dtype=bool)
        reason, remedy = f"{name} is empty", f"Give the row its {name}."
    return frame[~is_bad], quarantine_rows(file, frame["line"][is_bad], reason, remedy)


def _set_aside(frame, is_bad, file: str, reason: str, remedy: str):
    """Split a frame into what stays and the quarantine records of what does not."""
    is_bad = np.asarray(is_bad, dtype=bool)
    return frame[~is_bad], quarantine_rows(file, frame["line"][is_bad], reason, remedy)


def check_interactions(
    raw: pd.DataFrame, file: str, known_users, known_items, rating_range: tuple[float, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold interactions to the users, the items and the rating scale.

    Args:
        raw: user_id and item_id (strings), rating, timestamp, line.
        file: its name, for messages.
        known_users, known_items: source ids that the user and item files hold.
        rating_range: lowest and highest rating, inclusive.

    Returns:
        (frame, quarantine). Of several ratings of one item by one user the earliest stays: a click is the first
        answer, and a choice by time does not depend on the order of the file.

    Raises:
        DataError: no row stands.
    """
    low, high = rating_range
    rules = (
        (~raw["rating"].between(low, high), f"rating outside {low:g} to {high:g}", "Correct the rating or the range."),
        ((raw["timestamp"] < 0) | (raw["timestamp"] % 1 != 0), "timestamp is not whole seconds", "Use Unix seconds."),
        (~raw["user_id"].isin(known_users), "unknown user", "Add the user to the user file."),
        (~raw["item_id"].isin(known_items), "unknown item", "Add the item to the item file."),
    )
    quarantine = []
    for is_bad, reason, remedy in rules:  # a row with two faults is named once, by the first
        raw, bad = _set_aside(raw, is_bad.loc[raw.index], file, reason, remedy)
        quarantine.append(bad)
    by_time = raw.sort_values(["timestamp", "rating", "line"], kind="stable")
    is_repeat = by_time.duplicated(["user_id", "item_id"]).loc[raw.index]
    frame, bad = _set_aside(raw, is_repeat, file, "duplicate user and item", "Keep one rating per user and item.")
    if frame.empty:
        raise DataError(f"{file}, row 2: no usable row is left. Do the item and user files belong to it?")
    return frame, pd.concat([*quarantine, bad], ignore_index=True)


def read_ml_100k(data: DataConfig) -> dict[str, pd.DataFrame]:
    """MovieLens-100K from the atomic files in RecBole's wheel, checked; ids are still the source's strings.

    Returns:
        "interactions" (user_id, item_id, rating, timestamp, line), "users", "items", "quarantine".
    """
    contents = {
        ending: assets.read_member(ML_100K_ASSET, f"{ML_100K_FOLDER}.{ending}") for ending in ("inter", "item", "user")
    }
    return parse_ml_100k(contents, data)


def parse_ml_100k(contents: dict[str, bytes], data: DataConfig) -> dict[str, pd.DataFrame]:
    """As `read_ml_100k`, from the bytes of the three files (keys inter, item, user)."""
    file = {ending: f"ml-100k.{ending}" for ending in contents}
    raw, bad_rows = parse_atomic(contents["inter"], file["inter"], INTERACTION_COLUMNS)
    items, bad_items = parse_atomic(contents["item"], file["item"], ITEM_COLUMNS)
    users, bad_users = parse_atomic(contents["user"], file["user"], USER_COLUMNS)
    items = items.rename(columns={"movie_title": "title", "release_year": "year", "class": "genres"})
    items, same_items = _set_aside(items, items.duplicated("item_id"), file["item"], "duplicate item", "Keep one.")
    users, same_users = _set_aside(users, users.duplicated("user_id"), file["user"], "duplicate user", "Keep one.")
    interactions, bad = check_interactions(raw, file["inter"], users["user_id"], items["item_id"], data.rating_range)
    quarantine = pd.concat([bad_rows, bad_items, bad_users, same_items, same_users, bad], ignore_index=True)
    return {"interactions": interactions, "users": users, "items": items, "quarantine": quarantine}


def quarantine_summary(quarantine: pd.DataFrame, n_examples: int = 5) -> list[dict]:
    """Per file and reason: how many rows, the first few line numbers, the remedy; [] where nothing is wrong."""
    groups = quarantine.groupby(["file", "reason", "remedy"], sort=True)["row"]
    return [
        {"file": file, "reason": reason, "remedy": remedy, "n_rows": len(rows), "rows": sorted(rows)[:n_examples]}
        for (file, reason, remedy), rows in groups
    ]
