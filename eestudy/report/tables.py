"""The tables of notebook 08: depth curves, latency, and every setting with its cost, accuracy and rivals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from eestudy import metrics
from eestudy.config import MODES
from eestudy.report.judged import CLICK_RATE, SAMPLED, Judged, difference, estimate

GAIN_SHARE = 0.95
CONTROLS = ("shuffled", "oracle", "budget")  # not causal rules: never on the frontier
COSTS = ("token_layer_fraction", "mean_exit_fraction")
MEASURES = ("auc", "gauc", "log_loss", "ece", *(f"{m}_{end}" for m in SAMPLED for end in ("lo", "hi")))
RIVALS = ("static", "dynamic", "baseline")  # what the frontier is made of
UNKNOWN = "(cost not counted)"
TIMES = ("latency_ms_mean", "latency_ms_p50", "latency_ms_p95", "throughput_rps")
READ_OFF = "of a fixed exit of the same work"


def measures(judged: Judged, name: str) -> dict:
    """auc, gauc and log_loss with `_lo` and `_hi` (95 %, users resampled), and ece, of one contender."""
    result = {}
    for metric in SAMPLED:
        found = estimate(judged, metric, name)
        low, high = found["ci95"] or (np.nan, np.nan)
        result |= {metric: found["value"], f"{metric}_lo": low, f"{metric}_hi": high}
    return result | {"ece": metrics.ece(judged.label, judged.scores[name])}


def depth_curves(judged: Judged, layers: list[int]) -> pd.DataFrame:
    """One row per mode and exit layer: the measures, and log loss less that of validation's click rate.

    Args:
        judged: the judged test rows.
        layers: exit layers, 1-based, ascending.

    Returns:
        mode, layer, auc, auc_lo, auc_hi, gauc.., log_loss.., ece, log_loss_minus_click_rate (and _lo, _hi), n.
    """
    rows = []
    for mode in MODES:
        for layer in layers:
            name = f"{mode}@{layer}"
            gap = difference(judged, "log_loss", name, CLICK_RATE)
            low, high = gap["ci95"] or (np.nan, np.nan)
            rows.append({"mode": mode, "layer": layer, **measures(judged, name),
                         "log_loss_minus_click_rate": gap["value"], "log_loss_minus_click_rate_lo": low,
                         "log_loss_minus_click_rate_hi": high, "n": len(judged.label)})  # fmt: skip
    return pd.DataFrame(rows)


def first_layer_of_gain(auc, layers, share: float = GAIN_SHARE) -> float:
    """The first exit whose AUC - 0.5 reaches `share` of the best exit's.

    Args:
        auc: [E] AUC by exit.
        layers: [E] ascending.

    Returns:
        A layer, or NaN where no exit is better than chance.
    """
    gain = np.asarray(auc, float) - 0.5
    if not np.isfinite(gain).all() or gain.max() <= 0:
        return float("nan")
    return float(np.asarray(layers)[np.argmax(gain >= share * gain.max())])


def _layer_samples(judged: Judged, mode: str, layers: list[int]) -> np.ndarray:
    """[B] the layer found in every resample, NaN where none is better than chance."""
    samples = np.column_stack([judged.samples["auc"][f"{mode}@{layer}"] for layer in layers])  # [B, E]
    return np.array([first_layer_of_gain(sample, layers) for sample in samples])


def _layer_value(judged: Judged, mode: str, layers: list[int]) -> float:
    return first_layer_of_gain([estimate(judged, "auc", f"{mode}@{layer}")["value"] for layer in layers], layers)


def _layer_result(value: float, samples: np.ndarray, n: int) -> dict:
    samples = samples[np.isfinite(samples)]
    bounds = tuple(np.quantile(samples, [0.025, 0.975], method="inverted_cdf")) if len(samples) else None
    return {"value": value, "ci95": bounds, "n": n}


def layer_of_gain(judged: Judged, mode: str, layers: list[int]) -> dict:
    """`first_layer_of_gain` with its bootstrap interval: {"value", "ci95", "n"}; bounds are layers there are."""
    return _layer_result(_layer_value(judged, mode, layers), _layer_samples(judged, mode, layers), len(judged.label))


def layer_of_gain_difference(judged: Judged, first: str, second: str, layers: list[int]) -> dict:
    """The layer of mode `first` less that of mode `second`, paired over the resamples."""
    value = _layer_value(judged, first, layers) - _layer_value(judged, second, layers)
    samples = _layer_samples(judged, first, layers) - _layer_samples(judged, second, layers)
    return _layer_result(value, samples, len(judged.label))


def as_they_come(latency: pd.DataFrame) -> pd.DataFrame:
    """Times of the requests drawn at random, which resemble the rows on which AUC is judged.

    Where all requests have as many candidates as any other the fullest are a draw like the rest: then all times.
    """
    alike = latency["n_candidates"].nunique() == 1
    return latency if alike else latency[latency["workload"] == "drawn"]


def latency_summary(latency: pd.DataFrame) -> pd.DataFrame:
    """Per contender, over the requests `as_they_come`.

    Args:
        latency: `latency.csv` (contender, repeat, seconds, workload, request_id, n_candidates, n_tokens).

    Returns:
        Indexed by contender: latency_ms_mean, latency_ms_p50, latency_ms_p95, latency_ms_p99, throughput_rps (requests
        per second), n. Settings are compared by the mean: early exit's times may have two peaks, between which a median
        jumps.
    """
    groups = as_they_come(latency).groupby("contender")["seconds"]
    table = pd.DataFrame({f"latency_ms_p{q}": 1000 * groups.quantile(q / 100) for q in (50, 95, 99)})
    return table.assign(latency_ms_mean=1000 * groups.mean(), throughput_rps=groups.size() / groups.sum(),
                        n=groups.size())  # fmt: skip


def static_rows(judged: Judged, layers: list[int]) -> list[dict]:
    """Every fixed depth: prefix and suffixes both run that deep, so both costs are layer / n_layers."""
    return [
        {"setting": f"static {layer}", "kind": "static", "layer": layer, "token_layer_fraction": layer / layers[-1],
         "mean_exit_fraction": layer / layers[-1], "contender": f"packed_static_{layer}",
         **measures(judged, f"both@{layer}")}
        for layer in layers
    ]  # fmt: skip


def policy_rows(judged: Judged, policies: pd.DataFrame, names, chosen: str) -> list[dict]:
    """The selected setting of each policy, and the controls, with their costs from `policies.csv` (test rows).

    Shuffled exits are listed there as the mean over many permutations, of which `judged` holds one: the mean is
    taken, without an interval.
    """
    test = policies[policies["split"] == "test"].sort_values("selected", ascending=False, kind="stable")
    listed = test.drop_duplicates("policy").set_index("policy")
    rows = []
    for name in names:
        known = listed.loc[name] if name in listed.index else pd.Series(dtype=object)
        row = {key: known.get(key, np.nan) for key in ("threshold", *COSTS)}
        row |= {"setting": name, "kind": "control" if name.startswith(CONTROLS) else "dynamic",
                "contender": "packed_early_exit" if name == chosen else "", **measures(judged, name)}  # fmt: skip
        if name.startswith("shuffled"):
            row |= {key: known.get(key, np.nan) for key in MEASURES}
        rows.append(row)
    return rows


def sweep_rows(policies: pd.DataFrame) -> list[dict]:
    """Test settings that the rule did not select, where 06 lists any: thin lines, never on the frontier."""
    rest = policies[(policies["split"] == "test") & ~policies["selected"].astype(bool)]
    rest = rest[~rest["policy"].str.startswith(("static", *CONTROLS))]
    columns = ["threshold", *COSTS, "auc", "gauc", "log_loss", "ece"]
    return [{"setting": row["policy"], "kind": "sweep", **row[columns].to_dict()} for _, row in rest.iterrows()]


def mark_latency(table: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Add measured latency, and for other settings the mean time that a fixed exit of the same work would take.

    It lies between the measured fixed exits, by token-layers, and holds nothing of what a rule costs beyond its work.
    A setting outside their range, a baseline, and everything when `latency` is empty stay null.

    Args:
        table: contender, kind, token_layer_fraction; token_layer_fraction_timed where a rule's work on the requests
            that were timed is known: few requests may take more work, or less, than all, and one clock is for all.
        latency: `latency.csv`, may be empty.
    """
    summary = latency_summary(latency) if len(latency) else pd.DataFrame()
    table = table.copy()
    for column in TIMES:
        table[column] = table["contender"].map(summary[column]) if len(summary) else np.nan
    measured = table["latency_ms_mean"].notna()
    cost = table.get("token_layer_fraction_timed", table["token_layer_fraction"])
    table["latency_source"] = np.where(measured, "measured", "")
    fixed = table["contender"].fillna("").str.startswith("packed_static_")
    known = table[measured & fixed].drop_duplicates("contender").sort_values("token_layer_fraction")
    if len(known) < 2:
        return table
    inside = cost.between(known["token_layer_fraction"].iloc[0], known["token_layer_fraction"].iloc[-1])
    inside &= ~measured & (table["kind"] != "baseline")
    read_off = np.interp(cost[inside], known["token_layer_fraction"], known["latency_ms_mean"])
    table.loc[inside, "latency_ms_mean"] = read_off
    table.loc[inside, "latency_source"] = READ_OFF
    return table


def mark_dominated(table: pd.DataFrame, cost: str = "token_layer_fraction", quality: str = "auc") -> pd.DataFrame:
    """Add `dominated` and `dominated_by`: some rival costs no more, is no worse, and is better in one of the two.

    Rivals are static depths, causal policies and baselines (cost 0). Of a setting whose cost is not known nothing is
    said: `UNKNOWN`.
    """
    rivals = table[table["kind"].isin(RIVALS) & table[cost].notna() & table[quality].notna()]
    names = []
    for _, row in table.iterrows():
        better = (rivals[cost] <= row[cost]) & (rivals[quality] >= row[quality])
        better &= (rivals[cost] < row[cost]) | (rivals[quality] > row[quality])
        names.append(UNKNOWN if np.isnan(row[cost]) else
                     rivals.loc[rivals.loc[better, quality].idxmax(), "setting"] if better.any() else "")  # fmt: skip
    return table.assign(dominated=[name not in ("", UNKNOWN) for name in names], dominated_by=names)


def _minus_best(judged: Judged, name: str, row: dict, best: str) -> dict:
    """AUC of a row less that of the best baseline; the interval only where the row's own AUC has one."""
    gap = difference(judged, "auc", name, best)
    known = np.isfinite(row["auc_lo"])
    low, high = gap["ci95"] if known and gap["ci95"] else (np.nan, np.nan)
    return {"minus_best_baseline": row["auc"] - estimate(judged, "auc", best)["value"],
            "minus_best_baseline_lo": low, "minus_best_baseline_hi": high}  # fmt: skip


def tradeoff_table(
    judged: Judged, layers: list[int], policies: pd.DataFrame, latency: pd.DataFrame, chosen: dict[str, str],
    timed_work: Mapping[str, float],
) -> pd.DataFrame:  # fmt: skip
    """Every setting of the study on the same rows: cost, accuracy with intervals, latency, who dominates it.

    Args:
        judged: the judged test rows.
        layers: exit layers.
        policies: `policies.csv`.
        latency: `latency.csv`, may be empty.
        chosen: best_baseline and policy (the one selected on validation).
        timed_work: policy -> its token-layer fraction on the requests that were timed.

    Returns:
        One row per setting: setting, kind (static, dynamic, control, sweep, baseline, stacked, plain), threshold,
        layer, auc, auc_lo, auc_hi, gauc.., log_loss.., ece, token_layer_fraction (of all test rows; _timed:
        of the requests that were timed), mean_exit_fraction,
        latency_ms_mean, latency_ms_p50, latency_ms_p95, throughput_rps, latency_source, minus_best_baseline (AUC;
        _lo, _hi), dominated, dominated_by.
    """
    decided = [name for name in judged.policies if not name.startswith("static")]
    full = f"both@{layers[-1]}"
    rows = static_rows(judged, layers) + policy_rows(judged, policies, decided, chosen["policy"])
    rows += [{"setting": name, "kind": "baseline", "token_layer_fraction": 0.0, "mean_exit_fraction": 0.0,
              **measures(judged, name)} for name in judged.simple]  # fmt: skip
    rows += [{"setting": "stacked", "kind": "stacked", "token_layer_fraction": 1.0, "mean_exit_fraction": 1.0,
              **measures(judged, "stacked")},
             {"setting": "plain", "kind": "plain", "contender": "plain", **measures(judged, full)}]  # fmt: skip
    names = [f"both@{row['layer']}" if row["kind"] == "static" else row["setting"] for row in rows[:-1]] + [full]
    rows = [row | _minus_best(judged, name, row, chosen["best_baseline"])
            for row, name in zip(rows, names, strict=True)]  # fmt: skip
    table = pd.DataFrame(rows + sweep_rows(policies))
    table["token_layer_fraction_timed"] = table["setting"].map(timed_work).fillna(table["token_layer_fraction"])
    return mark_dominated(mark_latency(table, latency).drop(columns="contender"))
