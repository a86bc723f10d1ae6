"""Probe one run's trained model: `python -m eestudy.probes`, after notebook 05.

What is finished is kept: a killed step goes on where it stopped, and a table of the same code on the same run stays.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from eestudy import artifacts, assets, backbone, config, pipeline, retriever, training
from eestudy.commands import ends_plainly
from eestudy.probes import reading, trained_apart
from eestudy.retrievers.material import Material, load_material

SOURCES = ("probes/*.py", "defences.py", "wordings.py", "retrievers/material.py", "retriever/evidence.py",
           "retriever/matches.py", "retriever/roster.py", "prompts.py")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not there yet."""
    given = pipeline.parameters("Probe what a run's answers owe to each part of the prompt.").parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        probe(load_material(cfg, artifacts.open_run(given.dataset, given.profile, given.seed)))


def probe(material: Material, engine=None) -> None:
    """Change the prompts, read them, say what became of the answers: writes `artifacts.PROBES` and its scores.

    Args:
        material: the run.
        engine: of the trained model; None: the run's.
    """
    cfg, run = material.cfg, material.run
    models = trained_apart.models(material)
    wanted, subject = fingerprint(material, models), retriever.subject(run)
    meta = artifacts.read_meta(run, artifacts.PROBES)
    if artifacts.is_current(run, artifacts.PROBES, wanted) and meta.get("measured_on") == subject:
        return
    start, tokenizer = time.perf_counter(), backbone.load_tokenizer(cfg.backbone)
    read = [reading.read_variants(material, reading.changed_prompts(material, tokenizer), tokenizer, engine),
            *reading.read_trained_apart(material, models, tokenizer)]  # fmt: skip
    read = pd.concat(read, ignore_index=True)
    mark = {"fingerprint": wanted, "measured_on": subject}
    artifacts.write_table(run, "probe_scores.parquet", read, **mark)
    artifacts.write_table(run, artifacts.PROBES, reading.summary(read, cfg), **mark)
    print(f"== probes: {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def fingerprint(material: Material, models: dict) -> str:
    """Hash of what the probes depend on: settings, sources, and what scores depend on, of every model that is asked."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted({path for name in SOURCES for path in package.glob(name)})
    return artifacts.fingerprint({
        "settings": material.cfg.model_dump(mode="json", include={"probes", "prompt", "retriever", "policy", "seed"}),
        "scoring": training.scoring_fingerprint(material.cfg, material.run),
        "apart": {form: [training.scoring_fingerprint(model.cfg, model.run), model.exit_layer]
                  for form, model in models.items()},
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in sources},
    })


if __name__ == "__main__":
    main()
