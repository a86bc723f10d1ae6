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
    fold_in,
    graph_interactions,
    make_model,
    propagation_matrix,
    rank_items,
    train_lightgcn,
)
from eestudy.retriever.matches import add_digits, match_evidence, split_matches, taken_by_neighbors
from eestudy.retriever.roster import (
    WAYS,
    Way,
    combine,
    look_up,
    shown_by,
    signal,
    ways_of,
)
from eestudy.retriever.search import build_index, lookup_times, neighbors, search
from eestudy.retriever.sentences import sentence_similarity, sentence_vectors
from eestudy.retriever.titles import (
    SENTENCE_FEATURES,
    TITLE_FEATURES,
    split_titles,
    title_evidence,
    title_similarity,
)
from eestudy.retriever.told import (
    Told,
    retriever_entries,
    shown_table,
    subject,
    told_retrievers,
    ways_sentence,
)

__all__ = [
    "FEATURES", "MATCH_FEATURES", "Retriever", "SENTENCE_FEATURES", "TITLE_FEATURES", "Told", "WAYS", "Way",
    "add_digits", "bipartite_edges", "build_evidence", "build_index", "combine", "evidence_model_scores", "fold_in",
    "graph_interactions", "graph_retriever", "look_up", "lookup_times", "make_model", "match_evidence", "neighbors",
    "propagation_matrix", "rank_items", "rating_matrix", "retriever_entries", "rival_retrievers", "search",
    "sentence_similarity", "sentence_vectors", "shown_by", "shown_table", "signal", "split_evidence", "split_matches",
    "split_titles", "subject", "taken_by_neighbors", "title_evidence", "title_similarity", "told_retrievers",
    "train_lightgcn", "vector_similarity", "ways_of", "ways_sentence",
]  # fmt: skip
