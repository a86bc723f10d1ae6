"""Thresholds with a promise: risk control over users, and draws that show whether it holds.

Two promises about the risk, which is the mean over all users of a loss in [0, 1] (`losses.LOSSES`):

- Learn-then-Test: with probability 1 - delta over the calibration users, the risk is at most epsilon.
- Conformal risk control: over many calibrations, the risk is at most epsilon on average.

Both hold for any scores, and both rest on exchangeability: the users served later are drawn like the users of the
calibration. Time breaks that. Candidates and their order must come from other users than the calibration's.

MAPIE 1.6.0 was looked at, and is not used. Its controller of binary decisions calls a predictor for each row, takes
rows as units and judges them by a decision of 0 or 1; a mean over a user's rows or pairs against full depth cannot be
said to it, and the losses of its conformal risk control are torch functions or fixed ones. Its p-value,
`compute_hoeffding_bentkus_p_value`, takes means and would do, but is not in its public interface, and importing it
takes two seconds for three lines of arithmetic; `control_fwer` tests one sequence at a time, where the check below
needs thousands. A test holds our p-values to numbers computed by MAPIE.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.special import bdtr, rel_entr
from scipy.stats import binomtest

from eestudy import metrics
from eestudy.exit_policies.rules import PolicyInputError

PROCEDURES = {
    "ltt_hoeffding_bentkus": "Learn-then-Test, Hoeffding-Bentkus p-values",
    "ltt_betting": "Learn-then-Test, p-values from bets",
    "conformal": "conformal risk control (bounds the mean)",
    "plug_in": "no correction: the mean of the calibration users is believed",
}
BETS = np.arange(1, 9) / 8  # shares of the highest stake that cannot go broke
DRAWN = {"procedure": str, "epsilon": float, "n_users": int, "violation_rate": float, "violation_lo": float,
         "violation_hi": float, "none_share": float, "mean_risk": float, "token_layers_saved": float}  # fmt: skip
TINY = 1e-12  # sums of equal numbers in another order differ by less


def safest_first(losses: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """In which order the candidates are tested: least mean loss first, of equal ones the deepest.

    Args:
        losses: [U, m] of users who are not in the calibration.
        costs: [m] token-layers.

    Returns:
        [m] positions.
    """
    mean = np.asarray(losses).mean(0) if len(losses) else np.zeros(len(costs))  # no such user: deepest first
    return np.lexsort((-np.asarray(costs), mean.round(9)))


def _means(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean loss of each sample: [U, m], [B, U] -> [B, m]."""
    return counts @ losses / counts.sum(1, keepdims=True)


def hoeffding_bentkus(losses: np.ndarray, counts: np.ndarray, epsilon: float) -> np.ndarray:
    """P-values of "the risk exceeds epsilon", from the mean alone.

    p = min(exp(-n h(min(mean, epsilon), epsilon)), e P(Binomial(n, epsilon) <= ceil(n mean))), where h is the
    relative entropy of two coins.

    Args:
        losses: [U, m] in [0, 1].
        counts: [B, U] how often each user is in each of B samples; every sample has users.
        epsilon: bound on the risk.

    Returns:
        [B, m] in [0, 1].

    Source: Bates et al. (2021), eq. 6 and 7; Angelopoulos et al., "Learn then Test" (2021), section 3.1.
    """
    if not 0 < epsilon < 1:  # a risk is never above 1, and never shown to be 0
        return np.full((len(counts), losses.shape[1]), float(epsilon <= 0))
    n, mean = counts.sum(1, keepdims=True), _means(losses, counts)
    low = np.minimum(mean, epsilon)
    hoeffding = np.exp(-n * (rel_entr(low, epsilon) + rel_entr(1 - low, 1 - epsilon)))
    bentkus = np.e * bdtr(np.ceil(n * mean - 1e-9), n.astype(np.int64), epsilon)
    return np.minimum(np.minimum(hoeffding, bentkus), 1)


def betting(losses: np.ndarray, counts: np.ndarray, epsilon: float) -> np.ndarray:
    """P-values of "the risk exceeds epsilon", from the wealth of a gambler who bets that it does not.

    Whoever stakes s on each user multiplies the wealth by 1 + s (epsilon - loss). If the risk exceeds epsilon, no
    stake gains on average; so wealth W has probability 1/W at most. The wealth is split evenly over `BETS` / (1 -
    epsilon). Unlike Hoeffding-Bentkus it gains from losses that vary little; the order of users does not matter.

    Args, returns: as `hoeffding_bentkus`.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024), section 4;
    stakes fixed beforehand and mixed, where theirs follow the order of the observations.
    """
    if not 0 < epsilon < 1:
        return np.full((len(counts), losses.shape[1]), float(epsilon <= 0))
    wealth = np.full((len(counts), losses.shape[1]), -np.inf)
    for stake in BETS / (1 - epsilon):
        growth = np.log(np.maximum(1 + stake * (epsilon - losses), 1e-300))  # [U, m]; broke: as good as nothing left
        wealth = np.logaddexp(wealth, counts @ growth)
    return np.exp(-np.maximum(wealth - np.log(len(BETS)), 0))


def allowed(losses: np.ndarray, counts: np.ndarray, epsilon: float, delta: float, procedure: str) -> np.ndarray:
    """Which candidates a procedure lets through, for B samples of users at once.

    Learn-then-Test goes down the fixed sequence and stops at the first p-value above delta: a later candidate is
    looked at only if all before it passed, so no level is shared out. Conformal risk control needs a loss that rises
    along the sequence: each user's is replaced by its running maximum, which is never below the loss itself, so what
    is bounded for the one is bounded for the other; before the sequence stands full depth, whose loss is 0.

    Args:
        losses: [U, m] in [0, 1], candidates from the safest to the riskiest.
        counts: [B, U] how often each user is in each sample.
        epsilon, delta: bound on the risk; how often it may be broken (not read by `conformal` and `plug_in`).
        procedure: a name in `PROCEDURES`.

    Returns:
        [B, m] bool; nobody passes in a sample without users.

    Source: Angelopoulos et al., "Learn then Test" (2021), fixed sequence; "Conformal Risk Control" (2024), eq. 4.
    """
    if procedure not in PROCEDURES:
        raise PolicyInputError(f"unknown procedure {procedure!r}; known: {', '.join(PROCEDURES)}")
    counts = np.asarray(counts, dtype=np.float64)
    if losses.size == 0 or not counts.any(axis=None):
        return np.zeros((len(counts), losses.shape[1]), bool)
    if procedure == "plug_in":
        return _means(losses, counts) <= epsilon + TINY
    if procedure == "conformal":
        n, rising = counts.sum(1, keepdims=True), np.maximum.accumulate(losses, axis=1)
        return (n * _means(rising, counts) + 1) / (n + 1) <= epsilon + TINY
    p_value = hoeffding_bentkus if procedure == "ltt_hoeffding_bentkus" else betting
    return np.logical_and.accumulate(p_value(losses, counts, epsilon) <= delta, axis=1)


def cheapest(passed: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The cheapest candidate of those that passed, -1 where none did: [B, m] bool, [m] -> [B]."""
    return np.where(passed.any(1), np.where(passed, costs, np.inf).argmin(1), -1)


def controlled_threshold(
    thresholds: np.ndarray, losses: np.ndarray, costs: np.ndarray, epsilon: float, delta: float, procedure: str
) -> float | None:
    """The cheapest threshold that carries the promise, or None: none qualifies, and all must run to full depth.

    Args:
        thresholds: [m] from the safest to the riskiest, ordered by `safest_first` on other users.
        losses: [U, m] of the calibration users, in the same order.
        costs: [m] token-layers.
        epsilon, delta, procedure: see `allowed`.
    """
    place = _controlled(losses, costs, epsilon, delta, procedure)
    return None if place is None else float(thresholds[place])


def _controlled(losses: np.ndarray, costs: np.ndarray, epsilon: float, delta: float, procedure: str) -> int | None:
    """The place of `controlled_threshold` in the sequence."""
    place = int(cheapest(allowed(losses, np.ones((1, len(losses))), epsilon, delta, procedure), costs)[0])
    return None if place < 0 else place


def least_users(epsilon: float, delta: float) -> int:
    """Calibration users without whom no threshold can pass Learn-then-Test, even if nobody loses anything.

    A coin that shows a loss with probability epsilon stays silent n times with probability (1 - epsilon)^n; below
    delta that takes n >= log(delta) / log(1 - epsilon).
    """
    return int(np.ceil(np.log(delta) / np.log1p(-epsilon)))


def _drawn(losses: np.ndarray, costs: np.ndarray, chosen: np.ndarray, epsilon: float) -> dict:
    """What the B choices of one procedure came to in the population; -1 is full depth: no loss, nothing saved."""
    risk = np.append(losses.mean(0), 0)[chosen]  # [B]; the last entry is that of -1
    broken = risk > epsilon + TINY
    bounds = binomtest(int(broken.sum()), len(broken)).proportion_ci(method="exact")
    return {"violation_rate": broken.mean(), "violation_lo": bounds.low, "violation_hi": bounds.high,
            "none_share": (chosen < 0).mean(), "mean_risk": risk.mean(),
            "token_layers_saved": 1 - np.append(costs, 1.0)[chosen].mean()}  # fmt: skip


def violation_rates(
    losses: np.ndarray, costs: np.ndarray, n_users: int, epsilons: Iterable[float], delta: float, draws: int, seed: int
) -> pd.DataFrame:
    """Does the promise hold? Calibrations drawn from a population whose risk is known.

    The users given are taken as the whole population; each draw takes `n_users` of them, with replacement, as
    calibration users. A violation: the population's risk at the threshold then chosen exceeds epsilon.

    Args:
        losses: [U, m] of the population, candidates from the safest to the riskiest.
        costs: [m] share of full depth's token-layers.
        n_users: of one calibration.
        epsilons, delta: the promise.
        draws: number of calibrations B.
        seed: of the draws; the same ones serve every procedure and epsilon.

    Returns:
        A row for each of `PROCEDURES` and epsilon: procedure, epsilon, n_users, violation_rate (violation_lo,
        violation_hi: its exact binomial 95 % interval), none_share (draws in which none qualifies), mean_risk,
        token_layers_saved (mean over draws, none qualifies = nothing saved). Empty where the population is.
    """
    if not len(losses) or n_users < 1:
        return pd.DataFrame(columns=list(DRAWN)).astype(DRAWN)
    even = np.full(len(losses), 1 / len(losses))
    counts = np.random.default_rng(seed).multinomial(n_users, even, size=draws)  # [B, U]
    rows = []
    for procedure in PROCEDURES:
        for epsilon in epsilons:
            chosen = cheapest(allowed(losses, counts, epsilon, delta, procedure), costs)
            rows.append({"procedure": procedure, "epsilon": epsilon, "n_users": n_users}
                        | _drawn(losses, costs, chosen, epsilon))  # fmt: skip
    return pd.DataFrame(rows).astype(DRAWN)


def real_risk(
    thresholds: np.ndarray, calibration: np.ndarray, later: np.ndarray, costs: np.ndarray, later_costs: np.ndarray,
    epsilons: Iterable[float], delta: float, n_bootstrap: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """What the thresholds of one calibration do to users served later, who are not exchangeable with its users.

    Args:
        thresholds: [m] from the safest to the riskiest.
        calibration: [U, m] losses of the calibration users.
        later: [V, m] losses of the users served later.
        costs: [m] share of full depth's token-layers, by which one of the allowed is chosen: not of the later users.
        later_costs: [m] the same among the later ones.
        epsilons, delta: the promise.
        n_bootstrap, seed: of the interval over users.

    Returns:
        A row for each of `PROCEDURES` and epsilon: procedure, epsilon, n_users (of the calibration), threshold (NaN:
        none qualifies, full depth), risk_calibration, risk_later with risk_lo and risk_hi (95 % over users; NaN at
        full depth), n_later, token_layers_saved (among the later ones; NaN, as their risk, where there are none).
    """
    rows = []
    for procedure in PROCEDURES:
        for epsilon in epsilons:
            place = _controlled(calibration, costs, epsilon, delta, procedure)
            row = {"procedure": procedure, "epsilon": epsilon, "n_users": len(calibration),
                   "threshold": None if place is None else float(thresholds[place])}  # fmt: skip
            rows.append(row | _risk_at(place, calibration, later, later_costs, n_bootstrap, seed))
    return pd.DataFrame(rows).astype({"threshold": float})


def _risk_at(place: int | None, calibration, later, costs, n_bootstrap: int, seed: int) -> dict:
    if place is None:  # full depth: by definition nothing is lost, and nothing saved; no estimate, so no interval
        return {"risk_calibration": 0.0, "risk_later": 0.0, "risk_lo": np.nan, "risk_hi": np.nan,
                "n_later": len(later), "token_layers_saved": 0.0}  # fmt: skip
    found = {"risk_calibration": calibration[:, place].mean(), "n_later": len(later)}
    if not len(later):
        return found | dict.fromkeys(("risk_later", "risk_lo", "risk_hi", "token_layers_saved"), np.nan)
    risk = mean_loss_over_users(later[:, place], n_bootstrap, seed)
    return found | {"risk_later": risk["value"], "risk_lo": risk["ci95"][0], "risk_hi": risk["ci95"][1],
                    "token_layers_saved": 1 - costs[place]}  # fmt: skip


def mean_over_users(losses: np.ndarray, n_bootstrap: int, seed: int) -> dict:
    """Mean with its interval over users: [U] -> {"value", "ci95", "n"}; each user counts once."""
    return metrics.ratio_estimate(losses, np.ones(len(losses)), np.arange(len(losses)), n_bootstrap, seed)


def mean_loss_over_users(losses: np.ndarray, n_bootstrap: int, seed: int) -> dict:
    """`mean_over_users` of a loss in [0, 1], whose interval is never shorter above than if nobody had lost anything.

    Of n users without a loss every resample is without one, too, and would promise certainty. But n users have a chance
    of 5 % to show no loss where (1 - risk)^n = 0.05, since a user loses something with a chance of at least the risk:
    that risk is the least upper end (one-sided).

    Source: the "rule of three"; Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?" (1983).
    """
    found = mean_over_users(losses, n_bootstrap, seed)
    if len(losses) and found["ci95"]:
        low, high = found["ci95"]
        found["ci95"] = (low, max(high, float(1 - metrics.LEVEL ** (1 / len(losses)))))
    return found
