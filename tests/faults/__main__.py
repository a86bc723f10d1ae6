"""`PYTHONPATH=tests python -m faults [kind ...] [--seed N] [--share 0.1] [--list]`: the long form of every fault."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eestudy import artifacts
from faults import corruption, guided, inputs, kills, numbers, official, resources, titles, together
from faults.outcome import Outcome, keep


def _kills(folder: Path, seed: int, share: float) -> Iterator[Outcome]:
    smoke, other = (kills.smoke_chain(folder / name) for name in ("smoke", "other"))
    yield kills.chain("kill in the chain", (smoke, other), round(200 * share), seed)
    yield corruption.finished_run(artifacts.Run(smoke.folder, "ml-100k", "smoke", 0), round(200 * share), seed)
    yield kills.atomic_write(folder / "write", round(500 * share), seed)
    yield kills.checkpoint(folder / "checkpoint", round(200 * share), seed)
    yield kills.download(folder / "download", round(50 * share), 3, seed)
    yield together.interrupted_notebook(folder / "notebook", round(20 * share), seed)
    yield together.interrupted_chain(smoke, round(20 * share), 8, seed)


def _corruption(folder: Path, seed: int, share: float) -> list[Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        return [corruption.artifact_files(folder / "run", round(500 * share), seed),
                corruption.cached_assets(folder / "cache", round(200 * share), seed, patch)]  # fmt: skip


def _resources(folder: Path, seed: int, share: float) -> list[Outcome]:
    found = [resources.file_limit(folder / "limit", round(200 * share), seed),
             resources.wrong_download(folder / "wrong", round(40 * share), seed),
             resources.no_network(folder / "network", seed),
             resources.little_memory(round(20 * share), seed)]  # fmt: skip
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


KINDS = {"kills": _kills, "corruption": _corruption, "resources": _resources, "together": _together, "inputs": _inputs,
         "titles": _titles, "numbers": _numbers}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the kinds that are named, or all; their rows of the table are kept one by one."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"among {', '.join(KINDS)}; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of faults")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args(arguments)
    if given.list or not set(given.kinds) <= set(KINDS):
        print("\n".join(KINDS))
        return int(not given.list)
    lost = 0
    for kind in given.kinds or KINDS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="eestudy-faults-") as folder:
            for found in KINDS[kind](Path(folder), given.seed, given.share):
                print(f"{found.fault}: {found.tried} tried, {found.noticed} noticed, {found.recovered} recovered, "
                      f"{found.lost} lost (seed {found.seed})", flush=True)  # fmt: skip
                lost += not found.is_clean
                keep(found)
        print(f"== {kind}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    return int(lost > 0)


if __name__ == "__main__":
    raise SystemExit(main())
