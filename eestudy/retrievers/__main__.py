"""Measure every way to find evidence on one run: `python -m eestudy.retrievers`, after notebook 05.

The language model encodes histories and titles, and reads what every way found, in parts that are kept: a killed step
goes on where it stopped. A table that was measured by the same code on the same run is kept.
"""

from __future__ import annotations

import time
from pathlib import Path

from eestudy import artifacts, assets, backbone, config, latency, pipeline, prompts, retriever
from eestudy.commands import ends_plainly
from eestudy.retrievers import lookups, reading, table
from eestudy.retrievers.material import Material, load_material
from eestudy.retrievers.vectors import all_vectors, make_retrievers

VECTOR_SOURCES = ("backbone/*.py", "retrievers/vectors.py", "retrievers/material.py", "retriever/graph.py",
                  "retrievers/users.py", "retriever/sentences.py", "prompts.py")  # fmt: skip
SOURCES = (*VECTOR_SOURCES, "retrievers/*.py", "retriever/roster.py", "retriever/evidence.py", "retriever/matches.py",
           "retriever/search.py")  # fmt: skip
SETTINGS = ("data", "retriever", "retrievers", "prompt", "backbone", "seed")


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not there yet."""
    given = pipeline.parameters("Measure a run's retriever against its rivals.").parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        run = artifacts.open_run(given.dataset, given.profile, given.seed)
        measure_all(load_material(cfg, run))


def measure_all(material: Material, read_titles=retriever.sentence_vectors) -> None:
    """Encode, look up, let the LLM read, time: writes `artifacts.RETRIEVERS`, and what it was made from beside it.

    Args:
        material: the run.
        read_titles: titles -> vectors of the sentence model.
    """
    cfg, run = material.cfg, material.run
    wanted = fingerprint(material, SOURCES)
    mark = {"fingerprint": wanted, "measured_on": retriever.subject(run), "processor": latency.processor()}
    meta = artifacts.read_meta(run, artifacts.RETRIEVERS)
    if artifacts.is_current(run, artifacts.RETRIEVERS, wanted) and meta.get("measured_on") == mark["measured_on"]:
        return
    latency.set_threads(cfg.latency.n_threads)
    start, ways = time.perf_counter(), retriever.ways_of(cfg.data.has_stars)
    tokenizer, model = backbone.load_tokenizer(cfg.backbone), backbone.load_model(cfg.backbone, cfg.seed)
    vectors, costs = all_vectors(material, model, tokenizer, fingerprint(material, VECTOR_SOURCES), read_titles)
    evidence = reading.evidence_of(material, make_retrievers(material, vectors), ways)
    shown = {way.name: retriever.combine(way, evidence) for way in ways}
    titles = prompts.cut_titles(material.titles, tokenizer, cfg.prompt.max_title_tokens)
    read = reading.read_all(material, reading.suffix_table(material, shown, ways, titles), ways, tokenizer)
    artifacts.write_table(run, "retriever_reading.parquet", read.drop(columns="suffix"), **mark)
    times = lookups.measure(material, vectors, ways, model, tokenizer, titles)
    artifacts.write_table(run, "retriever_lookups.csv", times, **mark)
    n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    found = table.assemble(material, ways, shown, read, [
        table.tokens_table(read), table.neighbours_table(shown, ways, cfg.data.has_stars),
        table.cost_table(vectors, costs, ways, n_bytes, cfg.data.has_stars),
        table.times_table(times, cfg.policy.n_bootstrap, cfg.seed)])
    artifacts.write_table(run, artifacts.RETRIEVERS, found.assign(processor=mark["processor"]), **mark)
    print(f"== retrievers: {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def fingerprint(material: Material, names: tuple[str, ...]) -> str:
    """Hash of all that vectors, or a measurement, depend on: data, settings, sources, weights, libraries, processor."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted({path for name in names for path in package.glob(name)})
    inputs = ("interactions.parquet", "split.parquet", "items.parquet", "embeddings.safetensors")
    return artifacts.fingerprint({
        "settings": material.cfg.model_dump(mode="json", include=set(SETTINGS)),
        "inputs": [artifacts.artifact_hash(material.run, name) for name in inputs],
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in sources},
        "backbone": backbone.identity(material.cfg.backbone), "environment": latency.environment(),
    })


if __name__ == "__main__":
    main()
