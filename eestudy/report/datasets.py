"""All datasets side by side: what retrieval and early exit bring, what they cost, and what needs no language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eestudy import artifacts
from eestudy.report import reference
from eestudy.report.narrative import number, with_interval

COLUMNS = ("dataset", "AUC, text alone", "AUC, with retrieval", "AUC, early exit", "retrieval gain", "early exit loss",
           "within-user AUC, with retrieval", "mean exit depth", "requests/s, plain and ours",
           "best classic model (AUC)", "LLM less that")  # fmt: skip


def read_references(profile: str = "laptop", root: Path | None = None) -> list[dict]:
    """The committed `metrics.json` of every dataset that has one, in alphabetical order of the datasets."""
    folder = artifacts.reference_dir() if root is None else root
    found = sorted(path.parent.parent.name for path in folder.glob(f"*/{profile}/metrics.json"))
    return [reference.read(name, profile, folder)[0] for name in found]


def datasets_table(references: Sequence[dict]) -> str:
    """One Markdown row a dataset; intervals are over users, differences are paired.

    Args:
        references: contents of `metrics.json`.
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(_row(metrics)) + " |" for metrics in references)]) + "\n"


def _row(metrics: dict) -> list[str]:
    """A dataset's row; what was not measured says so."""
    values = {item["name"]: item for item in metrics["metrics"] if item["split"] in ("test", "all")}
    shown = {name: _shown(values, f"auc_{name}") for name in
             ("full_depth_no_retrieval", "full_depth_retrieval", "early_exit", "best_baseline")}  # fmt: skip
    moved = {name: _shown(values, f"auc_{name}", signed=True) for name in
             ("retrieval_gain", "early_exit_minus_full_depth", "llm_minus_best_baseline")}  # fmt: skip
    rates = [values.get(f"throughput_rps_{way}") for way in ("plain", "packed_early_exit")]
    depth = values.get("mean_exit_fraction")
    return [
        metrics["dataset"], shown["full_depth_no_retrieval"], shown["full_depth_retrieval"], shown["early_exit"],
        moved["retrieval_gain"], moved["early_exit_minus_full_depth"], _shown(values, "gauc_full_depth_retrieval"),
        f"{number(100 * depth['value'], 0)} %" if depth else "not measured",
        " and ".join(number(rate["value"], 1) for rate in rates) if all(rates) else "not measured",
        shown["best_baseline"], moved["llm_minus_best_baseline"],
    ]  # fmt: skip


def _shown(values: dict, name: str, signed: bool = False) -> str:
    item = values.get(name)
    return with_interval(item, signed=signed) if item and item["value"] is not None else "not measured"
