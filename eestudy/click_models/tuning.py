"""Choosing on validation, timing and judging: every model gets the same number of trials."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from eestudy import metrics
from eestudy.click_models.fields import earlier_clicks
from eestudy.click_models.fitting import (
    NUMBER_MODELS,
    TRAINING_SETS,
    Fitted,
    Material,
    Predict,
    fit_network,
    fit_numbers,
    prepare,
    training_rows,
)
from eestudy.click_models.networks import NETWORKS
from eestudy.config import ClickModelsConfig
from eestudy.progress import progress

SCORED = ("validation", "test")
COLUMNS = ("row", "user_id", "item_id", "label", "timestamp", "observed", "split", "half", "judged",
           "request_timestamp")  # fmt: skip
QUALITY = ("auc", "gauc", "log_loss")
N_TIMED, REPEATS = 4096, 5


class ClickModelError(ValueError):
    """Rows that no click model can be fitted on; the message says what is missing and what to do."""


def column_name(model: str, training: str) -> str:
    """How the score of a model on a training set is called: `deepfm_all_labels`."""
    return f"{model}_{training}_labels"


def _check(rows: pd.DataFrame, features: Sequence[str]) -> None:
    """Refuse what cannot be fitted, by name."""
    if missing := [name for name in (*COLUMNS, *features) if name not in rows]:
        raise ClickModelError(f"the rows lack {', '.join(missing)}: merge interactions, split, evidence and titles")
    if endless := [name for name in features if np.isinf(rows[name].to_numpy(np.float64)).any()]:
        raise ClickModelError(f"{', '.join(endless)} is infinite somewhere; what is not known is NaN")
    learned, remedies = training_rows(rows, "same"), {
        "graph": "give it opposites (data.graph_negatives)", "label": "raise data.n_label_rows"}  # fmt: skip
    for part, remedy in remedies.items():
        if rows.loc[learned & (rows["split"] == part), "label"].nunique() < 2:
            raise ClickModelError(f"the {part} rows to learn from hold one class only; {remedy}")
    if rows.loc[rows["half"] == "select", "label"].nunique() < 2:
        raise ClickModelError("the selection half of validation holds one class only: no setting can be chosen on it")
    told = rows[learned & (rows["split"] == "label")]
    if empty := [name for name in features if told[name].isna().all()]:
        raise ClickModelError(f"no label row to learn from has {', '.join(empty)}: the graph part is too small")


def trials_of(model: str, settings: ClickModelsConfig) -> tuple:
    """The declared settings of a model."""
    if model in NETWORKS:
        return settings.network_trials
    return settings.logistic_trials if model.startswith("logistic") else settings.boosted_trials


def best_of_trials(model: str, material: Material, settings: ClickModelsConfig, seed: int) -> tuple[Fitted, float]:
    """The trial of highest AUC on the selection half, the first of equals, and the seconds that all trials took."""
    found = []
    for trial in trials_of(model, settings):
        found.append(fit_network(model, material, trial, settings, seed) if model in NETWORKS
                     else fit_numbers(model, material, trial, seed))  # fmt: skip
    return max(found, key=lambda fitted: fitted.select_auc), sum(fitted.seconds for fitted in found)


def microseconds(predict: Predict, places: np.ndarray) -> tuple[float, float]:
    """Time of one prediction: in a batch of up to 4,096 rows, and alone; medians, after one that warms up.

    Features and histories are at hand: what it takes to look them up is not counted.
    """
    batch, found = places[:N_TIMED], []
    for asked, repeats in ((batch, REPEATS), (batch[:1], 10 * REPEATS)):
        predict(asked)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            predict(asked)
            seconds.append(time.perf_counter() - start)
        found.append(1e6 * float(np.median(seconds)) / len(asked))
    return found[0], found[1]


def fit_all(
    rows: pd.DataFrame, shape: tuple[int, int], numbers: Sequence[str], text: Sequence[str],
    settings: ClickModelsConfig, seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Every model on both training sets, its setting chosen on the selection half of validation.

    Args:
        rows: `COLUMNS` and the features, NaN where missing (as on graph rows). Labels are read of the graph and label
            parts and of the selection half; those of test rows never.
        shape: (n_users, n_items).
        numbers: names of the numbers that the prompt shows.
        text: names of similarities of titles.
        settings: trials and sizes.
        seed: of weights, order of rows and trees.

    Returns:
        scores: row and one column a model and training set (see `column_name`), p of a click, of all validation and
        test rows. table: model, training, features, n_rows (learned from), n_trials, setting (the chosen one),
        auc_validation, training_s (of the chosen one), tuning_s (of all), batch_us, single_us (a prediction).

    Raises:
        ClickModelError: columns are missing, or rows hold one class only.
    """
    _check(rows, [*numbers, *text])
    rows = rows.reset_index(drop=True)
    history, asked = earlier_clicks(rows, settings.n_history), np.flatnonzero(rows["split"].isin(SCORED))
    scores, table = {"row": rows["row"].to_numpy()[asked]}, []
    material = {training: prepare(rows, history, shape, numbers, text, settings.n_bins, training)
                for training in TRAINING_SETS}  # fmt: skip
    plan = [(model, training) for training in TRAINING_SETS for model in (*NETWORKS, *NUMBER_MODELS)]
    for model, training in progress(plan, "click models", unit="model"):
        fitted, seconds = best_of_trials(model, material[training], settings, seed)
        scores[column_name(model, training)] = fitted.predict(asked)
        rows_learned = material[training].train if model in NETWORKS else material[training].told
        table.append({"model": model, "training": training, "features": _features(model), "n_rows": len(rows_learned),
                      "n_trials": len(trials_of(model, settings)), **_cost(fitted, seconds, asked)})  # fmt: skip
    return pd.DataFrame(scores), pd.DataFrame(table)


def _cost(fitted: Fitted, seconds: float, asked: np.ndarray) -> dict:
    batch_us, single_us = microseconds(fitted.predict, asked)
    return {"setting": fitted.setting, "auc_validation": fitted.select_auc, "training_s": fitted.seconds,
            "tuning_s": seconds, "batch_us": batch_us, "single_us": single_us}  # fmt: skip


def _features(model: str) -> str:
    if model in NETWORKS:
        return "ids, clicks before, numbers, text" if model == "din" else "ids, numbers, text"
    return "numbers, text" if model.endswith("text") else "numbers"


def quality(
    table: pd.DataFrame, scores: pd.DataFrame, judged: pd.DataFrame, n_bootstrap: int, seed: int
) -> pd.DataFrame:  # fmt: skip
    """Add what the scores are worth on judged rows: auc, gauc and log_loss, each with _lo and _hi (95 %, users drawn).

    Args:
        table, scores: from `fit_all`.
        judged: row, user_id, label of the rows to judge on.
        n_bootstrap: resamples of users.
        seed: of the resamples.

    Returns:
        The table with nine more columns, and n (judged rows).
    """
    both = judged[["row", "user_id", "label"]].merge(scores, on="row", validate="one_to_one")
    names = [column_name(*pair) for pair in zip(table["model"], table["training"], strict=True)]
    added = {"n": len(both)}
    for metric in QUALITY:
        shared = (both["label"].to_numpy(), both["user_id"].to_numpy())
        samples = metrics.paired_bootstrap(shared[0], {name: both[name].to_numpy() for name in names}, shared[1],
                                           n_bootstrap, seed, metric)  # fmt: skip
        ends = [metrics.interval(samples[name]) or (np.nan, np.nan) for name in names]
        added[metric] = [metrics.value_of(metric, shared[0], both[name].to_numpy(), shared[1]) for name in names]
        added[f"{metric}_lo"], added[f"{metric}_hi"] = zip(*ends, strict=True)
    return table.assign(**added)
