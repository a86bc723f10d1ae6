"""Ablations: one declarative table of small, equal trainings, each answering one question against another row.

`table` declares the rows and what is compared with what, before anything is run; `rows` trains and scores one row in a
folder of its own; `analysis` reads what is finished. `python -m eestudy.ablations` goes through the table, row by row.
"""

from eestudy.ablations.analysis import (
    compare_all,
    curves,
    findings,
    headline,
    holm,
    same_latency,
    seed_spread,
)
from eestudy.ablations.rows import Finished, find_finished, keep_row, open_row, row_fingerprint, run_row
from eestudy.ablations.table import Row, settings_of, table

__all__ = [
    "Finished", "Row", "compare_all", "curves", "find_finished", "findings", "headline", "holm", "keep_row", "open_row",
    "row_fingerprint", "run_row", "same_latency", "seed_spread", "settings_of", "table",
]
