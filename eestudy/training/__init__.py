"""Joint training of adapter and exit heads, and the offline scores of every head on every judged row.

Runs in a notebook, or before it over several processes and machines with `accelerate launch -m eestudy.training`.
Training keeps checkpoints and scoring keeps finished chunks, both marked with a fingerprint of everything they
depend on, so that a killed run goes on where it stopped and a stale one starts anew. Neither depends on the number
of processes.
"""

from eestudy.training.loop import CHECKPOINTS, initialise_heads, look, make_batches, shared_logits, train
from eestudy.training.model import (
    ADAPTER,
    HEADS,
    ExitModel,
    build_model,
    load_trained,
    make_optimizer,
    merge_adapter,
    schedule,
    trained_arrays,
    training_fingerprint,
)
from eestudy.training.requests import (
    VECTORS,
    Request,
    drop_evidence,
    first_rows,
    keep,
    load_requests,
    main_mode,
    only_mode,
    share_batch,
    soft_vectors,
    taught,
    with_soft_tokens,
)
from eestudy.training.scoring import (
    calibrate_scores,
    describe_rows,
    head_logits,
    load_scorable,
    score_chunks,
    score_parts,
    score_requests,
    score_share,
    scoring_fingerprint,
)

__all__ = [
    "ADAPTER", "CHECKPOINTS", "HEADS", "VECTORS", "ExitModel", "Request", "build_model", "calibrate_scores",
    "describe_rows", "drop_evidence", "first_rows", "head_logits", "initialise_heads", "keep", "load_requests",
    "load_scorable", "load_trained", "look", "main_mode", "make_batches", "make_optimizer", "merge_adapter",
    "only_mode", "schedule", "score_chunks", "score_parts", "score_requests", "score_share", "scoring_fingerprint",
    "share_batch", "shared_logits", "soft_vectors", "taught", "train", "trained_arrays", "training_fingerprint",
    "with_soft_tokens",
]
