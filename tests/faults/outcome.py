"""What became of a number of faults, and the committed table of them all."""

from __future__ import annotations

from dataclasses import asdict, dataclass

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


def keep(outcomes: list[Outcome]) -> pd.DataFrame:
    """Put outcomes into the committed table, in place of older ones of the same faults; returns the whole table."""
    table = pd.DataFrame(map(asdict, outcomes))[["fault", "tried", "noticed", "recovered", "lost", "seed"]]
    if TABLE.exists():
        older = pd.read_csv(TABLE)
        table = pd.concat([older[~older["fault"].isin(table["fault"])], table])
    table = table.sort_values("fault", ignore_index=True)
    artifacts.write_atomic(TABLE, table.to_csv(index=False, lineterminator="\n").encode())
    return table
