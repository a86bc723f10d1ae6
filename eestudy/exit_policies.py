"""When may a candidate stop? Causal rules, what they cost, and how one setting is chosen.

A policy turns the scores so far, `p_yes[n, :e+1]`, into one number per candidate, and the candidate leaves at exit e
when that number reaches the threshold. Nothing later than e is seen, and no row sees another, so the scorer can call
the same `should_exit` on whichever candidates are still there. Controls that look ahead (`oracle_exit_index`) or
across candidates (`shuffled_exit_index`) are offline only: they return exits, never a `Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import metrics
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


def agreeing_heads(p: np.ndarray, base_rate: float) -> np.ndarray:
    """Number of consecutive heads, the current one included, on the current one's side of the base rate. [n] int.

    Source: PABEE (Zhou et al. 2020), which counts agreements: its patience is this number minus 1.
    """
    side = p > base_rate  # [n, e+1]
    same = side == side[:, -1:]
    return np.logical_and.accumulate(same[:, ::-1], axis=1).sum(1)


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


def exit_index(policy: Policy, p_yes: np.ndarray, threshold: float, min_exit: int = 0) -> np.ndarray:
    """Where each candidate leaves, found by walking down the exits as the scorer does.

    Args:
        policy: the rule; only `should_exit` is used.
        p_yes: [n, E] calibrated scores.
        threshold: of the rule.
        min_exit: 0-based exit before which nobody leaves.

    Returns:
        [n] int64, 0-based column. The last exit takes whoever is left.
    """
    p_yes = np.asarray(p_yes, dtype=np.float64)
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
    side = np.asarray(p_yes) > base_rate  # [n, E]
    same = (side == side[:, -1:])[:, ::-1]
    return side.shape[1] - np.logical_and.accumulate(same, axis=1).sum(1)


def token_layers(exit_layer, request_id, n_prefix_tokens, n_suffix_tokens) -> np.ndarray:
    """Work of each candidate: tokens times the layers that they go through.

    The shared prefix of a request runs as deep as its deepest candidate, a suffix as deep as its own; the prefix is
    charged in equal parts to the candidates of its request, so that the sum over rows is the work really done.

    Args:
        exit_layer: [n] 1-based layer after which the candidate left.
        request_id: [n].
        n_prefix_tokens: [n] tokens of the row's request (equal within a request).
        n_suffix_tokens: [n] tokens.

    Returns:
        [n] token-layers.
    """
    layer, suffix = np.asarray(exit_layer, dtype=np.float64), np.asarray(n_suffix_tokens, dtype=np.float64)
    request = pd.Series(layer).groupby(np.asarray(request_id))
    prefix = np.asarray(n_prefix_tokens) * request.transform("max") / request.transform("size")
    return prefix.to_numpy() + suffix * layer


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
        PolicyInputError: no such row, or a row without token counts.
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
    return frame


def work(frame: pd.DataFrame, index: np.ndarray) -> np.ndarray:
    """Token-layers of each row [n] at given exits [n]; frame as from `judged_rows`."""
    depth = head_matrix(frame)[0][np.asarray(index)]
    return token_layers(depth, frame["request_id"], frame["n_prefix_tokens"], frame["n_suffix_tokens"])


def cost(frame: pd.DataFrame, index: np.ndarray) -> dict:
    """Depth and work of given exits: mean_exit_layer, mean_exit_fraction, token_layer_fraction.

    Args:
        frame: as from `judged_rows`.
        index: [n] 0-based exits.
    """
    layers, _ = head_matrix(frame)
    mean_layer = float(layers[np.asarray(index)].mean())
    full = work(frame, np.full(len(frame), len(layers) - 1))
    return {
        "mean_exit_layer": mean_layer,
        "mean_exit_fraction": mean_layer / float(layers[-1]),
        "token_layer_fraction": float(work(frame, index).sum() / full.sum()),
    }


def judge(frame: pd.DataFrame, index: np.ndarray) -> dict:
    """Predictive performance (auc, gauc, log_loss, ece) of given exits beside their `cost`."""
    label, p = frame["label"].to_numpy(), exit_scores(head_matrix(frame)[1], index)
    quality = {name: metrics.value_of(name, label, p, frame["user_id"].to_numpy()) for name in metrics.METRICS}
    return quality | cost(frame, index)


def sweep(frame: pd.DataFrame, rules: Iterable[Policy], cfg: PolicyConfig) -> pd.DataFrame:
    """Every rule at every threshold of its grid on the given (validation) rows.

    Returns:
        Frame: policy, dynamic, threshold, the columns of `judge`, auc_loss (full depth's AUC minus this one).
    """
    p_yes = head_matrix(frame)[1]
    full = metrics.auc(frame["label"], p_yes[:, -1])
    rows = []
    for rule in rules:
        for threshold in threshold_grid(rule, p_yes, cfg.n_thresholds):
            result = judge(frame, exit_index(rule, p_yes, threshold, cfg.min_exit))
            rows.append({"policy": rule.name, "dynamic": rule.dynamic, "threshold": threshold} | result)
    return pd.DataFrame(rows).assign(auc_loss=lambda table: full - table["auc"])


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
