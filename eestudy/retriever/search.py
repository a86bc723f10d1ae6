"""Nearest neighbours with FAISS, and what a single look-up costs.

This file imports neither torch nor the rest of the package, so that it can run as a process of its own: on
macOS faiss-cpu and torch bring an OpenMP runtime each, and one process with both crashes on Apple silicon.
There (`sys.platform == "darwin"`) the public functions that take `own_process` run this file with the same
interpreter, hand the arrays over standard input and read the answer from standard output. Elsewhere they run in
place.
"""

from __future__ import annotations

import io
import subprocess  # noqa: S404 - runs this very file, see above
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; a row of zeros stays zero. Args: [N, D]. Returns: [N, D]."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def refuse_nonfinite(vectors: np.ndarray) -> np.ndarray:
    """The vectors [N, D] themselves; a ValueError names the first row that holds a NaN or an infinity."""
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise ValueError(f"vector {row} holds a value that is not finite (NaN or infinity); make the embeddings again")
    return vectors


def build_index(vectors: np.ndarray):
    """An exact FAISS index of cosine similarity. Args: vectors [N, D]. Returns: a `faiss.IndexFlatIP`."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(normalise(refuse_nonfinite(vectors))))
    return index


def search(index, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar vectors of an index.

    Args:
        index: from `build_index`.
        queries: [Q, D] float.
        k: neighbours per query.
        among: ids that may be found (the raters of an item, say); None = all.

    Returns:
        ids [Q, k] int64 (-1 where there are fewer than k) and cosines [Q, k] float32, most similar first.
    """
    import faiss

    queries = np.ascontiguousarray(normalise(queries))
    if among is None:
        cosine, ids = index.search(queries, k)
        return ids, cosine
    selector = faiss.IDSelectorBatch(np.ascontiguousarray(among, dtype=np.int64))
    cosine, ids = index.search(queries, k, params=faiss.SearchParameters(sel=selector))
    return ids, cosine


def _neighbors(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    k = int(arrays["k"])
    ids, cosine = search(build_index(arrays["vectors"]), arrays["queries"], k)
    return {"ids": ids, "cosine": cosine}


def _top(score: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    return ids[np.argsort(-score, kind="stable")[:k]]


def _contenders(arrays: dict[str, np.ndarray]) -> dict:
    """One look-up each: (query user, the target's raters) -> the k raters to ask, every array ready in memory."""
    k, emb = int(arrays["k"]), normalise(arrays["vectors"])
    index, active, rng = build_index(emb), arrays["n_ratings"], np.random.default_rng(0)
    contenders = {
        "graph": lambda user, raters: search(index, emb[user : user + 1], k, raters)[0][0],
        "graph, arrays": lambda user, raters: _top(emb[raters] @ emb[user], raters, k),
        "most active": lambda user, raters: _top(active[raters], raters, k),
        "random": lambda user, raters: rng.choice(raters, min(k, len(raters)), replace=False),
    }
    if "rating_vectors" in arrays:
        ratings = normalise(arrays["rating_vectors"])
        contenders["cosine on ratings"] = lambda user, raters: _top(ratings[raters] @ ratings[user], raters, k)
    return contenders


def _lookup_times(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    contenders = _contenders(arrays)
    users, lists = arrays["users"], np.split(arrays["raters"], arrays["splits"])
    seconds = np.zeros((len(contenders), len(users)))
    for query in range(-min(20, len(users)), len(users)):  # the negative ones warm up and are overwritten
        for contender, look_up in enumerate(contenders.values()):  # interleaved: all meet the same machine
            start = time.perf_counter()
            look_up(int(users[query]), lists[query])
            seconds[contender, query] = time.perf_counter() - start
    return {name: seconds[row] for row, name in enumerate(contenders)}


# --- look-ups among millions


@dataclass(frozen=True)
class Cells:
    """Users renumbered so that those of one cell stand together, and every item's raters in that order.

    A cell is a cluster of similar users. So an item's raters from one cell are one slice of its list, and the raters
    that are worth a look, those from the cells nearest to the user, are found without touching the others.
    """

    centroid: np.ndarray  # [C, D] float32
    unit: np.ndarray  # [U, D] float32, of unit length, by place
    user_id: np.ndarray  # [U] int64, by place
    raters: np.ndarray  # [M] int32 places of each item's raters, ascending within each item
    bounds: np.ndarray  # [I, C + 1] int, item i's raters from cell c are raters[bounds[i, c] : bounds[i, c + 1]]


def user_cells(
    vectors: np.ndarray, n_cells: int, seed: int = 0, own_process: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Group users by k-means on their directions.

    Args:
        vectors: [U, D] float.
        n_cells: C, at most U.
        seed: of the first centroids.
        own_process: run FAISS apart; None = on macOS only.

    Returns:
        centroid [C, D] float32 of unit length, and each user's cell [U] int64.
    """
    arrays = {"vectors": vectors, "n_cells": np.int64(n_cells), "seed": np.int64(seed)}
    answer = _run("user_cells", arrays, own_process)
    return answer["centroid"], answer["cell"]


def _user_cells(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import faiss

    unit = np.ascontiguousarray(normalise(arrays["vectors"]))
    kmeans = faiss.Kmeans(unit.shape[1], int(arrays["n_cells"]), niter=10, seed=int(arrays["seed"]), spherical=True,
                          max_points_per_centroid=64, min_points_per_centroid=1)  # fmt: skip
    kmeans.train(unit)
    return {"centroid": kmeans.centroids, "cell": kmeans.index.search(unit, 1)[1][:, 0]}


def group_raters(
    vectors: np.ndarray, centroid: np.ndarray, cell: np.ndarray, user_id: np.ndarray, item_id: np.ndarray, n_items: int
) -> Cells:
    """Put users and every item's raters into the order of the cells.

    Args:
        vectors: [U, D] float.
        centroid, cell: from `user_cells`.
        user_id, item_id: [M] int, who rated what.
        n_items: I.

    Returns:
        `Cells`.
    """
    order = np.argsort(cell, kind="stable")  # [U] user id by place
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    key = np.sort(np.asarray(item_id, dtype=np.int64) * len(order) + place[user_id])  # [M] by item, then place
    start = np.searchsorted(cell[order], np.arange(len(centroid) + 1))  # [C + 1] the first place of each cell
    bounds = np.searchsorted(key, np.arange(n_items)[:, None] * len(order) + start)  # [I, C + 1]
    return Cells(centroid, normalise(vectors)[order], order, (key % len(order)).astype(np.int32),
                 bounds.astype(np.min_scalar_type(len(key))))  # fmt: skip


def nearest_raters(cells: Cells, query: np.ndarray, targets: np.ndarray, k: int, budget: int) -> list[np.ndarray]:
    """Of each target's raters the k most similar to one user: of all of them where they are few, else of the nearest.

    Where a target has more than `budget` raters, only those are looked at that live in the cells nearest to the user,
    cell by cell until there are `budget` of them.

    Args:
        cells: from `group_raters`.
        query: [D] float, the asking user's vector.
        targets: [T] item ids.
        k: raters per target.
        budget: raters of one target to look at, at least k; `len(cells.unit)` makes the answer exact.

    Returns:
        T arrays of at most k user ids, most similar first.
    """
    query = normalise(query[None])[0]
    ranked = np.argsort(-(cells.centroid @ query))  # [C] nearest cell first
    bounds = cells.bounds[targets].astype(np.int64)  # [T, C + 1]
    low = bounds[:, ranked]  # [T, C]
    count = bounds[:, ranked + 1] - low
    count[np.cumsum(count, axis=1) - count >= budget] = 0  # the cells before have enough
    size, first, count = count.sum(1), low.ravel(), count.ravel()
    rows = cells.raters[np.repeat(first - np.cumsum(count) + count, count) + np.arange(size.sum())]  # [R], all targets
    found = _best_of_each(cells.unit.take(rows, axis=0) @ query, size, k)
    return [cells.user_id[rows[places]] for places in found]


def _best_of_each(score: np.ndarray, size: np.ndarray, k: int) -> list[np.ndarray]:
    """The places of the k highest of each part of `score`, highest first. Args: [R], sizes [T] of its parts, k."""
    width = size.max()
    table = np.full((len(size), width), -np.inf, dtype=np.float32)  # [T, W] padded
    table[np.arange(width) < size[:, None]] = score
    top = np.argpartition(table, max(width - k, 0))[:, -k:] if width else table.astype(np.int64)
    order = np.argsort(-np.take_along_axis(table, top, 1))
    top = np.take_along_axis(top, order, 1) + (np.cumsum(size) - size)[:, None]  # [T, k] of the whole
    return [places[:n] for places, n in zip(top, size, strict=True)]


def _best(unit: np.ndarray, query: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Those k of `rows` whose vectors are most similar to the query, most similar first."""
    score = unit[rows] @ query  # [R]
    if len(rows) > k:
        part = np.argpartition(score, len(rows) - k)[len(rows) - k :]
        rows, score = rows[part], score[part]
    return rows[np.argsort(-score)]


# --- what indexes cost


@dataclass(frozen=True)
class _Way:
    """One way to look up, and what was paid before the first question."""

    name: str
    settings: tuple[int, ...]  # from quick to thorough
    look_up: Callable[[int, np.ndarray, np.ndarray], list[np.ndarray]]  # (setting, query [D], targets [T]) -> T ids
    build_s: float
    index_mb: float


def _build(kind: str, unit: np.ndarray):
    """A FAISS index over rows of unit length, by inner product."""
    import faiss

    n, dim = unit.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "IVF":
        n_lists = 2 ** round(np.log2(4 * np.sqrt(n)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 64, 1
    else:
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 80
    index.train(unit)
    index.add(unit)
    return index


def _index_mb(index) -> float:
    """What an index would take on disk, in MB (2^20 bytes); in memory it takes that much."""
    import faiss

    written = [0]
    faiss.write_index(index, faiss.PyCallbackIOWriter(lambda part: written.append(len(part)), 2**20))
    return sum(written) / 2**20


def _settings(kind: str, index) -> tuple[int, ...]:
    """Effort from quick to thorough: cells to visit (IVF; all is exact), candidates to keep (HNSW)."""
    if kind == "IVF":
        return tuple(2**i for i in range(int(np.log2(index.nlist)) + 1))
    return (0,) if kind == "flat" else tuple(2**i for i in range(5, 13))


def _parameters(kind: str, setting: int, selector=None):
    import faiss

    chosen = {} if selector is None else {"sel": selector}
    if kind == "IVF":
        return faiss.SearchParametersIVF(nprobe=setting, **chosen)
    if kind == "HNSW":
        return faiss.SearchParametersHNSW(efSearch=setting, **chosen)
    return faiss.SearchParameters(**chosen)


def _index_ways(unit: np.ndarray, raters: np.ndarray, start: np.ndarray, k: int) -> tuple[list[_Way], list[_Way]]:
    """FAISS's indexes, asked for the nearest of everyone, and of the targets' raters."""
    import faiss

    def way(kind: str, index, build_s: float, restricted: bool) -> _Way:
        def look_up(setting, query, targets):
            found = []
            for target in targets:
                ids = np.ascontiguousarray(raters[start[target] : start[target + 1]])
                selector = faiss.IDSelectorBatch(ids) if restricted else None
                wanted = k if restricted else k + 1  # everyone: the user itself comes first
                ids = index.search(query[None], wanted, params=_parameters(kind, setting, selector))[1][0]
                found.append(ids if restricted else ids[1:])
            return found

        return _Way(kind, _settings(kind, index), look_up, build_s, _index_mb(index))

    everyone, restricted = [], []
    for kind in ("flat", "IVF", "HNSW"):
        begun = time.perf_counter()
        index = _build(kind, unit)
        build_s = time.perf_counter() - begun
        everyone.append(way(kind, index, build_s, restricted=False))
        restricted.append(way(kind, index, build_s, restricted=True))
    return everyone, restricted


def _list_ways(unit: np.ndarray, user_id: np.ndarray, item_id: np.ndarray, raters, start, k: int) -> list[_Way]:
    """The same question put to the targets' lists of raters."""
    def some(setting, query, targets):
        lists = (raters[start[target] : start[target + 1]] for target in targets)
        return [_best(unit, query, ids[:setting] if setting else ids, k) for ids in lists]

    begun = time.perf_counter()
    n_cells = 2 ** max(0, round(np.log2(np.sqrt(len(unit)) / 4)))  # more cells cost more to search than they spare
    cells = group_raters(unit, *user_cells(unit, n_cells, own_process=False), user_id, item_id, len(start) - 1)
    build_s = time.perf_counter() - begun
    cells_mb = sum(part.nbytes for part in vars(cells).values()) / 2**20
    lists_mb = (unit.nbytes + raters.nbytes + start.nbytes) / 2**20
    return [
        _Way("all raters", (0,), some, 0.0, lists_mb),
        _Way("2048 raters", (2048,), some, 0.0, lists_mb),
        _Way("raters by cell", tuple(2**i for i in range(6, 16)),
             lambda setting, query, targets: nearest_raters(cells, query, targets, k, setting), build_s, cells_mb),
    ]  # fmt: skip


def recall(found: list[np.ndarray], truth: list[np.ndarray]) -> np.ndarray:
    """Share of the true neighbours found, look-up by look-up, 1 where there are none. Args: ids. Returns: [n]."""
    share = (np.isin(true, ids).mean() if len(true) else 1.0 for ids, true in zip(found, truth, strict=True))
    return np.array(list(share))


def _tuned(way: _Way, queries: np.ndarray, targets: np.ndarray, truth: list, aim: float) -> int:
    """The quickest setting that finds the share `aim` of the true neighbours on the tuning requests, else the last."""
    for setting in way.settings[:-1]:
        asked = zip(queries, targets, truth, strict=True)
        if np.mean([recall(way.look_up(setting, query, items), true) for query, items, true in asked]) >= aim:
            return setting
    return way.settings[-1]


def _race(ways: list[_Way], settings: list[int], queries: np.ndarray, targets: np.ndarray, truth: list) -> list[dict]:
    """Time every way on every request: even ones in one call, odd ones target by target.

    The ways take turns, each on a request of its own: none reads what another has just brought into the cache.
    """
    n, rng = len(queries), np.random.default_rng(0)
    times = [{"one": [], "request": [], "recall": []} for _ in ways]
    for step in range(n):
        for i in rng.permutation(len(ways)).tolist():
            r = (step + i * n // len(ways)) % n
            found = []
            for items in [targets[r]] if r % 2 == 0 else targets[r][:, None]:
                start = time.perf_counter()
                found += ways[i].look_up(settings[i], queries[r], items)
                times[i]["request" if r % 2 == 0 else "one"].append(time.perf_counter() - start)
            times[i]["recall"].append(recall(found, truth[r]).mean())
    return [{name: np.array(values) for name, values in one.items()} for one in times]


def _scale(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from threadpoolctl import threadpool_limits

    unit, k, aim = np.ascontiguousarray(normalise(arrays["vectors"])), int(arrays["k"]), float(arrays["aim"])
    user_id, item_id, users, targets = (arrays[name] for name in ("user_id", "item_id", "users", "targets"))
    by_item = np.argsort(item_id, kind="stable")
    raters = user_id[by_item].astype(np.int64)  # [M]
    start = np.searchsorted(item_id[by_item], np.arange(int(arrays["n_items"]) + 1))
    everyone, restricted = _index_ways(unit, raters, start, k)
    groups = {"raters": [*_list_ways(unit, user_id, item_id, raters, start, k), *restricted], "everyone": everyone}
    n_tuning, answer, queries = int(arrays["n_tuning"]), {}, unit[users]
    with threadpool_limits(1):
        for among, ways in groups.items():
            asked = targets if among == "raters" else targets[:, :1]
            exact = ways[0].look_up
            truth = [exact(0, query, items) for query, items in zip(queries, asked, strict=True)]
            tune, race = slice(n_tuning), slice(n_tuning, None)
            settings = [_tuned(way, queries[tune], asked[tune], truth[tune], aim) for way in ways]
            raced = _race(ways, settings, queries[race], asked[race], truth[race])
            for way, setting, found in zip(ways, settings, raced, strict=True):
                about = {"setting": setting, "build_s": way.build_s, "index_mb": way.index_mb}
                answer |= {f"{among}/{way.name}/{name}": np.asarray(value) for name, value in (found | about).items()}
    return answer


def index_times(
    vectors: np.ndarray, user_id: np.ndarray, item_id: np.ndarray, n_items: int, users: np.ndarray,
    targets: np.ndarray, k: int, aim: float, n_tuning: int, own_process: bool | None = None,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:  # fmt: skip
    """Seconds, recall and size of every way to find the users most similar to one.

    Among the raters of a target: all of its list in numpy (the truth), the first 2,048 of it, `nearest_raters`, and
    FAISS's flat, IVF and HNSW indexes with a selector. Among everyone: the three indexes, the flat one is the truth.
    Every way's effort is the least that reaches `aim` on the tuning requests. One thread.

    Args:
        vectors: [U, D] float.
        user_id, item_id: [M] int, who rated what.
        n_items: I.
        users, targets: [Q] and [Q, T] ids of the requests.
        k: neighbours.
        aim: recall at k to be reached on the first `n_tuning` requests.
        n_tuning: requests that choose the setting and are not timed.
        own_process: run apart; None = on macOS only.

    Returns:
        (among, way) -> {"one": seconds of look-ups of one target, "request": seconds of requests of T targets in one
        call, "recall": mean recall of each timed request, "setting", "build_s", "index_mb"}.
    """
    arrays = {"vectors": vectors, "user_id": user_id, "item_id": item_id, "n_items": np.int64(n_items), "users": users,
              "targets": targets, "k": np.int64(k), "aim": np.float64(aim), "n_tuning": np.int64(n_tuning)}
    table: dict = {}
    for key, value in _run("scale", arrays, own_process).items():
        among, way, name = key.split("/")
        table.setdefault((among, way), {})[name] = value
    return table


_TASKS = {"neighbors": _neighbors, "lookup_times": _lookup_times, "user_cells": _user_cells, "scale": _scale}


def _run(task: str, arrays: dict[str, np.ndarray], own_process: bool | None) -> dict[str, np.ndarray]:
    own_process = sys.platform == "darwin" if own_process is None else own_process
    if not own_process:
        return _TASKS[task](arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    command = [sys.executable, "-P", __file__, task]
    done = subprocess.run(command, input=buffer.getvalue(), capture_output=True)  # noqa: S603 - fixed command
    if done.returncode:
        raise RuntimeError(f"the FAISS process for {task!r} failed:\n{done.stderr.decode(errors='replace')}")
    with np.load(io.BytesIO(done.stdout)) as answer:
        return dict(answer)


def neighbors(
    vectors: np.ndarray, queries: np.ndarray, k: int, own_process: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `vectors` most similar to each query, by cosine.

    Args:
        vectors: [N, D] float.
        queries: [Q, D] float.
        k: neighbours per query.
        own_process: run FAISS apart; None = on macOS only.

    Returns:
        ids [Q, k] int64 (-1 where N < k) and cosines [Q, k] float32, most similar first.
    """
    answer = _run("neighbors", {"vectors": vectors, "queries": queries, "k": np.int64(k)}, own_process)
    return answer["ids"], answer["cosine"]


def lookup_times(
    user_emb: np.ndarray, rating_vectors: np.ndarray | None, users: np.ndarray, raters: list[np.ndarray], k: int,
    own_process: bool | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Seconds per look-up: one user, one target's raters, the k raters to ask.

    Args:
        user_emb: [U, D] graph embeddings.
        rating_vectors: [U, I] ratings, 0 where there is none (the rival "cosine on ratings"); None: without that rival.
        users: [Q] the asking users.
        raters: Q arrays of user ids, none empty.
        k: neighbours.
        own_process: run apart; None = on macOS only.

    Returns:
        name -> seconds [Q]. "graph" goes through FAISS, "graph, arrays" is the same search in plain numpy;
        all contenders answer each query in turn, after a warm-up on the last queries.
    """
    everybody = np.concatenate(raters)
    arrays = {
        "vectors": user_emb, "users": np.asarray(users), "k": np.int64(k), "raters": everybody,
        "n_ratings": np.bincount(everybody, minlength=len(user_emb)),
        "splits": np.cumsum([len(ids) for ids in raters])[:-1],
    }  # fmt: skip
    if rating_vectors is not None:
        arrays["rating_vectors"] = rating_vectors
    return _run("lookup_times", arrays, own_process)


if __name__ == "__main__":
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as sent:
        result = _TASKS[sys.argv[1]](dict(sent))
    reply = io.BytesIO()
    np.savez(reply, **result)
    sys.stdout.buffer.write(reply.getvalue())
