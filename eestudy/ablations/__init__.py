"""Ablations: one declarative table of small, equal trainings, each answering one question against another row.

`table` declares the rows and what is compared with what, before anything is run; `rows` trains and scores one row in a
folder of its own; `analysis` compares what is finished, and `duels` sets dynamic exit against truncated models.
`python -m eestudy.ablations` goes through the table, row by row.
"""

from eestudy.ablations.analysis import (
    chosen_exit,
    compare_all,
    curves,
    holm,
    seed_spread,
    training_noise,
)
from eestudy.ablations.duels import duel_table, overhead, same_latency
from eestudy.ablations.rows import (
    RESULT,
    Finished,
    find_all,
    find_finished,
    keep_row,
    open_row,
    row_fingerprint,
    run_row,
)
from eestudy.ablations.table import Row, all_rows, each_seed, settings_of

__all__ = [
    "RESULT", "Finished", "Row", "all_rows", "chosen_exit", "compare_all", "curves", "duel_table", "each_seed",
    "find_all", "find_finished", "holm", "keep_row", "open_row", "overhead", "row_fingerprint", "run_row",
    "same_latency", "seed_spread", "settings_of", "training_noise",
]
