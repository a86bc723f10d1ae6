"""Two models of `make ablations` that are attacked as well: one has seen titles that instruct, the other has not."""

from __future__ import annotations

from eestudy import ablations, artifacts, training
from eestudy.artifacts import Run
from eestudy.config import StudyConfig
from eestudy.probe_results import HARDENED, SAME_BUDGET
from eestudy.retrievers.material import Material

ROWS = {SAME_BUDGET: "main", HARDENED: "hostile_titles"}  # of the table of ablations
NEEDED = (training.ADAPTER, training.HEADS, "calibration.json")


def models(material: Material) -> dict[str, tuple[StudyConfig, Run]]:
    """Settings and run of each, by form; {} unless all of them were trained here, as of today, with the run's seed.

    Args:
        material: the study's run.
    """
    table, seed = {row.name: row for row in ablations.all_rows(material.cfg)}, material.cfg.seed
    found = {form: (ablations.settings_of(table[name], material.cfg, seed),
                    ablations.open_row(material.run, table[name], seed)) for form, name in ROWS.items()}  # fmt: skip
    there = all(artifacts.artifact_hash(run, name) for _, run in found.values() for name in NEEDED)
    wanted = {form: ablations.row_fingerprint(cfg, table[ROWS[form]], material.run) for form, (cfg, _) in found.items()}
    today = there and all(artifacts.is_current(found[form][1], ablations.RESULT, mark) for form, mark in wanted.items())
    return found if today else {}
