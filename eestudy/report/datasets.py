"""All datasets side by side: what retrieval and early exit bring and cost, what needs no LLM, what the paper says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from eestudy import artifacts
from eestudy.report import reference
from eestudy.report.comparison import CLASSES, published
from eestudy.report.narrative import number, with_interval
from eestudy.report.retrieval import retrieval_sentences

AUC_COLUMNS = ("text alone", "with similar users only", "with all evidence", "early exit", "best classic model")
GAINS = {"evidence less text alone": "retrieval_gain", "similar users only less text alone": "similar_users_gain",
         "early exit less full depth": "early_exit_minus_full_depth",
         "LLM less best classic model": "llm_minus_best_baseline"}  # fmt: skip
COST_COLUMNS = ("within-user AUC: text alone, with evidence", "mean exit depth", "requests/s: plain, ours",
                "as a ratio")  # fmt: skip
PAPER_NAMES = {"bookcrossing": "BookCrossing", "amazon-beauty": "Amazon Beauty",
               "amazon-video-games": "Amazon Video Games"}  # fmt: skip


def read_references(profile: str = "laptop", root: Path | None = None) -> list[dict]:
    """The committed `metrics.json` of every dataset that has one, in alphabetical order of the datasets."""
    folder = artifacts.reference_dir() if root is None else root
    found = sorted(path.parent.parent.name for path in folder.glob(f"*/{profile}/metrics.json"))
    return [reference.read(name, profile, folder)[0] for name in found]


def datasets_table(references: Sequence[dict]) -> str:
    """Three Markdown tables with a row a dataset: AUC, paired differences, cost; intervals are over users.

    Args:
        references: contents of `metrics.json`.
    """
    tables = (
        ("AUC on the judged test rows", AUC_COLUMNS, _auc),
        ("Paired differences of AUC", tuple(GAINS), _gains),
        ("Within users, and cost", COST_COLUMNS, _cost),
    )
    return "\n".join(_table(title, columns, [(metrics["dataset"], cells(_by_name(metrics))) for metrics in references])
                     for title, columns, cells in tables)  # fmt: skip


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = ["| " + " | ".join((title, *columns)) + " |", "|" + "---|" * (len(columns) + 1)]
    return "\n".join([*lines, *("| " + " | ".join((name, *cells)) + " |" for name, cells in rows)]) + "\n"


def _by_name(metrics: dict) -> dict:
    return {item["name"]: item for item in metrics["metrics"] if item["split"] in ("test", "all")}


def _auc(values: dict) -> list[str]:
    return [_shown(values, f"auc_{name}") for name in
            ("full_depth_no_retrieval", "full_depth_similar_users_only", "full_depth_retrieval", "early_exit",
             "best_baseline")]  # fmt: skip


def _gains(values: dict) -> list[str]:
    return [_shown(values, f"auc_{name}", signed=True) for name in GAINS.values()]


def _cost(values: dict) -> list[str]:
    rates = [values.get(f"throughput_rps_{way}") for way in ("plain", "packed_early_exit")]
    depth = values.get("mean_exit_fraction")
    within = [_shown(values, f"gauc_full_depth_{name}") for name in ("no_retrieval", "retrieval")]
    return [
        ", ".join(within), f"{number(100 * depth['value'], 0)} %" if depth else "not measured",
        ", ".join(number(rate["value"], 1) for rate in rates) if all(rates) else "not measured",
        _shown(values, "throughput_ratio_early_exit_vs_plain", digits=1),
    ]  # fmt: skip


def _shown(values: dict, name: str, signed: bool = False, digits: int = 3) -> str:
    item = values.get(name)
    return with_interval(item, digits, signed) if item and item["value"] is not None else "not measured"


def where_retrieval_helps(references: Sequence[dict]) -> str:
    """A Markdown list, one item a dataset: what evidence adds, and what density and popularity have to do with it."""
    return "".join(f"- **{metrics['dataset']}**: {' '.join(retrieval_sentences(_by_name(metrics)))}\n"
                   for metrics in references)  # fmt: skip


def paper_table(references: Sequence[dict]) -> str:
    """The paper's figures for its datasets beside the nearest of ours, with what is known of each figure.

    Args:
        references: contents of `metrics.json`; datasets that the paper does not have are left out.
    """
    rows = []
    for metrics in references:
        table = published(metrics["headline"])
        of_paper = table["source"].str.startswith("arXiv") & (table["dataset"] == PAPER_NAMES.get(metrics["dataset"]))
        rows += [_paper_row(row) for row in table[of_paper].itertuples()]
    classes = "; ".join(f"{key}: {text}" for key, text in CLASSES.items())
    columns = ("published", "class", "what is known of it", "nearest of ours")
    return _table("the paper", columns, rows) + f"\nClasses: {classes}.\n"


def _paper_row(row) -> tuple[str, tuple[str, ...]]:
    ours = "" if math.isnan(row.our_value) else f"{number(row.our_value, 2)} ({row.ours.replace('_', ' ')})"
    what = f"{row.dataset}: {row.metric.replace('_', ' ')}"
    return what, (f"{row.value:g} {row.unit}", row.evidence_class, row.note, ours)
