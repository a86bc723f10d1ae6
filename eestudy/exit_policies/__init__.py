"""When may a candidate stop? Causal rules, what they cost, and how one setting is chosen.

A policy turns the scores so far, `p_yes[n, :e+1]`, into one number per candidate, and the candidate leaves at exit e
when that number reaches the threshold. Nothing later than e is seen, and no row sees another, so the scorer can call
the same `should_exit` on whichever candidates are still there. Controls that look ahead (`oracle_exit_index`) or
across candidates (`shuffled_exit_index`) are offline only: they return exits, never a `Policy`.
"""

from eestudy.exit_policies.rules import (
    FIRST_EXIT,
    LAST_EXIT,
    Policy,
    PolicyInputError,
    agreeing_heads,
    centred_confidence,
    consistent_ratio,
    exits_seen,
    logit,
    margin,
    max_probability,
    negative_entropy,
    one_sided_ratio,
    patient_confidence,
    policies,
)
from eestudy.exit_policies.selection import (
    cost,
    head_matrix,
    judge,
    judged_rows,
    really_dynamic,
    select,
    static_at_cost,
    sweep,
    token_layers,
    work,
)
from eestudy.exit_policies.walking import (
    exit_index,
    exit_scores,
    oracle_exit_index,
    shuffled_exit_index,
    threshold_grid,
)

__all__ = [
    "FIRST_EXIT", "LAST_EXIT", "Policy", "PolicyInputError", "agreeing_heads", "centred_confidence",
    "consistent_ratio", "cost", "exit_index", "exit_scores", "exits_seen", "head_matrix", "judge",
    "judged_rows", "logit", "margin", "max_probability", "negative_entropy", "one_sided_ratio",
    "oracle_exit_index", "patient_confidence", "policies", "really_dynamic", "select", "shuffled_exit_index",
    "static_at_cost", "sweep", "threshold_grid", "token_layers", "work",
]
