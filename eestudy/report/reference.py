"""Turn a run into the committed reference: numbers, tables, figures, notebooks; few titles, no paths, provenance."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd

from eestudy import artifacts
from eestudy.chain import BESIDE, TOUR
from eestudy.config import StudyConfig
from eestudy.report.comparison import compare
from eestudy.report.headline import source_hash
from eestudy.report.judged import ReportError
from eestudy.report.narrative import examples
from eestudy.report.rows import kept_rows

BASE = artifacts.reference_dir()
REQUIRED = ("metrics.json", "head_scores.parquet", "baseline_scores.parquet", "evidence_model_scores.parquet",
            "latency.csv", "policies.csv", "tradeoff.csv", "depth_curves.csv", "report.md")  # fmt: skip
OPTIONAL = ("click_model_scores.parquet", "click_models.csv", "classic_gains.csv", "training.csv",
            "selected_policy.json", "risk.csv", "exit_groups.csv", "choices.json", "environment.json", "durations.json",
            "quarantine.json", "left_out.json", artifacts.RETRIEVERS, artifacts.PROBES, *artifacts.BENCH)  # fmt: skip
# What is measured apart, and by which command
APART = {"bench": artifacts.BENCH, "retrievers": (artifacts.RETRIEVERS,), "probes": (artifacts.PROBES,)}
PACKAGES = ("torch", "transformers", "torch_geometric", "peft", "accelerate", "faiss-cpu", "numpy", "pandas",
            "scikit-learn", "matplotlib")  # fmt: skip
LEFT_OUT = "[left out of the reference: the number of rows with titles is limited]\n"


def folder(dataset: str, profile: str, base: Path = BASE) -> Path:
    """Where the reference of a dataset and profile lies."""
    return base / artifacts.study_name(dataset) / profile


def read(dataset: str, profile: str, base: Path = BASE) -> tuple[dict, dict[str, float]]:
    """The reference's `metrics.json` and its seed-to-seed deviations ({} where they were not measured).

    Raises:
        ReportError: there is no reference.
    """
    path = folder(dataset, profile, base) / "metrics.json"
    if not path.exists():
        raise ReportError(f"{path} is missing: make it with `make reference DATASET={dataset} PROFILE={profile}`")
    deviations = path.with_name("seed_deviation.json")
    return json.loads(path.read_text()), json.loads(deviations.read_text()) if deviations.exists() else {}


def compare_with_reference(run: artifacts.Run, metrics: dict) -> pd.DataFrame | None:
    """`comparison.compare` with the committed reference; None where there is none."""
    try:
        wanted, deviations = read(run.dataset, run.profile)
    except ReportError:
        return None
    return compare(wanted, metrics, deviations)


def counts_only(metrics: dict) -> dict:
    """`metrics.json` of a profile whose model is random: counts stay, everything else is null or gone."""
    kept = [item for item in metrics["metrics"] if item["kind"] == "count"]
    return {**metrics, "metrics": kept, "headline": dict.fromkeys(metrics["headline"]), "choices": {}}


def _git(*words: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *words], cwd=artifacts.ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def provenance(metrics: dict) -> dict:
    """What made these numbers: commit, dirty flag, source hashes, versions, processor."""
    status = _git("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)README.md")  # these are rendered
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "git_commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status),
        "source_hash": metrics["source_hash"], "source_hash_of_checkout": source_hash(),
        "python": platform.python_version(), "system": platform.system(), "cpu": _cpu(), "versions": versions,
    }  # fmt: skip


def scrub(text: str, run: artifacts.Run) -> str:
    """Replace the folders of this machine by names."""
    places = {run.root: "<run>", artifacts.asset_dir(): "<assets>", artifacts.ROOT: "<checkout>",
              Path(sys.prefix): "<env>", Path.home(): "~"}  # fmt: skip
    for path, name in sorted(places.items(), key=lambda place: -len(str(place[0]))):
        if len(path.parts) > 1:
            text = text.replace(str(path), name)
    return text


def _output_text(output: dict) -> str:
    data = output.get("data", {})
    parts = [output.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/markdown"))]
    return "\n".join("".join(part) for part in parts)


def limit_titles(notebook: dict, titles: list[str], left: int) -> int:
    """Replace, in place, outputs that would show more than `left` lines with an item's title.

    Only titles of two words or more are looked for: a film called "Speed" cannot be told from the word.

    Args:
        notebook: nbformat 4 JSON.
        titles: item titles.
        left: lines with titles that may still be shown.

    Returns:
        What is left afterwards.
    """
    wanted = [title for title in titles if " " in title.strip() and len(title) >= 6]
    for cell in notebook["cells"]:
        for place, output in enumerate(cell.get("outputs", [])):
            shown = sum(any(title in line for title in wanted) for line in _output_text(output).splitlines())
            if shown > left:
                cell["outputs"][place] = {"output_type": "stream", "name": "stdout", "text": LEFT_OUT}
            else:
                left -= shown
    return left


def _copy_notebooks(run: artifacts.Run, target: Path, n_titles: int) -> None:
    titles = artifacts.read_table(run, "items.parquet")["title"].astype(str).tolist()
    for path in sorted(run.root.glob("notebooks/[0-9]*.ipynb")):
        notebook = json.loads(path.read_text())
        n_titles = limit_titles(notebook, titles, n_titles)
        artifacts.write_atomic(target / "notebooks" / path.name, _kept_notebook(notebook, run))


def _kept_notebook(notebook: dict, run: artifacts.Run) -> bytes:
    """An executed notebook without what belongs to this machine: when it ran, and the names of its folders."""
    for part in (notebook, *notebook["cells"]):
        part.get("metadata", {}).pop("papermill", None)
    return (scrub(json.dumps(notebook, indent=1, ensure_ascii=False), run) + "\n").encode()


def keep_tour(run: artifacts.Run, base: Path = BASE) -> list[Path]:
    """Commit the executed notebooks that stand beside the chain, made of the example's own data.

    Args:
        run: of `examples/study.toml`, after `make own`.
        base: where references lie.

    Raises:
        ArtifactError: one was not executed.
    """
    kept = []
    for name in BESIDE:
        notebook = json.loads(artifacts.read_bytes(run, f"notebooks/{name}.ipynb"))
        kept.append(base / TOUR / f"{name}.ipynb")
        artifacts.write_atomic(kept[-1], _kept_notebook(notebook, run))
    return kept


def _fill(run: artifacts.Run, cfg: StudyConfig, target: Path) -> None:
    for name in REQUIRED + OPTIONAL:
        if name in REQUIRED or artifacts.artifact_hash(run, name):
            content = artifacts.read_bytes(run, name)
            text = name.endswith((".json", ".md", ".html", ".csv"))
            artifacts.write_atomic(target / name, scrub(content.decode(), run).encode() if text else content)
    for path in sorted(run.root.glob("figures/*")):
        if path.suffix in (".png", ".svg"):
            artifacts.write_atomic(target / "figures" / path.name, path.read_bytes())
    for name, table in kept_rows(run).items():
        artifacts.write_atomic(target / "rows" / name, table.to_parquet(index=False))
    rows = json.dumps(examples(run, cfg.report.n_examples // 2), indent=1, ensure_ascii=False)
    artifacts.write_atomic(target / "examples.json", (rows + "\n").encode())
    _copy_notebooks(run, target, cfg.report.n_examples)


def losses(run: artifacts.Run, base: Path = BASE) -> list[str]:
    """What the committed reference keeps and this run has not measured, so that `make` would lose it.

    Args:
        run: the run that is to become the reference.
        base: where references lie.

    Returns:
        One sentence for each command that would measure it again.
    """
    target = folder(run.dataset, run.profile, base)
    lost = {command: [name for name in names if (target / name).exists() and not artifacts.artifact_hash(run, name)]
            for command, names in APART.items()}  # fmt: skip
    return [f"{', '.join(names)} of the old reference are left out, since this run has not measured them. To measure "
            f"them anew: {run.command.replace('reproduce', command)}, then make this reference again"
            for command, names in lost.items() if names]  # fmt: skip


def make(run: artifacts.Run, cfg: StudyConfig, base: Path = BASE) -> Path:
    """Copy a finished run into the reference of its dataset and profile; returns the folder.

    Raises:
        ArtifactError: the run is not finished or damaged.
    """
    metrics, target = artifacts.read_json(run, "metrics.json"), folder(run.dataset, run.profile, base)
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if cfg.report.reference_scope == "counts":
        text = json.dumps(counts_only(metrics), indent=1, sort_keys=True)
        artifacts.write_atomic(fresh / "metrics.json", (text + "\n").encode())
    else:
        _fill(run, cfg, fresh)
        text = json.dumps(provenance(metrics), indent=1, sort_keys=True)
        artifacts.write_atomic(fresh / "provenance.json", (text + "\n").encode())
    artifacts.put_back(target)
    if (target / "seed_deviation.json").exists():
        shutil.copy2(target / "seed_deviation.json", fresh)
    artifacts.replace_folder(fresh, target)
    for name in artifacts.SCALE:  # about made-up graphs: they stand beside the datasets
        if artifacts.artifact_hash(run, name):
            artifacts.write_atomic(base / "scale" / name, artifacts.read_bytes(run, name))
    return target
