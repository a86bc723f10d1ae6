"""What leaving early does to one user: losses in [0, 1] against full depth, one number per user and threshold.

The unit is the user, since a user's rows are not independent of one another. Every user counts once, however many
rows there are.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy.exit_policies.rules import Policy, PolicyInputError
from eestudy.exit_policies.selection import head_matrix
from eestudy.exit_policies.walking import exit_index
from eestudy.metrics.quality import row_log_loss

LOSSES = {
    "disagreement": "share of a user's rows whose yes or no differs from full depth's",
    "excess_log_loss": "a user's mean log loss above full depth's, cut at 0 and at the cap, as a share of the cap",
    "ranking": "share of a user's pairs of rows whose order differs from full depth's",
}


def exits_at(policy: Policy, p_yes: np.ndarray, thresholds, min_exit: int = 0) -> np.ndarray:
    """Where each row leaves at each threshold: [n, E], [m] -> [n, m] 0-based exits."""
    return np.stack([exit_index(policy, p_yes, threshold, min_exit) for threshold in thresholds], axis=1)


def user_mean(values: np.ndarray, user_id) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each user's rows: [n, m], [n] -> users [U] ascending, [U, m]."""
    users, index, counts = np.unique(np.asarray(user_id), return_inverse=True, return_counts=True)
    if not len(users):
        return users, np.empty((0, values.shape[1]))
    first = np.cumsum(counts) - counts
    return users, np.add.reduceat(values[np.argsort(index, kind="stable")], first, axis=0) / counts[:, None]


def user_pairs(user_id) -> tuple[np.ndarray, np.ndarray]:
    """Positions of every two rows of one user, each pair once: [n] -> [P], [P]."""
    user_id = np.asarray(user_id)
    order, counts = np.argsort(user_id, kind="stable"), np.unique(user_id, return_counts=True)[1]
    place = np.arange(len(user_id))
    partners = np.repeat(np.cumsum(counts), counts) - place - 1  # [n] rows of the same user further down
    first = np.repeat(place, partners)
    step = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    return order[first], order[first + 1 + step]


def changed_pairs(scores: np.ndarray, full: np.ndarray, user_id) -> tuple[np.ndarray, np.ndarray]:
    """Share of each user's pairs whose order differs from full depth's; a tie on one side only counts half.

    Args:
        scores: [n, m] answers at m thresholds.
        full: [n] answers of full depth.
        user_id: [n].

    Returns:
        Users [U] with two rows or more (who has one has no order to change, and is left out), losses [U, m].
    """
    left, right = user_pairs(user_id)
    order = np.sign(full[left] - full[right])
    changed = [np.abs(np.sign(column[left] - column[right]) - order) / 2 for column in scores.T]  # m x [P]
    return user_mean(np.stack(changed, axis=1), np.asarray(user_id)[left])


def user_losses(kind: str, frame: pd.DataFrame, exits: np.ndarray, base_rate: float, cap: float) -> np.ndarray:
    """What each user loses against full depth, at each threshold.

    Args:
        kind: a name in `LOSSES`. Only `excess_log_loss` reads labels.
        frame: as from `judged_rows`, n rows.
        exits: [n, m] from `exits_at`.
        base_rate: a score above it is a yes.
        cap: nats per row at which `excess_log_loss` is cut, and by which it is divided.

    Returns:
        [U, m] in [0, 1]; for `ranking` of the users with two rows or more, else of all, by ascending id.

    Raises:
        PolicyInputError: an unknown kind, or a cap that is not positive.
    """
    if kind not in LOSSES or cap <= 0:
        raise PolicyInputError(f"loss {kind!r} with cap {cap}: known are {', '.join(LOSSES)}, and the cap is positive")
    p_yes, user_id = head_matrix(frame)[1], frame["user_id"].to_numpy()
    scores, full = np.take_along_axis(p_yes, exits, axis=1), p_yes[:, -1]
    if kind == "ranking":
        return changed_pairs(scores, full, user_id)[1]
    if kind == "disagreement":
        return user_mean(((scores > base_rate) != (full > base_rate)[:, None]).astype(np.float64), user_id)[1]
    label = frame["label"].to_numpy()
    excess = row_log_loss(label[:, None], scores) - row_log_loss(label, full)[:, None]
    return np.clip(user_mean(excess, user_id)[1] / cap, 0, 1)
