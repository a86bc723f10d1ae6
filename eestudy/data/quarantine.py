"""What is wrong with a file as a whole is a `DataError`; a bad row goes to quarantine, named by file and line."""

from __future__ import annotations

import numpy as np
import pandas as pd

QUARANTINE_COLUMNS = ["file", "row", "reason", "remedy"]


class DataError(ValueError):
    """A data file cannot be used as it is; the message names the file, the row and the remedy."""


def quarantine_rows(file: str, rows, reason, remedy) -> pd.DataFrame:
    """Quarantine records, one per bad row: file, row (1-based line in the file), reason, remedy (one, or one each)."""
    rows = np.asarray(rows, dtype=np.int64)
    reason, remedy = (text if isinstance(text, str) else pd.Series(text, dtype=object) for text in (reason, remedy))
    return pd.DataFrame({"file": file, "row": rows, "reason": reason, "remedy": remedy}, columns=QUARANTINE_COLUMNS)


def quarantine_summary(quarantine: pd.DataFrame, n_examples: int = 5) -> list[dict]:
    """Per file and reason: how many rows, the first few line numbers, the remedy; [] where nothing is wrong."""
    groups = quarantine.groupby(["file", "reason", "remedy"], sort=True)["row"]
    return [
        {"file": file, "reason": reason, "remedy": remedy, "n_rows": len(rows), "rows": sorted(rows)[:n_examples]}
        for (file, reason, remedy), rows in groups
    ]
