"""The graph retriever: LightGCN, look-ups, rivals behind one signature, evidence, and what simple models make of it."""

from eestudy.retriever.evidence import (
    Retriever,
    build_evidence,
    graph_retriever,
    rating_matrix,
    rival_retrievers,
    split_evidence,
    vector_similarity,
)
from eestudy.retriever.evidence_models import FEATURES, MATCH_FEATURES, evidence_model_scores
from eestudy.retriever.graph import (
    bipartite_edges,
    graph_interactions,
    make_model,
    propagation_matrix,
    rank_items,
    train_lightgcn,
)
from eestudy.retriever.matches import add_digits, match_evidence, split_matches, taken_by_neighbors
from eestudy.retriever.search import build_index, lookup_times, neighbors, search
from eestudy.retriever.titles import TITLE_FEATURES, split_titles, title_evidence, title_similarity

__all__ = [
    "FEATURES", "MATCH_FEATURES", "Retriever", "TITLE_FEATURES", "add_digits",
    "bipartite_edges", "build_evidence", "build_index",
    "evidence_model_scores", "graph_interactions", "graph_retriever", "lookup_times", "make_model",
    "match_evidence", "neighbors", "propagation_matrix", "rank_items", "rating_matrix", "rival_retrievers",
    "search", "split_evidence", "split_matches", "split_titles", "taken_by_neighbors",
    "title_evidence", "title_similarity", "train_lightgcn", "vector_similarity",
]  # fmt: skip
