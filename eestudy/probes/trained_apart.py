"""Two models of `make ablations` that are attacked as well: one has seen titles that instruct, the other has not."""

from __future__ import annotations

from dataclasses import dataclass

from eestudy import ablations, artifacts, training
from eestudy.artifacts import Run
from eestudy.config import StudyConfig
from eestudy.probe_results import HARDENED, SAME_BUDGET
from eestudy.retrievers.material import Material

ROWS = {SAME_BUDGET: "main", HARDENED: "hostile_titles"}  # of the table of ablations
NEEDED = (training.ADAPTER, training.HEADS, "calibration.json")


@dataclass(frozen=True)
class Model:
    """A model that was trained apart, and at which exit it is read: with few labels the last head lags behind."""

    cfg: StudyConfig
    run: Run
    exit_layer: int  # of highest AUC on its selection rows


def models(material: Material) -> dict[str, Model]:
    """Each model by form; {} unless all of them were trained here, as of today, with the run's seed.

    Args:
        material: the study's run.
    """
    table = {row.name: row for row in ablations.all_rows(material.cfg)}
    found = {form: _model(material, table[name]) for form, name in ROWS.items()}
    return found if all(found.values()) else {}


def _model(material: Material, row: ablations.Row) -> Model | None:
    cfg, source = material.cfg, material.run
    done, run = ablations.find_finished(row, cfg, cfg.seed, source), ablations.open_row(source, row, cfg.seed)
    if done is None or not done.current or not all(artifacts.artifact_hash(run, name) for name in NEEDED):
        return None
    return Model(ablations.settings_of(row, cfg, cfg.seed), run, ablations.chosen_exit(done, "both"))
