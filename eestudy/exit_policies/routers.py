"""Exits from elsewhere than a rule of thumb: look-alikes, a learned router, a budget for each request.

`learned_router` is a causal `Policy` like the others. The other two return exits, offline: neighbours' exits are
looked up before the first layer, which a server could do, but the scorer asks for nothing but scores; the budget looks
across the candidates of a request.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eestudy.exit_policies.rules import Policy, PolicyInputError, agreeing_heads, agrees, logit
from eestudy.exit_policies.selection import costs_at, head_matrix


def first_sure_exit(sureness: np.ndarray, threshold: float) -> np.ndarray:
    """First exit whose sureness reaches the threshold, else the last: [n, E] -> [n] 0-based."""
    sure = np.asarray(sureness) >= threshold
    return np.where(sure.any(1), sure.argmax(1), sure.shape[1] - 1)


def neighbour_agreement(
    keys: np.ndarray, known_keys: np.ndarray, known_p_yes: np.ndarray, base_rate: float, k: int
) -> np.ndarray:
    """How often each head agreed with full depth among the known rows that look most alike.

    Args:
        keys: [n, d] what is known of each row before the model runs; NaN counts as the known rows' mean.
        known_keys: [N, d] the same of known rows.
        known_p_yes: [N, E] their scores.
        base_rate: a score above it is a yes.
        k: neighbours, at most N.

    Returns:
        [n, E] in [0, 1].

    Source: after RAEE (Huang et al., arXiv 2405.15198), which looks up where similar inputs were answered correctly
    and leaves at the likeliest exit; agreement with full depth, and a threshold on it, are ours.
    """
    alike = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()).fit(known_keys)
    index = NearestNeighbors(n_neighbors=min(k, len(known_keys))).fit(alike.transform(known_keys))
    near = index.kneighbors(alike.transform(keys), return_distance=False)  # [n, k]
    return agrees(known_p_yes, base_rate)[near].mean(1)


def router_features(p: np.ndarray, base_rate: float) -> np.ndarray:
    """What the learned router sees at an exit: [n, e+1] scores so far -> [n, 4].

    The log odds above the base rate and their size, the step since the head before (0 at the first), and how many
    heads in a row agree.
    """
    odds = logit(p[:, -2:]) - logit(base_rate)
    step = odds[:, -1] - odds[:, 0]
    return np.column_stack([odds[:, -1], np.abs(odds[:, -1]), step, agreeing_heads(p, base_rate)])


def _chance_of_agreement(p: np.ndarray, agreed: np.ndarray, base_rate: float) -> Callable[[np.ndarray], np.ndarray]:
    """One exit's model: [n, e+1], [n] bool -> (scores so far -> chance that this head agrees with full depth)."""
    if agreed.all() or not agreed.any():
        return lambda asked: np.full(len(asked), float(agreed.all()))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(router_features(p, base_rate), agreed)
    return lambda asked: model.predict_proba(router_features(asked, base_rate))[:, 1]


def learned_router(p_yes: np.ndarray, base_rate: float) -> Policy:
    """A policy whose confidence is learned: the chance that this head says yes or no like full depth.

    One logistic regression per exit, on the scores so far. Nobody is asked about rows it was fitted on: fit it on the
    select half of validation, judge it elsewhere.

    Args:
        p_yes: [n, E] scores of the rows to learn from; labels are not needed.
        base_rate: a score above it is a yes.
    """
    p_yes = np.asarray(p_yes, dtype=np.float64)
    agreed = agrees(p_yes, base_rate)
    models = [_chance_of_agreement(p_yes[:, : e + 1], agreed[:, e], base_rate) for e in range(p_yes.shape[1])]
    return Policy("learned_router", lambda p: models[p.shape[1] - 1](p) if len(p) else np.empty(0),
                  "chance that the head agrees with full depth")  # fmt: skip


def _padded(request_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows by request: [n] -> places [R, C] (row numbers, 0 where padded), mask [R, C] of real ones."""
    _, index, counts = np.unique(request_id, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    mask = np.arange(counts.max()) < counts[:, None]
    places = np.zeros(mask.shape, dtype=np.int64)
    places[mask] = order
    return places, mask


def nearest_gap(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Distance of each candidate's score to the nearest other one of its request: [R, C], infinite where alone."""
    gap = np.abs(score[:, :, None] - score[:, None, :])
    gap[~(mask[:, :, None] & mask[:, None, :]) | np.eye(score.shape[1], dtype=bool)] = np.inf
    return gap.min(2)


def budget_exit_index(frame: pd.DataFrame, budget: float) -> np.ndarray:
    """Spend at most so much on each request, where it matters most for the ranking. Offline only.

    All candidates start at the first exit. Then, again and again, of the candidates that can still go one exit deeper
    within the budget, the one goes whose score lies nearest to another's: its place in the ranking is the least
    certain. Only scores already computed are read. A candidate alone in its request has no place to lose, and stays.

    Args:
        frame: as from `judged_rows`.
        budget: share of the request's token-layers at full depth, prefix included. One too small for the first exit
            buys the first exit.

    Returns:
        [n] 0-based exits.

    Source: our own; the prefix is charged as in `token_layers`, so going first into a depth costs more than following.
    """
    if not 0 <= budget <= 1:
        raise PolicyInputError(f"the budget is a share of full depth, in [0, 1], not {budget}")
    layers, p_yes = head_matrix(frame)
    places, mask = _padded(frame["request_id"].to_numpy())
    score = np.where(mask[:, :, None], logit(p_yes)[places], 0)  # [R, C, E]
    prefix = frame["n_prefix_tokens"].to_numpy()[places[:, :1]]  # [R, 1]
    suffix = frame["n_suffix_tokens"].to_numpy()[places] * mask  # [R, C]
    most = budget * (prefix[:, 0] + suffix.sum(1)) * layers[-1]
    exits = np.zeros(mask.shape, dtype=np.int64)
    while True:
        depth, deeper = layers[exits], layers[np.minimum(exits + 1, len(layers) - 1)]
        reach = np.maximum(depth.max(1, keepdims=True), deeper)  # where the prefix would have to end, [R, C]
        spent = (suffix * depth).sum(1, keepdims=True) + suffix * (deeper - depth) + prefix * reach
        gap = nearest_gap(np.take_along_axis(score, exits[:, :, None], axis=2)[:, :, 0], mask)
        gap[(exits == len(layers) - 1) | (spent > most[:, None] * (1 + 1e-12))] = np.inf
        going = np.flatnonzero(np.isfinite(gap.min(1)))
        if not len(going):
            break
        exits[going, gap[going].argmin(1)] += 1
    index = np.empty(len(frame), dtype=np.int64)
    index[places[mask]] = exits[mask]
    return index


def around_cost(frame: pd.DataFrame, exits: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The two settings of a family whose costs enclose a given one, to compare families at equal cost.

    Args:
        frame: as from `judged_rows`, n rows.
        exits: [n, m] exits of the family's settings.
        fraction: of full depth's token-layers; outside the family's range its nearest setting counts.

    Returns:
        exits [n, 2], weights [2] that sum to 1: a metric at that cost is the weighted mean of the two settings'.
    """
    costs = costs_at(frame, exits)
    order = np.argsort(costs, kind="stable")
    high = int(np.clip(np.searchsorted(costs[order], fraction), 1, len(order) - 1)) if len(order) > 1 else 0
    pair = order[[max(high - 1, 0), high]]
    low_cost, high_cost = costs[pair]
    share = float(np.clip((fraction - low_cost) / (high_cost - low_cost), 0, 1)) if high_cost > low_cost else 0.0
    return np.asarray(exits)[:, pair], np.array([1 - share, share])
