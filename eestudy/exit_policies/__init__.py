"""When may a candidate stop? Causal rules, what they cost, and how one setting is chosen.

A policy turns the scores so far, `p_yes[n, :e+1]`, into one number per candidate, and the candidate leaves at exit e
when that number reaches the threshold. Nothing later than e is seen, and no row sees another, so the scorer can call
the same `should_exit` on whichever candidates are still there. Controls that look ahead (`oracle_exit_index`) or
across candidates (`shuffled_exit_index`, `budget_exit_index`) are offline only: they return exits, never a `Policy`.
"""

from eestudy.exit_policies.groups import by_group, kinds
from eestudy.exit_policies.guarantees import (
    PROCEDURES,
    allowed,
    betting,
    cheapest,
    controlled_threshold,
    hoeffding_bentkus,
    least_users,
    mean_loss_over_users,
    mean_over_users,
    real_risk,
    safest_first,
    violation_rates,
)
from eestudy.exit_policies.losses import (
    LOSSES,
    changed_pairs,
    exits_at,
    user_losses,
    user_mean,
    user_pairs,
)
from eestudy.exit_policies.routers import (
    around_cost,
    budget_exit_index,
    first_sure_exit,
    learned_router,
    nearest_gap,
    neighbour_agreement,
    router_features,
)
from eestudy.exit_policies.rules import (
    FIRST_EXIT,
    LAST_EXIT,
    Policy,
    PolicyInputError,
    agreeing_heads,
    agrees,
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
    costs_at,
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
    "agreeing_heads", "agrees", "allowed", "around_cost", "betting", "budget_exit_index", "by_group",
    "centred_confidence", "changed_pairs", "cheapest", "consistent_ratio", "controlled_threshold", "cost", "costs_at",
    "exit_index",
    "exit_scores", "exits_at", "exits_seen", "FIRST_EXIT", "first_sure_exit", "head_matrix", "hoeffding_bentkus",
    "judge", "judged_rows", "kinds", "LAST_EXIT", "learned_router", "least_users", "logit", "LOSSES", "margin",
    "max_probability", "mean_loss_over_users", "mean_over_users", "nearest_gap", "negative_entropy",
    "neighbour_agreement", "one_sided_ratio", "oracle_exit_index", "patient_confidence", "policies", "Policy",
    "PolicyInputError", "PROCEDURES", "real_risk", "really_dynamic", "router_features", "safest_first", "select",
    "shuffled_exit_index", "static_at_cost", "sweep", "threshold_grid", "token_layers", "user_losses", "user_mean",
    "user_pairs", "violation_rates", "work",
]
