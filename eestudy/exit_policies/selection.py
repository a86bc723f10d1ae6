"""What exits cost and are worth on judged rows, and how one setting is chosen on validation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from eestudy import metrics
from eestudy.config import PolicyConfig
from eestudy.exit_policies.rules import Policy, PolicyInputError
from eestudy.exit_policies.walking import exit_index, exit_scores, threshold_grid


def token_layers(exit_layer, request_id, n_prefix_tokens, n_suffix_tokens) -> np.ndarray:
    """Work of each candidate: tokens times the layers that they go through.

    The shared prefix of a request runs as deep as its deepest candidate, a suffix as deep as its own; the prefix is
    charged in equal parts to the candidates of its request, so that the sum over rows is the work really done.

    Args:
        exit_layer: [n] or [n, m] 1-based layer after which the candidate left, under one policy or under m of them.
        request_id: [n].
        n_prefix_tokens: [n] tokens of the row's request (equal within a request).
        n_suffix_tokens: [n] tokens.

    Returns:
        [n] or [n, m] token-layers.
    """
    layer = np.asarray(exit_layer, dtype=np.float64)
    if not len(layer):
        return layer
    columns = (-1,) + (1,) * (layer.ndim - 1)  # [n] or [n, 1]
    prefix, suffix = np.reshape(n_prefix_tokens, columns), np.reshape(n_suffix_tokens, columns)
    _, request, size = np.unique(np.asarray(request_id), return_inverse=True, return_counts=True)
    ordered = layer[np.argsort(request, kind="stable")]  # the rows of a request one after the other
    deepest = np.maximum.reduceat(ordered, np.cumsum(size) - size, axis=0)  # [requests] or [requests, m]
    return prefix * deepest[request] / np.reshape(size[request], prefix.shape) + suffix * layer


def head_matrix(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Exit layers [E] (1-based, ascending) and scores [n, E] from the `p_yes_<layer>` columns."""
    layers = sorted(int(name.removeprefix("p_yes_")) for name in frame.columns if name.startswith("p_yes_"))
    if not layers:
        raise PolicyInputError(f"no p_yes_<layer> column among {list(frame.columns)}; run notebook 05 again")
    return np.array(layers), frame[[f"p_yes_{layer}" for layer in layers]].to_numpy(np.float64)


def judged_rows(
    head_scores: pd.DataFrame, prompt_tokens: pd.DataFrame, split: str, mode: str = "both", half: str | None = None
) -> pd.DataFrame:
    """Head scores of one split and mode beside their token counts.

    Args:
        head_scores, prompt_tokens: the artifacts of those names.
        split, mode, half: which rows; half None means both halves.

    Returns:
        The head scores' columns plus n_prefix_tokens and n_suffix_tokens, ordered by row.

    Raises:
        PolicyInputError: no such row, a row without token counts, or one with a score that is not finite.
    """
    kept = head_scores[(head_scores["split"] == split) & (head_scores["mode"] == mode)]
    kept = kept if half is None else kept[kept["half"] == half]
    tokens = prompt_tokens[["row", "n_prefix_tokens", f"n_suffix_{mode}"]]
    tokens = tokens.rename(columns={f"n_suffix_{mode}": "n_suffix_tokens"})
    frame = kept.merge(tokens, on="row", how="left", validate="one_to_one").sort_values("row", ignore_index=True)
    missing = frame["n_suffix_tokens"].isna()
    if frame.empty or missing.any():
        what = f"row {frame.loc[missing, 'row'].iloc[0]} has no token count" if missing.any() else "there are no rows"
        raise PolicyInputError(f"{split} / {mode} / {half}: {what}; head_scores and prompt_tokens must be of one run")
    odd = ~np.isfinite(head_matrix(frame)[1]).all(1)
    if odd.any():
        raise PolicyInputError(f"row {frame.loc[odd, 'row'].iloc[0]}: a score is not finite; run notebook 05 again")
    return frame


def work(frame: pd.DataFrame, index: np.ndarray) -> np.ndarray:
    """Token-layers of each row at given exits: frame as from `judged_rows`, [n] or [n, m] -> the same shape."""
    depth = head_matrix(frame)[0][np.asarray(index)]
    return token_layers(depth, frame["request_id"], frame["n_prefix_tokens"], frame["n_suffix_tokens"])


def costs_at(frame: pd.DataFrame, exits: np.ndarray) -> np.ndarray:
    """Token-layers of each column of exits, as a share of full depth's: frame as from `judged_rows`, [n, m] -> [m]."""
    full = work(frame, np.full(len(frame), len(head_matrix(frame)[0]) - 1)).sum()
    return np.ascontiguousarray(work(frame, exits).T).sum(axis=1) / full


def cost(frame: pd.DataFrame, index: np.ndarray) -> dict:
    """Depth and work of given exits: mean_exit_layer, mean_exit_fraction, token_layer_fraction.

    Args:
        frame: as from `judged_rows`.
        index: [n] 0-based exits.
    """
    layers, index = head_matrix(frame)[0], np.asarray(index)
    mean_layer = float(layers[index].mean())
    return {
        "mean_exit_layer": mean_layer,
        "mean_exit_fraction": mean_layer / float(layers[-1]),
        "token_layer_fraction": float(costs_at(frame, index[:, None])[0]),
    }


def judge(frame: pd.DataFrame, index: np.ndarray) -> dict:
    """Predictive performance (auc, gauc, log_loss, ece) of given exits beside their `cost`."""
    label, p = frame["label"].to_numpy(), exit_scores(head_matrix(frame)[1], index)
    quality = {name: metrics.value_of(name, label, p, frame["user_id"].to_numpy()) for name in metrics.METRICS}
    return quality | cost(frame, index)


def sweep(frame: pd.DataFrame, rules: Iterable[Policy], cfg: PolicyConfig) -> pd.DataFrame:
    """Every rule at every threshold of its grid on the given (validation) rows.

    Returns:
        Frame: policy, dynamic, threshold, modal_exit_share (rows that leave at the most common exit), the columns of
        `judge`, auc_loss (full depth's AUC minus this one).
    """
    p_yes = head_matrix(frame)[1]
    full = metrics.auc(frame["label"], p_yes[:, -1])
    rows, judged = [], {}  # rules that rank candidates alike walk alike: the same exits are judged once
    for rule in rules:
        for threshold in threshold_grid(rule, p_yes, cfg.n_thresholds):
            index = exit_index(rule, p_yes, threshold, cfg.min_exit)
            setting = {"policy": rule.name, "dynamic": rule.dynamic, "threshold": threshold,
                       "modal_exit_share": np.bincount(index).max() / len(index)}
            if (walk := index.tobytes()) not in judged:
                judged[walk] = judge(frame, index)
            rows.append(setting | judged[walk])
    return pd.DataFrame(rows).assign(auc_loss=lambda table: full - table["auc"])


def really_dynamic(swept: pd.DataFrame, min_share: float) -> pd.DataFrame:
    """The settings of dynamic rules that treat candidates differently.

    A threshold that sends (nearly) everybody out at one exit is a static exit by another name, and would win or lose
    with it. Where no setting is left, all settings of dynamic rules are returned.

    Args:
        swept: from `sweep`.
        min_share: of the rows that must leave elsewhere than at the most common exit.
    """
    dynamic = swept[swept["dynamic"]]
    kept = dynamic[dynamic["modal_exit_share"] <= 1 - min_share]
    return dynamic if kept.empty else kept


def select(swept: pd.DataFrame, max_auc_loss: float) -> pd.Series:
    """The setting of least token_layer_fraction among those whose validation AUC loss is at most `max_auc_loss`.

    Where none qualifies the deepest setting is taken, which is full depth in every sweep. Ties go to the higher AUC.
    """
    eligible = swept[swept["auc_loss"] <= max_auc_loss]
    if eligible.empty:
        return swept.sort_values("token_layer_fraction", kind="stable").iloc[-1]
    order = ["token_layer_fraction", "auc_loss", "policy", "threshold"]
    return eligible.sort_values(order, kind="stable").iloc[0]


def static_at_cost(static_fraction: np.ndarray, static_value: np.ndarray, fraction: float) -> np.ndarray:
    """What static exits reach at a given cost, interpolated linearly between neighbouring heads.

    Args:
        static_fraction: [E] ascending token-layer fractions of the static exits.
        static_value: [..., E] a metric of each static exit: one row, or one per bootstrap resample.
        fraction: the cost; outside the static range the nearest exit counts.

    Returns:
        [...] interpolated values, a paired rival in each resample.
    """
    weight = [np.interp(fraction, static_fraction, unit) for unit in np.eye(len(static_fraction))]  # [E], sums to 1
    return np.asarray(static_value) @ np.array(weight)
