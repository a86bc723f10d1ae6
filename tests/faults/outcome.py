"""What became of a number of faults, and the committed table of them all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from eestudy import artifacts

TABLE = artifacts.reference_dir() / "faults.csv"


@dataclass
class Outcome:
    """Counts of one kind of fault.

    fault: its name.
    tried: how many were injected.
    noticed: ended as they should: with an error of the package itself, a row in quarantine, work done again.
    recovered: after which the right result was there, or all that was there before.
    lost: after which something was wrong, half-written, gone, or not understood.
    seed: repeats them.
    """

    fault: str
    seed: int
    tried: int = 0
    noticed: int = 0
    recovered: int = 0
    lost: int = 0

    def count(self, noticed: bool, recovered: bool, what: object = "") -> None:
        """One more fault; what is lost is told at once, so that it can be looked into."""
        self.tried += 1
        self.noticed += bool(noticed)
        self.recovered += bool(recovered)
        if not (noticed and recovered):
            self.lost += 1
            print(f"LOST ({self.fault}, seed {self.seed}, number {self.tried}): {what}", flush=True)

    @property
    def is_clean(self) -> bool:
        """Everything was noticed and nothing lost."""
        return self.tried > 0 and self.noticed == self.recovered == self.tried and self.lost == 0


def keep(outcome: Outcome, table: Path = TABLE) -> pd.DataFrame:
    """Put an outcome into the committed table, unless it has more of the same fault and seed; returns the table."""
    rows = pd.DataFrame([asdict(outcome)])[["fault", "tried", "noticed", "recovered", "lost", "seed"]]
    rows = pd.concat([pd.read_csv(table), rows]) if table.exists() else rows
    rows = rows.sort_values(["fault", "seed", "tried"], kind="stable").drop_duplicates(["fault", "seed"], keep="last")
    artifacts.write_atomic(table, rows.to_csv(index=False, lineterminator="\n").encode())
    return rows
