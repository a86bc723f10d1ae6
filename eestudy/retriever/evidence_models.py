"""Simple models on the very numbers that the prompt shows: what the LLM has to beat on equal evidence."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

FEATURES = ("user_mean", "others_mean", "own_mean")  # stars; each is printed in the prompt with evidence
MATCH_FEATURES = ("match", "others_mean", "own_mean")  # the same without stars: three similarities


def make_models(seed: int, n_features: int) -> dict:
    """The two models, unfitted.

    The logistic regression sees three means and, where one is missing in training, an indicator of it; the gap is
    filled with the training mean. The boosted trees take gaps as they are; their size is fixed (no early stopping,
    so that they read no row but the label rows) and a larger mean may only raise p.
    """
    logistic = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression())
    boosted = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=50, early_stopping=False,
        monotonic_cst=[1] * n_features, random_state=seed,
    )  # fmt: skip
    return {"logistic_evidence": logistic, "boosted_evidence": boosted}


def evidence_model_scores(
    train: pd.DataFrame, judged: pd.DataFrame, seed: int, suffix: str = "", features: Sequence[str] = FEATURES
) -> pd.DataFrame:
    """Fit both models on label rows and score other rows.

    Args:
        train: the features (NaN where missing) and label of the rows to learn from.
        judged: row and the features of the N rows to score.
        seed: of the boosted trees.
        suffix: appended to the columns' names.
        features: three columns, of which more can only speak for a click.

    Returns:
        N rows: row, logistic_evidence and boosted_evidence, p of a click in (0, 1).

    Raises:
        ValueError: the rows to learn from are all clicks or all non-clicks, or one of the means is always missing.
    """
    if train["label"].nunique() < 2:
        raise ValueError("the label rows hold one class only; raise data.n_label_rows so that both occur")
    columns = list(features)
    empty = [column for column in columns if train[column].isna().all()]
    if empty:
        raise ValueError(f"no label row has {', '.join(empty)}: the graph part is too small")
    scores = {"row": judged["row"].to_numpy()}
    with threadpool_limits(limits=1):  # small fits: more threads only wait for each other
        for name, model in make_models(seed, len(columns)).items():
            fitted = model.fit(train[columns].to_numpy(), train["label"].to_numpy())
            scores[name + suffix] = fitted.predict_proba(judged[columns].to_numpy())[:, 1]
    return pd.DataFrame(scores)
