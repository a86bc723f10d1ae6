"""Nearest neighbours with FAISS, and what a single look-up costs.

This file imports neither torch nor the rest of the package, so that it can run as a process of its own: on
macOS faiss-cpu and torch bring an OpenMP runtime each, and one process with both crashes on Apple silicon.
There (`sys.platform == "darwin"`) the two public functions run this file with the same interpreter, hand the
arrays over standard input and read the answer from standard output. Elsewhere they run in place.
"""

from __future__ import annotations

import io
import subprocess  # noqa: S404 - runs this very file, see above
import sys
import time

import numpy as np


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; a row of zeros stays zero. Args: [N, D]. Returns: [N, D]."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def build_index(vectors: np.ndarray):
    """An exact FAISS index of cosine similarity. Args: vectors [N, D]. Returns: a `faiss.IndexFlatIP`."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(normalise(vectors)))
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
    k, emb, ratings = int(arrays["k"]), normalise(arrays["vectors"]), normalise(arrays["rating_vectors"])
    index, active, rng = build_index(emb), arrays["n_ratings"], np.random.default_rng(0)
    return {
        "graph": lambda user, raters: search(index, emb[user : user + 1], k, raters)[0][0],
        "graph, arrays": lambda user, raters: _top(emb[raters] @ emb[user], raters, k),
        "cosine on ratings": lambda user, raters: _top(ratings[raters] @ ratings[user], raters, k),
        "most active": lambda user, raters: _top(active[raters], raters, k),
        "random": lambda user, raters: rng.choice(raters, min(k, len(raters)), replace=False),
    }


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


_TASKS = {"neighbors": _neighbors, "lookup_times": _lookup_times}


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
    user_emb: np.ndarray, rating_vectors: np.ndarray, users: np.ndarray, raters: list[np.ndarray], k: int,
    own_process: bool | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Seconds per look-up: one user, one target's raters, the k raters to ask.

    Args:
        user_emb: [U, D] graph embeddings.
        rating_vectors: [U, I] ratings, 0 where there is none (the rival "cosine on ratings").
        users: [Q] the asking users.
        raters: Q arrays of user ids, none empty.
        k: neighbours.
        own_process: run apart; None = on macOS only.

    Returns:
        name -> seconds [Q]. "graph" goes through FAISS, "graph, arrays" is the same search in plain numpy;
        all contenders answer each query in turn, after a warm-up on the last queries.
    """
    arrays = {
        "vectors": user_emb, "rating_vectors": rating_vectors, "users": np.asarray(users), "k": np.int64(k),
        "n_ratings": (rating_vectors > 0).sum(axis=1), "raters": np.concatenate(raters),
        "splits": np.cumsum([len(ids) for ids in raters])[:-1],
    }  # fmt: skip
    return _run("lookup_times", arrays, own_process)


if __name__ == "__main__":
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as sent:
        result = _TASKS[sys.argv[1]](dict(sent))
    reply = io.BytesIO()
    np.savez(reply, **result)
    sys.stdout.buffer.write(reply.getvalue())
