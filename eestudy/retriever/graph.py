"""LightGCN on the user-item graph: `torch_geometric`'s model, trained by BPR, read out as the mean over layers.

One graph, two uses: its user vectors say who is similar to whom, its item vectors which films are alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from eestudy.progress import progress
from eestudy.retriever.search import refuse_nonfinite

USERS_AT_ONCE = 1024  # whose scores of all items are held at one time
MAX_STEPS = 32  # of an epoch
FEW_EDGES = 500_000  # up to so many, one thread multiplies; see `_multiply`


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
    asked = np.arange(len(user_id))  # positions whose draw has not been looked at
    for _ in range(tries):
        key = user_id[asked] * n_items + item_id[asked]
        order = np.argsort(key)  # in order they are found without jumping about in `known`
        at = np.minimum(np.searchsorted(known, key[order]), len(known) - 1)
        asked = asked[np.sort(order[known[at] == key[order]])]
        if len(asked) == 0:
            break
        item_id[asked] = rng.integers(n_items, size=len(asked))
    return item_id


@contextmanager
def _threads(n_threads: int):
    """That many threads inside, as many as there were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(seed: int):
    """Seeded torch, deterministic kernels and one thread inside, everything as it was afterwards.

    One thread, because sums over a batch depend on how they are shared out, and because in small graphs a second one
    gains little on an idle machine and costs a factor where the cores are shared.
    """
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), _threads(1):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _row_parts(matrix: torch.Tensor, n_users: int) -> list[torch.Tensor]:
    """The matrix, of a graph with more than `FEW_EDGES` edges the users' rows and the items' rows apart.

    Items' rows gather from the longer table and take longer: together, the thread with more of them would be late.
    """
    crow, column, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    if len(value) <= 2 * FEW_EDGES:
        return [matrix]
    parts = ((crow[: n_users + 1], slice(int(crow[n_users]))), (crow[n_users:], slice(int(crow[n_users]), None)))
    with torch.sparse.check_sparse_tensor_invariants(False):  # rows of a matrix that has been checked
        return [
            torch.sparse_csr_tensor(rows - rows[0], column[cut], value[cut], (len(rows) - 1, len(crow) - 1))
            for rows, cut in parts
        ]


def _multiply(parts: list[torch.Tensor], n_threads: int, x: torch.Tensor) -> torch.Tensor:
    """The matrix, in `_row_parts`, times x [U + I, D]: the same bits with any number of threads.

    Large graphs get `n_threads`, and torch's own kernel, which shares out whole rows and is the faster one there;
    small ones get one thread and the product of MKL.
    """
    if len(parts) == 1:
        return parts[0] @ x
    with _threads(n_threads):
        return torch.cat([torch.sparse.mm(part, x, "sum") for part in parts])


def _multiplication(edges: np.ndarray, n_users: int, n_items: int):
    """`_multiply` by the matrix of the edges [2, M], with as many threads as torch has now."""
    matrix = propagation_matrix(bipartite_edges(*edges, n_users), n_users + n_items)
    return partial(_multiply, _row_parts(matrix, n_users), torch.get_num_threads())


class _Layer(torch.autograd.Function):
    """One propagation step. The matrix is symmetric: the gradient takes the same step, where torch by itself would
    sort the non-zeros anew in every backward pass to transpose it."""

    @staticmethod
    def forward(ctx, x, multiply):
        ctx.multiply = multiply
        return multiply(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.multiply(gradient), None


def _embed(model: LightGCN, multiply) -> torch.Tensor:
    """`model.get_embedding` with `_Layer` as its step: [U + I, D]."""
    x = model.embedding.weight
    out = x * model.alpha[0]
    for weight in model.alpha[1:]:
        x = _Layer.apply(x, multiply)
        out = out + x * weight
    return out


def make_model(
    n_users: int, n_items: int, embedding_dim: int, n_layers: int, last_layer_only: bool = False
) -> LightGCN:  # fmt: skip
    """An untrained LightGCN over all users and items.

    `alpha=None` is the library's 1 / (n_layers + 1) for every layer, the untouched embedding (layer 0)
    included: the read-out is the plain mean over layers. It expects a `propagation_matrix`.

    Args:
        n_users, n_items: U and I.
        embedding_dim, n_layers: D, and the propagation steps.
        last_layer_only: read out the last layer alone, in training too: what the paper compares the mean with.

    Source: He et al. 2020, "LightGCN", eq. 3, 4 and 8.
    """
    alpha = torch.eye(n_layers + 1)[-1] if last_layer_only else None
    return LightGCN(n_users + n_items, embedding_dim, n_layers, alpha=alpha, normalize=False)


def fold_in(item_emb: np.ndarray, item_degree: np.ndarray, items: np.ndarray) -> np.ndarray:
    """A user's vector from the items of their lines, by one propagation step instead of a new training.

    sum over the items i of e_i / sqrt(d_user d_i), d the number of lines: what the step of LightGCN gives a user whose
    newest line is already drawn, with the items' final vectors.

    Args:
        item_emb: [I, D].
        item_degree: [I] lines of each item, this user's newest one included.
        items: [n] ids of the user's items.

    Returns:
        [D]; zeros where the user has no line.

    Source: He et al. 2020, "LightGCN", eq. 3.
    """
    weight = 1 / np.sqrt(max(len(items), 1) * item_degree[items])  # [n]
    return (weight @ item_emb[items]).astype(np.float32)


def train_lightgcn(
    user_id: np.ndarray, item_id: np.ndarray, n_users: int, n_items: int, *, embedding_dim: int = 64,
    n_layers: int = 2, epochs: int = 30, batch_size: int = 4096, lr: float = 0.01, lambda_reg: float = 1e-4,
    seed: int = 0, max_steps: int = MAX_STEPS, after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    last_layer_only: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[float]]:  # fmt: skip
    """Train LightGCN on the edges by BPR: an item the user has an edge to should score above one without.

    Every step propagates over the whole graph: batches grow with it, so that the cost grows with the edges only.

    Args:
        user_id, item_id: [M] int, the edges, in [0, n_users) and [0, n_items).
        n_users, n_items: U and I, with or without edges.
        embedding_dim, n_layers: D, and the propagation steps.
        epochs, batch_size: passes over the M edges; edges per step at least, each with one sampled negative.
        lr, lambda_reg: Adam's learning rate; weight of the L2 penalty on the batch's embeddings.
        seed, max_steps, last_layer_only: of all that is drawn; steps of an epoch, at most; see `make_model`.
        after_epoch: called with the number (from 0) and the mean loss of each epoch that is done.

    Returns:
        user_emb [U, D] and item_emb [I, D] float32, mean over layers or the last; mean BPR loss per epoch.

    Raises:
        ValueError: no edges, or embeddings that are not finite in the end (the learning rate is too high).

    Source: He et al. 2020; Rendle et al. 2009 (BPR), as in `torch_geometric.nn.LightGCN`.
    """
    if len(user_id) == 0:
        raise ValueError("a graph needs at least one edge: no interaction passed the filter")
    edges, rng, losses = np.stack([user_id, item_id]).astype(np.int64), np.random.default_rng(seed), []  # [2, M]
    multiply, size = _multiplication(edges, n_users, n_items), max(batch_size, -(-edges.shape[1] // max_steps))
    with _deterministic(seed):
        model = make_model(n_users, n_items, embedding_dim, n_layers, last_layer_only)
        optimizer, draw = torch.optim.Adam(model.parameters(), lr=lr), _sampler(edges, n_users, n_items, size, rng)
        for epoch in progress(range(epochs), "LightGCN", unit="epoch"):
            losses.append(_epoch(model, optimizer, multiply, draw(), lambda_reg))
            after_epoch(epoch, losses[-1])
        with torch.no_grad():
            embedding = refuse_nonfinite(_embed(model, multiply).numpy())  # [U + I, D]
    return embedding[:n_users].copy(), embedding[n_users:].copy(), losses


def _sampler(edges: np.ndarray, n_users: int, n_items: int, size: int, rng: np.random.Generator):
    """A function that goes over the edges [2, M] in a new random order, `size` at a time.

    It yields three arrays of nodes [B]: users, their items, and items they have no edge to.
    """
    known = np.sort(edges[0] * n_items + edges[1])  # [M]

    def draw():
        order = rng.permutation(edges.shape[1])
        for start in range(0, len(order), size):
            user, item = edges[:, order[start : start + size]]  # [B] each
            negative = sample_negatives(user, known, n_items, rng)  # [B]
            yield user, item + n_users, negative + n_users

    return draw


def _epoch(model, optimizer, multiply, batches, lambda_reg) -> float:
    """One pass over the batches; the mean loss over their edges."""
    total, n_edges = 0.0, 0
    for nodes in batches:
        loss = _bpr_loss(model, multiply, *nodes, lambda_reg)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(nodes[0])
        n_edges += len(nodes[0])
    return total / n_edges


def _bpr_loss(model, multiply, user, positive, negative, lambda_reg) -> torch.Tensor:
    """The library's BPR loss of the batch's node ids [B] each."""
    user, positive, negative = (torch.from_numpy(nodes) for nodes in (user, positive, negative))
    pairs = torch.stack([torch.cat([user, user]), torch.cat([positive, negative])])  # [2, 2B]
    embedding = _embed(model, multiply)  # [U + I, D]
    positive_score, negative_score = (embedding[pairs[0]] * embedding[pairs[1]]).sum(dim=-1).chunk(2)  # [B] each
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
    known, wanted = (csr_array((np.ones(len(pairs[0]), dtype=bool), tuple(map(np.asarray, pairs))),
                               shape=(len(user_emb), len(item_emb))) for pairs in (seen, relevant))  # fmt: skip
    users, found = np.unique(relevant[0]), []  # [Q]
    for part in np.array_split(users, max(1, -(-len(users) // USERS_AT_ONCE))):
        score = user_emb[part] @ item_emb.T  # [q, I]
        score[known[part].nonzero()] = -np.inf
        top = np.argsort(-score, axis=1, kind="stable")[:, :k]  # [q, k]
        is_wanted = wanted[part].toarray()  # [q, I]
        found.append((np.take_along_axis(is_wanted, top, axis=1), is_wanted.sum(axis=1)))
    return tuple(np.concatenate(pieces) for pieces in zip(*found, strict=True))
