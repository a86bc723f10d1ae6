"""`make check`: does a run agree with the committed reference? And the paper's numbers beside ours."""

from __future__ import annotations

import math

import pandas as pd

from eestudy import artifacts
from eestudy.config import TRIVIAL_BASELINES
from eestudy.report.headline import HEADLINE

STATES = ("fail", "inconclusive", "pass", "shown")
DEVIATIONS = 3.0  # quality may differ by so many seed-to-seed standard deviations
FLOOR = 0.0005  # rounding and the order of floating point sums on another processor
# Without a measured deviation: another processor trains other weights and may choose another policy, which moves these
# by more than a narrow paired interval says. Our choice; rows it makes too wide to judge read "inconclusive".
UNMEASURED = (("auc_", 0.01), ("gauc_", 0.02), ("log_loss_", 0.01), ("ece_", 0.01), ("layer_", 5.0))
UNMEASURED_FRACTION = 0.1
PUBLISHED = artifacts.ROOT / "results" / "published.csv"
CLASSES = {"P": "stated in the paper", "T": "stated by a third-party summary only; may be wrong",
           "D": "arithmetic on such numbers", "I": "inferred; our own choice"}  # fmt: skip
# Which of our numbers stands nearest to a published one. Other data, other model: never the same measurement.
OURS = {
    "auc_gcn_retriever": "auc_full_depth_similar_users_only",
    "auc_gain_relative": "auc_similar_users_gain_relative",
    "throughput_ratio": "throughput_ratio_early_exit_vs_packed_full_depth",  # the paper's "without" shares no prompts
    "auc_few_shot": "auc_full_depth_no_retrieval",
    "early_exit_speedup": "throughput_ratio_early_exit_vs_packed_full_depth",
    "prefix_sharing_throughput_ratio": "throughput_ratio_full_depth_vs_plain",
}
DATASETS = {  # of the published rows that are about one
    "BookCrossing": ("bookcrossing",), "BookCrossing (books)": ("bookcrossing",), "Amazon Beauty": ("amazon-beauty",),
    "Amazon Video Games": ("amazon-video-games",), "MovieLens (movies)": ("ml-100k", "ml-1m"),
}  # fmt: skip


def tolerance(item: dict, deviations: dict[str, float]) -> float | None:
    """How far a quality entry may lie from the reference.

    Three times its seed-to-seed standard deviation where that was measured; otherwise half the width of the
    reference's interval, and no less than `UNMEASURED` has for its kind; None for what has neither: it is shown,
    not judged.
    """
    name = item["name"]
    if name in deviations and item["split"] == "test":  # one name may stand for several splits
        return max(DEVIATIONS * deviations[name], FLOOR)
    least = UNMEASURED_FRACTION if item["unit"].startswith("fraction") else None
    least = next((value for start, value in UNMEASURED if name.startswith(start)), least)
    if item["ci95"] is None:
        return least if item["unit"].startswith("fraction") else None
    return max((item["ci95"][1] - item["ci95"][0]) / 2, least or FLOOR)


def trivial_value(name: str, values: dict[str, float | None]) -> float | None:
    """What the trivial baseline would score on entry `name`; None where there is no such thing.

    Differences and gains: 0. AUC and GAUC of a trivial baseline itself: 0.5, of anything else that of the best
    trivial baseline. Log loss: the click rate's. Shares of the computation: 1, all of it.
    """
    if "_minus_" in name or name.endswith("_gain"):
        return 0.0
    for metric in ("auc", "gauc"):
        if name.startswith(f"{metric}_"):
            own = "trivial" in name or any(baseline in name for baseline in TRIVIAL_BASELINES)
            best = values.get(f"{metric}_best_trivial_baseline")
            return 0.5 if own or best is None else best
    if name.startswith("log_loss_"):
        return None if name == "log_loss_of_the_click_rate" else values.get("log_loss_of_the_click_rate")
    return 1.0 if "mean_exit_fraction" in name or "token_layer_fraction" in name else None


def _row(name: str, kind: str, reference, run, state: str, why: str = "", allowed=None) -> dict:
    return {"state": state, "name": name, "kind": kind, "reference": reference, "run": run, "allowed": allowed,
            "why": why}  # fmt: skip


def judge_quality(item: dict, value: float | None, values: dict, deviations: dict[str, float]) -> dict:
    """One quality entry of the reference against the run's value."""
    name, wanted = item["name"], item["value"]
    if wanted is None:
        return _row(name, "quality", None, value, "shown", "not measured in the reference")
    if value is None:
        return _row(name, "quality", wanted, None, "fail", "measured in the reference, not in this run")
    allowed = tolerance(item, deviations)
    if allowed is None:
        return _row(name, "quality", wanted, value, "shown", "no deviation measured")
    if abs(value - wanted) > allowed:
        return _row(name, "quality", wanted, value, "fail", "outside the tolerance", allowed)
    trivial = trivial_value(name, values)
    if trivial is not None and abs(wanted - trivial) <= allowed:
        return _row(name, "quality", wanted, value, "inconclusive", f"tolerance reaches the trivial {trivial:.3f}",
                    allowed)  # fmt: skip
    return _row(name, "quality", wanted, value, "pass", "", allowed)


def judge_count(item: dict, value: float | None, same_seed: bool) -> dict:
    """Counts are equal exactly; between seeds they are only shown."""
    state = "pass" if value == item["value"] else "fail" if same_seed else "shown"
    why = {"pass": "", "fail": "counts must be equal", "shown": "another seed than the reference's"}[state]
    return _row(item["name"], "count", item["value"], value, state, why)


def judge_hashes(reference: dict, run: dict, same_seed: bool) -> list[dict]:
    """Data, split and every asset of the reference must be the run's; sampling only for the same seed."""
    pairs = [("data", reference.get("data"), run.get("data")), ("split", reference.get("split"), run.get("split"))]
    if same_seed:
        pairs.append(("sampling", reference.get("sampling"), run.get("sampling")))
    pairs += [(f"asset {name}", sha, run.get("assets", {}).get(name)) for name, sha in reference["assets"].items()]
    return [
        _row(name, "hash", (wanted or "")[:12], (found or "")[:12], "pass" if wanted == found else "fail",
             "" if wanted == found else "not the same content")
        for name, wanted, found in pairs
    ]  # fmt: skip


def invariants(metrics: dict) -> list[dict]:
    """What holds for any run of any profile; one failing row per breach, or one passing row."""
    rows = []
    if missing := [name for name in HEADLINE if name not in metrics["headline"]]:
        rows.append(_row("headline", "invariant", "all names", ", ".join(missing), "fail", "names are missing"))
    for item in metrics["metrics"]:
        value, name, ci95 = item["value"], item["name"], item["ci95"]
        difference = "_minus_" in name or "_drop_" in name or name.endswith("_gain")
        bounded = name.startswith(("auc_", "gauc_", "ece_")) or item["unit"].startswith("fraction")
        bounded &= item["unit"] != "layer"
        low, high = (-1.0, 1.0) if difference and bounded else (0.0, 1.0) if bounded else (-math.inf, math.inf)
        if value is not None and not low <= value <= high:
            rows.append(_row(name, "invariant", f"[{low}, {high}]", value, "fail", "outside its range"))
        if ci95 is not None and not ci95[0] <= ci95[1]:
            rows.append(_row(name, "invariant", "low <= high", str(ci95), "fail", "interval upside down"))
    return rows or [_row("ranges and names", "invariant", None, None, "pass")]


def compare(reference: dict, run: dict, deviations: dict[str, float]) -> pd.DataFrame:
    """A run's `metrics.json` against a reference's.

    Args:
        reference, run: contents of two `metrics.json`.
        deviations: entry name -> seed-to-seed standard deviation; may be empty.

    Returns:
        state (fail, inconclusive, pass, shown), name, kind, reference, run, allowed, why; failures first.
    """
    same_seed = reference["seed"] == run["seed"]
    found = {(item["name"], item["split"]): item["value"] for item in run["metrics"]}
    values = {item["name"]: item["value"] for item in reference["metrics"] if item["split"] == "test"}
    rows = judge_hashes(reference["hashes"], run["hashes"], same_seed) + invariants(run)
    for item in reference["metrics"]:
        value = found.get((item["name"], item["split"]))
        if item["kind"] == "count":
            rows.append(judge_count(item, value, same_seed))
        elif item["kind"] == "time":
            rows.append(_row(item["name"], "time", item["value"], value, "shown", "times are not judged"))
        else:
            rows.append(judge_quality(item, value, values, deviations))
        if item["split"] != "test":  # one name may stand for several splits
            rows[-1]["name"] += f" ({item['split']})"
    table = pd.DataFrame(rows)
    return table.sort_values("state", key=lambda state: state.map(STATES.index), kind="stable", ignore_index=True)


def seed_deviation(runs: list[dict]) -> dict[str, float]:
    """Seed-to-seed standard deviation (n - 1) of every quality entry on test that all `runs` measured.

    Raises:
        ValueError: fewer than two runs, or two of one seed.
    """
    if len({run["seed"] for run in runs}) < max(len(runs), 2):
        raise ValueError("the seed-to-seed deviation needs two or more runs of different seeds")
    tables = [{i["name"]: i["value"] for i in run["metrics"] if i["kind"] == "quality" and i["split"] == "test"}
              for run in runs]  # fmt: skip
    frame = pd.DataFrame(tables).dropna(axis=1)
    return {name: round(float(deviation), 6) for name, deviation in frame.astype(float).std(ddof=1).items()}


def our_values(headline: dict) -> dict[str, float]:
    """Measured headline values by name, and the gain through similar users (the paper's retrieval) relative to none."""
    values = {name: item["value"] for name, item in headline.items() if item}
    without = values.get("auc_full_depth_no_retrieval")
    if without and "auc_full_depth_similar_users_only" in values:
        values["auc_similar_users_gain_relative"] = values["auc_full_depth_similar_users_only"] / without - 1
    return values


def published(metrics: dict) -> pd.DataFrame:
    """`results/published.csv` with our nearest number, in its unit, in two more columns: ours (name), our_value.

    Args:
        metrics: content of `metrics.json`; {} for the published numbers alone. A number that was published for
            another dataset has none of ours beside it.
    """
    table = pd.read_csv(PUBLISHED, keep_default_na=False)
    other = table["dataset"].map(lambda name: name in DATASETS and metrics.get("dataset") not in DATASETS[name])
    names, values = table["metric"].map(OURS).mask(other).fillna(""), our_values(metrics.get("headline", {}))
    scale = table["unit"].map({"percent": 100.0}).fillna(1.0)
    return table.assign(ours=names, our_value=names.map(values) * scale)
