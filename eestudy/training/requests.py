"""Judged rows as requests of token ids: one prefix, several candidates, each row in one or several modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eestudy import artifacts, prompts
from eestudy.artifacts import Run
from eestudy.config import MODES

VECTORS = "soft_vectors.safetensors"  # the graph's, where users and items are soft tokens: only ablations write it


@dataclass(frozen=True)
class Request:
    """Token ids and labels of one request; several modes of one row may stand beside each other."""

    prefix: list[int]
    suffixes: list[list[int]]
    rows: np.ndarray  # [C] row ids
    modes: np.ndarray  # [C] index into MODES
    labels: np.ndarray  # [C]
    user: int | None = None  # whose request it is; decides which process scores it
    targets: np.ndarray | None = None  # [C] in [0, 1], what a teacher makes of the labels; None: the labels themselves


def load_requests(run: Run, tokenizer) -> dict[str, list[Request]]:
    """All judged requests by part: 'label', 'select', 'risk', 'test'; every row in every mode."""
    table = artifacts.read_table(run, "prompts.parquet")
    ids = prompts.tokenize(table, tokenizer)
    meta = table[["row"]].merge(artifacts.read_table(run, "split.parquet")[["row", "split", "half"]], on="row")
    known = artifacts.read_table(run, "interactions.parquet").set_index("row")
    meta["part"] = np.where(meta["split"] == "validation", meta["half"], meta["split"])
    meta["label"], meta["user"] = meta["row"].map(known["label"]), meta["row"].map(known["user_id"])
    requests: dict[str, list[Request]] = {"label": [], "select": [], "risk": [], "test": []}
    for _, group in table.groupby("request_id", sort=True):
        index = group.index.to_numpy()
        suffixes = [ids[mode][i] for mode in MODES for i in index]
        rows, modes = np.tile(table["row"].to_numpy()[index], len(MODES)), np.repeat(range(len(MODES)), len(index))
        label = np.tile(meta["label"].to_numpy()[index], len(MODES))
        request = Request(ids["prefix"][index[0]], suffixes, rows, modes, label, meta["user"][index[0]])
        requests[meta["part"][index[0]]].append(request)
    vectors = soft_vectors(run)
    if not vectors:
        return requests
    first, n_users = len(tokenizer), len(vectors["users"])
    return {part: with_soft_tokens(some, first, n_users, known["item_id"]) for part, some in requests.items()}


def soft_vectors(run: Run) -> dict[str, np.ndarray]:
    """Vectors of the run's soft tokens: users [U, d], then items [I, d]; {} where its prompts have none."""
    return artifacts.read_arrays(run, VECTORS) if artifacts.artifact_hash(run, VECTORS) else {}


def with_soft_tokens(
    requests: Sequence[Request], first: int, n_users: int, items: Mapping[int, int]
) -> list[Request]:  # fmt: skip
    """Requests with the user's token behind the prefix and each candidate's before its title.

    Args:
        requests: of any part, with their users.
        first: id of the first soft token, which is user 0; the items come after the users.
        n_users: how many users there are.
        items: row -> item.
    """
    def one(request: Request) -> Request:
        suffixes = [[first + n_users + int(items[row]), *ids]
                    for row, ids in zip(request.rows, request.suffixes, strict=True)]  # fmt: skip
        return replace(request, prefix=[*request.prefix, first + int(request.user)], suffixes=suffixes)

    return [one(request) for request in requests]


def keep(request: Request, wanted: np.ndarray) -> Request:
    """The request with only the candidates where `wanted` [C] is true."""
    index = np.flatnonzero(wanted)
    return replace(request, suffixes=[request.suffixes[i] for i in index], rows=request.rows[index],
                   modes=request.modes[index], labels=request.labels[index],
                   targets=None if request.targets is None else request.targets[index])


def taught(requests: Sequence[Request], p_yes: Sequence[np.ndarray], share: float) -> list[Request]:
    """Requests whose targets lie between label and a teacher's answer.

    Args:
        requests: of the label part.
        p_yes: the teacher's answers, one [C] a request.
        share: of the teacher in the target.
    """
    return [replace(r, targets=(share * p + (1 - share) * r.labels).astype(np.float32))
            for r, p in zip(requests, p_yes, strict=True)]  # fmt: skip


def only_mode(requests: Sequence[Request], mode: str) -> list[Request]:
    """Each request with its candidates in one mode."""
    return [keep(r, r.modes == MODES.index(mode)) for r in requests]


def main_mode(probability: Sequence[float]) -> str:
    """The mode that training shows most often: heads are initialised and looked at in it."""
    return MODES[int(np.argmax(probability))]


def drop_evidence(request: Request, probability: Sequence[float], rng: np.random.Generator) -> Request:
    """Each row once, in a mode drawn at random (evidence dropout)."""
    n_rows = len(request.rows) // len(MODES)
    drawn = prompts.draw_modes(n_rows, probability, rng)
    wanted = np.zeros(len(request.rows), bool)
    wanted[drawn * n_rows + np.arange(n_rows)] = True
    return keep(request, wanted)


def first_rows(requests: Sequence[Request], n_rows: int) -> list[Request]:
    """The first requests that together hold at least `n_rows` candidates."""
    sizes = np.cumsum([len(r.rows) for r in requests])
    return list(requests[: int(np.searchsorted(sizes, n_rows)) + 1])


def share_batch(batch: Sequence[Request], process: int, n_processes: int) -> list[tuple[Request, float]]:
    """One process's share of a step, so that all shares together are exactly the batch, whatever their number.

    As many requests as possible stay whole. Of those left over every process takes some candidates, next to a copy
    of the prefix. Whoever gets none of them reads one all the same, with a fraction of 0: processes that share a
    model's weights have to run in step.

    Args:
        batch: the requests of one step.
        process: 0-based number of the process.
        n_processes: how many share the batch.

    Returns:
        Equally many parts for each process: a request, and the fraction of its candidates that the part holds.
    """
    n_whole = len(batch) // n_processes * n_processes
    parts = [(request, 1.0) for request in batch[process:n_whole:n_processes]]
    for request in batch[n_whole:]:
        candidate = np.arange(len(request.rows))
        mine = candidate % n_processes == process
        parts.append((keep(request, mine if mine.any() else candidate == 0), float(mine.mean())))
    return parts
