"""All datasets side by side: what retrieval and early exit bring and cost, what needs no LLM, what the paper says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from eestudy import artifacts
from eestudy.report import reference
from eestudy.report.comparison import CLASSES, DATASETS, published
from eestudy.report.page import number, percent
from eestudy.report.retrieval import retrieval_sentences
from eestudy.verdicts import with_interval

AUC = {"best plain mean": "best_trivial_baseline", "no evidence": "full_depth_no_retrieval",
       "similar users only": "full_depth_similar_users_only",
       "all evidence": "full_depth_retrieval", "early exit": "early_exit",
       "best baseline": "best_baseline"}  # fmt: skip
GAINS = {"evidence less none": "retrieval_gain", "similar users only less none": "similar_users_gain",
         "early exit less full depth": "early_exit_minus_full_depth",
         "LLM less best baseline": "llm_minus_best_baseline"}  # fmt: skip
WITHIN_USERS = {"no evidence": "full_depth_no_retrieval", "all evidence": "full_depth_retrieval",
                "early exit": "early_exit"}  # fmt: skip


def read_references(profile: str = "laptop", root: Path | None = None) -> list[dict]:
    """The committed `metrics.json` of every dataset that has one, in alphabetical order of the datasets."""
    folder = artifacts.reference_dir() if root is None else root
    found = sorted(path.parent.parent.name for path in folder.glob(f"*/{profile}/metrics.json"))
    return [reference.read(name, profile, folder)[0] for name in found]


def beside_references(metrics: dict, root: Path | None = None) -> list[dict]:
    """A run's `metrics.json` among the references of its profile, in the place of its own dataset's."""
    others = [other for other in read_references(metrics["profile"], root)
              if other["dataset"] != metrics["dataset"] and "auc_full_depth_retrieval" in by_name(other)]  # fmt: skip
    return sorted([*others, metrics], key=lambda one: one["dataset"])


def dataset_blocks(references: Sequence[dict]) -> list[tuple]:
    """Blocks for `page`: AUC, paired differences and cost with a row a dataset; where retrieval helps; the paper.

    Args:
        references: contents of `metrics.json`.
    """
    return [
        *(("table", frame) for frame in dataset_tables(references)),
        *(("text", text) for text in (*best_baselines(references), *made_by(references))),
        ("heading", 3, "Where does retrieval help, and where not?"), ("list", where_retrieval_helps(references)),
        ("heading", 3, "The paper's figures for its datasets"), ("table", paper_table(references)),
        ("text", "Classes: " + "; ".join(f"{key}: {text}" for key, text in CLASSES.items()) + "."),
    ]  # fmt: skip


def dataset_tables(references: Sequence[dict]) -> list[pd.DataFrame]:
    """Four frames of text with a row a dataset; intervals are over users, of throughput over requests."""
    makers = {"AUC on the judged test rows": _auc, "paired differences of AUC": _gains, "AUC within users": _within,
              "cost": _cost}  # fmt: skip
    return [pd.DataFrame([{title: metrics["dataset"], **cells(by_name(metrics))} for metrics in references])
            for title, cells in makers.items()]  # fmt: skip


def best_baselines(references: Sequence[dict]) -> list[str]:
    """Which model without an LLM is each dataset's best baseline, in a sentence; [] where none says so.

    Args:
        references: contents of `metrics.json`.
    """
    named = {one["dataset"]: name.replace("_", " ") for one in references
             if (name := one.get("choices", {}).get("best_baseline"))}  # fmt: skip
    told = "; ".join(f"{dataset} {name}" for dataset, name in named.items())
    return [f"Best baseline, as the selection rows choose it: {told}."] if named else []


def made_by(references: Sequence[dict]) -> list[str]:
    """Which references were measured by the same sources, in a sentence; [] where all were.

    Args:
        references: contents of `metrics.json`.
    """
    groups = pd.Series({one["dataset"]: one.get("source_hash", "") for one in references})
    alike = [", ".join(names) for names in groups.groupby(groups, sort=False).groups.values()]
    if len(alike) < 2:
        return []
    return [f"Measured by the same sources: {'; '.join(alike)}. Between these groups cost differs by what changed in "
            "the code, too: compare costs within one."]  # fmt: skip


def by_name(metrics: dict) -> dict:
    """The entries of `metrics.json` that are of test rows or of all, by name."""
    return {item["name"]: item for item in metrics["metrics"] if item["split"] in ("test", "all")}


def _auc(values: dict) -> dict[str, str]:
    return {column: _shown(values, f"auc_{name}") for column, name in AUC.items()}


def _gains(values: dict) -> dict[str, str]:
    return {column: _shown(values, f"auc_{name}", signed=True) for column, name in GAINS.items()}


def _within(values: dict) -> dict[str, str]:
    return {column: _shown(values, f"gauc_{name}") for column, name in WITHIN_USERS.items()} | {
        "evidence less none": _shown(values, "gauc_retrieval_gain", signed=True),
        "users who count": percent(values.get("gauc_users_kept")),
    }  # fmt: skip


def _cost(values: dict) -> dict[str, str]:
    """Of requests as they come, and of the fullest ones, which share a prefix among most candidates."""
    rates, ratio = [values.get(f"throughput_rps_{way}") for way in ("plain", "packed_early_exit")], "throughput_ratio_"
    return {
        "mean exit depth, token-layers":
            ", ".join(percent(values.get(name)) for name in ("mean_exit_fraction", "token_layer_fraction")),
        "candidates a request: all parts, test, timed":
            ", ".join(_shown(values, f"candidates_per_request_{part}", digits=1) for part in ("mean", "test", "timed")),
        "ours against plain": _shown(values, f"{ratio}early_exit_vs_plain_as_they_come", digits=1),
        "against our own full depth":
            _shown(values, f"{ratio}early_exit_vs_packed_full_depth_as_they_come", digits=2),
        "against one layer for all":
            _shown(values, f"{ratio}early_exit_vs_static_selected_as_they_come", digits=2),
        "fullest requests: plain, ours (1/s)":
            ", ".join(number(rate["value"], 1) for rate in rates) if all(rates) else "not measured",
        "fullest: ours against plain": _shown(values, f"{ratio}early_exit_vs_plain", digits=1),
    }  # fmt: skip


def _shown(values: dict, name: str, signed: bool = False, digits: int = 3) -> str:
    return with_interval(values.get(name), digits, signed)


def where_retrieval_helps(references: Sequence[dict]) -> list[str]:
    """What evidence adds on each dataset, and what density and popularity have to do with it."""
    return [f"{metrics['dataset']}: {' '.join(retrieval_sentences(by_name(metrics)))}" for metrics in references]


def paper_table(references: Sequence[dict]) -> pd.DataFrame:
    """The paper's figures for its datasets beside the nearest of ours, with what is known of each figure.

    Args:
        references: contents of `metrics.json`; datasets that the paper does not have are left out.
    """
    columns = ["the paper", "published", "class", "what is known of it", "nearest of ours"]
    rows = []
    for metrics in references:
        table = published(metrics)
        rows += [_paper_row(row) for row in table[table["source"].str.startswith("arXiv")].itertuples()
                 if metrics["dataset"] in DATASETS.get(row.dataset, ())]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _paper_row(row) -> tuple[str, ...]:
    ours = "" if math.isnan(row.our_value) else f"{number(row.our_value, 2)} ({row.ours.replace('_', ' ')})"
    what = f"{row.dataset}: {row.metric.replace('_', ' ')}"
    return what, f"{row.value:g} {row.unit}", row.evidence_class, row.note, ours
