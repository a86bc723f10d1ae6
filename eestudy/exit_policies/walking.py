"""Walking down the exits: who leaves where, and the controls that no server could run."""

from __future__ import annotations

import numpy as np

from eestudy.artifacts import refuse_nonfinite
from eestudy.exit_policies.rules import FIRST_EXIT, LAST_EXIT, Policy, PolicyInputError, agreeing_heads


def exit_index(policy: Policy, p_yes: np.ndarray, threshold: float, min_exit: int = 0) -> np.ndarray:
    """Where each candidate leaves, found by walking down the exits as the scorer does.

    Args:
        policy: the rule; only `should_exit` is used.
        p_yes: [n, E] calibrated scores.
        threshold: of the rule.
        min_exit: 0-based exit before which nobody leaves.

    Returns:
        [n] int64, 0-based column. The last exit takes whoever is left.

    Raises:
        PolicyInputError: a score that is not finite; nobody would leave by it.
    """
    p_yes = np.asarray(p_yes, dtype=np.float64)
    refuse_nonfinite(p_yes, "p_yes", PolicyInputError)
    n, n_exits = p_yes.shape
    index = np.full(n, n_exits - 1, dtype=np.int64)
    active = np.arange(n)
    for e in range(min_exit, n_exits - 1):
        leaves = policy.should_exit(p_yes[active, : e + 1], threshold)
        index[active[leaves]] = e
        active = active[~leaves]
    return index


def exit_scores(p_yes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The score of the head at which each candidate left: [n, E], [n] -> [n]."""
    return np.take_along_axis(np.asarray(p_yes), np.asarray(index)[:, None], axis=1)[:, 0]


def threshold_grid(policy: Policy, p_yes: np.ndarray, n_thresholds: int) -> np.ndarray:
    """Thresholds to try: every count for rules that count, else quantiles of the confidences and both extremes.

    Args:
        policy: the rule.
        p_yes: [n, E] validation scores.
        n_thresholds: number of quantiles.

    Returns:
        [m] ascending; the first lets everybody out at the first exit, the last nobody before the last one.
    """
    p_yes = np.asarray(p_yes, dtype=np.float64)
    seen = [policy.confidence(p_yes[:, : e + 1]) for e in range(p_yes.shape[1])]
    if all(np.issubdtype(values.dtype, np.integer) for values in seen):
        return np.arange(p_yes.shape[1], dtype=np.float64) + seen[0].min()  # static: 0 .. E-1, patience: 1 .. E
    values = np.concatenate(seen)
    quantiles = np.quantile(values[values > FIRST_EXIT], np.linspace(0, 1, n_thresholds))
    return np.unique(np.concatenate([[FIRST_EXIT], quantiles, [LAST_EXIT]]))


def shuffled_exit_index(index: np.ndarray, rng: np.random.Generator, group: np.ndarray | None = None) -> np.ndarray:
    """The same exits dealt out at random: what choosing *whom* to let out is worth. Offline only.

    Args:
        index: [n] exits of a policy.
        rng: source of the permutation.
        group: [n] ids to stay within (a request: its cost stays about the same), or None for all rows.

    Returns:
        [n], a permutation of `index` (inside each group).
    """
    index = np.asarray(index)
    group = np.zeros(len(index), dtype=np.int64) if group is None else np.asarray(group)
    shuffled = np.empty_like(index)
    shuffled[np.argsort(group, kind="stable")] = index[np.lexsort((rng.random(len(index)), group))]
    return shuffled


def oracle_exit_index(p_yes: np.ndarray, base_rate: float) -> np.ndarray:
    """Earliest exit from which on every head decides like the last one (side of the base rate). [n] int64.

    Looks ahead, so it is offline only: a bound on what a rule that keeps full depth's decisions could save.
    """
    return np.shape(p_yes)[1] - agreeing_heads(p_yes, base_rate)
