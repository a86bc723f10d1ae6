"""Report: tables, figures, comparison with the reference and with published numbers. Reads artifacts only."""

from eestudy.report.answers import answer
from eestudy.report.classic import classic_metrics, frequency_gains, frequency_table, training_counts
from eestudy.report.comparison import compare, published, seed_deviation
from eestudy.report.datasets import beside_references, dataset_blocks
from eestudy.report.figures import depth_figure, loss_figure, save, tradeoff_figure
from eestudy.report.headline import HEADLINE, build_metrics, read_parts, request_sizes, tradeoff_metrics
from eestudy.report.judged import (
    CLASSIC,
    CLICK_RATE,
    STACKED_CLASSIC,
    Judged,
    ReportError,
    choices,
    difference,
    estimate,
    exit_layers,
    judge,
)
from eestudy.report.narrative import (
    classic_sentences,
    findings,
    findings_markdown,
    headline_table,
    report_blocks,
    summary,
    verdict,
)
from eestudy.report.page import to_html, to_markdown
from eestudy.report.readme import readme_table, render_readme
from eestudy.report.reference import compare_with_reference
from eestudy.report.signature import signature_figure, takeaway, timed_classics
from eestudy.report.tables import (
    as_they_come,
    depth_curves,
    first_layer_of_gain,
    latency_summary,
    layer_of_gain,
    layer_of_gain_difference,
    mark_dominated,
    mark_latency,
    tradeoff_table,
)

__all__ = [
    "CLASSIC", "CLICK_RATE", "HEADLINE", "Judged", "ReportError", "STACKED_CLASSIC", "answer", "as_they_come",
    "beside_references", "build_metrics", "choices", "classic_metrics", "classic_sentences", "compare",
    "compare_with_reference", "dataset_blocks", "depth_curves", "depth_figure", "difference", "estimate",
    "exit_layers", "findings", "findings_markdown", "first_layer_of_gain", "frequency_gains", "frequency_table",
    "headline_table", "judge", "latency_summary", "layer_of_gain", "layer_of_gain_difference", "loss_figure",
    "mark_dominated", "mark_latency", "published", "read_parts", "readme_table", "render_readme", "report_blocks",
    "request_sizes", "save", "seed_deviation", "signature_figure", "summary", "takeaway", "timed_classics", "to_html",
    "to_markdown", "tradeoff_figure", "tradeoff_metrics", "tradeoff_table", "training_counts", "verdict",
]  # fmt: skip
