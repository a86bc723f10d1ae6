"""`python -m eestudy.report check | reference | tour | summary | readme | deviation`."""

from __future__ import annotations

import argparse
import json
import sys

import pandas as pd

from eestudy import artifacts, config
from eestudy.commands import ends_plainly
from eestudy.report import reference
from eestudy.report.comparison import compare, seed_deviation
from eestudy.report.datasets import read_references
from eestudy.report.full_profile import full_profile_blocks
from eestudy.report.headline import HEADLINE
from eestudy.report.narrative import summary
from eestudy.report.readme import fill, render_readme

README = artifacts.ROOT / "README.md"
FULL_PROFILE = artifacts.ROOT / "results" / "full_profile.md"
README_RUN = ("ml-100k", "laptop")  # the reference that it shows


def check(run: artifacts.Run, show_all: bool = False) -> int:
    """Compare the run with its reference and print the table; 1 where a row fails, else 0."""
    wanted, deviations = reference.read(run.dataset, run.profile)
    found = artifacts.read_json(run, "metrics.json")
    table = compare(wanted, found, deviations)
    shown = table if show_all else table[table["state"].isin(("fail", "inconclusive")) | table["name"].isin(HEADLINE)]
    with pd.option_context("display.width", 200, "display.max_colwidth", 60, "display.max_rows", None):
        print(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4f}"))
    if wanted["source_hash"] != found["source_hash"]:
        print(f"note: the reference was made by source {wanted['source_hash'][:12]}, "
              f"this run by {found['source_hash'][:12]}")  # fmt: skip
    counts = table["state"].value_counts()
    print("; ".join(f"{state}: {counts.get(state, 0)}" for state in ("pass", "inconclusive", "shown", "fail")))
    return int(counts.get("fail", 0) > 0)


def deviation(run: artifacts.Run, seeds: list[int]) -> int:
    """Write `seed_deviation.json` beside the reference, from runs of several seeds."""
    runs = [artifacts.open_run(run.dataset, run.profile, seed) for seed in seeds]
    found = seed_deviation([artifacts.read_json(each, "metrics.json") for each in runs])
    path = reference.folder(run.dataset, run.profile) / "seed_deviation.json"
    artifacts.write_atomic(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    print(f"{len(found)} deviations from {len(runs)} seeds in {path}")
    return 0


def write_readme(run: artifacts.Run) -> None:
    """Render the README, from the reference of the run's dataset and profile, and the page of `full`, from all."""
    shown = reference.read(run.dataset, run.profile)[0]
    references = read_references(run.profile)
    artifacts.write_atomic(README, render_readme(README.read_text(), shown, references).encode())
    page = fill(FULL_PROFILE.read_text(), full_profile_blocks(references or [shown]))
    artifacts.write_atomic(FULL_PROFILE, page.encode())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 1 on a failed check."""
    parser = argparse.ArgumentParser(prog="python -m eestudy.report", description=__doc__)
    parser.add_argument("command", choices=("check", "reference", "tour", "summary", "readme", "deviation"))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="for deviation")
    parser.add_argument("--all", action="store_true", help="check: also print rows that pass")
    given = parser.parse_args(arguments)
    with ends_plainly(artifacts.ArtifactError, ValueError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        run = artifacts.open_run(given.dataset, given.profile, given.seed)
        if given.command == "check":
            return check(run, given.all)
        if given.command == "deviation":
            return deviation(run, given.seeds)
        if given.command == "reference":
            lost = reference.losses(run)
            print(f"reference written to {reference.make(run, cfg)}", *lost, sep="\nnote: ")
            if run.profile == README_RUN[1]:
                write_readme(artifacts.Run(run.root, *README_RUN, run.seed))
        elif given.command == "tour":
            print("kept:", *reference.keep_tour(run))
        elif given.command == "summary":
            print(summary(artifacts.read_json(run, "metrics.json")))
        else:  # the README shows the committed reference, not a run
            write_readme(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
