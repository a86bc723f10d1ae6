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
    noticed: ended as they should: with an error of the package itself, a row in quarantine, work done again; None where
        there was nothing to notice.
    recovered: after which the right result was there, or all that was there before; None where the harness itself put
        it back, or only an error is asked for.
    lost: after which something was wrong, half-written, gone, or not understood.
    seed: repeats them.
    """

    fault: str
    seed: int
    tried: int = 0
    noticed: int | None = None
    recovered: int | None = None
    lost: int = 0

    def count(self, noticed: bool | None, recovered: bool | None, what: object = "") -> None:
        """One more fault; None: does not apply. What is lost is told at once, so that it can be looked into."""
        self.tried += 1
        if noticed is not None:
            self.noticed = (self.noticed or 0) + bool(noticed)
        if recovered is not None:
            self.recovered = (self.recovered or 0) + bool(recovered)
        if any(answer is not None and not answer for answer in (noticed, recovered)):
            self.lost += 1
            print(f"LOST ({self.fault}, seed {self.seed}, number {self.tried}): {what}", flush=True)

    @property
    def is_clean(self) -> bool:
        """Some were tried, and nothing was lost."""
        return self.tried > 0 and self.lost == 0


def keep(outcome: Outcome, table: Path = TABLE) -> pd.DataFrame:
    """Put an outcome into the committed table; returns the table.

    Of the same fault and seed it replaces what is there, unless that tried more and this lost nothing.
    """
    kinds = {name: "Int64" for name in ("tried", "noticed", "recovered", "lost", "seed")}
    row = pd.DataFrame([asdict(outcome)])[["fault", *kinds]].astype(kinds)
    rows = pd.read_csv(table, dtype=kinds) if table.exists() else row.iloc[:0]
    same = (rows["fault"] == outcome.fault) & (rows["seed"] == outcome.seed)
    if not outcome.lost and (rows.loc[same, "tried"] > outcome.tried).any():
        return rows
    rows = pd.concat([rows[~same], row]).sort_values(["fault", "seed"], kind="stable")
    artifacts.write_atomic(table, rows.to_csv(index=False, lineterminator="\n").encode())
    return rows
