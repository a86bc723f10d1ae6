"""Every kind of fault in its long form: how many of which are injected, and where."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from eestudy import artifacts
from faults import corruption, guided, inputs, kills, numbers, official, resources, titles, together
from faults.outcome import Outcome


def _kills(folder: Path, seed: int, share: float) -> list[Outcome]:
    smoke, other = (kills.smoke_chain(folder / name) for name in ("smoke", "other"))
    killed = kills.chain("kill in the chain", (smoke, other), round(200 * share), seed)
    finished = artifacts.Run(smoke.folder, "ml-100k", "smoke", 0)
    return [killed, corruption.finished_run(finished, round(200 * share), seed)]


def _writes(folder: Path, seed: int, share: float) -> list[Outcome]:
    return [kills.atomic_write(folder / "write", round(500 * share), seed),
            kills.checkpoint(folder / "checkpoint", round(200 * share), seed),
            kills.download(folder / "download", round(50 * share), 3, seed)]  # fmt: skip


def _interrupts(folder: Path, seed: int, share: float) -> list[Outcome]:
    return [together.interrupted_notebook(folder / "notebook", round(20 * share), seed),
            together.interrupted_chain(kills.smoke_chain(folder / "smoke"), round(20 * share), 8, seed)]  # fmt: skip


def _corruption(folder: Path, seed: int, share: float) -> list[Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        return [corruption.artifact_files(folder / "run", round(500 * share), seed),
                corruption.cached_assets(folder / "cache", round(200 * share), seed, patch)]  # fmt: skip


def _resources(folder: Path, seed: int, share: float) -> list[Outcome]:
    found = [resources.file_limit(folder / "limit", round(200 * share), seed),
             resources.wrong_download(folder / "wrong", round(40 * share), seed),
             resources.no_network(folder / "network", seed),
             resources.little_memory(round(20 * share), seed),
             resources.little_memory_in_the_chain(folder / "memory", round(3 * share), seed)]  # fmt: skip
    if not resources.can_mount():
        print("No small file system may be mounted here: disk full and read-only folders are not tried.")
        return found
    (folder / "mount").mkdir()
    return [*found, resources.full_disk_in_the_chain(folder / "chain", round(3 * share), seed),
            resources.full_disk(folder / "mount", round(20 * share), seed),
            resources.read_only(folder / "mount", round(10 * share), seed)]  # fmt: skip


def _together(folder: Path, seed: int, share: float) -> list[Outcome]:
    return [together.same_folder(folder / "same", round(19 * share), seed, n_real=1),
            together.other_folders(folder / "other", round(4 * share), seed, n_real=1)]  # fmt: skip


def _inputs(folder: Path, seed: int, share: float) -> list[Outcome]:
    os.environ["RUN_DIR"] = str(folder / "runs")
    (folder / "files").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        published = official.files(folder / "official", round(1200 * share), seed, patch)
    return [published, inputs.files(folder / "files", round(6000 * share), seed),
            inputs.values(folder / "values", round(12_000 * share), seed),
            *guided.fuzz(folder / "fuzz", round(600 * share), seed)]  # fmt: skip


def _titles(folder: Path, seed: int, share: float) -> list[Outcome]:
    return [titles.chain_of_functions(folder / "functions", seed),
            titles.chain_of_notebooks(folder / "notebooks", seed)]  # fmt: skip


def _numbers(folder: Path, seed: int, share: float) -> list[Outcome]:
    return [numbers.long_scoring(round(10_000 * share), seed), numbers.threads(round(200 * share), seed),
            numbers.odd_weights(round(200 * share), seed), numbers.overflowing_layer(round(100 * share), seed),
            numbers.odd_values(folder / "values", round(300 * share), seed)]  # fmt: skip


KINDS = {"kills": _kills, "inputs": _inputs, "resources": _resources, "interrupts": _interrupts, "together": _together,
         "titles": _titles, "writes": _writes, "numbers": _numbers, "corruption": _corruption}  # fmt: skip
ALONE = "kills"  # it uses two cores; of the others, each uses one


def inject(kind: str, seed: int, share: float) -> list[Outcome]:
    """All faults of one kind, in a folder of their own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="eestudy-faults-") as folder:
        outcomes = KINDS[kind](Path(folder), seed, share)
    for found in outcomes:
        print(f"{found.fault}: {found.tried} tried, {found.noticed} noticed, {found.recovered} recovered, "
              f"{found.lost} lost (seed {found.seed})", flush=True)  # fmt: skip
    print(f"== {kind}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    return outcomes
