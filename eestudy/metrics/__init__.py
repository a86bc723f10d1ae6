"""Metrics of click prediction and of retrieval, with intervals from a paired bootstrap over users.

Scores may be any real numbers for AUC and GAUC (only their order counts); log loss and ECE need probabilities.
A metric that is not defined on its rows (AUC where all labels agree) is NaN, never 0.5.
"""

from eestudy.metrics.quality import (
    METRICS,
    MetricInputError,
    auc,
    auc_per_user,
    ece,
    gauc,
    gauc_coverage,
    log_loss,
    ndcg_at_k,
    recall_at_k,
)
from eestudy.metrics.resampling import (
    LEVEL,
    bootstrap_weights,
    difference,
    estimate,
    interval,
    paired_bootstrap,
    ratio_estimate,
    value_of,
)

__all__ = [
    "LEVEL", "METRICS", "MetricInputError", "auc", "auc_per_user", "bootstrap_weights", "difference", "ece", "estimate",
    "gauc", "gauc_coverage", "interval", "log_loss", "ndcg_at_k", "paired_bootstrap", "ratio_estimate",
    "recall_at_k", "value_of",
]
