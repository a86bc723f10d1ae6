"""The causal rules: what each calls confidence, from the scores of the heads so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eestudy.config import PolicyConfig

EPSILON = 1e-6  # p is kept this far from 0 and 1 before a logarithm
FIRST_EXIT, LAST_EXIT = -1e9, 1e9  # thresholds below and above every confidence; finite, so JSON can carry them


class PolicyInputError(ValueError):
    """Head scores, token counts or thresholds that a policy cannot work with."""


@dataclass(frozen=True)
class Policy:
    """A causal rule.

    name: as in `policies.csv`.
    confidence: [n, e+1] scores so far -> [n]; integers where thresholds are counts.
    dynamic: False for the static rule, which treats all candidates alike.
    description: one line for tables and figures.
    """

    name: str
    confidence: Callable[[np.ndarray], np.ndarray]
    description: str
    dynamic: bool = True

    def should_exit(self, p_yes_so_far: np.ndarray, threshold: float) -> np.ndarray:
        """Who leaves now: [n, e+1] calibrated scores of exits 0..e -> [n] bool; row-wise independent."""
        return self.confidence(np.asarray(p_yes_so_far, dtype=np.float64)) >= threshold


def logit(p) -> np.ndarray:
    """log(p / (1 - p)), the log ratio of the positive to the negative score, with p kept inside (0, 1)."""
    p = np.clip(np.asarray(p, dtype=np.float64), EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)


def exits_seen(p: np.ndarray) -> np.ndarray:
    """Index of the current exit, the same for all rows: threshold = the exit at which everybody leaves. [n] int."""
    return np.full(len(p), p.shape[1] - 1)


def centred_confidence(p: np.ndarray, base_rate: float) -> np.ndarray:
    """|logit p - logit base rate| of the current head, [n]: how far the evidence moved it from what is known anyway."""
    return np.abs(logit(p[:, -1]) - logit(base_rate))


def max_probability(p: np.ndarray) -> np.ndarray:
    """max(p, 1 - p), [n] in [0.5, 1]."""
    return np.maximum(p[:, -1], 1 - p[:, -1])


def margin(p: np.ndarray) -> np.ndarray:
    """|p - (1 - p)|, [n] in [0, 1]; equals 2 max_probability - 1."""
    return np.abs(2 * p[:, -1] - 1)


def negative_entropy(p: np.ndarray) -> np.ndarray:
    """Minus the entropy in nats, [n] in [-log 2, 0]. Source: BranchyNet (Teerapittayanon et al. 2016)."""
    q = np.clip(p[:, -1], EPSILON, 1 - EPSILON)
    return q * np.log(q) + (1 - q) * np.log1p(-q)


def one_sided_ratio(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), [n]: lets sure clicks out, nobody else. Not a confidence: a sure "no" is lowest."""
    return logit(p[:, -1])


def consistent_ratio(p: np.ndarray, patience: int) -> np.ndarray:
    """Smallest |log(p / (1 - p))| over the last `patience` heads if all lie on one side of 0.5, [n].

    Where they do not, or fewer heads were seen: FIRST_EXIT, below every real threshold.
    Source: the paper's reading (ratio of positive to negative score, confident and consistent across layers);
    the form is ours, since the paper's is not known.
    """
    ratio = logit(p[:, -patience:])  # [n, <= patience]
    same_side = (ratio > 0).all(1) | (ratio < 0).all(1)
    return np.where(same_side & (p.shape[1] >= patience), np.abs(ratio).min(1), FIRST_EXIT)


def agrees(p: np.ndarray, base_rate: float) -> np.ndarray:
    """Whether each head says yes or no like the last one given: [n, E] -> [n, E] bool; the last column is true."""
    side = np.asarray(p) > base_rate
    return side == side[:, -1:]


def agreeing_heads(p: np.ndarray, base_rate: float) -> np.ndarray:
    """Number of consecutive heads, the current one included, on the current one's side of the base rate. [n] int.

    Source: PABEE (Zhou et al. 2020), which counts agreements: its patience is this number minus 1.
    """
    return np.logical_and.accumulate(agrees(p, base_rate)[:, ::-1], axis=1).sum(1)


def patient_confidence(p: np.ndarray, base_rate: float, patience: int) -> np.ndarray:
    """Smallest centred confidence over the last `patience` heads, [n]; FIRST_EXIT where fewer were seen.

    Source: PCEE-BERT (Zhang et al. 2022): leave when enough consecutive heads are confident.
    """
    confidence = np.abs(logit(p[:, -patience:]) - logit(base_rate)).min(1)
    return np.where(p.shape[1] >= patience, confidence, FIRST_EXIT)


def policies(base_rate: float, cfg: PolicyConfig) -> dict[str, Policy]:
    """All causal rules by name.

    Args:
        base_rate: click rate in (0, 1) of the validation rows on which thresholds are chosen.
        cfg: `patience` is read.
    """
    if not 0 < base_rate < 1:
        raise PolicyInputError(f"base rate must lie between 0 and 1, got {base_rate}: do all labels agree?")
    k = cfg.patience
    rules = (
        Policy("static", exits_seen, "everybody leaves at one exit", dynamic=False),
        Policy("confidence", lambda p: centred_confidence(p, base_rate), "|logit p - logit base rate|"),
        Policy("max_probability", max_probability, "max(p, 1 - p)"),
        Policy("margin", margin, "|2p - 1|"),
        Policy("entropy", negative_entropy, "minus the entropy of p"),
        Policy("one_sided_ratio", one_sided_ratio, "log p/(1 - p): only sure clicks leave"),
        Policy("ratio", lambda p: consistent_ratio(p, k), f"|log p/(1 - p)|, {k} heads on one side (paper)"),
        Policy("patience", lambda p: agreeing_heads(p, base_rate), "consecutive heads that agree (PABEE)"),
        Policy("patience_confidence", lambda p: patient_confidence(p, base_rate, k), f"{k} confident heads (PCEE)"),
    )
    return {rule.name: rule for rule in rules}
