"""From the benchmark's tables to what is told: rates, ratios with intervals, the fastest of ours, headline entries."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, metrics
from eestudy.artifacts import metric
from eestudy.config import StudyConfig
from eestudy.contest.names import (
    ALL_AT_ONCE,
    EARLY_EXIT,
    FULL_DEPTH,
    LLAMA,
    OURS_TRUNCATED,
    PEAK,
    PLAIN,
    PREFIX_REUSE,
    TRUNCATED,
    WARM,
)

LEAVING = "throughput_ratio_early_exit_vs_packed_full_depth"  # notebook 07's by that name is of other requests


@dataclass(frozen=True)
class Bench:
    """The benchmark's tables, and whose they are."""

    tables: dict[str, pd.DataFrame]  # part -> table
    own: bool  # measured by this run with its present weights, not by the committed reference
    processor: str
    head_scores: pd.DataFrame  # of the run that was measured: row, user_id, label, half, p_yes_<layer>


def read(run: artifacts.Run) -> Bench | None:
    """This run's benchmark, if it is whole and of the run's present weights and policy; else the committed reference's,
    else None."""
    metas = [artifacts.read_meta(run, name) for name in artifacts.BENCH]
    whole = all(artifacts.artifact_hash(run, name) for name in artifacts.BENCH)
    if whole and len({meta.get("fingerprint") for meta in metas}) == 1 and metas[0].get("measured_on") == subject(run):
        tables = {_part(name): artifacts.read_table(run, name) for name in artifacts.BENCH}
        return Bench(tables, True, metas[0]["processor"], _both(artifacts.read_table(run, "head_scores.parquet")))
    folder = artifacts.committed_dir(run)
    if not all((folder / name).exists() for name in artifacts.BENCH):
        return None
    tables = {_part(name): artifacts.read_csv(folder / name) for name in artifacts.BENCH}
    processor = json.loads((folder / "provenance.json").read_text())["cpu"]
    return Bench(tables, False, processor, _both(pd.read_parquet(folder / "head_scores.parquet")))


def subject(run: artifacts.Run) -> str:
    """What a benchmark is of: hash of the run's scores and policy, which change with weights, prompts and rules."""
    names = ("adapter.safetensors", "exit_heads.safetensors", "head_scores.parquet", "selected_policy.json")
    return artifacts.fingerprint({name: artifacts.artifact_hash(run, name) for name in names})


def _both(head_scores: pd.DataFrame) -> pd.DataFrame:
    return head_scores[head_scores["mode"] == "both"]


def _part(name: str) -> str:
    return name.removeprefix("bench_").removesuffix(".csv")


def contender_table(race: pd.DataFrame) -> pd.DataFrame:
    """One line a contender: latencies of single requests, rates at saturation, GFLOP/s.

    Args:
        race: from `race.race_all`.

    Returns:
        Columns contender, latency_ms_p50, _p95, _p99, alone_rps (one request after the other), throughput_rps,
        candidates_per_s with _lo and _hi (the slowest and the fastest repeat; these of the faster of one by one and all
        at once), gflop_per_s (weight products of single requests per second; NaN where they were not counted).
    """
    lines = []
    for name, part in race.groupby("contender", sort=False):
        alone, together = (part[part["request"] != ALL_AT_ONCE], part[part["request"] == ALL_AT_ONCE])
        ms = alone["seconds"].to_numpy() * 1000
        n_requests, per_pass = alone["request"].nunique(), fastest_pass(part)
        lines.append({
            "contender": name, **{f"latency_ms_p{q}": np.percentile(ms, q) for q in (50, 95, 99)},
            "alone_rps": n_requests / np.median(one_by_one(part)),
            "throughput_rps": n_requests / np.median(per_pass),
            **{f"candidates_per_s{end}": together["n_candidates"].iloc[0] / which(per_pass)
               for end, which in (("", np.median), ("_lo", np.max), ("_hi", np.min))},
            "gflop_per_s": (alone["gflop"].groupby(alone["request"]).first().sum(skipna=False)
                            / alone.groupby("request")["seconds"].median().sum()),
        })  # fmt: skip
    return pd.DataFrame(lines)


def one_by_one(part: pd.DataFrame) -> np.ndarray:
    """Seconds of all requests, one after the other, in each repeat [R]."""
    return part[part["request"] != ALL_AT_ONCE].groupby("repeat")["seconds"].sum().to_numpy()


def fastest_pass(part: pd.DataFrame) -> np.ndarray:
    """Seconds of all requests in each repeat [R]: one by one or all at once, whichever has the smaller median."""
    together = part[part["request"] == ALL_AT_ONCE].sort_values("repeat")["seconds"].to_numpy()
    alone = one_by_one(part)
    return together if np.median(together) < np.median(alone) else alone


def ratio(race: pd.DataFrame, contender: str, against: str) -> dict:
    """How many times more requests per second `contender` serves than `against`.

    Single requests, one after the other, so that nobody wins by answering several at once.

    Returns:
        value (median over repeats, of logarithms), ci95 (the least and the greatest: with so few an interval of theirs
        would pretend), n (repeats).
    """
    fast, slow = (one_by_one(race[race["contender"] == name]) for name in (contender, against))
    each = slow / fast
    value = float(np.exp(np.median(np.log(each))))
    return {"value": value, "ci95": (float(each.min()), float(each.max())), "n": len(each)}


def waterfall(race: pd.DataFrame, best: str) -> pd.DataFrame:
    """What the fastest of ours owes to what, one step at a time, from the plain way on.

    Args:
        race: at one number of candidates.
        best: from `best_of_ours`.

    Returns:
        Columns step, contender, alone_rps, times (the one before).
    """
    steps = {"one prompt a pair": PLAIN, "the prefix computed once": PREFIX_REUSE, "our engine": FULL_DEPTH,
             "cut to the static depth of equal AUC": OURS_TRUNCATED, "the best of ours": best}  # fmt: skip
    rate = contender_table(race).set_index("contender")["alone_rps"].loc[list(steps.values())].to_numpy()
    return pd.DataFrame({"step": list(steps), "contender": list(steps.values()), "alone_rps": rate,
                         "times": np.concatenate([[np.nan], rate[1:] / rate[:-1]])})  # fmt: skip


def auc_against_full_depth(ours: pd.DataFrame, head_scores: pd.DataFrame, cfg: StudyConfig, part: str) -> pd.DataFrame:
    """AUC of each of our contenders that scored a part minus that of exact full depth, on all its rows.

    Args:
        ours: from `race.ours_everywhere`.
        head_scores: rows with all evidence shown: row, user_id, label.
        cfg: bootstrap and seed.
        part: 'select' or 'test'.

    Returns:
        Columns contender, auc, log_loss, auc_minus_full_depth, lo, hi (95 % over users), n.
    """
    rows = head_scores.set_index("row")[["user_id", "label"]]
    wide = ours[ours["part"] == part].pivot(index="row", columns="contender", values="p_yes")
    label, user = rows.loc[wide.index, "label"].to_numpy(), rows.loc[wide.index, "user_id"].to_numpy()
    lines = []
    for name in wide.columns:
        p = wide[name].to_numpy()
        lost = metrics.difference(label, p, wide[FULL_DEPTH].to_numpy(), user, cfg.policy.n_bootstrap, cfg.seed)
        lo, hi = lost["ci95"]
        lines.append({"contender": name, "auc": metrics.auc(label, p), "log_loss": metrics.log_loss(label, p),
                      "auc_minus_full_depth": lost["value"], "lo": lo, "hi": hi, "n": len(label)})  # fmt: skip
    return pd.DataFrame(lines)


def gauc_against_full_depth(ours: pd.DataFrame, head_scores: pd.DataFrame, cfg: StudyConfig, name: str) -> dict:
    """GAUC of one of ours minus that of exact full depth on the test rows: value, ci95 (over users), n."""
    rows = head_scores.set_index("row")[["user_id", "label"]]
    wide = ours[ours["part"] == "test"].pivot(index="row", columns="contender", values="p_yes")
    label, user = rows.loc[wide.index, "label"].to_numpy(), rows.loc[wide.index, "user_id"].to_numpy()
    return metrics.difference(label, wide[name].to_numpy(), wide[FULL_DEPTH].to_numpy(), user,
                              cfg.policy.n_bootstrap, cfg.seed, "gauc")  # fmt: skip


def deciding_size(race: pd.DataFrame) -> int:
    """The number of candidates on which the headline stands: 16, or the largest below."""
    return int(max(size for size in race["size"].unique() if size <= 16))


def best_of_ours(race: pd.DataFrame, on_validation: pd.DataFrame, max_auc_loss: float) -> str:
    """The contender of ours that serves most single requests per second and whose AUC holds, on the selection half.

    Args:
        race: of the size that decides.
        on_validation: `auc_against_full_depth` on 'select'.
        max_auc_loss: how much AUC may be lost against exact full depth.
    """
    rate = contender_table(race).set_index("contender")["alone_rps"]
    holds = on_validation.loc[on_validation["auc_minus_full_depth"] >= -max_auc_loss, "contender"]
    return rate.loc[list(holds)].idxmax()


def fastest_llama(race: pd.DataFrame) -> str:
    """The fastest form of llama.cpp that runs the whole model."""
    table = contender_table(race)
    wanted = table["contender"].str.startswith(LLAMA) & ~table["contender"].str.contains(TRUNCATED)
    return table.loc[table[wanted]["alone_rps"].idxmax(), "contender"]


def strongest_truncated(race: pd.DataFrame, ours_too: bool) -> str:
    """The fastest contender that runs the model cut to the static depth; our exact engine among them, or not."""
    rate = contender_table(race).set_index("contender")["alone_rps"]
    wanted = [name for name in rate.index if TRUNCATED in name and not name.startswith(OURS_TRUNCATED)]
    return rate.loc[[*wanted, *([OURS_TRUNCATED] if ours_too else [])]].idxmax()


def headline_ratios(race: pd.DataFrame, best: str) -> dict[str, dict]:
    """The headline's ratios at one number of candidates; those against llama.cpp only where it raced.

    Args:
        race: from `race.race_all`.
        best: from `best_of_ours`.
    """
    pairs = {
        "best_vs_plain": (best, PLAIN),
        "full_depth_vs_hf_prefix_reuse": (FULL_DEPTH, PREFIX_REUSE),
        "early_exit_vs_packed_full_depth": (EARLY_EXIT, FULL_DEPTH),
        "best_vs_best_truncated_rival": (best, strongest_truncated(race, True)),
        "best_vs_best_truncated_program": (best, strongest_truncated(race, False)),  # of other people's
        "early_exit_vs_own_truncation": (EARLY_EXIT, OURS_TRUNCATED),
    }  # fmt: skip
    if race["contender"].str.startswith(LLAMA).any():
        pairs["best_vs_llama_cpp"] = (best, fastest_llama(race))
    return {f"throughput_ratio_{name}": ratio(race, *pair) for name, pair in pairs.items()}


def peak_fraction(race: pd.DataFrame) -> dict:
    """GFLOP/s of exact full depth over those of the bare products with the same weights, repeat by repeat."""
    alone = race[race["request"] != ALL_AT_ONCE]
    ours = alone[alone["contender"] == FULL_DEPTH].groupby("repeat")[["gflop", "seconds"]].sum()
    bare = alone[alone["contender"] == PEAK].groupby("repeat")["seconds"].sum()
    work = alone[alone["contender"] == PEAK].groupby("repeat")["gflop"].sum()
    each = (ours["gflop"] / ours["seconds"]) / (work / bare)
    return {"value": float(each.median()), "ci95": (float(each.min()), float(each.max())), "n": len(each)}


def entries(race: pd.DataFrame, ours: pd.DataFrame, head_scores: pd.DataFrame, cfg: StudyConfig) -> list[dict]:
    """The benchmark's entries of `metrics.json`.

    Args:
        race: the table `bench_race.csv`, all sizes.
        ours: from `race.ours_everywhere`.
        head_scores: rows with all evidence shown.
        cfg: limits, bootstrap, seed.
    """
    races = dict(list(race.groupby("size")))
    decides = deciding_size(race)
    on_validation = auc_against_full_depth(ours, head_scores, cfg, "select")
    best = best_of_ours(races[decides], on_validation, cfg.policy.max_auc_loss)
    on_test = auc_against_full_depth(ours, head_scores, cfg, "test").set_index("contender").loc[best]
    # which of ours is the fastest is a matter of the machine, and so is what it costs: no other machine is held to it
    found = [metric("auc_best_scorer_minus_full_depth", on_test["auc_minus_full_depth"], "1", "time",
                    ci95=(on_test["lo"], on_test["hi"]), n=int(on_test["n"]))]  # fmt: skip
    for c, part in races.items():
        size = "_1_candidate" if c == 1 else f"_{c}_candidates"
        ending = "" if c == decides else size
        ratios = {name + (size if name == LEAVING else ending): r for name, r in headline_ratios(part, best).items()}
        ratios["throughput_ratio_prefix_cache" + size] = ratio(part, FULL_DEPTH + WARM, FULL_DEPTH)
        ratios["matmul_peak_fraction_full_depth" + ending] = peak_fraction(part)
        found += [metric(name, r["value"], "ratio", "time", ci95=r["ci95"], n=r["n"]) for name, r in ratios.items()]
    return found


def quality_table(quality: pd.DataFrame, head_scores: pd.DataFrame) -> pd.DataFrame:
    """AUC, log loss and the largest difference to exact full depth, on the rows that every contender scored.

    Args:
        quality: from `race.quality_all`.
        head_scores: rows with all evidence shown: row, label.
    """
    label = head_scores.set_index("row")["label"]
    exact = quality[quality["contender"] == FULL_DEPTH].set_index("row")["p_yes"]
    lines = []
    for name, part in quality.groupby("contender", sort=False):
        y, p = label.loc[part["row"]].to_numpy(), part["p_yes"].to_numpy()
        lines.append({"contender": name, "auc": metrics.auc(y, p), "log_loss": metrics.log_loss(y, p), "n": len(p),
                      "largest_difference": float(np.abs(p - exact.loc[part["row"]].to_numpy()).max())})  # fmt: skip
    return pd.DataFrame(lines)
