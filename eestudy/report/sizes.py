"""One dataset at two sizes of run, side by side: does more data change what was found?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from eestudy.report import reference
from eestudy.report.datasets import by_name
from eestudy.verdicts import with_interval, word

SIZES = ("laptop", "overnight")
COUNTS = {"label rows the LLM learned from": ("training_labels", "label"), "test rows": ("n_judged_rows", "test"),
          "test users": ("n_judged_users", "test"),
          "users kept for the exits' guarantee": ("n_risk_users", "validation")}  # fmt: skip
LEVELS = {"at full depth, all evidence": "full_depth_retrieval",
          "at full depth, similar users only": "full_depth_similar_users_only",
          "at full depth, no evidence": "full_depth_no_retrieval", "early exit": "early_exit"}  # fmt: skip
DIFFERENCES = {
    "early exit less full depth, all evidence": "early_exit_minus_full_depth",
    "early exit less full depth, similar users only": "early_exit_minus_full_depth_similar_users_only",
    "early exit less full depth, no evidence": "early_exit_minus_full_depth_no_retrieval",
    "early exit less a fixed layer at the same cost": "dynamic_minus_static_same_cost",
    "LLM less item mean plus user mean": "llm_minus_item_plus_user_mean",
    "LLM less the simple model on the prompt's numbers": "llm_minus_evidence_model",
    "LLM less the best click model, same labels": "llm_minus_best_classic_same_labels",
    "LLM less the best click model, all labels": "llm_minus_best_classic_all_labels",
    "LLM stacked on the best click model (all labels), less that model": "stacked_minus_best_classic_all_labels",
}  # all of AUC
JUDGED = {f"AUC: {name}": f"auc_{entry}" for name, entry in DIFFERENCES.items()} | {
    "AUC within users: early exit less full depth, all evidence": "gauc_early_exit_minus_full_depth"}  # fmt: skip
RIVALS = {"the simple model on the prompt's numbers": "evidence_model",
          "the best click model, same labels": "best_classic_same_labels",
          "the best click model, all labels": "best_classic_all_labels"}  # of `choices`: validation picks them
PROMISES = {f"token-layers saved by a promise of at most {bound} % disagreement":
            f"risk_token_layers_saved_at_{bound}_percent" for bound in (1, 2, 5)}  # fmt: skip
SPEEDS = {"candidates a request, timed": "candidates_per_request_timed",
          "requests per second, as they come: early exit against the plain way":
              "throughput_ratio_early_exit_vs_plain_as_they_come",
          "the same, against full depth with the same shared prefix":
              "throughput_ratio_early_exit_vs_packed_full_depth_as_they_come"}  # fmt: skip


def _column(metrics: dict) -> list[str]:
    counted = {(item["name"], item["split"]): item["value"] for item in metrics["metrics"]}
    values = by_name(metrics)
    counts = [f"{counted[key]:,.0f}" if counted.get(key) is not None else "not measured" for key in COUNTS.values()]
    levels = [with_interval(values.get(f"auc_{name}")) for name in LEVELS.values()]
    judged = [_judged(values.get(name)) for name in JUDGED.values()]
    saved = [f"{counted[name, 'validation']:.0%}" if (name, "validation") in counted else "not measured"
             for name in PROMISES.values()]  # fmt: skip
    speeds = [with_interval(values.get(name), 1) for name in SPEEDS.values()]
    rivals = [metrics.get("choices", {}).get(name, "not measured").replace("_", " ") for name in RIVALS.values()]
    return counts + levels + judged + saved + speeds + rivals


def _judged(item: dict | None) -> str:
    if item is None or item["value"] is None:
        return "not measured"
    return f"{with_interval(item, signed=True)}: {_verdict(item)}"


def _verdict(item: dict) -> str:
    return word(item, "higher", "lower", "no difference shown")


def size_table(runs: Sequence[dict]) -> pd.DataFrame:
    """One row a figure, one column a run, named by its profile; a difference with what its interval shows.

    Args:
        runs: contents of `metrics.json` of one dataset, at several profiles.
    """
    names = [*COUNTS, *(f"AUC {name}" for name in LEVELS), *JUDGED, *PROMISES, *SPEEDS, *RIVALS]
    return pd.DataFrame({"what": names} | {one["profile"]: _column(one) for one in runs})


def changed_answers(runs: Sequence[dict]) -> str:
    """What the last run's differences of AUC show that the first one's do not, or the reverse, in a sentence; '' for
    fewer than two runs.

    Args:
        runs: contents of `metrics.json` of one dataset, the smaller run first.
    """
    if len(runs) < 2:
        return ""
    first, last = (size_table([run]).set_index("what").iloc[:, 0] for run in (runs[0], runs[-1]))
    pairs = {what: [by_name(run).get(entry) for run in (runs[0], runs[-1])] for what, entry in JUDGED.items()}
    told = [f"{what.removeprefix('AUC: ')} {last[what]} (before: {first[what]})" for what, pair in pairs.items()
            if all(item and item["value"] is not None for item in pair) and len({_verdict(item) for item in pair}) > 1]
    labels, rows = list(COUNTS)[:2]
    sizes = " and ".join(f"{verb} {last[what]} {noun} in place of {first[what]}" for verb, what, noun in (
        ("taught with", labels, "labels"), ("judged on", rows, "test rows")))  # fmt: skip
    return (f"The LLM {sizes}, one training each (both change at once, and validation may pick other rivals), AUC: "
            f"{'; '.join(told) or 'no answer changes'}.")  # fmt: skip


def read_sizes(dataset: str, base: Path = reference.BASE) -> list[dict]:
    """The committed `metrics.json` of a dataset at each of `SIZES` that has one.

    Args:
        dataset: a dataset with references.
        base: where references lie.
    """
    there = [size for size in SIZES if (reference.folder(dataset, size, base) / "metrics.json").exists()]
    return [reference.read(dataset, size, base)[0] for size in there]
