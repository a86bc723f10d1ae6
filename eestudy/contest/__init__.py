"""What measured tables say: rates, ratios, the best of ours, users' waiting under load. Frames only."""

from eestudy.contest.names import (
    ALL_AT_ONCE,
    EARLY_EXIT,
    FULL_DEPTH,
    LLAMA,
    OURS_TRUNCATED,
    PEAK,
    PLAIN,
    PREFIX_REUSE,
    REDUCED,
    TRUNCATED,
    WARM,
    exact_name,
    in_words,
    precision_of,
    suffix,
)
from eestudy.contest.results import (
    Bench,
    auc_against_full_depth,
    best_of_ours,
    contender_table,
    deciding_size,
    entries,
    gauc_against_full_depth,
    headline_ratios,
    peak_fraction,
    quality_table,
    ratio,
    read,
    strongest_truncated,
    subject,
    waterfall,
)
from eestudy.contest.stages import STAGES, UNPREPARED, stage_shares
from eestudy.contest.traffic import Pool, at_settings, cost_under_load, ladder, make_pool, servers

__all__ = [
    "ALL_AT_ONCE", "Bench", "EARLY_EXIT", "FULL_DEPTH", "LLAMA", "OURS_TRUNCATED", "PEAK", "PLAIN", "PREFIX_REUSE",
    "Pool", "REDUCED", "STAGES", "TRUNCATED", "UNPREPARED", "WARM", "at_settings", "auc_against_full_depth",
    "best_of_ours", "contender_table", "cost_under_load", "deciding_size", "entries", "exact_name",
    "gauc_against_full_depth", "headline_ratios", "in_words", "ladder", "make_pool", "peak_fraction",
    "precision_of", "quality_table", "ratio", "read", "servers", "stage_shares", "strongest_truncated", "subject",
    "suffix", "waterfall",
]
