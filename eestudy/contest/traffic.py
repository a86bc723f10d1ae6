"""Under load, simulated: a ladder of thresholds, and three ways to run one server with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import exit_policies, load, metrics

N_SETTINGS = 6


@dataclass(frozen=True)
class Pool:
    """Requests that a simulated server may be asked, at S settings from fastest to full depth."""

    row_request: np.ndarray  # [n rows] position of each row's request
    label: np.ndarray  # [n rows]
    user: np.ndarray  # [n rows]
    p_yes: np.ndarray  # [n rows, S]
    seconds: np.ndarray  # [R requests, S] modelled service
    expected: np.ndarray  # [R, S] what a server can know of it beforehand


def ladder(policies: pd.DataFrame, policy: str, threshold: float) -> list[float]:
    """Thresholds from the chosen one to full depth, spread evenly over the work they take on validation.

    Args:
        policies: the artifact `policies.csv`.
        policy, threshold: chosen in notebook 06.

    Returns:
        At most `N_SETTINGS` thresholds, fastest first; the first is the chosen one, the last lets nobody out early.
    """
    swept = policies.query("split == 'validation' and policy == @policy")
    work = swept.groupby("threshold")["token_layer_fraction"].first()
    start = work.iloc[np.abs(work.index - threshold).argmin()]
    steps = [(work - share).abs().idxmin() for share in np.linspace(start, 1, N_SETTINGS)[1:-1]]
    between = {t for t in steps if t > threshold and work[t] < 1}
    return [threshold, *sorted(between), exit_policies.LAST_EXIT]


def at_settings(frame: pd.DataFrame, policy, thresholds: Sequence[float], min_exit: int):
    """Score and token-layers of every row at every setting: p_yes [n, S], work [n, S].

    Args:
        frame: from `exit_policies.judged_rows`.
        policy: the rule.
        thresholds: S, fastest first.
        min_exit: 0-based exit before which nobody leaves.
    """
    p = exit_policies.head_matrix(frame)[1]
    exits = [exit_policies.exit_index(policy, p, threshold, min_exit) for threshold in thresholds]
    p_yes = [exit_policies.exit_scores(p, index) for index in exits]
    return np.stack(p_yes, 1), np.stack([exit_policies.work(frame, index) for index in exits], 1)


def make_pool(test, validation, policy, thresholds: Sequence[float], min_exit: int, model: load.ServiceModel) -> Pool:
    """The test requests with modelled service times.

    What a server expects of a request: its tokens, which it has counted, times the share of full depth's work that
    the setting took on validation.

    Args:
        test, validation: from `exit_policies.judged_rows`, the same mode.
        policy, thresholds, min_exit: as for `at_settings`.
        model: seconds of token-layers, fitted on measured requests.
    """
    (p_yes, work), (_, known) = (at_settings(part, policy, thresholds, min_exit) for part in (test, validation))
    row_request = pd.factorize(test["request_id"], sort=True)[0]
    spent = pd.DataFrame(work).groupby(row_request).sum().to_numpy()  # [R, S]
    share = known.sum(0) / known[:, -1].sum()  # [S]
    return Pool(row_request, test["label"].to_numpy(), test["user_id"].to_numpy(), p_yes,
                load.service_seconds(model, spent), load.service_seconds(model, spent[:, -1:] * share))  # fmt: skip


def servers(pool: Pool, budget_s: float) -> Mapping:
    """Three ways to run one server, for `load.offered_load_curve`: full depth, early exit, load-aware."""
    def fixed(setting: int):
        return lambda at, who: load.simulate(at, pool.seconds[who, setting]).assign(setting=setting)

    return {
        "full depth": fixed(pool.seconds.shape[1] - 1), "early exit": fixed(0),
        "load-aware": lambda at, who: load.simulate_controlled(
            at, pool.seconds[who], load.Controller(pool.expected[who], budget_s)),
    }  # fmt: skip


def cost_under_load(pool: Pool, budget_s: float, times_capacity: float, n: int, n_bootstrap: int, seed: int) -> dict:
    """What the load-aware server's answers lose against full depth's on the same requests.

    Args:
        pool: the requests.
        budget_s: p95 to hold.
        times_capacity: arrival rate as a multiple of what full depth can serve.
        n: requests served.
        n_bootstrap, seed: of the interval over users.

    Returns:
        `load.summary`, and value and ci95 of the difference in AUC.
    """
    rng = np.random.default_rng(seed)
    at = load.poisson_arrivals(times_capacity / pool.seconds[:, -1].mean(), n, rng)
    who = rng.integers(0, len(pool.seconds), n)
    served = servers(pool, budget_s)["load-aware"](at, who)
    row, setting = load.served_rows(pool.row_request, who, served["setting"])
    lost = metrics.difference(pool.label[row], pool.p_yes[row, setting], pool.p_yes[row, -1], pool.user[row],
                              n_bootstrap, seed)  # fmt: skip
    return load.summary(served) | lost
