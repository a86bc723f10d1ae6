"""LightGCN on the user-item graph: `torch_geometric`'s model, trained by BPR, read out as the mean over layers.

One graph, two uses: its user vectors say who is similar to whom, its item vectors which films are alike.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from eestudy.progress import progress


def bipartite_edges(user_id: np.ndarray, item_id: np.ndarray, n_users: int) -> torch.Tensor:
    """The graph's edges in both directions; item i is node n_users + i.

    Args:
        user_id: [M] int, who.
        item_id: [M] int, what.
        n_users: number of users, with or without edges.

    Returns:
        edge_index [2, 2M] int64: first the M edges user -> item, then the same ones back.
    """
    user = torch.as_tensor(np.asarray(user_id, dtype=np.int64).copy())  # [M]
    item = torch.as_tensor(np.asarray(item_id, dtype=np.int64) + n_users)  # [M]
    return torch.stack([torch.cat([user, item]), torch.cat([item, user])])


def propagation_matrix(edge_index: torch.Tensor, n_nodes: int) -> torch.Tensor:
    """The step that every layer takes, D^-1/2 A D^-1/2, normalised once instead of in every layer and step.

    As a sparse matrix it is also many times faster on a CPU than message passing over `edge_index`.

    Args:
        edge_index: [2, 2M] from `bipartite_edges`.
        n_nodes: U + I.

    Returns:
        Sparse CSR [n_nodes, n_nodes] float32.

    Source: He et al. 2020, "LightGCN", eq. 8.
    """
    edge_index, weight = gcn_norm(edge_index, None, n_nodes, add_self_loops=False)
    indices = edge_index.flip(0)  # row = where a message arrives
    matrix = torch.sparse_coo_tensor(indices, weight, (n_nodes, n_nodes), check_invariants=True).coalesce()
    with warnings.catch_warnings():  # "beta state"; the tests hold the product to the dense formula
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return matrix.to_sparse_csr()


def sample_negatives(
    user_id: np.ndarray, known: np.ndarray, n_items: int, rng: np.random.Generator, tries: int = 20
) -> np.ndarray:
    """One item per positive edge that its user has no edge to, uniformly.

    Args:
        user_id: [B] int, the positives' users.
        known: sorted [M] int64, user_id * n_items + item_id of every edge.
        n_items: number of items.
        rng: source of chance.
        tries: redraws; a user who has (nearly) every item keeps the last draw.

    Returns:
        [B] int64 item ids.
    """
    item_id = rng.integers(n_items, size=len(user_id))
    for _ in range(tries):
        key = user_id * n_items + item_id
        at = np.minimum(np.searchsorted(known, key), len(known) - 1)
        taken = np.flatnonzero(known[at] == key)
        if len(taken) == 0:
            break
        item_id[taken] = rng.integers(n_items, size=len(taken))
    return item_id


@contextmanager
def _deterministic(seed: int):
    """Seeded torch, deterministic kernels and one thread inside, everything as it was afterwards.

    One thread, because the products are small: a second one gains little on an idle machine and costs a factor
    where the cores are shared.
    """
    before, n_threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(n_threads)


def make_model(n_users: int, n_items: int, embedding_dim: int, n_layers: int) -> LightGCN:
    """An untrained LightGCN over all users and items.

    `alpha=None` is the library's 1 / (n_layers + 1) for every layer, the untouched embedding (layer 0)
    included: the read-out is the plain mean over layers. It expects a `propagation_matrix`.

    Source: He et al. 2020, "LightGCN", eq. 3, 4 and 8.
    """
    return LightGCN(n_users + n_items, embedding_dim, n_layers, alpha=None, normalize=False)


def train_lightgcn(
    user_id: np.ndarray, item_id: np.ndarray, n_users: int, n_items: int, *, embedding_dim: int = 64,
    n_layers: int = 2, epochs: int = 30, batch_size: int = 4096, lr: float = 0.01, lambda_reg: float = 1e-4,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, list[float]]:  # fmt: skip
    """Train LightGCN on the edges by BPR: an item the user has an edge to should score above one without.

    Args:
        user_id, item_id: [M] int, the edges, in [0, n_users) and [0, n_items).
        n_users, n_items: U and I, with or without edges.
        embedding_dim, n_layers: D, and the propagation steps.
        epochs, batch_size: passes over the M edges; edges per step, each with one sampled negative.
        lr, lambda_reg: Adam's learning rate; weight of the L2 penalty on the batch's embeddings.
        seed: of initial values, order and negatives.

    Returns:
        user_emb [U, D] and item_emb [I, D] float32, mean over layers 0..n_layers; mean BPR loss per epoch.

    Raises:
        ValueError: no edges.

    Source: He et al. 2020 (model); Rendle et al. 2009 (BPR), both as in `torch_geometric.nn.LightGCN`.
    """
    if len(user_id) == 0:
        raise ValueError("a graph needs at least one edge: no interaction passed the filter")
    edges = np.stack([user_id, item_id]).astype(np.int64)  # [2, M]
    matrix = propagation_matrix(bipartite_edges(*edges, n_users), n_users + n_items)
    rng = np.random.default_rng(seed)
    with _deterministic(seed):
        model = make_model(n_users, n_items, embedding_dim, n_layers)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        losses = [_epoch(model, optimizer, matrix, edges, (n_users, n_items), batch_size, lambda_reg, rng)
                  for _ in progress(range(epochs), "LightGCN", unit="epoch")]  # fmt: skip
        with torch.no_grad():
            embedding = model.get_embedding(matrix).numpy()  # [U + I, D]
    return embedding[:n_users].copy(), embedding[n_users:].copy(), losses


def _epoch(model, optimizer, matrix, edges, shape, batch_size, lambda_reg, rng) -> float:
    """One pass over the edges [2, M] in random order; the mean loss over them."""
    n_users, n_items = shape
    known = np.sort(edges[0] * n_items + edges[1])  # [M]
    order, total = rng.permutation(edges.shape[1]), 0.0
    for start in range(0, len(order), batch_size):
        user, item = edges[:, order[start : start + batch_size]]  # [B] each
        negative = sample_negatives(user, known, n_items, rng)  # [B]
        loss = _bpr_loss(model, matrix, user, item + n_users, negative + n_users, lambda_reg)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(user)
    return total / len(order)


def _bpr_loss(model, matrix, user, positive, negative, lambda_reg) -> torch.Tensor:
    """The library's BPR loss of the batch's node ids [B] each."""
    user, positive, negative = (torch.from_numpy(nodes) for nodes in (user, positive, negative))
    pairs = torch.stack([torch.cat([user, user]), torch.cat([positive, negative])])  # [2, 2B]
    positive_score, negative_score = model(matrix, pairs).chunk(2)  # [B] each
    return model.recommendation_loss(positive_score, negative_score, node_id=pairs.unique(), lambda_reg=lambda_reg)


def graph_interactions(
    interactions: pd.DataFrame, split: pd.DataFrame, parts: tuple[str, ...], edges: str
) -> pd.DataFrame:
    """The interactions that become edges.

    Args:
        interactions: row, user_id, item_id, rating, label, timestamp.
        split: row, split.
        parts: names of the split whose rows may be seen.
        edges: "rated" (every rating) or "clicked" (label 1 only).

    Returns:
        The chosen rows of `interactions`, in their order.
    """
    chosen = interactions["row"].isin(split.loc[split["split"].isin(parts), "row"])
    if edges == "clicked":
        chosen &= interactions["label"] == 1
    return interactions[chosen]


def rank_items(
    user_emb: np.ndarray, item_emb: np.ndarray, seen: tuple[np.ndarray, np.ndarray],
    relevant: tuple[np.ndarray, np.ndarray], k: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rank every item a user has not seen by inner product; which of the first k are relevant?

    Args:
        user_emb: [U, D].
        item_emb: [I, D].
        seen: user ids [S] and item ids [S] left out of the ranking.
        relevant: user ids [R] and item ids [R] that should be on top.
        k: cut-off.

    Returns:
        ranked_relevance [Q, k] bool and n_relevant [Q] int of the Q users with at least one relevant item, by id.
    """
    users = np.unique(relevant[0])  # [Q]
    wanted = np.zeros((len(user_emb), len(item_emb)), dtype=bool)
    wanted[relevant] = True
    score = user_emb @ item_emb.T  # [U, I]
    score[seen] = -np.inf
    top = np.argsort(-score[users], axis=1, kind="stable")[:, :k]  # [Q, k]
    return np.take_along_axis(wanted[users], top, axis=1), wanted[users].sum(axis=1)
