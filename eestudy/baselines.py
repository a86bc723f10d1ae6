"""Models of interactions alone: the rates and the factorisation that any language model has to beat.

Validation, test and development rows are scored from the first 80 % of each user's rows (graph and label part),
the classic offline protocol: other users' rows may be younger than the row that is scored, no statistic holds the
row's own rating. A rating mean becomes a probability through a logistic regression fitted one step back in time:
label rows, described by statistics of the graph part only. Last, each score's scale and offset are fitted on the
selection half of validation, the step that the exit heads get too: clicks grow rarer with time, and log loss would
otherwise compare who has seen the newest click rate.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from eestudy import metrics
from eestudy.config import TRIVIAL_BASELINES, BaselineConfig
from eestudy.progress import progress

SCORED_SPLITS = ("validation", "test", "development")
RATE_FEATURES = {  # which columns of `rate_features` a baseline reads
    "item_mean": [0],
    "user_mean": [1],
    "item_plus_user_mean": [0, 1],
}
BASELINES = (*TRIVIAL_BASELINES, "logistic_mf")


def smoothed_mean(value, group, n_groups: int, shrinkage: float) -> np.ndarray:
    """Mean of `value` per group, pulled towards the mean of all values.

    mean[g] = (sum of the group's values + shrinkage * mean of all) / (number of the group's values + shrinkage)

    Args:
        value: float [n].
        group: int [n] in [0, n_groups).
        n_groups: number of groups G.
        shrinkage: pseudo-observations; a group without values gets the mean of all.

    Returns:
        float64 [G].
    """
    value = np.asarray(value, dtype=np.float64)
    total = np.bincount(group, weights=value, minlength=n_groups)
    count = np.bincount(group, minlength=n_groups)
    weight = np.where(count > 0, count + shrinkage, 1.0)  # an empty group with shrinkage 0 would be 0 / 0
    return np.where(count > 0, total + shrinkage * value.mean(), value.mean()) / weight


def rate_features(history: pd.DataFrame, rows: pd.DataFrame, shrinkage: float) -> np.ndarray:
    """Smoothed mean rating of each row's item and of its user.

    Args:
        history: user_id, item_id, rating; the only rows whose ratings are read.
        rows: user_id, item_id of the n rows to describe.
        shrinkage: see `smoothed_mean`.

    Returns:
        float64 [n, 2]: item mean, user mean, in stars.
    """
    columns = []
    for name in ("item_id", "user_id"):
        n_groups = 1 + int(max(history[name].max(), rows[name].max()))
        columns.append(smoothed_mean(history["rating"], history[name], n_groups, shrinkage)[rows[name]])
    return np.column_stack(columns)


def count_features(history: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Where nobody gives stars: log(1 + rows) of each row's item and of its user.

    Args:
        history: user_id, item_id of what was taken.
        rows: user_id, item_id of the n rows to describe.

    Returns:
        float64 [n, 2]: item, user.
    """
    return np.column_stack([np.log1p(rows[name].map(history[name].value_counts()).fillna(0).to_numpy(np.float64))
                            for name in ("item_id", "user_id")])  # fmt: skip


def fit_probability(features, label) -> LogisticRegression:
    """Logistic regression from features [n, F] to clicks [n], practically without penalty."""
    # With the usual tolerance a best slope near 0 would become 0 exactly, and a score one constant.
    return LogisticRegression(C=1e6, max_iter=1000, tol=1e-8).fit(features, label)


def rate_scores(interactions: pd.DataFrame, split, shrinkage: float, stars: bool = True) -> pd.DataFrame:
    """Probabilities of a click from rates and means; without stars numbers of rows take the place of means.

    Args:
        interactions: user_id, item_id, rating, label, observed.
        split: [n] names of the parts.
        shrinkage: see `smoothed_mean`.
        stars: whether the dataset has any.

    Returns:
        Frame with the index of the scored rows of `interactions` and one column per name in `TRIVIAL_BASELINES`.
    """
    split = np.asarray(split)
    graph, label_part = interactions[split == "graph"], interactions[split == "label"]
    known = interactions[np.isin(split, ("graph", "label"))]
    scored = interactions[np.isin(split, SCORED_SPLITS)]
    taken = known[known["observed"]]
    if stars:
        before, now = rate_features(graph, label_part, shrinkage), rate_features(taken, scored, shrinkage)
    else:
        before, now = count_features(graph, label_part), count_features(taken, scored)
    scores = pd.DataFrame({"click_rate": known["label"].mean()}, index=scored.index)
    for name, columns in RATE_FEATURES.items():
        model = fit_probability(before[:, columns], label_part["label"])
        scores[name] = model.predict_proba(now[:, columns])[:, 1]
    return scores


def recalibrate(p, label, is_fitted) -> np.ndarray:
    """Fit scale and offset of the log-odds: p' = sigmoid(slope * logit(p) + intercept).

    Args:
        p: probabilities [n], inside (0, 1).
        label: [n] in {0, 1}; read where `is_fitted` only.
        is_fitted: bool [n], the rows that the two numbers are fitted on.

    Returns:
        float64 [n]. Order, and with it AUC, stays as it was wherever the fitted slope is positive; a constant p
        becomes the click rate of the fitted rows.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
    """
    p, is_fitted = np.asarray(p, dtype=np.float64), np.asarray(is_fitted, dtype=bool)
    logit = np.log(p) - np.log1p(-p)
    feature = ((logit - logit.mean()) / max(float(logit.std()), 1e-6))[:, None]  # [n, 1]
    model = fit_probability(feature[is_fitted], np.asarray(label)[is_fitted])
    return model.predict_proba(feature)[:, 1]


class LogisticMF(nn.Module):
    """Logistic matrix factorisation with biases.

    logit p(click) = b + b_user + b_item + <v_user, v_item>

    Source: Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender Systems" (2009), eq. 4, here with
    the logistic loss.
    """

    def __init__(self, n_users: int, n_items: int, dim: int, generator: torch.Generator):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.user_bias = nn.Parameter(torch.zeros(n_users))
        self.item_bias = nn.Parameter(torch.zeros(n_items))
        self.user_factors = nn.Parameter(0.1 * torch.randn(n_users, dim, generator=generator))
        self.item_factors = nn.Parameter(0.1 * torch.randn(n_items, dim, generator=generator))

    def forward(self, user_id: torch.Tensor, item_id: torch.Tensor) -> torch.Tensor:
        """Logits [B] of user_id [B] and item_id [B]."""
        interest = (self.user_factors[user_id] * self.item_factors[item_id]).sum(-1)  # [B]
        return self.bias + self.user_bias[user_id] + self.item_bias[item_id] + interest


def _tensors(rows: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """user_id, item_id (int64) and label (float32) as tensors [n]."""
    ids = [torch.from_numpy(rows[name].to_numpy(np.int64, copy=True)) for name in ("user_id", "item_id")]
    return (*ids, torch.from_numpy(rows["label"].to_numpy(np.float32, copy=True)))


def predict_mf(model: LogisticMF, rows: pd.DataFrame) -> np.ndarray:
    """Probability of a click, float64 [n], for rows with user_id and item_id."""
    user_id, item_id, _ = _tensors(rows.assign(label=0))
    with torch.no_grad():
        return torch.sigmoid(model(user_id, item_id)).numpy().astype(np.float64)


def train_logistic_mf(
    train: pd.DataFrame, select: pd.DataFrame, shape: tuple[int, int], settings: BaselineConfig, seed: int
) -> tuple[LogisticMF, pd.DataFrame]:
    """Train with Adam on mini-batches and keep the epoch of least log loss on `select`.

    Args:
        train: user_id, item_id, label: the rows that are learnt.
        select: the same columns: rows that only choose the epoch.
        shape: (n_users, n_items).
        settings: dimension, learning rate, penalty, epochs, batch size.
        seed: of the initial factors and the order of rows.

    Returns:
        (model of the best epoch, frame with epoch, train_log_loss, select_log_loss).
    """
    generator = torch.Generator().manual_seed(seed)
    model = LogisticMF(*shape, settings.mf_dim, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.mf_lr, weight_decay=settings.mf_weight_decay)
    user_id, item_id, label = _tensors(train)
    losses, best = [], None
    for epoch in progress(range(1, settings.mf_epochs + 1), "logistic MF", unit="epoch"):
        for batch in torch.randperm(len(label), generator=generator).split(settings.mf_batch_size):
            loss = functional.binary_cross_entropy_with_logits(model(user_id[batch], item_id[batch]), label[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        log_loss = [metrics.log_loss(rows["label"], predict_mf(model, rows)) for rows in (train, select)]
        losses.append((epoch, *log_loss))
        if best is None or log_loss[1] < best[0]:
            best = (log_loss[1], {name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict(best[1])
    return model, pd.DataFrame(losses, columns=["epoch", "train_log_loss", "select_log_loss"])


def baseline_scores(
    interactions: pd.DataFrame, split: pd.DataFrame, shape: tuple[int, int], settings: BaselineConfig, seed: int,
    negatives: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """All baselines on all validation, test and development rows.

    Args:
        interactions: row, user_id, item_id, rating, label, observed.
        split: split and half, in the same order.
        shape: (n_users, n_items).
        settings: shrinkage and the factorisation's settings.
        seed: of the factorisation.
        negatives: user_id, item_id, label 0: opposites of the graph part's rows, where a dataset has no stars; the
            factorisation learns them too. None: it has stars.

    Returns:
        (frame with row and one column of probabilities per baseline, the factorisation's losses per epoch).
    """
    part = split["split"].to_numpy()
    scores = rate_scores(interactions, part, settings.shrinkage, negatives is None)
    known = pd.concat([interactions[np.isin(part, ("graph", "label"))], negatives])
    select = interactions[(split["half"] == "select").to_numpy()]
    model, losses = train_logistic_mf(known, select, shape, settings, seed)
    scores["logistic_mf"] = predict_mf(model, interactions.loc[scores.index])
    is_selected = scores.index.isin(select.index)
    label = interactions.loc[scores.index, "label"]
    scores = scores.apply(lambda p: recalibrate(p, label, is_selected))
    scores.insert(0, "row", interactions.loc[scores.index, "row"])
    return scores.reset_index(drop=True), losses


def evaluate(label, scores: dict[str, np.ndarray], user_id, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Every metric of every score with its 95 % interval, all from the same resamples of users.

    Args:
        label, user_id: [n].
        scores: name -> probabilities [n].
        n_bootstrap: resamples.
        seed: of the resamples.

    Returns:
        Frame: name, metric, value, low, high, n (one row per pair of name and metric).
    """
    rows = []
    for metric in metrics.METRICS:
        samples = metrics.paired_bootstrap(label, scores, user_id, n_bootstrap, seed, metric)
        for name, score in scores.items():
            low, high = metrics.interval(samples[name]) or (np.nan, np.nan)
            rows.append((name, metric, metrics.value_of(metric, label, score, user_id), low, high, len(score)))
    return pd.DataFrame(rows, columns=["name", "metric", "value", "low", "high", "n"])
