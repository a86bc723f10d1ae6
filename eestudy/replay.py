"""A run's folder made from a committed reference: what comes late can run, and be shown, without what came before.

The folder holds the reference's files as artifacts. What a reference leaves out (the data, the prompts, the weights)
is missing there, too; `rows/` of the reference holds the rows of the big tables that the late notebooks read.
"""

from __future__ import annotations

import json
from pathlib import Path

from eestudy import artifacts
from eestudy.report.headline import HASHES, NOTEBOOKS, TOLD


def references(profile: str, base: Path | None = None) -> list[str]:
    """The datasets that have a committed reference with scores, in alphabetical order."""
    base = artifacts.reference_dir() if base is None else base
    return sorted(path.parent.parent.name for path in base.glob(f"*/{profile}/head_scores.parquet"))


def rebuild(run: artifacts.Run, base: Path | None = None) -> artifacts.Run:
    """Fill a run's folder from the reference of its dataset and profile.

    Args:
        run: names the reference; files of the same names in its folder are replaced.
        base: where references lie, or None for the committed ones.

    Returns:
        The run, with the seed of the reference.

    Raises:
        artifacts.ArtifactError: there is no such reference.
    """
    base = artifacts.reference_dir() if base is None else base
    folder = base / artifacts.study_name(run.dataset) / run.profile
    if not (folder / "head_scores.parquet").exists():
        known = ", ".join(references(run.profile, base)) or "none"
        raise artifacts.ArtifactError(
            f"{folder} has no head_scores.parquet; datasets with a reference of profile {run.profile}: {known}"
        )
    metrics = json.loads((folder / "metrics.json").read_text())
    made = artifacts.Run(run.root, run.dataset, run.profile, metrics["seed"])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix().removeprefix("rows/")
            artifacts.write_bytes(made, name, path.read_bytes(), source=f"reference {metrics['source_hash'][:12]}")
    artifacts.write_json(made, HASHES, metrics["hashes"])
    artifacts.write_json(made, TOLD, metrics["metrics"])
    for number in NOTEBOOKS:  # which notebook an entry is from is not kept; what one says anew counts
        artifacts.write_json(made, f"metrics_{number}.json", [])
    return made
