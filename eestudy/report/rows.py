"""What a reference keeps of a run's big tables: the rows that notebooks 06, 08 and 09 read, without the data itself.

No item, no rating, no time and nothing about a user but a number: enough to choose and judge exits again, and no copy
of the dataset.
"""

from __future__ import annotations

import pandas as pd

from eestudy import artifacts
from eestudy.report.classic import COUNTS, training_counts

COLUMNS = {
    "interactions.parquet": ("row", "user_id", "label"),
    "split.parquet": ("row", "split", "half", "request_id", "judged"),
}


def kept_rows(run: artifacts.Run) -> dict[str, pd.DataFrame]:
    """The tables of `rows/` by their artifacts' names.

    Args:
        run: a finished one.

    Returns:
        interactions and split of the judged rows and of all rows on which a model is chosen; users (ids alone),
        evidence (without the items) and prompt_tokens of the judged rows; `classic.COUNTS` of the judged test rows.
    """
    head, split = artifacts.read_table(run, "head_scores.parquet"), artifacts.read_table(run, "split.parquet")
    judged = set(head["row"])
    chosen_on = split.loc[(split["split"] == "validation") & (split["half"] == "select"), "row"]
    wide = judged | set(chosen_on)
    tables = {name: _of(artifacts.read_table(run, name), wide)[list(columns)] for name, columns in COLUMNS.items()}
    evidence = artifacts.read_table(run, "evidence.parquet").drop(columns="own_items", errors="ignore")
    test = head.loc[head["split"] == "test", "row"].unique()
    return tables | {
        "users.parquet": pd.DataFrame({"user_id": head["user_id"].unique()}),
        "evidence.parquet": _of(evidence, judged),
        "prompt_tokens.parquet": _of(artifacts.read_table(run, "prompt_tokens.parquet"), judged),
        COUNTS: training_counts(run, test).assign(row=test),
    }


def _of(table: pd.DataFrame, rows: set) -> pd.DataFrame:
    return table[table["row"].isin(rows)].reset_index(drop=True)
