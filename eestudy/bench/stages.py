"""One request from raw tables to answers, as a server would work it off: what each stage takes, and its share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, latency, prompts, retriever, scorer
from eestudy.artifacts import Run
from eestudy.bench.setup import Setup
from eestudy.config import KNOWN_PARTS, StudyConfig
from eestudy.contest import UNPREPARED
from eestudy.progress import progress
from eestudy.scorer.requests import encode, write

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Shelf:
    """What a server holds ready between requests."""

    visible: pd.DataFrame  # M rows that test requests may know, by time, then row; index 0 … M - 1
    of_user: dict[int, np.ndarray]  # user_id -> positions in `visible`, ascending
    of_item: dict[int, np.ndarray]  # item_id -> positions
    users: pd.DataFrame  # by user_id
    titles: np.ndarray  # [I] raw titles
    similar: retriever.Retriever  # of normalised vectors
    reference: pd.DataFrame  # evidence of the selection half: without stars, its similarities are what digits count by


def fill_shelf(run: Run) -> Shelf:
    """Read a run's tables and index them.

    Raises:
        artifacts.ArtifactError: the run has not come as far as notebook 03.
    """
    names = ("interactions", "split", "users", "items")
    interactions, split, users, items = (artifacts.read_table(run, f"{name}.parquet") for name in names)
    known = split.loc[split["split"].isin(KNOWN_PARTS["test"]), "row"]
    visible = interactions[interactions["row"].isin(known) & interactions["observed"]]
    visible = visible.sort_values(["timestamp", "row"], ignore_index=True)
    evidence = artifacts.read_table(run, "evidence.parquet")
    vectors = artifacts.read_arrays(run, "embeddings.safetensors")
    return Shelf(
        visible, visible.groupby("user_id").indices, visible.groupby("item_id").indices, users.set_index("user_id"),
        items.sort_values("item_id")["title"].to_numpy(),
        retriever.graph_retriever(vectors["user_final"], vectors["item_final"]),
        evidence[evidence["row"].isin(split.loc[split["half"] == "select", "row"])],
    )  # fmt: skip


def arriving(run: Run, rows: np.ndarray) -> pd.DataFrame:
    """What a request brings along: row, user_id, item_id, request_timestamp of its candidates, in the order given."""
    interactions, split = (artifacts.read_table(run, f"{name}.parquet") for name in ("interactions", "split"))
    table = interactions[["row", "user_id", "item_id"]].merge(split[["row", "request_timestamp"]], on="row")
    return table.set_index("row").loc[rows].reset_index()


def find_evidence(shelf: Shelf, candidates: pd.DataFrame, cfg: StudyConfig) -> pd.DataFrame:
    """The evidence of one request's candidates, equal to `retriever.build_evidence` on all visible ratings.

    That function sorts what it is given by item and by user, whichever rows are asked for: right for a table of
    40,000 rows, wrong for a request. Only ratings of the candidates and ratings by the user can matter, and where
    they stand is known beforehand, so that it is given those alone.

    Args:
        shelf: what is visible.
        candidates: from `arriving`, of one user.
        cfg: how many neighbours.
    """
    positions = [shelf.of_user.get(candidates["user_id"].iloc[0], NOTHING)]
    positions += [shelf.of_item.get(item, NOTHING) for item in candidates["item_id"]]
    relevant = shelf.visible.iloc[np.unique(np.concatenate(positions))]
    if cfg.data.has_stars:
        return retriever.build_evidence(candidates, relevant, shelf.similar, *_neighbours(cfg))
    found = retriever.match_evidence(candidates, relevant, shelf.similar, cfg.retriever.n_similar_users)
    return retriever.add_digits(found, shelf.reference)


def _neighbours(cfg: StudyConfig) -> tuple[int, int]:
    return cfg.retriever.n_similar_users, cfg.retriever.n_similar_items


def put_question(shelf: Shelf, candidates: pd.DataFrame, evidence: pd.DataFrame, cfg: StudyConfig) -> scorer.Question:
    """The request in words: what is known of its user before its time, its candidates and their evidence."""
    user, when = (candidates[name].iloc[0] for name in ("user_id", "request_timestamp"))
    known = shelf.visible.iloc[shelf.of_user.get(user, NOTHING)]
    known = known[known["timestamp"] < when]
    return scorer.Question(
        user, prompts.known_profile(shelf.users.loc[user], known, cfg.data.item_noun, cfg.data.has_stars),
        list(zip(shelf.titles[known["item_id"]], known["rating"], strict=True)),
        list(shelf.titles[candidates["item_id"]]), evidence["others"].tolist(), evidence["own"].tolist(),
    )  # fmt: skip


def answer(setup: Setup, engine: scorer.Engine, rule: scorer.ExitRule, shelf: Shelf, candidates: pd.DataFrame):
    """Work off one request.

    Args:
        setup, engine, rule: model, settings, policy.
        shelf: what is held ready.
        candidates: from `arriving`.

    Returns:
        seconds per stage (a dict), the `scorer.TokenRequest`, and its `scorer.Scored`. Writing the prompt already asks
        the tokenizer where titles must be cut and whether the history fits; `tokenisation` is the last call alone.
    """
    seconds: dict[str, float] = {}
    with artifacts.stopwatch(seconds, "retrieval"):
        evidence = find_evidence(shelf, candidates, setup.cfg)
    with artifacts.stopwatch(seconds, "prompt"):
        question = put_question(shelf, candidates, evidence, setup.cfg)
        prefix, suffixes = write(question, setup.cfg, setup.tokenizer)
    with artifacts.stopwatch(seconds, "tokenisation"):
        request = encode(question.user, prefix, suffixes, setup.tokenizer)
    with artifacts.stopwatch(seconds, "scoring"):
        found = scorer.score(engine, [request], rule)[0]
        latency.synchronize()
    return seconds, request, found


def stage_times(
    setup: Setup, engine: scorer.Engine, rule: scorer.ExitRule, n_requests: int, seed: int, warmup: int = 2
) -> pd.DataFrame:
    """Time the stages of test requests, one request after the other, alone.

    Args:
        setup: run, settings, tokenizer and test requests (only their rows are used).
        engine, rule: what scores, and the policy.
        n_requests: how many are drawn, at most all.
        seed: of the draw.
        warmup: requests worked off before the clock counts.

    Returns:
        Columns request (position among the test requests), n_candidates, stage, seconds: one row per request and
        stage of `contest.STAGES`, and one more, `UNPREPARED`: the retrieval where nothing but the table is held ready.
    """
    shelf, requests = fill_shelf(setup.run), setup.requests["test"]
    chosen = np.random.default_rng(seed).permutation(len(requests))[:n_requests]
    all_rows = arriving(setup.run, np.concatenate([requests[i].rows for i in chosen])).set_index("row")
    arrived = [all_rows.loc[requests[i].rows].reset_index() for i in chosen]
    for candidates in arrived[:warmup]:
        answer(setup, engine, rule, shelf, candidates)
    records = []
    for i, candidates in progress(list(zip(chosen, arrived, strict=True)), "stages", unit="request"):
        seconds = answer(setup, engine, rule, shelf, candidates)[0]
        with artifacts.stopwatch(seconds, UNPREPARED):
            retriever.build_evidence(candidates, shelf.visible, shelf.similar, *_neighbours(setup.cfg))
        records += [(i, len(candidates), stage, taken) for stage, taken in seconds.items()]
    return pd.DataFrame(records, columns=["request", "n_candidates", "stage", "seconds"])
