"""The scores of every contender on the same judged rows, with paired bootstrap samples of their metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from eestudy import artifacts, metrics
from eestudy.config import MODES, TRIVIAL_BASELINES

SAMPLED = ("auc", "gauc", "log_loss")  # metrics that carry an interval
EPSILON = 1e-6
CLASSIC = {"best_classic_same_labels": "_same_labels", "best_classic_all_labels": "_all_labels"}  # choice -> columns
STACKED_CLASSIC = "stacked_with_classic"  # the LLM and the best classic model that learned from all labels
CLICK_RATE = "validation_click_rate"  # a constant as fresh as the heads' calibration: the harder trivial rival


class ReportError(ValueError):
    """Artifacts that do not fit together; the message names the file and the remedy."""


@dataclass(frozen=True)
class Judged:
    """n rows, the scores of every contender on them, and B bootstrap samples of each metric.

    `scores[name]` is [n]; `samples[metric][name]` is [B]. LLM scores are named `mode@layer`; `simple` lists the
    baselines and evidence models, `policies` the exit policies.
    """

    row: np.ndarray
    user_id: np.ndarray
    label: np.ndarray
    scores: dict[str, np.ndarray]
    samples: dict[str, dict[str, np.ndarray]]
    simple: tuple[str, ...]
    policies: tuple[str, ...]

    @property
    def n_users(self) -> int:
        """Distinct users among the rows."""
        return len(np.unique(self.user_id))


def exit_layers(frame: pd.DataFrame) -> list[int]:
    """The exit layers (1-based, ascending) of a frame with `p_yes_<layer>` columns; the last one is full depth."""
    layers = sorted(int(name.removeprefix("p_yes_")) for name in frame.columns if name.startswith("p_yes_"))
    if not layers:
        raise ReportError("head_scores.parquet has no p_yes_<layer> column; run notebook 05 again")
    return layers


def llm_scores(head: pd.DataFrame, split: str, modes=MODES) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The calibrated scores of every head on the rows of one split that all `modes` share.

    Args:
        head: `head_scores.parquet`.
        split: one of `config.SPLITS`.
        modes: which kinds of evidence must be present.

    Returns:
        frame of n rows (row, user_id, label), ordered by row; `mode@layer` -> [n].

    Raises:
        ReportError: no row is judged in all modes.
    """
    parts = {mode: head[(head["split"] == split) & (head["mode"] == mode)].set_index("row") for mode in modes}
    rows = sorted(set.intersection(*(set(part.index) for part in parts.values())))
    if not rows:
        raise ReportError(f"head_scores.parquet has no {split} row with all of {', '.join(modes)}; run notebook 05")
    scores = {
        f"{mode}@{layer}": parts[mode].loc[rows, f"p_yes_{layer}"].to_numpy(float)
        for mode in modes
        for layer in exit_layers(head)
    }
    return parts[modes[0]].loc[rows, ["user_id", "label"]].reset_index(), scores


def _scores_on(run: artifacts.Run, names, rows) -> dict[str, np.ndarray]:
    """The columns of score tables on `rows` [n]: name -> [n] probability."""
    scores = {}
    for name in names:
        table = artifacts.read_table(run, name).set_index("row")
        missing = np.setdiff1d(rows, table.index)
        if len(missing):
            raise ReportError(f"{name} lacks {len(missing)} judged rows, the first {missing[0]}; run {run.command}")
        scores |= {column: table.loc[rows, column].to_numpy(float) for column in table.columns}
    return scores


def simple_scores(run: artifacts.Run, rows) -> dict[str, np.ndarray]:
    """Scores of all baselines and evidence models on `rows` [n]: name -> [n] probability."""
    return _scores_on(run, ("baseline_scores.parquet", "evidence_model_scores.parquet"), rows)


def classic_scores(run: artifacts.Run, rows) -> dict[str, np.ndarray]:
    """Scores of the classic click models on `rows` [n], as `simple_scores`; {} where the run has none."""
    name = "click_model_scores.parquet"
    return _scores_on(run, (name,), rows) if artifacts.artifact_hash(run, name) else {}


def policy_scores(decisions: pd.DataFrame, rows, p_yes: np.ndarray) -> dict[str, np.ndarray]:
    """The score each policy answers with: that of the head where it leaves.

    Args:
        decisions: `exit_decisions.parquet` (row, policy, exit_index).
        rows: [n] row numbers.
        p_yes: [n, E] calibrated scores of mode "both".

    Returns:
        policy -> [n].
    """
    chosen = {}
    for policy, part in decisions.groupby("policy", sort=True):
        index = part.drop_duplicates("row").set_index("row")["exit_index"].reindex(rows)
        if index.isna().any():
            raise ReportError(f"exit_decisions.parquet: {policy} decides on {index.notna().sum()} of {len(rows)} rows")
        chosen[str(policy)] = p_yes[np.arange(len(p_yes)), index.to_numpy(int)]
    return chosen


def auc_on_validation(run: artifacts.Run) -> dict[str, float]:
    """AUC of each simple and classic model on the selection half of validation; 0.5 where it cannot be told."""
    split = artifacts.read_table(run, "split.parquet")
    rows = split.loc[(split["split"] == "validation") & (split["half"] == "select"), "row"].to_numpy()
    label = artifacts.read_table(run, "interactions.parquet").set_index("row").loc[rows, "label"].to_numpy()
    scores = simple_scores(run, rows) | classic_scores(run, rows)
    return {name: float(np.nan_to_num(metrics.auc(label, score), nan=0.5)) for name, score in scores.items()}


def _logit(p: np.ndarray) -> np.ndarray:
    return logit(np.clip(p, EPSILON, 1 - EPSILON))


def stack(fit_label, fit_scores, scores) -> np.ndarray:
    """Logistic regression on the log odds of several models.

    Args:
        fit_label: [m] in {0, 1}, validation rows.
        fit_scores: list of [m] probabilities.
        scores: the same models on n other rows, list of [n].

    Returns:
        [n] probability; the mean of the scores where the fitting rows have one class only.
    """
    if len(np.unique(fit_label)) < 2:
        return np.mean(scores, axis=0)
    model = LogisticRegression(C=1e6, tol=1e-8).fit(np.column_stack([_logit(s) for s in fit_scores]), fit_label)
    return model.predict_proba(np.column_stack([_logit(s) for s in scores]))[:, 1]


def stacked_score(run: artifacts.Run, head: pd.DataFrame, model: str, test_scores: dict) -> np.ndarray:
    """LLM at full depth and another model together: fitted on judged rows of the select half, [n] on test."""
    full = f"both@{exit_layers(head)[-1]}"
    rows, scores = llm_scores(head[head["half"] == "select"], "validation", ("both",))
    row = rows["row"].to_numpy()
    fit = [scores[full], (simple_scores(run, row) | classic_scores(run, row))[model]]
    return stack(rows["label"].to_numpy(), fit, [test_scores[full], test_scores[model]])


def choices(run: artifacts.Run) -> dict[str, str]:
    """The models without an LLM to compare with, each chosen on validation.

    Returns:
        best_trivial_baseline, best_baseline, evidence_model, best_without_llm (of all, whatever it learned from);
        where the run has classic click models, the keys of `CLASSIC` too.
    """
    baselines = [c for c in artifacts.read_table(run, "baseline_scores.parquet").columns if c != "row"]
    models = [c for c in artifacts.read_table(run, "evidence_model_scores.parquet").columns if c != "row"]
    evidence = [c for c in models if c.endswith("_evidence")]  # those that learned from the LLM's own label rows
    classic = list(classic_scores(run, []))
    auc = auc_on_validation(run)

    def best_of(names) -> str:
        return max(names, key=auc.__getitem__)

    best = {key: best_of(c for c in classic if c.endswith(ending)) for key, ending in CLASSIC.items() if classic}
    best["best_baseline"] = best_of(baselines + models)
    return {
        "best_trivial_baseline": best_of(TRIVIAL_BASELINES), **best,
        "best_without_llm": best_of(dict.fromkeys(best.values())), "evidence_model": best_of(evidence),
    }  # fmt: skip


def judge(run: artifacts.Run, chosen: dict[str, str], n_bootstrap: int, seed: int, split: str = "test") -> Judged:
    """Bring all contenders onto the same rows and bootstrap their metrics over users.

    Args:
        run: the run; reads head, baseline and evidence model scores and exit decisions.
        chosen: from `choices`.
        n_bootstrap: resamples of users B.
        seed: of the resamples.
        split: which rows to judge.

    Returns:
        `Judged` with scores `mode@layer`, one per baseline, evidence model, chosen classic model and policy, `stacked`,
        `STACKED_CLASSIC` where there is a classic model to stack on, and the constant `CLICK_RATE`.
    """
    head = artifacts.read_table(run, "head_scores.parquet")
    frame, scores = llm_scores(head, split)
    row = frame["row"].to_numpy()
    p_yes = np.column_stack([scores[f"both@{layer}"] for layer in exit_layers(head)])  # [n, E]
    simple, classic = simple_scores(run, row), classic_scores(run, row)
    simple |= {chosen[key]: classic[chosen[key]] for key in CLASSIC if key in chosen}
    policies = policy_scores(artifacts.read_table(run, "exit_decisions.parquet"), row, p_yes)
    scores = {**scores, **simple, **policies}
    scores["stacked"] = stacked_score(run, head, chosen["evidence_model"], scores)
    if "best_classic_all_labels" in chosen:
        scores[STACKED_CLASSIC] = stacked_score(run, head, chosen["best_classic_all_labels"], scores)
    select = (head["split"] == "validation") & (head["half"] == "select") & (head["mode"] == "both")
    scores[CLICK_RATE] = np.full(len(row), head.loc[select, "label"].mean())
    label, user_id = frame["label"].to_numpy(), frame["user_id"].to_numpy()
    samples = {
        metric: metrics.paired_bootstrap(label, scores, user_id, n_bootstrap, seed, metric) for metric in SAMPLED
    }
    return Judged(row, user_id, label, scores, samples, tuple(simple), tuple(policies))


def estimate(judged: Judged, metric: str, name: str) -> dict:
    """One metric of one contender: {"value", "ci95", "n"}."""
    value = metrics.value_of(metric, judged.label, judged.scores[name], judged.user_id)
    return {"value": value, "ci95": metrics.interval(judged.samples[metric][name]), "n": len(judged.label)}


def difference(judged: Judged, metric: str, first: str, second: str) -> dict:
    """Metric of `first` minus metric of `second`, paired: {"value", "ci95", "n"}."""
    value = estimate(judged, metric, first)["value"] - estimate(judged, metric, second)["value"]
    samples = judged.samples[metric][first] - judged.samples[metric][second]
    return {"value": value, "ci95": metrics.interval(samples), "n": len(judged.label)}
