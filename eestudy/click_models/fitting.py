"""Fitting one model with one setting, on one of two training sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits
from torch.nn import functional

from eestudy import metrics
from eestudy.click_models.fields import bin_edges, encode
from eestudy.click_models.networks import make_network
from eestudy.config import ClickModelsConfig

TRAINING_SETS = ("same", "all")
NUMBER_MODELS = ("logistic_numbers", "boosted_numbers", "logistic_text", "boosted_text")
SMALLEST, CHUNK = 1e-6, 8192

Predict = Callable[[np.ndarray], np.ndarray]  # places [n] of rows -> p of a click [n]


@dataclass(frozen=True)
class Material:
    """N rows in the forms that the models read, and which of them a training set has."""

    label: np.ndarray  # [N] in {0, 1}; read at `train`, `told` and `select` only
    fields: dict[str, torch.Tensor]  # ids, history and bins, for the networks
    sizes: dict[str, int]  # field -> number of values
    values: dict[str, np.ndarray]  # "numbers" [N, F], "text" [N, F + G]: floats, NaN where missing
    train: np.ndarray  # places of all rows to learn from
    told: np.ndarray  # places of those with numbers: the label rows among them
    select: np.ndarray  # places of the selection half of validation


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted with one setting."""

    predict: Predict
    select_auc: float
    seconds: float
    setting: str


def training_rows(rows: pd.DataFrame, training: str) -> np.ndarray:
    """Which rows a model learns from: bool [N].

    Args:
        rows: split, judged.
        training: "all": graph and label part; "same": graph part and the label rows that the language model learns.

    Raises:
        ValueError: another training set.
    """
    if training not in TRAINING_SETS:
        raise ValueError(f"unknown training set {training!r}; known: {', '.join(TRAINING_SETS)}")
    is_label = (rows["split"] == "label").to_numpy()
    if training == "same":
        is_label = is_label & rows["judged"].to_numpy(bool)
    return is_label | (rows["split"] == "graph").to_numpy()


def prepare(
    rows: pd.DataFrame, history: np.ndarray, shape: tuple[int, int], numbers: Sequence[str], text: Sequence[str],
    n_bins: int, training: str,
) -> Material:  # fmt: skip
    """Bring rows into the forms that the models read; bins are cut on the label rows to learn from.

    Args:
        rows: user_id, item_id, label, split, half, judged and the features (NaN where missing).
        history: [N, K] from `earlier_clicks`.
        shape: (n_users, n_items).
        numbers, text: names of the numbers that the prompt shows, and of similarities of titles.
        n_bins: bins of each feature for the networks.
        training: one of `TRAINING_SETS`.
    """
    is_train = training_rows(rows, training)
    told = np.flatnonzero(is_train & (rows["split"] == "label").to_numpy())
    features = [*numbers, *text]
    edges = {name: bin_edges(rows[name].to_numpy()[told], n_bins) for name in features}
    return Material(
        label=rows["label"].to_numpy(np.int64), fields=encode(rows, history, edges),
        sizes={"user": shape[0], "item": shape[1] + 1, **{name: len(edge) + 2 for name, edge in edges.items()}},
        values={"numbers": rows[list(numbers)].to_numpy(np.float64), "text": rows[features].to_numpy(np.float64)},
        train=np.flatnonzero(is_train), told=told, select=np.flatnonzero(rows["half"] == "select"),
    )  # fmt: skip


def _select_auc(material: Material, predict: Predict) -> float:
    value = metrics.auc(material.label[material.select], predict(material.select))
    return float(np.nan_to_num(value, nan=0.5))


def _one_pass(network, optimizer, material: Material, target: torch.Tensor, batches) -> None:
    network.train()
    for batch in batches:
        p = network({name: value[batch] for name, value in material.fields.items()})
        loss = functional.binary_cross_entropy(p.clamp(SMALLEST, 1 - SMALLEST), target[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _rows_of_pass(material: Material, most: int, generator: torch.Generator) -> torch.Tensor:
    """Places of at most `most` rows, in random order; rows with numbers are first served, up to half of the places."""
    told, train = torch.from_numpy(material.told), torch.from_numpy(material.train)
    if len(train) > most:
        blank = torch.from_numpy(np.setdiff1d(material.train, material.told))
        told = told[torch.randperm(len(told), generator=generator)][: most // 2]
        train = torch.cat([told, blank[torch.randperm(len(blank), generator=generator)][: most - len(told)]])
    return train[torch.randperm(len(train), generator=generator)]


def _network_predict(network, fields: dict[str, torch.Tensor]) -> Predict:
    def predict(places: np.ndarray) -> np.ndarray:
        network.eval()
        with torch.inference_mode():
            parts = [network({name: value[part] for name, value in fields.items()})
                     for part in torch.from_numpy(np.asarray(places)).split(CHUNK)]  # fmt: skip
        return torch.cat(parts).numpy().astype(np.float64)

    return predict


def fit_network(name: str, material: Material, trial: Sequence, settings: ClickModelsConfig, seed: int) -> Fitted:
    """Train one network with Adam; the pass of highest AUC on the selection half is kept.

    The library's trainer reads row by row through a DataLoader; here batches are slices of tensors.

    Args:
        name: one of `NETWORKS`.
        material: the rows.
        trial: length of vectors, learning rate, weight decay, dropout.
        settings: passes, rows a pass, batch size, patience.
        seed: of weights, order of rows and dropout.
    """
    start, (dim, lr, weight_decay, dropout) = time.perf_counter(), trial
    network = make_network(name, material.sizes, dim, dropout, settings.hidden, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    generator, target = torch.Generator().manual_seed(seed), torch.from_numpy(material.label.astype(np.float32))
    predict = _network_predict(network, material.fields)
    best, best_pass, kept = -1.0, 0, {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global generator
        for number in range(1, settings.max_passes + 1):
            order = _rows_of_pass(material, settings.rows_per_pass, generator)
            n_batches = -(-len(order) // settings.batch_size)  # of equal size: none has one row alone
            _one_pass(network, optimizer, material, target, order.tensor_split(n_batches))
            if (value := _select_auc(material, predict)) > best:
                best, best_pass, kept = value, number, {key: v.clone() for key, v in network.state_dict().items()}
            elif number - best_pass >= settings.patience:
                break
    network.load_state_dict(kept)
    text = f"dim {dim}, lr {lr:g}, weight decay {weight_decay:g}, dropout {dropout:g}; pass {best_pass}"
    return Fitted(predict, best, time.perf_counter() - start, text)


def make_number_model(name: str, trial: Sequence[float], n_features: int, seed: int):
    """A model of sklearn, unfitted, and its setting in words.

    Gaps are filled with the training mean, and marked, for the logistic regression; the boosted trees take them as they
    are. Every feature is a mean or a similarity: in the trees more of it can only speak for a click.
    """
    if name.startswith("logistic"):
        strength, degree = trial
        model = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(),
                              PolynomialFeatures(int(degree), include_bias=False),
                              LogisticRegression(C=strength, max_iter=1000))  # fmt: skip
        return model, f"C {strength:g}, degree {degree:g}"
    leaves, rate, trees = trial
    model = HistGradientBoostingClassifier(
        max_iter=int(trees), learning_rate=rate, max_leaf_nodes=int(leaves), min_samples_leaf=50, early_stopping=False,
        monotonic_cst=[1] * n_features, random_state=seed,
    )  # fmt: skip
    return model, f"{leaves:g} leaves, lr {rate:g}, {trees:g} trees"


def fit_numbers(name: str, material: Material, trial: Sequence[float], seed: int) -> Fitted:
    """Fit one model of numbers, on the rows that have them.

    Args:
        name: one of `NUMBER_MODELS`.
        material: the rows.
        trial: C and degree, or leaves, learning rate and trees.
        seed: of the trees.
    """
    start, values = time.perf_counter(), material.values[name.split("_")[1]]
    model, text = make_number_model(name, trial, values.shape[1], seed)
    with threadpool_limits(limits=1):  # small fits: more threads only wait for each other
        model.fit(values[material.told], material.label[material.told])

    def predict(places: np.ndarray) -> np.ndarray:
        return model.predict_proba(values[places])[:, 1]

    return Fitted(predict, _select_auc(material, predict), time.perf_counter() - start, text)
