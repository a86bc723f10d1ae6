"""Measure one run's scorer against what people would use: `python -m eestudy.bench`, after notebook 06.

Every part is one table of the run's folder; a part that is there and was measured by the same code, on the same
weights and processor, is kept, so that a killed benchmark goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from eestudy import artifacts, assets, config, contest, latency, pipeline, scorer
from eestudy.bench import contenders, growth, race, stages, startup, traffic
from eestudy.bench.setup import Setup, load_setup, sized_requests
from eestudy.commands import ends_plainly
from eestudy.rivals import llama_cpp

SOURCES = ("bench/*.py", "backbone/*.py", "scorer/*.py", "rivals/**/*.py", "load/*.py", "contest/traffic.py",
           "contest/names.py", "training/model.py", "training/requests.py", "exit_heads.py", "exit_policies/*.py",
           "prompts.py", "retriever/*.py", "latency.py")  # fmt: skip
INPUTS = ("adapter.safetensors", "exit_heads.safetensors", "calibration.json", "head_scores.parquet", "policies.csv",
          "selected_policy.json")  # fmt: skip
SETTINGS = ("bench", "latency", "policy", "seed")


def main(arguments: list[str] | None = None) -> None:
    """Measure every part that is not there yet, or one contender's start-up in this process."""
    began = time.time()
    parser = pipeline.parameters("Measure a run's scorer against its rivals.")
    parser.add_argument("--startup-of", help="open one contender in this process and print what it takes")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--started", type=float, default=began, help="when the process was started (s since 1970)")
    given = parser.parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        run = artifacts.open_run(given.dataset, given.profile, given.seed)
        setup = load_setup(cfg, run)
        if given.startup_of:
            loaded = time.time() - given.started
            print(json.dumps({"load_s": loaded, **measure_startup(setup, given.startup_of, given.candidates)}))
        else:
            measure_all(setup)


def measure_all(setup: Setup) -> None:
    """Every part in turn, each kept as soon as it is measured."""
    run, bench, wanted = setup.run, setup.cfg.bench, fingerprint(setup)
    folder = export_folder(setup)
    engine = scorer.build_engine(setup.model, setup.heads, setup.calibration)
    tests, seed = setup.requests["test"], setup.cfg.seed
    drawn = np.random.default_rng(seed).permutation(len(tests))

    def some(n: int) -> list:
        return [tests[i] for i in drawn[:n]]

    def part(name: str, make):
        file = f"bench_{name}.csv"
        if not artifacts.is_current(run, file, wanted):
            start = time.perf_counter()
            artifacts.write_table(run, file, make(), fingerprint=wanted, measured_on=contest.subject(run),
                                  processor=latency.processor())  # fmt: skip
            print(f"== bench {name}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
        return artifacts.read_table(run, file)

    choices = race.read_choices(part("choices", lambda: race.choices_table(race.choose(
        setup, sized_requests(tests, 16, min(100, len(tests)))[-bench.n_tuning_requests:],
        setup.cfg.latency.plain_batch_sizes,
        bench.llama_settings if llama_cpp.available() else (), folder))))  # fmt: skip
    names = contenders.names(choices)

    def race_of(c: int, n: int):
        requests = sized_requests(tests, c, n)
        return part(f"race_{c}", lambda: race.race_all(setup, choices, names, requests, bench.repeats, folder))

    sizes = zip(bench.candidates, bench.n_requests, strict=True)
    part("race", lambda: pd.concat([race_of(c, n).assign(size=c) for c, n in sizes], ignore_index=True))
    part("ours", lambda: race.ours_everywhere(setup, choices))
    part("quality", lambda: race.quality_all(setup, choices, names, some(bench.n_quality_requests), folder))
    traffic.measure(setup, engine, some(bench.n_service_requests), artifacts.read_table(run, "policies.csv"),
                    artifacts.read_json(run, "selected_policy.json")["policy"], part)  # fmt: skip
    largest = max(c for c in bench.candidates if c <= 16)
    part("startup", lambda: startup.startup_table(run, names[:bench.n_startups], largest))
    part("stages", lambda: stages.stage_times(setup, engine, setup.rule, bench.n_stage_requests, seed))
    part("growth", lambda: growth.growth_curves(engine, tests, setup.tokenizer, setup.cfg, bench.n_growth_repeats))


def fingerprint(setup: Setup) -> str:
    """Hash of all that a measurement depends on: weights, policy, sizes, sources, libraries, processor."""
    package = Path(__file__).resolve().parents[1]
    sources = [path for name in SOURCES for path in sorted(package.glob(name))]
    return artifacts.fingerprint({
        "settings": setup.cfg.model_dump(mode="json", include=set(SETTINGS)),
        "inputs": [artifacts.artifact_hash(setup.run, name) for name in INPUTS],
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in sources},
        "environment": latency.environment(), "llama": llama_cpp.available(),
    })


def export_folder(setup: Setup) -> Path:
    """Where this code's exports of these weights are kept; those of other code or weights are removed."""
    folder = setup.run.path("bench") / fingerprint(setup)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for other in set(folder.parent.iterdir()) - {folder}:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    return folder


def measure_startup(setup: Setup, name: str, n_candidates: int) -> dict:
    """`startup.measure` of one contender in this process."""
    choices = race.read_choices(artifacts.read_table(setup.run, "bench_choices.csv"))
    opening = contenders.open_contenders(setup, choices, [name], export_folder(setup))
    with ExitStack() as stack:
        return startup.measure(
            lambda: stack.enter_context(opening)[name], contenders.borrowed_mb(name, setup),
            sized_requests(setup.requests["test"], n_candidates, 4),
        )  # fmt: skip


if __name__ == "__main__":
    main()
