"""Dynamic exit against truncated models, trained alone, at the same measured latency."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from eestudy import ablation_results, exit_policies, metrics, report
from eestudy.ablations import analysis
from eestudy.ablations.analysis import Results
from eestudy.ablations.table import MAIN, SEEDS, all_rows, static_depths
from eestudy.config import StudyConfig


def latency_of(latency: pd.DataFrame):
    """Mean milliseconds a request as a function of layers, through the measured depths; None where nothing is measured.

    Args:
        latency: `latency.csv` of the study's run.
    """
    measured = _mean_ms(latency)
    measured = measured[measured.index.str.startswith("packed_static_")]
    if len(measured) < 2:
        return None
    depth = measured.index.str.removeprefix("packed_static_").astype(int).to_numpy()
    order = np.argsort(depth)
    return lambda layers: float(np.interp(layers, depth[order], measured.to_numpy()[order]))


def _mean_ms(latency: pd.DataFrame) -> pd.Series:
    """A mean, not a median: early exit's times may have two peaks, and a median jumps from one to the other."""
    return 1000 / report.latency_summary(latency)["throughput_rps"]


def timed_share(
    latency: pd.DataFrame, head: pd.DataFrame, tokens: pd.DataFrame, selected: Mapping, cfg: StudyConfig
) -> float:  # fmt: skip
    """The share of full depth's token-layers that the study's policy spends on the very requests that were timed.

    Args:
        latency, head, tokens: `latency.csv`, `head_scores.parquet` and `prompt_tokens.parquet` of the study's run.
        selected: `selected_policy.json`.
        cfg: the study's own settings.
    """
    select = exit_policies.judged_rows(head, tokens, "validation", "both", "select")
    test = exit_policies.judged_rows(head, tokens, "test", "both")
    part = test[test["request_id"].isin(report.as_they_come(latency)["request_id"])]
    rule = exit_policies.policies(float(select["label"].mean()), cfg.policy)[selected["policy"]]
    exits = exit_policies.exit_index(rule, exit_policies.head_matrix(part)[1], selected["threshold"],
                                     cfg.policy.min_exit)  # fmt: skip
    return exit_policies.cost(part, exits)["token_layer_fraction"] if len(part) else float("nan")


def overhead(latency: pd.DataFrame, share: float, depth: int) -> float:
    """What leaving early costs beyond its token-layers: measured time of the study's policy over a static model's of
    the same work on the same requests, at least 1; NaN where it was not measured.

    Args:
        latency: `latency.csv` of the study's run.
        share: from `timed_share`: a few requests may take more work, or less, than all test rows on average.
        depth: layers of the whole model.
    """
    measured, milliseconds = _mean_ms(latency), latency_of(latency)
    if not np.isfinite(share) or milliseconds is None or "packed_early_exit" not in measured.index:
        return float("nan")
    return max(1.0, float(measured["packed_early_exit"] / milliseconds(depth * share)))


def choose_exits(select: pd.DataFrame, test: pd.DataFrame, cfg: StudyConfig, fits, deepest: int):
    """The exits that the best dynamic rule and threshold give the test rows: best by AUC on the selection rows, among
    those that are fast enough there. Where none is, everybody leaves at one exit, that of highest AUC.

    Args:
        select, test: of a row, from `analysis.select_rows` and `test_rows`.
        cfg: rules and grid.
        fits: of a token-layer fraction: whether a dynamic rule of that much work is fast enough.
        deepest: layer of the deepest fixed exit that is.

    Returns:
        0-based exits [n_test], and whether a dynamic rule gave them.
    """
    rules = exit_policies.policies(float(select["label"].mean()), cfg.policy)
    swept = exit_policies.sweep(select, [rule for rule in rules.values() if rule.dynamic], cfg.policy)
    swept = exit_policies.really_dynamic(swept, cfg.policy.min_dynamic_share)
    fast, (layers, p_yes) = swept[swept["token_layer_fraction"].map(fits)], exit_policies.head_matrix(test)
    if len(fast):
        best = fast.loc[fast["auc"].idxmax()]
        rule, threshold = rules[best["policy"]], float(best["threshold"])
        return exit_policies.exit_index(rule, p_yes, threshold, cfg.policy.min_exit), True
    auc = [metrics.auc(select["label"], select[f"p_yes_{k}"]) for k in layers if k <= deepest]
    return np.full(len(test), int(np.argmax(auc))), False


def same_latency(
    results: Results, cfg: StudyConfig, latency: pd.DataFrame, factor: float, kind: str = ""
) -> dict | None:  # fmt: skip
    """AUC of the dynamic policy that is no slower than the best truncated model, less that model's.

    Validation chooses the depth of the truncated model, by AUC, and then rule and threshold, by AUC among those whose
    time is at most that model's: as measured over depths, times what leaving early was measured to cost beyond its
    token-layers. Where no rule is as fast, the whole model lets everybody out at one exit: such seeds are counted, not
    left out, or the mean would be over those that suit the dynamic side.

    Args:
        results: what was found.
        cfg: the study's own settings.
        latency: `latency.csv` of the study's run.
        factor: from `overhead`.
        kind: ending of the truncated models' names, of `ablation_results.LEARNED`.

    Returns:
        value, ci95 (paired over users, averaged over the seeds that were run, training noise added), p (NaN where no
        row has a second seed), n, seeds, fixed (seeds without a dynamic rule), rivals, milliseconds of both on the test
        rows, state; None where a row or a latency is missing.
    """
    milliseconds = latency_of(latency) if len(latency) else None
    if milliseconds is None or not np.isfinite(factor):
        return None
    each = [duel for seed in SEEDS if (duel := _duel(results, cfg, seed, milliseconds, factor, kind))]
    each = analysis.of_today(each, lambda duel: duel["found"])
    if not each:
        return None
    noise = analysis.training_noise(all_rows(cfg), results)
    samples = analysis.with_trainings(np.mean([d["samples"] for d in each], axis=0), noise, len(each), cfg.seed)
    return {"value": float(np.mean([d["value"] for d in each])), "n": each[0]["n"], "seeds": len(each),
            "ci95": metrics.interval(samples), "p": analysis.two_sided_p(samples) if noise[1] else np.nan,
            "fixed": sum(not d["is_dynamic"] for d in each), "rivals": [d["rival"] for d in each],
            "dynamic_ms": [d["dynamic_ms"] for d in each], "static_ms": [d["static_ms"] for d in each],
            "state": analysis.state_of([d["found"] for d in each])}  # fmt: skip


def _duel(results: Results, cfg: StudyConfig, seed: int, milliseconds, factor: float, kind: str) -> dict | None:
    """One seed of `same_latency`, with its resamples."""
    main, depth = analysis.found_in(results, MAIN, seed, "both"), cfg.heads.exit_layers[-1]
    static = {k: analysis.found_in(results, f"static_{k}{kind}", seed, "both") for k in static_depths(cfg)}
    if main is None or None in static.values():
        return None
    if not all(f"p_yes_{k}" in one.scores for k, one in static.items()):  # of other code, with another exit
        return None
    chosen = {k: analysis.select_rows(one) for k, one in static.items()}
    rival = max(chosen, key=lambda k: metrics.auc(chosen[k]["label"], chosen[k][f"p_yes_{k}"]))
    test, limit = analysis.test_rows(main, "both"), milliseconds(rival)
    exits, is_dynamic = choose_exits(analysis.select_rows(main), test, cfg,
                                     lambda fraction: factor * milliseconds(depth * fraction) <= limit, rival)
    spent = milliseconds(depth * exit_policies.cost(test, exits)["token_layer_fraction"])
    theirs = analysis.test_rows(static[rival], "both")[["row", f"p_yes_{rival}"]].set_axis(["row", "b"], axis=1)
    left = exit_policies.exit_scores(exit_policies.head_matrix(test)[1], exits)
    pair = test[["row", "user_id", "label"]].assign(a=left).merge(theirs, on="row", validate="one_to_one")
    auc, auc_rival, samples = analysis.auc_difference(pair, cfg)
    return {"value": auc - auc_rival, "samples": samples, "n": len(pair), "rival": f"static_{rival}{kind}",
            "is_dynamic": is_dynamic, "dynamic_ms": spent * (factor if is_dynamic else 1.0), "static_ms": limit,
            "found": [main, *static.values()]}  # fmt: skip


def duel_table(results: Results, cfg: StudyConfig, latency: pd.DataFrame, share: float) -> pd.DataFrame:
    """Dynamic exit against truncated models at the same latency, one line each for what these learned with.

    Args:
        results: what was found.
        cfg: the study's own settings.
        latency, share: of the study's run, or of its committed reference, as for `overhead`.

    Returns:
        Columns learned (of `ablation_results.LEARNED`), value, lo, hi, n, seeds, fixed, rivals (one a seed),
        dynamic_ms and static_ms (means over seeds), p, p_holm (over the lines), state; NaN where something is missing.
    """
    depth, lines = cfg.heads.exit_layers[-1], []
    factor = overhead(latency, share, depth) if len(latency) else np.nan
    for learned, kind in ablation_results.LEARNED.items():
        told = same_latency(results, cfg, latency, factor, kind)
        line = {"learned": learned, **analysis.NOT_RUN, "seeds": 0, "fixed": 0, "rivals": "", "dynamic_ms": np.nan,
                "static_ms": np.nan, "p": np.nan, "p_holm": np.nan, "state": "not run"}  # fmt: skip
        if told is not None:
            line |= analysis.flat(told) | {name: told[name] for name in ("seeds", "fixed", "p", "state")}
            line |= {"rivals": ", ".join(told["rivals"]), "dynamic_ms": np.mean(told["dynamic_ms"]),
                     "static_ms": np.mean(told["static_ms"])}  # fmt: skip
        lines.append(line)
    return analysis.adjusted(pd.DataFrame(lines))
