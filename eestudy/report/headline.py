"""From tables to `metrics.json`: the numbers of notebook 08, the merge of all notebooks, the headline."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from eestudy import artifacts, assets, metrics
from eestudy.artifacts import metric as entry
from eestudy.config import MODES, StudyConfig
from eestudy.report.judged import CLICK_RATE, Judged, difference, estimate
from eestudy.report.tables import as_they_come, layer_of_gain, layer_of_gain_difference

SCHEMA_VERSION = 1
HASHES = "input_hashes.json"  # of a run made from a reference
TOLD = "metrics_reference.json"  # of such a run: what its reference says
NOTEBOOKS = tuple(f"{number:02d}" for number in range(9))  # those whose metrics are merged
HEADLINE = (
    "auc_full_depth_retrieval", "gauc_full_depth_retrieval", "auc_full_depth_similar_users_only",
    "auc_full_depth_no_retrieval", "auc_retrieval_gain", "auc_retrieval_minus_own_no_retrieval_model",
    "auc_retrieval_minus_item_mean_prompt", "auc_best_trivial_baseline", "auc_best_baseline",
    "auc_llm_minus_item_plus_user_mean", "auc_llm_minus_evidence_model", "gauc_llm_minus_evidence_model",
    "auc_llm_minus_best_classic_same_labels", "auc_llm_minus_best_classic_all_labels",
    "auc_stacked_minus_best_classic_all_labels",
    "auc_early_exit", "auc_early_exit_minus_full_depth", "auc_static_same_cost",
    "auc_dynamic_minus_static_same_cost", "auc_dynamic_minus_static_same_latency",
    "layer_of_95_percent_of_gain_with_evidence",
    "layer_of_95_percent_of_gain_without_evidence", "log_loss_early_exit", "ece_early_exit", "mean_exit_fraction",
    "token_layer_fraction", "throughput_ratio_early_exit_vs_plain",
    "throughput_ratio_early_exit_vs_packed_full_depth", "throughput_ratio_early_exit_vs_static_selected",
    "throughput_ratio_full_depth_vs_plain",
    "throughput_ratio_best_vs_plain", "throughput_ratio_full_depth_vs_hf_prefix_reuse",
    "throughput_ratio_best_vs_llama_cpp", "throughput_ratio_best_vs_best_truncated_rival",
    "throughput_ratio_best_vs_best_truncated_program",
    "throughput_ratio_early_exit_vs_own_truncation",
    "throughput_ratio_prefix_cache_1_candidate", "throughput_ratio_prefix_cache_16_candidates",
    "matmul_peak_fraction_full_depth", "auc_best_scorer_minus_full_depth",
    "risk_violation_rate_max",
    "retriever_lookup_ms_p50", "retriever_lookup_ratio_llm_vs_gcn", "auc_llm_reading_gcn_minus_llm_retriever",
    "reproduce_minutes",
)  # fmt: skip
UNITS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "nats", "ece": "fraction"}


def _entry(name: str, found: dict, unit: str) -> dict:
    ci95 = found.get("ci95")
    ci95 = ci95 if ci95 is not None and np.isfinite(ci95).all() else None
    return entry(name, found["value"], unit, ci95=ci95, n=found.get("n"))


def full_depth_metrics(judged: Judged, layers: list[int], chosen: dict[str, str]) -> list[dict]:
    """Full depth in each mode, the worth of the evidence, the best simple models."""
    full, found = layers[-1], []
    names = {"full_depth_retrieval": f"both@{full}", "full_depth_similar_users_only": f"similar_users@{full}",
             "full_depth_no_retrieval": f"none@{full}", "stacked": "stacked",
             **{key: chosen[key] for key in ("best_trivial_baseline", "best_baseline", "evidence_model")}}  # fmt: skip
    for metric in ("auc", "gauc", "log_loss"):
        found += [_entry(f"{metric}_{name}", estimate(judged, metric, score), UNITS[metric])
                  for name, score in names.items()]  # fmt: skip
    for metric in ("auc", "gauc"):
        for name, mode in (("retrieval_gain", "both"), ("similar_users_gain", "similar_users")):
            gain = difference(judged, metric, f"{mode}@{full}", f"none@{full}")
            found.append(_entry(f"{metric}_{name}", gain, UNITS[metric]))
    return found


def comparison_metrics(judged: Judged, layers: list[int], chosen: dict[str, str]) -> list[dict]:
    """Paired differences to the simple models, of the LLM at full depth, of early exit, and of both stacked."""
    llm, early = f"both@{layers[-1]}", chosen["policy"]
    pairs = {
        "llm_minus_item_plus_user_mean": (llm, "item_plus_user_mean"),
        "llm_minus_evidence_model": (llm, chosen["evidence_model"]),
        "llm_minus_best_baseline": (llm, chosen["best_baseline"]),
        "llm_minus_best_without_llm": (llm, chosen["best_without_llm"]),
        "stacked_minus_evidence_model": ("stacked", chosen["evidence_model"]),
        "stacked_minus_best_baseline": ("stacked", chosen["best_baseline"]),
    }
    if early in judged.scores:
        pairs["early_exit_minus_evidence_model"] = (early, chosen["evidence_model"])
    return [
        _entry(f"{metric}_{name}", difference(judged, metric, *pair), UNITS[metric])
        for name, pair in pairs.items()
        for metric in ("auc", "gauc", "log_loss")
    ]


def depth_metrics(judged: Judged, layers: list[int], curves: pd.DataFrame) -> list[dict]:
    """The depth curves as entries, the layer of 95 % of the gain with and without evidence, and row counts."""
    found = []
    for _, row in curves.iterrows():
        for metric in ("auc", "gauc", "log_loss", "ece", "log_loss_minus_click_rate"):
            bounds = (row.get(f"{metric}_lo", np.nan), row.get(f"{metric}_hi", np.nan))
            found.append(_entry(f"{metric}_depth_{row['mode']}_{row['layer']}",
                                {"value": row[metric], "ci95": bounds, "n": row["n"]},
                                UNITS.get(metric, "nats")))  # fmt: skip
    names = dict(zip(MODES, ("with_evidence", "with_similar_users_only", "without_evidence"), strict=True))
    found += [_entry(f"layer_of_95_percent_of_gain_{name}", layer_of_gain(judged, mode, layers), "layer")
              for mode, name in names.items()]  # fmt: skip
    moved = layer_of_gain_difference(judged, "both", "none", layers)
    found.append(_entry("layer_of_95_percent_of_gain_with_minus_without_evidence", moved, "layer"))
    found.append(_entry("log_loss_of_the_click_rate", estimate(judged, "log_loss", CLICK_RATE), "nats"))
    found.append(entry("n_judged_test_rows", len(judged.label), "rows", kind="count"))
    found.append(entry("n_judged_test_users", judged.n_users, "users", kind="count"))
    kept = metrics.gauc_coverage(judged.label, judged.user_id)["n_users_kept"]
    found.append(entry("n_users_of_gauc", kept, "users", kind="count"))
    return found


def tradeoff_metrics(judged: Judged, layers: list[int], curves: pd.DataFrame, chosen: dict[str, str]) -> list[dict]:
    """All entries of `metrics_08.json`.

    Args:
        judged: the judged test rows.
        layers: exit layers, ascending.
        curves: from `tables.depth_curves`.
        chosen: best_trivial_baseline, best_baseline, evidence_model, policy.
    """
    return [
        *full_depth_metrics(judged, layers, chosen),
        *comparison_metrics(judged, layers, chosen),
        *depth_metrics(judged, layers, curves),
    ]


def request_sizes(run: artifacts.Run) -> list[dict]:
    """Candidates a request, mean: of all test requests, and of those that were timed as they come; [] without times.

    Few are timed, and the more candidates, the more a shared prefix saves: a draw of large ones flatters.
    """
    if not artifacts.artifact_hash(run, "latency.csv"):
        return []
    head, latency = (artifacts.read_table(run, name) for name in ("head_scores.parquet", "latency.csv"))
    test = head[(head["split"] == "test") & (head["mode"] == "both")]["request_id"].value_counts()
    timed = as_they_come(latency).groupby("request_id")["n_candidates"].first()
    return [entry(f"candidates_per_request_{name}", sizes.mean(), "candidates", "time", n=len(sizes))
            for name, sizes in (("test", test), ("timed", timed))]  # fmt: skip


def training_looks(run: artifacts.Run) -> list[dict]:
    """The deepest head's AUC on selection rows at the last look of the training, and the best of the looks before.

    [] where the run has no `training.csv`, or one look only.
    """
    if not artifacts.artifact_hash(run, "training.csv"):
        return []
    looks = artifacts.read_table(run, "training.csv").query("kind == 'look'")
    auc = looks.filter(regex=r"^auc_\d+$").iloc[:, -1]
    if len(auc) < 2:
        return []
    return [entry(f"auc_select_{name}", value, "AUC", split="validation")
            for name, value in (("last_look", auc.iloc[-1]), ("best_look_before", auc.iloc[:-1].max()))]  # fmt: skip


def merge_metrics(parts: dict[str, list[dict]]) -> list[dict]:
    """One flat list from all notebooks' entries, in the order of the notebooks.

    A name (and split) that an earlier notebook has given another value is kept too, with the notebook's number
    added: `auc_x_05`. The same value twice is one entry.
    """
    merged: dict[tuple, dict] = {}
    for notebook, entries in parts.items():
        for item in entries:
            known = merged.get((item["name"], item["split"]))
            if known is not None and known["value"] != item["value"]:
                item = {**item, "name": f"{item['name']}_{notebook}"}
            merged.setdefault((item["name"], item["split"]), item)
    return list(merged.values())


def is_replayed(run: artifacts.Run) -> bool:
    """Whether a run was made from a reference: it holds what that says, and no prompts, which no reference keeps."""
    told = all(artifacts.artifact_hash(run, name) for name in (TOLD, HASHES))
    return told and not artifacts.artifact_hash(run, "prompts.parquet")


def read_parts(run: artifacts.Run, notebooks: Iterable[str] = NOTEBOOKS) -> dict[str, list[dict]]:
    """The `metrics_NN.json` that the run holds; a notebook without one is left out.

    In a run made from a reference the part "reference" has what no notebook has said anew.
    """
    names = {number: f"metrics_{number}.json" for number in notebooks}
    parts = {number: artifacts.read_json(run, name) for number, name in names.items()
             if artifacts.artifact_hash(run, name)}  # fmt: skip
    if is_replayed(run):
        anew = {(item["name"], item["split"]) for part in parts.values() for item in part}
        parts["reference"] = [item for item in artifacts.read_json(run, TOLD)
                              if (item["name"], item["split"]) not in anew]  # fmt: skip
    return parts


def headline(merged: list[dict]) -> dict[str, dict | None]:
    """Exactly the names of `HEADLINE`, each {"value", "ci95", "n", "unit"}, null where not measured."""
    found: dict[str, dict] = {}
    for item in sorted(merged, key=lambda item: item["split"] != "test"):  # test before any other split
        found.setdefault(item["name"], item)
    result = {}
    for name in HEADLINE:
        item = found.get(name)
        measured = item is not None and item["value"] is not None
        result[name] = {key: item[key] for key in ("value", "ci95", "n", "unit")} if measured else None
    return result


def reproduce_minutes(run: artifacts.Run) -> dict:
    """Minutes of all notebooks of the run, from `durations.json` (notebook -> seconds); null without that file.

    A notebook 05 that was quicker than the training it reports has found it done: it is charged for it all the same.
    Notebook 09 runs while this is read, so its own seconds are those of its last finished run, or missing.
    """
    if artifacts.artifact_hash(run, "durations.json") is None:
        return entry("reproduce_minutes", None, "min", kind="time", split="all")
    seconds = artifacts.read_json(run, "durations.json")
    total, trained = sum(seconds.values()), artifacts.read_table(run, "training.csv")["seconds"].sum()
    total += trained if seconds.get("05_exit_heads", trained) < trained else 0
    return entry("reproduce_minutes", total / 60, "min", kind="time", split="all", n=len(seconds))


def source_hash(root: Path = artifacts.ROOT) -> str:
    """Hex sha256 of the package's modules and of the notebooks' cell sources (outputs do not count)."""
    parts = {str(path.relative_to(root)): artifacts.sha256_file(path) for path in root.glob("eestudy/**/*.py")}
    for path in root.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        parts[path.name] = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return artifacts.fingerprint(parts)


def _content_hash(frame: pd.DataFrame, columns) -> str:
    """Hash of values, not of file bytes: parquet bytes differ between library versions."""
    return artifacts.sha256_bytes(frame.sort_values("row")[list(columns)].to_csv(index=False).encode())


def input_hashes(run: artifacts.Run) -> dict:
    """What two comparable runs share: hashes of data, splits and sampling by content, and the pinned assets.

    Returns:
        data, split (same for every seed), sampling (depends on the seed), assets (name -> sha256). A run made from a
        reference has no data: its hashes are the reference's.
    """
    if is_replayed(run):
        return artifacts.read_json(run, HASHES)
    split = artifacts.read_table(run, "split.parquet")
    data = artifacts.read_table(run, "interactions.parquet")
    return {
        "data": _content_hash(data, ("row", "user_id", "item_id", "rating", "timestamp")),
        "split": _content_hash(split, ("row", "split")),
        "sampling": _content_hash(split, ("row", "half", "request_id", "judged")),
        "assets": {name: asset.sha256 for name, asset in assets.read_assets().items()},
    }


def build_metrics(run: artifacts.Run, cfg: StudyConfig) -> dict:
    """The content of `metrics.json`: every notebook's entries, the headline, and what identifies the run."""
    parts = read_parts(run)
    merged = merge_metrics(parts | {"training": training_looks(run)})
    if "reference" not in parts:  # where it is, its minutes are among its entries
        merged.append(reproduce_minutes(run))
    choices = artifacts.read_json(run, "choices.json") if artifacts.artifact_hash(run, "choices.json") else {}
    return {
        "schema_version": SCHEMA_VERSION, "dataset": artifacts.study_name(run.dataset),
        "profile": run.profile, "seed": run.seed,
        "backbone": cfg.backbone.source, "source_hash": source_hash(), "hashes": input_hashes(run),
        "choices": choices, "not_measured": [number for number in NOTEBOOKS if number not in parts],
        "metrics": merged, "headline": headline(merged),
    }  # fmt: skip
