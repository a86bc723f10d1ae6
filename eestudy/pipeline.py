"""Which notebook has to run again: one fingerprint file per notebook.

A fingerprint states all that a notebook's outcome depends on: its cells, the settings it uses, the sources of
the package's modules it imports (transitively), its input artifacts' hashes, the pinned assets, the versions
of the libraries. The executed copy keeps the fingerprint it was made with; where the two differ, or an output
is missing, the copy is stale. File times only carry that verdict to make, which knows nothing else.

    python -m eestudy.pipeline --dataset ml-100k --profile laptop --seed 0
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import sys
import time
from operator import attrgetter
from pathlib import Path

from eestudy import artifacts, assets, config
from eestudy.chain import PROJECT, Project, Source, Step, scan_notebook, scan_package, used_modules
from eestudy.commands import ends_plainly
from eestudy.holder import HeldError, hold, remove_orphans

# Facts about the machine: shown in the report, but another machine is no reason to run a notebook again.
MACHINE_FACTS = ("environment.json",)
DISTRIBUTIONS = {"sklearn": "scikit-learn", "faiss": "faiss-cpu", "PIL": "pillow"}  # where the names differ


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(library, library))
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _file_hash(path: Path) -> str | None:
    return artifacts.sha256_file(path) if path.exists() else None


def _folder_state(folder: Path) -> str:
    """Names, sizes and times of a folder's files: other weights at the same place are other weights."""
    facts = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in folder.glob("*")}
    return artifacts.fingerprint(facts)


def _value_hash(value) -> str:
    """Hash of a setting, a section of settings or a constant."""
    return artifacts.fingerprint({"value": value.model_dump(mode="json") if hasattr(value, "model_dump") else value})


def _constants(notebook: Source, modules: list[str], package: dict[str, Source]) -> list[str]:
    """The constants of `config` that a notebook or its modules name; what `load` reads counts by its values."""
    text = notebook.text + "".join(package[module].text for module in modules if module in package)
    named = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", text)) - {"DATASETS", "PROFILES"}
    return sorted(name for name in named if hasattr(config, name))


def fingerprint_parts(
    name: str, run: artifacts.Run, project: Project = PROJECT, package: dict[str, Source] | None = None
) -> dict:
    """All that a notebook's outcome depends on, as a flat mapping that can be compared entry by entry.

    Args:
        name: the notebook, a key of `project.steps`.
        run: the run; its parameters choose the settings, its folder holds the input artifacts.
        project: notebooks, package and chain.
        package: `scan_package(project.package)`, where there is more than one notebook to do.
    """
    package = scan_package(project.package) if package is None else package
    step, notebook = project.steps[name], scan_notebook(project.notebooks / f"{name}.ipynb")
    modules = used_modules(notebook, package)
    libraries = notebook.libraries.union(*(package[module].libraries for module in modules if module in package))
    settings = config.load(run.dataset, run.profile, run.seed)
    pinned = assets.read_assets()
    parts = {"notebook": artifacts.sha256_bytes(notebook.text.encode()), "seed": run.seed}
    for constant in _constants(notebook, modules, package):
        parts[f"config.{constant}"] = _value_hash(getattr(config, constant))
    for setting in step.settings:
        parts[f"config.{setting}"] = _value_hash(attrgetter(setting)(settings))
    for module in modules:
        parts[f"module {module}"] = artifacts.sha256_bytes(package.get(module, Source()).text.encode())
    for artifact in sorted({*step.reads, *step.optional} - set(MACHINE_FACTS)):
        parts[f"artifact {artifact}"] = artifacts.artifact_hash(run, artifact)
    for file in step.files:
        path = file.format(dataset=artifacts.study_name(run.dataset), profile=run.profile)
        parts[f"file {path}"] = _file_hash(project.package.parent / path)
    if "backbone" in step.settings and Path(settings.backbone.source).is_dir():  # an asset is pinned
        parts["backbone"] = _folder_state(Path(settings.backbone.source))
    if step.brought:
        parts |= {f"data {path.name}": _file_hash(path) for path in settings.data.brought_files(artifacts.data_dir())}
    parts |= {f"asset {asset}": pinned[asset].sha256 for asset in step.assets}
    parts |= {f"library {library}": _version(library) for library in sorted(libraries)}
    return parts | {"library python": f"{sys.version_info[0]}.{sys.version_info[1]}"}


def copy_name(name: str) -> str:
    """What the executed copy of a notebook is called among the run's artifacts."""
    return f"notebooks/{name}.ipynb"


def copy_path(run: artifacts.Run, name: str) -> Path:
    """Where the executed copy of a notebook lies."""
    return run.path(copy_name(name))


def fingerprint_path(run: artifacts.Run, name: str) -> Path:
    """Where a notebook's fingerprint lies."""
    return run.path("fingerprints") / f"{name}.json"


def missing_outputs(run: artifacts.Run, step: Step) -> list[str]:
    """Outputs of a notebook that are absent, without sidecar, or not of the size the sidecar states."""
    return [
        name for name in step.writes
        if not run.path(name).exists() or artifacts.read_meta(run, name).get("bytes") != run.path(name).stat().st_size
    ]


def _reasons(run: artifacts.Run, name: str, step: Step, parts: dict) -> list[str]:
    """Why the executed copy is stale; [] where it is not."""
    try:
        metadata = json.loads(artifacts.read_bytes(run, copy_name(name)))["metadata"]
        made_with, wrote = metadata["eestudy"], metadata.get("eestudy_outputs", {})
    except (artifacts.ArtifactError, ValueError, KeyError, TypeError):
        return ["not run yet"]
    changed = [key for key in sorted({*made_with, *parts}) if made_with.get(key) != parts.get(key)]
    absent = missing_outputs(run, step)
    foreign = [output for output in set(wrote) - set(absent) if artifacts.artifact_hash(run, output) != wrote[output]]
    return [*changed, *(f"{output} is missing" for output in absent),
            *(f"{output} is not what the notebook wrote" for output in sorted(foreign))]  # fmt: skip


def _tell_make(fingerprint: Path, copy: Path, stale: bool) -> None:
    """Make the fingerprint newer than the copy exactly when the copy is stale, whatever the clocks say."""
    if not copy.exists():
        return
    copied = copy.stat().st_mtime
    if stale:
        now = time.time()
        os.utime(fingerprint, (now, now))
        os.utime(copy, (min(copied, now - 2),) * 2)
    elif fingerprint.stat().st_mtime >= copied:
        os.utime(fingerprint, (copied - 2, copied - 2))


def refresh(run: artifacts.Run, project: Project = PROJECT) -> dict[str, list[str]]:
    """Bring every notebook's fingerprint file up to date; only changed ones are rewritten.

    Returns:
        The stale notebooks, in the chain's order, each with the reasons.
    """
    package, stale = scan_package(project.package), {}
    for name, step in project.steps.items():
        if not (project.notebooks / f"{name}.ipynb").exists():
            raise ValueError(f"{project.notebooks / name}.ipynb is missing; restore it with git")
        parts = fingerprint_parts(name, run, project, package)
        path, text = fingerprint_path(run, name), json.dumps(parts, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_bytes() != text.encode():
            artifacts.write_atomic(path, text.encode())
        reasons = _reasons(run, name, step, parts)
        _tell_make(path, copy_path(run, name), bool(reasons))
        if reasons:
            stale[name] = reasons
    return stale


def discard_damaged(run: artifacts.Run, project: Project = PROJECT) -> list[str]:
    """Let every output that is not what its sidecar says count as missing; returns what was wrong with each."""
    damage = []
    for name in (output for step in project.steps.values() for output in step.writes):
        sidecar = run.path(f"{name}.meta.json")
        try:
            artifacts.read_bytes(run, name)
        except artifacts.ArtifactError as error:
            if run.path(name).exists() and sidecar.exists():
                damage.append(str(error))
                sidecar.unlink()
    return damage


def parameters(description: str) -> argparse.ArgumentParser:
    """A parser of the three parameters that name a run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Refresh the fingerprints of one run and say what is stale, and why."""
    given = parameters("Refresh the fingerprints of a run.").parse_args(arguments)
    with ends_plainly(ValueError, assets.AssetError, artifacts.ArtifactError, HeldError):
        config.load(given.dataset, given.profile, given.seed)
        run = artifacts.open_run(given.dataset, given.profile, given.seed)
        hold(run)
        remove_orphans(run.root, held=True)
        remove_orphans(artifacts.asset_dir())
        for damage in discard_damaged(run):
            print(f"note: {damage} (this make does it: it is made again)")
        stale = refresh(run)
    if not stale:
        print(f"Nothing to do: all {len(PROJECT.steps)} notebooks of {run.name} are up to date in {run.root}")
    else:
        print(f"{run.name}: {len(stale)} of {len(PROJECT.steps)} notebooks to run, and what depends on them:")
    for name, reasons in stale.items():
        more = f" (+{len(reasons) - 3} more)" if len(reasons) > 3 else ""
        print(f"  {name}: {', '.join(reasons[:3])}{more}")


if __name__ == "__main__":
    main()
