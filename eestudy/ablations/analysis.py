"""What the finished rows say: depth curves, and comparisons that count the noise of training and their own number.

A row that was not run stays in every table, as a row without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy import exit_policies, metrics
from eestudy.ablations.rows import Finished
from eestudy.ablations.table import Row, each_seed
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


def found_in(results: Results, name: str, seed: int, mode: str) -> Finished | None:
    """What was found of a row and seed, if it was scored in this mode; rows of other code may know fewer."""
    found = results.get((name, seed))
    return found if found is not None and (found.scores["mode"] == mode).any() else None


def of_seeds(row: Row, results: Results) -> list[Finished]:
    """What was found of a row's seeds, in its first mode; where some are of today's code and settings, only those."""
    found = [[one] for seed in row.seeds if (one := found_in(results, row.name, seed, row.modes[0]))]
    return [one for [one] in of_today(found)]


def of_today(found: Sequence, members=lambda one: one) -> list:
    """What is all of today's code and settings, where there is such; else everything.

    Args:
        found: of several rows or seeds each.
        members: one of them -> the `Finished` that it was made of.
    """
    return [one for one in found if all(part.current for part in members(one))] or list(found)


def state(found: Finished | None) -> str:
    """Whether a row is there, and of today's code and settings: 'finished', 'of other code' or 'not run'."""
    return "not run" if found is None else "finished" if found.current else "of other code"


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
        found, name = found_in(results, row.name, seed, mode), {"row": row.name, "seed": seed, "mode": mode}
        if found is None:
            lines.append(name | {"exit_layer": None, "metric": None, **NOT_RUN, "state": state(found)})
            continue
        test = test_rows(found, mode)
        for layer, metric in [(k, m) for k in exit_policies.head_matrix(test)[0] for m in METRICS]:
            told = metrics.estimate(test["label"], test[f"p_yes_{layer}"], test["user_id"], cfg.policy.n_bootstrap,
                                    cfg.seed, metric)  # fmt: skip
            lines.append(name | {"exit_layer": layer, "metric": metric, **flat(told), "state": state(found)})
    return pd.DataFrame(lines)


def flat(told: dict) -> dict:
    """An estimate as columns: value, lo, hi, n."""
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


def training_noise(table: Sequence[Row], results: Results) -> tuple[float, int]:
    """How far AUC differs between trainings of one row that differ in their seed alone.

    Resamples of users hold each model fixed; who trains again gets another one. Rows with two finished seeds or more
    tell how different, over all their exits, on the test rows in their first mode. Seeds of other code count only
    where a row has no others: what the code changed is no noise.

    Returns:
        Standard deviation, pooled over rows, and its degrees of freedom; (NaN, 0) where no row has a second seed.
    """
    squares, freedom = 0.0, 0
    for row in table:
        if len(found := of_seeds(row, results)) < 2:
            continue
        tests = [test_rows(one, row.modes[0]) for one in found]
        layers = sorted(set.intersection(*(set(exit_policies.head_matrix(test)[0]) for test in tests)))
        auc = np.array([[metrics.auc(test["label"], test[f"p_yes_{k}"]) for k in layers] for test in tests])  # [s, E]
        squares += (len(found) - 1) * auc.var(axis=0, ddof=1).mean()
        freedom += len(found) - 1
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else (float("nan"), 0)


def with_trainings(samples: np.ndarray, noise: tuple[float, int], n_seeds: int, seed: int) -> np.ndarray:
    """Resampled differences [B] of two models as they may be when both are trained again, too.

    Args:
        samples: over users, means over the seeds.
        noise: from `training_noise`; without degrees of freedom the samples stay as they are.
        n_seeds: trainings of each of the two.
        seed: of the draws, Student's t with the noise's degrees of freedom: its size is an estimate.
    """
    spread, freedom = noise
    if not freedom:
        return samples
    drawn = np.random.default_rng(seed).standard_t(freedom, len(samples))
    return samples + drawn * spread * np.sqrt(2 / n_seeds)


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
        Columns row, family, compared_with, mode, mode_compared, exits and exits_compared (layers, one a seed, as text),
        steps and steps_compared (of training), question, auc, auc_compared, value (difference; means over the seeds),
        lo, hi (95 %: users resampled, the same ones for every seed, and training noise added), n, seeds, sd (of the
        difference, between seeds; NaN for one), noise_sd (from `training_noise`), p and p_holm (NaN where no row has a
        second seed: one training proves nothing), state.
    """
    noise = training_noise(table, results)
    return adjusted(pd.DataFrame([_compare(*pair, results, cfg, noise) for pair in declared(table)]))


def adjusted(frame: pd.DataFrame) -> pd.DataFrame:
    """A family of tests with `p_holm` filled in, in place, where there is a `p`; those without one count, too."""
    if len(frame):
        known = frame["p"].notna()
        frame.loc[known, "p_holm"] = holm(frame.loc[known, "p"], len(frame))
    return frame


def _compare(
    row: Row, other: Row, mode: str, other_mode: str, results: Results, cfg: StudyConfig, noise: tuple[float, int]
) -> dict:  # fmt: skip
    line = {"row": row.name, "family": row.family, "compared_with": other.name, "mode": mode,
            "mode_compared": other_mode, "exits": "", "exits_compared": "", "steps": np.nan, "steps_compared": np.nan,
            "question": row.question, "auc": np.nan, "auc_compared": np.nan, **NOT_RUN, "seeds": 0, "sd": np.nan,
            "noise_sd": noise[0], "p": np.nan, "p_holm": np.nan, "state": "not run"}  # fmt: skip
    both = _both(row, other, mode, other_mode, results)
    if not both:
        return line
    exits = [_exits(row, *two, mode, other_mode) for two in both]
    pairs = [paired(*two, mode, other_mode, *at) for two, at in zip(both, exits, strict=True)]
    auc, auc_compared, samples = zip(*(auc_difference(pair, cfg) for pair in pairs), strict=True)
    gaps, samples = np.subtract(auc, auc_compared), np.mean(samples, axis=0)
    samples = with_trainings(samples, noise, len(both), cfg.seed)
    low, high = metrics.interval(samples) or (np.nan, np.nan)
    told = ["layer " + ", ".join(map(str, layers)) for layers in zip(*exits, strict=True)]
    p = two_sided_p(samples) if noise[1] else np.nan
    steps = [np.mean([two[side].record.get("n_steps", np.nan) for two in both]) for side in (0, 1)]
    return line | {"exits": told[0], "exits_compared": told[1], "steps": steps[0], "steps_compared": steps[1],
                   "auc": np.mean(auc), "auc_compared": np.mean(auc_compared), "value": np.mean(gaps), "lo": low,
                   "hi": high, "n": len(pairs[0]), "seeds": len(both), "p": p, "state": state_of(both),
                   "sd": np.std(gaps, ddof=1) if len(both) > 1 else np.nan}  # fmt: skip


def _both(row: Row, other: Row, mode: str, other_mode: str, results: Results) -> list[tuple[Finished, Finished]]:
    """The seeds of which both rows were run; where some are of today's code, only those."""
    both = [(found_in(results, row.name, seed, mode), found_in(results, other.name, seed, other_mode))
            for seed in row.seeds]  # fmt: skip
    return of_today([two for two in both if None not in two])


def state_of(found: Sequence[Sequence[Finished]]) -> str:
    """Whether all that a line was made of is of today's code and settings."""
    return "finished" if all(one.current for several in found for one in several) else "of other code"


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
        tests = [(test_rows(one, row.modes[0]), chosen_exit(one, row.modes[0])) for one in of_seeds(row, results)]
        values = [metrics.auc(test["label"], test[f"p_yes_{layer}"]) for test, layer in tests]
        lines.append({"row": row.name, "seeds": len(values), "auc_mean": np.mean(values) if values else np.nan,
                      "auc_sd": np.std(values, ddof=1) if len(values) > 1 else np.nan})  # fmt: skip
    return pd.DataFrame(lines, columns=["row", "seeds", "auc_mean", "auc_sd"])
