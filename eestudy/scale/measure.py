"""What training and look-up cost on planted graphs of growing size, everything else fixed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd

from eestudy.config import RetrieverConfig
from eestudy.progress import most_held_mb
from eestudy.retriever.graph import MAX_STEPS, train_lightgcn
from eestudy.retriever.search import index_times
from eestudy.scale.synthetic import PlantedGraph, planted_graph, recovered_groups

EDGES_PER_USER = 20
USERS_PER_ITEM = 10
MIN_ITEMS = 1000


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: tuple[int, ...] = (250_000, 2_500_000, 25_000_000)  # of files that are read and prepared
    edges: tuple[int, ...] = (20_000, 200_000, 2_000_000, 20_000_000)  # 1,000 to 1,000,000 users
    searched: tuple[int, ...] = (200_000, 2_000_000, 20_000_000)  # graphs whose users are looked up
    epochs: int = 5  # the first one warms up
    n_requests: int = 400  # timed, half in one call and half target by target
    n_tuning: int = 40  # requests before them that choose each way's setting
    n_targets: int = 16
    k: int = 32
    aim: float = 0.96  # recall at k on the tuning requests: a little over the 0.95 that the others have to show


FULL = Sizes()
SMALL = Sizes(rows=(4_000, 8_000), edges=(2_000, 4_000), searched=(4_000,), epochs=3, n_requests=6, n_tuning=2,
              n_targets=4, k=4)  # fmt: skip


def graph_of(n_edges: int, seed: int) -> PlantedGraph:
    """The planted graph of one size: 20 edges a user, 10 users an item, at least 1,000 items."""
    n_users = n_edges // EDGES_PER_USER
    return planted_graph(n_users, max(MIN_ITEMS, n_users // USERS_PER_ITEM), n_edges, seed=seed)


def epoch_gflop(n_edges: int, n_nodes: int, n_steps: int, cfg: RetrieverConfig) -> float:
    """What arithmetic says that an epoch costs; a multiplication and an addition count as two operations.

    Per step: each layer multiplies the matrix of 2 M non-zeros with [U + I, D] forwards and again backwards, 4 M D
    operations each; each of the batch's edges takes two inner products, 2 D operations each and twice that
    backwards; Adam takes some 12 operations a number. The read-out and the sampling are left out.

    Args:
        n_edges: M.
        n_nodes: U + I.
        n_steps: steps in the epoch.
        cfg: embedding_dim and n_layers.

    Returns:
        10^9 floating-point operations.
    """
    step = 2 * cfg.n_layers * 4 * n_edges * cfg.embedding_dim + 12 * n_nodes * cfg.embedding_dim
    return (n_steps * step + 12 * n_edges * cfg.embedding_dim) / 1e9


def train_timed(
    graph: PlantedGraph, cfg: RetrieverConfig, epochs: int, seed: int
) -> tuple[np.ndarray, list[float], list[float]]:
    """Train on a planted graph with the clock running.

    The batch is as small as the bound on the steps allows, so that graphs of every size take the same number of
    steps an epoch.

    Args:
        graph: what to train on.
        cfg: the study's settings, its epochs and batch size aside.
        epochs: passes over the edges.
        seed: of the training.

    Returns:
        user_emb [U, D] float32; seconds of set-up (first epoch included) and of each further epoch; losses.
    """
    settings = cfg.model_dump(include={"embedding_dim", "n_layers", "lr", "lambda_reg"})
    stamps = [time.perf_counter()]
    user_emb, _, losses = train_lightgcn(
        graph.user_id, graph.item_id, *graph.shape, **settings, epochs=epochs, batch_size=1, seed=seed,
        after_epoch=lambda *_: stamps.append(time.perf_counter()),
    )  # fmt: skip
    return user_emb, np.diff(stamps).tolist(), losses


def measure_training(
    n_edges: int, cfg: RetrieverConfig, sizes: Sizes, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Time training on the graph of one size and look for its planted groups in what was learnt.

    Args:
        n_edges: asked of the generator.
        cfg: the study's settings.
        sizes: how many epochs.
        seed: of graph and training.

    Returns:
        One row an epoch after the first (dimension 'edges', size = edges the graph has, repeat, predicted_gflop,
        seconds: fit for `growth.fit_exponents`) with n_users, n_items, setup_s (matrix, model and read-out, from
        a training without epochs), peak_mb (most the process has held so far), loss (last epoch's), and the share of
        a user's 10 nearest users that are of its group: recovered, recovered_untrained (the same model before its
        first step), by_chance. And user_emb [U, D].
    """
    graph = graph_of(n_edges, seed)
    begun = time.perf_counter()
    untrained = train_timed(graph, cfg, 0, seed)[0]
    setup_s = time.perf_counter() - begun
    before, chance = recovered_groups(untrained, graph.user_group, seed=seed)
    user_emb, seconds, losses = train_timed(graph, cfg, sizes.epochs, seed)
    peak_mb = most_held_mb()
    n_users, n_items = graph.shape
    n_edges = len(graph.user_id)
    gflop = epoch_gflop(n_edges, n_users + n_items, min(MAX_STEPS, n_edges), cfg)
    frame = pd.DataFrame({
        "dimension": "edges", "size": n_edges, "repeat": np.arange(sizes.epochs - 1), "predicted_gflop": gflop,
        "seconds": seconds[1:], "n_users": n_users, "n_items": n_items, "setup_s": setup_s, "peak_mb": peak_mb,
        "loss": losses[-1], "recovered": recovered_groups(user_emb, graph.user_group, seed=seed)[0],
        "recovered_untrained": before, "by_chance": chance,
    })  # fmt: skip
    return frame, user_emb


def walk_requests(graph: PlantedGraph, n_requests: int, n_targets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Requests as a recommender would get them: users, and items new to them that users of similar taste have.

    A target is found by a walk: from the user to one of its items, on to another user of that item, and to one of
    that user's items. So popular items come often, and items of the user's own taste more often than others.

    Args:
        graph: where to walk.
        n_requests: Q; users are drawn by their number of edges.
        n_targets: T, different from each other.
        seed: of the walks.

    Returns:
        users [Q] and targets [Q, T] int64.
    """
    rng, (n_users, n_items) = np.random.default_rng(seed), graph.shape
    by_item = np.argsort(graph.item_id, kind="stable")
    items = graph.item_id, np.searchsorted(graph.user_id, np.arange(n_users + 1))  # of each user
    raters = graph.user_id[by_item], np.searchsorted(graph.item_id[by_item], np.arange(n_items + 1))  # of each item
    users = graph.user_id[rng.integers(len(graph.user_id), size=n_requests)]  # [Q]
    return users, np.stack([_walk(user, items, raters, n_targets, rng) for user in users])


def _walk(user: int, items, raters, n_targets: int, rng) -> np.ndarray:
    """[T] distinct items that the user does not have; from anywhere where walks do not lead to enough."""
    def step(lists, ids: np.ndarray) -> np.ndarray:
        ends, start = lists
        return ends[start[ids] + (rng.random(len(ids)) * (start[ids + 1] - start[ids])).astype(np.int64)]

    own, found = items[0][items[1][user] : items[1][user + 1]], np.empty(0, dtype=np.int64)
    for attempt in count():
        begin = np.full(4 * n_targets, user)
        new = step(items, step(raters, step(items, begin))) if attempt < 20 else rng.permutation(len(raters[1]) - 1)
        _, first = np.unique(np.concatenate([found, new]), return_index=True)
        found = np.concatenate([found, new])[np.sort(first)]
        found = found[~np.isin(found, own)]
        if len(found) >= n_targets:
            return found[:n_targets]


def measure_search(n_edges: int, user_emb: np.ndarray, sizes: Sizes, seed: int) -> pd.DataFrame:
    """Time every way of finding similar users, on vectors of a trained graph.

    Args:
        n_edges: the graph's size.
        user_emb: [U, D] from `measure_training`.
        sizes: how many requests, of how many targets.
        seed: that of the graph; drives the requests as well.

    Returns:
        One row a way: n_users, among ('raters' of the target or 'everyone'), way, setting, build_s, index_mb
        (vectors and, for ways that keep them, lists of raters), recall; for look-ups of one target and for whole
        requests n, ms_p50 and ms_p99; and the raters of a target, mean and largest.
    """
    graph = graph_of(n_edges, seed)
    users, targets = walk_requests(graph, sizes.n_tuning + sizes.n_requests, sizes.n_targets, seed)
    measured = index_times(user_emb, graph.user_id, graph.item_id, graph.shape[1], users, targets, sizes.k, sizes.aim,
                           sizes.n_tuning)  # fmt: skip
    n_raters = np.bincount(graph.item_id)[targets[sizes.n_tuning :]]
    rows = []
    for (among, way), found in measured.items():
        row = {"n_users": len(user_emb), "among": among, "way": way}
        row |= {name: found[name].item() for name in ("setting", "build_s", "index_mb")}
        row |= {"k": sizes.k, "recall": found["recall"].mean()}
        for name, targets_each in (("one", 1), ("request", sizes.n_targets)):
            p50, p99 = np.quantile(found[name], (0.5, 0.99)) * 1000
            row |= {f"{name}_targets": targets_each, f"{name}_n": len(found[name]), f"{name}_ms_p50": p50,
                    f"{name}_ms_p99": p99}  # fmt: skip
        rows.append(row | {"mean_raters": n_raters.mean(), "most_raters": n_raters.max()})
    return pd.DataFrame(rows)
