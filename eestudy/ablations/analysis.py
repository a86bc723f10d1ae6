"""What the finished rows say: depth curves, comparisons adjusted for their number, and duels at the same latency.

A row that was not run stays in every table, as a row without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy import ablation_results, exit_policies, metrics, report
from eestudy.ablations.rows import Finished
from eestudy.ablations.table import MAIN, Row, all_rows, each_seed, static_depths
from eestudy.config import StudyConfig

Results = Mapping[tuple[str, int], Finished | None]  # (row's name, seed) -> what was found
METRICS = ("auc", "gauc", "log_loss")
NOT_RUN = {"value": np.nan, "lo": np.nan, "hi": np.nan, "n": 0}


def test_rows(found: Finished, mode: str) -> pd.DataFrame:
    """A row's test scores in one mode, by row id."""
    scores = found.scores
    return scores[(scores["split"] == "test") & (scores["mode"] == mode)].sort_values("row", ignore_index=True)


def select_rows(found: Finished, mode: str = "both") -> pd.DataFrame:
    """A row's selection rows in one mode, by row id."""
    scores = found.scores
    return scores[(scores["half"] == "select") & (scores["mode"] == mode)].sort_values("row", ignore_index=True)


def chosen_exit(found: Finished, mode: str) -> int:
    """The exit layer of highest AUC on the selection rows; of equals the shallowest.

    With few labels deep heads lag behind, each training at another point: full depth would compare that.
    """
    select = select_rows(found, mode)
    auc = {int(k): metrics.auc(select["label"], select[f"p_yes_{k}"]) for k in exit_policies.head_matrix(select)[0]}
    return max(sorted(auc), key=auc.get)


def curves(table: Sequence[Row], results: Results, cfg: StudyConfig) -> pd.DataFrame:
    """AUC, GAUC and log loss of every row at each of its exits, on the test rows.

    Args:
        table: the rows.
        results: what was found of each row and seed.
        cfg: resamples and seed of the intervals.

    Returns:
        Columns row, seed, mode, exit_layer, metric, value, lo, hi (95 %, users resampled), n, state ('finished', 'of
        other code', 'not run': then one line without values a mode).
    """
    lines = []
    for (row, seed), mode in [(pair, mode) for pair in each_seed(table) for mode in pair[0].modes]:
        found, name = results.get((row.name, seed)), {"row": row.name, "seed": seed, "mode": mode}
        if found is None:
            lines.append(name | {"exit_layer": None, "metric": None, **NOT_RUN, "state": "not run"})
            continue
        test, state = test_rows(found, mode), "finished" if found.current else "of other code"
        for layer, metric in [(k, m) for k in exit_policies.head_matrix(test)[0] for m in METRICS]:
            told = metrics.estimate(test["label"], test[f"p_yes_{layer}"], test["user_id"], cfg.policy.n_bootstrap,
                                    cfg.seed, metric)  # fmt: skip
            lines.append(name | {"exit_layer": layer, "metric": metric, **_flat(told), "state": state})
    return pd.DataFrame(lines)


def _flat(told: dict) -> dict:
    low, high = told["ci95"] or (np.nan, np.nan)
    return {"value": told["value"], "lo": low, "hi": high, "n": told["n"]}


def paired(a: Finished, b: Finished, mode_a: str, mode_b: str, exit_a: int, exit_b: int) -> pd.DataFrame:
    """The two rows' scores on the test rows that both have: row, user_id, label, a, b."""
    left = test_rows(a, mode_a)[["row", "user_id", "label", f"p_yes_{exit_a}"]]
    right = test_rows(b, mode_b)[["row", f"p_yes_{exit_b}"]]
    left, right = left.set_axis(["row", "user_id", "label", "a"], axis=1), right.set_axis(["row", "b"], axis=1)
    return left.merge(right, on="row", validate="one_to_one")


def auc_difference(pair: pd.DataFrame, cfg: StudyConfig) -> tuple[float, float, np.ndarray]:
    """AUC of score a, AUC of score b, and their difference in every resample of users [B]."""
    scores = {name: pair[name].to_numpy(float) for name in ("a", "b")}
    samples = metrics.paired_bootstrap(pair["label"], scores, pair["user_id"], cfg.ablation.n_bootstrap, cfg.seed)
    return metrics.auc(pair["label"], pair["a"]), metrics.auc(pair["label"], pair["b"]), samples["a"] - samples["b"]


def two_sided_p(samples: np.ndarray) -> float:
    """How often resampled differences lie beyond 0, twice the smaller side; never 0, since resamples are finite.

    Source: Davison and Hinkley (1997), (1 + count) / (1 + resamples).
    """
    samples = samples[np.isfinite(samples)]
    below, above = (samples <= 0).sum(), (samples >= 0).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(samples))))


def holm(p: Sequence[float], n_tests: int | None = None) -> np.ndarray:
    """Holm's step-down adjustment.

    Args:
        p: [m] of the tests that were run.
        n_tests: how many were declared, those not run included; None: m.

    Returns:
        [m] adjusted p, never below p: the i-th smallest times (n_tests - i), made monotone, at most 1.

    Source: Holm (1979); scipy has no family-wise adjustment, and statsmodels for these four lines would be a lot.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = (len(p) if n_tests is None else n_tests) - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def declared(table: Sequence[Row]) -> list[tuple[Row, Row, str, str]]:
    """Every comparison of the table: (row, other row, mode of the one, mode of the other).

    In each mode that both are scored in; where there is none, in the first of each: a model that knows one kind of
    evidence against one that knows another.
    """
    named, found = {row.name: row for row in table}, []
    for row in table:
        for other in map(named.get, row.compared_with):
            shared = [(mode, mode) for mode in row.modes if mode in other.modes]
            found += [(row, other, *modes) for modes in shared or [(row.modes[0], other.modes[0])]]
    return found


def compare_all(table: Sequence[Row], results: Results, cfg: StudyConfig) -> pd.DataFrame:
    """Every declared comparison: a row's AUC less that of the row it is compared with, on the same test rows.

    Args:
        table: the rows; what `declared` makes of them is the family of tests, whether run or not.
        results: what was found; seeds of which both rows were run count.
        cfg: resamples and seed of the intervals.

    Returns:
        Columns row, family, compared_with, mode, exits and exits_compared (layers, one a seed, as text), question, auc,
        auc_compared, value (difference; means over the seeds), lo, hi (95 %, users resampled, the same ones for every
        seed), n, seeds, sd (of the difference, between seeds; NaN for one), p, p_holm, state.
    """
    frame = pd.DataFrame([_compare(*pair, results, cfg) for pair in declared(table)])
    if len(frame):
        known = frame["p"].notna()
        frame.loc[known, "p_holm"] = holm(frame.loc[known, "p"], len(frame))
    return frame


def _compare(row: Row, other: Row, mode: str, other_mode: str, results: Results, cfg: StudyConfig) -> dict:
    line = {"row": row.name, "family": row.family, "compared_with": other.name, "mode": mode, "exits": "",
            "exits_compared": "", "question": row.question, "auc": np.nan, "auc_compared": np.nan, **NOT_RUN,
            "seeds": 0, "sd": np.nan, "p": np.nan, "p_holm": np.nan, "state": "not run"}  # fmt: skip
    both = [(results.get((row.name, seed)), results.get((other.name, seed))) for seed in row.seeds]
    both = [(ours, theirs) for ours, theirs in both if ours is not None and theirs is not None]
    if not both:
        return line
    exits = [_exits(row, *two, mode, other_mode) for two in both]
    pairs = [paired(*two, mode, other_mode, *at) for two, at in zip(both, exits, strict=True)]
    auc, auc_compared, samples = zip(*(auc_difference(pair, cfg) for pair in pairs), strict=True)
    gaps, samples = np.subtract(auc, auc_compared), np.mean(samples, axis=0)
    low, high = metrics.interval(samples) or (np.nan, np.nan)
    state = "finished" if all(one.current for two in both for one in two) else "of other code"
    told = ["layer " + ", ".join(map(str, layers)) for layers in zip(*exits, strict=True)]
    return line | {"exits": told[0], "exits_compared": told[1], "auc": np.mean(auc),
                   "auc_compared": np.mean(auc_compared), "value": np.mean(gaps), "lo": low, "hi": high,
                   "n": len(pairs[0]), "seeds": len(both), "sd": np.std(gaps, ddof=1) if len(both) > 1 else np.nan,
                   "p": two_sided_p(samples), "state": state}  # fmt: skip


def _exits(row: Row, ours: Finished, theirs: Finished, mode: str, other_mode: str) -> tuple[int, int]:
    """At which exits the two are read: `at_exit` where both have it, else the one that each chooses."""
    shared = all(row.at_exit in exit_policies.head_matrix(one.scores)[0] for one in (ours, theirs))
    return (row.at_exit, row.at_exit) if shared else (chosen_exit(ours, mode), chosen_exit(theirs, other_mode))


def seed_spread(table: Sequence[Row], results: Results) -> pd.DataFrame:
    """Rows with several seeds: AUC of each seed's model at its chosen exit, their mean and standard deviation.

    Returns:
        Columns row, seeds (finished), auc_mean, auc_sd (NaN below two seeds).
    """
    lines = []
    for row in table:
        if len(row.seeds) < 2:
            continue
        found = [results.get((row.name, seed)) for seed in row.seeds]
        tests = [(test_rows(one, row.modes[0]), chosen_exit(one, row.modes[0])) for one in found if one is not None]
        values = [metrics.auc(test["label"], test[f"p_yes_{layer}"]) for test, layer in tests]
        lines.append({"row": row.name, "seeds": len(values), "auc_mean": np.mean(values) if values else np.nan,
                      "auc_sd": np.std(values, ddof=1) if len(values) > 1 else np.nan})  # fmt: skip
    return pd.DataFrame(lines, columns=["row", "seeds", "auc_mean", "auc_sd"])


# --- dynamic against static at the same measured latency ------------------------------------------------------


def latency_of(latency: pd.DataFrame):
    """Milliseconds per request as a function of layers, through the measured depths; None where nothing is measured.

    Args:
        latency: `latency.csv` of the study's run.
    """
    measured = report.latency_summary(latency)["latency_ms_p50"]
    measured = measured[measured.index.str.startswith("packed_static_")]
    if len(measured) < 2:
        return None
    depth = measured.index.str.removeprefix("packed_static_").astype(int).to_numpy()
    order = np.argsort(depth)
    return lambda layers: float(np.interp(layers, depth[order], measured.to_numpy()[order]))


def overhead(latency: pd.DataFrame, policies: pd.DataFrame, timed: str, depth: int) -> float:
    """What leaving early costs beyond its token-layers: measured time of the study's policy over a static model's of
    the same work; NaN where it was not measured.

    Args:
        latency, policies: artifacts of the study's run.
        timed: the policy that was timed, of `selected_policy.json`.
        depth: layers of the whole model.
    """
    chosen = policies[policies["selected"].astype(bool) & (policies["split"] == "test")
                      & (policies["policy"] == timed)]  # fmt: skip
    summary, milliseconds = report.latency_summary(latency), latency_of(latency)
    if chosen.empty or milliseconds is None or "packed_early_exit" not in summary.index:
        return float("nan")
    same_work = milliseconds(depth * chosen["token_layer_fraction"].iloc[0])
    return float(summary.loc["packed_early_exit", "latency_ms_p50"] / same_work)


def choose_policy(select: pd.DataFrame, cfg: StudyConfig, fits) -> tuple[exit_policies.Policy, float, float] | None:
    """The best dynamic rule and threshold on a row's selection rows, by AUC, among those that are fast enough there.

    Args:
        select: from `select_rows`.
        cfg: rules and grid.
        fits: of a token-layer fraction: whether it is fast enough.

    Returns:
        Policy, threshold, its token-layer fraction; None where nothing that treats candidates differently fits.
    """
    rules = exit_policies.policies(float(select["label"].mean()), cfg.policy)
    swept = exit_policies.sweep(select, [rule for rule in rules.values() if rule.dynamic], cfg.policy)
    swept = exit_policies.really_dynamic(swept, cfg.policy.min_dynamic_share)
    fast = swept[swept["token_layer_fraction"].map(fits)]
    if fast.empty:
        return None
    chosen = fast.loc[fast["auc"].idxmax()]
    return rules[chosen["policy"]], float(chosen["threshold"]), float(chosen["token_layer_fraction"])


def same_latency(
    results: Results, cfg: StudyConfig, latency: pd.DataFrame, factor: float, kind: str = ""
) -> dict | None:  # fmt: skip
    """AUC of the dynamic policy that is no slower than the best truncated model, less that model's.

    Validation chooses the depth of the truncated model, by AUC, and then rule and threshold, by AUC among those whose
    time is at most that model's: as measured over depths, times what leaving early was measured to cost beyond its
    token-layers.

    Args:
        results: what was found.
        cfg: the study's own settings.
        latency: `latency.csv` of the study's run.
        factor: from `overhead`.
        kind: ending of the truncated models' names, of `ablation_results.LEARNED`.

    Returns:
        value, ci95 (paired over users, averaged over the seeds that were run), n, seeds, rivals, milliseconds of both;
        None where a row or a latency is missing, or no threshold is fast enough.
    """
    each = [_duel(results, cfg, seed, latency_of(latency), factor, kind) for seed in (0, 1, 2)] if len(latency) else []
    each = [duel for duel in each if duel]
    if not each:
        return None
    return {"value": float(np.mean([d["value"] for d in each])), "n": each[0]["n"], "seeds": len(each),
            "ci95": metrics.interval(np.mean([d["samples"] for d in each], axis=0)),
            "rivals": [d["rival"] for d in each], "dynamic_ms": [d["dynamic_ms"] for d in each],
            "static_ms": [d["static_ms"] for d in each]}  # fmt: skip


def _duel(results: Results, cfg: StudyConfig, seed: int, milliseconds, factor: float, kind: str) -> dict | None:
    """One seed of `same_latency`, with its resamples."""
    main = results.get((MAIN, seed))
    static = {k: results.get((f"static_{k}{kind}", seed)) for k in static_depths(cfg)}
    if main is None or milliseconds is None or not np.isfinite(factor) or None in static.values():
        return None
    chosen = {k: select_rows(one) for k, one in static.items()}
    rival = max(chosen, key=lambda k: metrics.auc(chosen[k]["label"], chosen[k][f"p_yes_{k}"]))

    def dynamic_ms(fraction):
        return factor * milliseconds(cfg.heads.exit_layers[-1] * fraction)

    best = choose_policy(select_rows(main), cfg, lambda fraction: dynamic_ms(fraction) <= milliseconds(rival))
    if best is None:
        return None
    (policy, threshold, fraction), test = best, test_rows(main, "both")
    p_yes = exit_policies.head_matrix(test)[1]
    left = exit_policies.exit_scores(p_yes, exit_policies.exit_index(policy, p_yes, threshold, cfg.policy.min_exit))
    theirs = test_rows(static[rival], "both")[["row", f"p_yes_{rival}"]].set_axis(["row", "b"], axis=1)
    pair = test[["row", "user_id", "label"]].assign(a=left).merge(theirs, on="row", validate="one_to_one")
    auc, auc_rival, samples = auc_difference(pair, cfg)
    return {"value": auc - auc_rival, "samples": samples, "n": len(pair), "rival": f"static_{rival}{kind}",
            "dynamic_ms": dynamic_ms(fraction), "static_ms": milliseconds(rival)}  # fmt: skip


# --- what is told ---------------------------------------------------------------------------------------------


def duel_table(
    results: Results, cfg: StudyConfig, latency: pd.DataFrame, policies: pd.DataFrame, timed: str
) -> pd.DataFrame:  # fmt: skip
    """Dynamic exit against truncated models at the same latency, one line each for what these learned with.

    Args:
        results: what was found.
        cfg: the study's own settings.
        latency, policies, timed: of the study's run, or of its committed reference, as for `overhead`.

    Returns:
        Columns learned (of `ablation_results.LEARNED`), value, lo, hi, n, seeds, rivals (one a seed), dynamic_ms and
        static_ms (means over seeds); NaN where something is missing.
    """
    depth, lines = cfg.heads.exit_layers[-1], []
    factor = overhead(latency, policies, timed, depth) if len(latency) else np.nan
    for learned, kind in ablation_results.LEARNED.items():
        told, line = same_latency(results, cfg, latency, factor, kind), {"learned": learned, **NOT_RUN}
        if told is None:
            lines.append(line | {"seeds": 0, "rivals": "", "dynamic_ms": np.nan, "static_ms": np.nan})
            continue
        lines.append(line | _flat(told) | {"seeds": told["seeds"], "rivals": ", ".join(told["rivals"]),
                                           "dynamic_ms": np.mean(told["dynamic_ms"]),
                                           "static_ms": np.mean(told["static_ms"])})  # fmt: skip
    return pd.DataFrame(lines)


def summary(
    cfg: StudyConfig, results: Results, latency: pd.DataFrame, policies: pd.DataFrame, timed: str
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The four tables of `ablation_results.Ablations`, by name, in their order.

    Args:
        cfg: the study's own settings.
        results: what was found of every row and seed.
        latency, policies, timed: of the study's run, or of its committed reference, as for `overhead`; empty where
            there is neither.
    """
    table = all_rows(cfg)
    return {"comparisons": compare_all(table, results, cfg), "curves": curves(table, results, cfg),
            "seeds": seed_spread(table, results), "duels": duel_table(results, cfg, latency, policies, timed)}
