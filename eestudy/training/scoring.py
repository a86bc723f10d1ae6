"""Offline scores: the logit of every head on every candidate, in chunks that survive a kill."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from eestudy import artifacts, backbone, exit_heads, scorer
from eestudy.artifacts import Run
from eestudy.config import MODES, StudyConfig
from eestudy.progress import progress
from eestudy.training.model import (
    ADAPTER,
    HEADS,
    ExitModel,
    build_model,
    load_trained,
    merge_adapter,
    training_fingerprint,
)
from eestudy.training.requests import Request, only_mode, soft_vectors

REQUESTS_PER_CHUNK = 10
READ_ALL_HEADS = scorer.ExitRule(scorer.never_exit)
# what scores depend on besides training's sources
SOURCES = ("training/scoring.py", "scorer/*.py", "backbone/fused.py", "backbone/precision.py")


@torch.no_grad()  # not inference mode: weights that are gathered in it could not be trained afterwards
def head_logits(model: ExitModel, requests: Sequence[Request]) -> np.ndarray:
    """Raw logits [n, E] by the packed forward in which the model is trained: for looks, and to hold the engine to."""
    model.eval()
    device = next(model.heads.parameters()).device
    packs = (backbone.make_pack(r.prefix, r.suffixes, device) for r in requests)
    return np.concatenate([model(pack).T.cpu().numpy() for pack in packs])  # [n, E]


def _chunks(requests: Sequence[Request], name: str) -> dict[str, np.ndarray]:
    """Chunk files and the positions of their requests: a user's requests lie in one chunk, which a hash chooses."""
    n_chunks = -(-len(requests) // REQUESTS_PER_CHUNK)
    chunk = np.array([zlib.crc32(str(request.user).encode()) % n_chunks for request in requests], dtype=int)
    order = np.argsort(chunk, kind="stable")
    numbers, first = np.unique(chunk[order], return_index=True)
    files = [f"chunks/{name}_{number:05d}.parquet" for number in numbers]
    return dict(zip(files, np.split(order, first[1:]), strict=False))


def score_chunks(
    run: Run, engine: scorer.Engine, requests: Sequence[Request], name: str, wanted: str,
    process: int = 0, n_processes: int = 1,
) -> None:  # fmt: skip
    """Score what one process has to score and what is not there yet, by the engine that serves requests.

    Which requests make a chunk depends on their users alone, not on the number of processes, so that any number of
    them goes on where another number stopped.

    Args:
        run, engine, requests, name, wanted: as for `score_requests`.
        process: 0-based number of the process; it takes every `n_processes`-th chunk.
        n_processes: how many share the chunks.
    """
    columns = [f"logit_{layer}" for layer in engine.heads.exit_layers]
    mine = list(_chunks(requests, name).items())[process::n_processes]
    for file, index in progress(mine, f"scoring {name} rows", unit="chunk") if process == 0 else mine:
        if artifacts.is_current(run, file, wanted):
            continue
        chunk = [requests[i] for i in index]
        found = scorer.score_all(engine, chunk, READ_ALL_HEADS)
        table = pd.DataFrame(np.concatenate([scored.logits for scored in found]), columns=columns)
        table.insert(0, "row", np.concatenate([r.rows for r in chunk]))
        table.insert(1, "mode", np.array(MODES)[np.concatenate([r.modes for r in chunk])])
        artifacts.write_table(run, file, table, fingerprint=wanted)


def score_requests(
    run: Run, engine: scorer.Engine, requests: Sequence[Request], name: str, wanted: str
) -> pd.DataFrame:
    """Raw logits of all heads in resumable chunks, by the engine that serves requests, nobody leaving early.

    Args:
        run: where finished chunks are kept, as `chunks/<name>_<k>.parquet`; those that are there are only merged.
        engine: of the trained or the untrained model.
        requests: what to score.
        name: names the chunks.
        wanted: fingerprint of the weights; chunks of another one are made again.

    Returns:
        Columns row, mode, logit_<layer>; one line per candidate, in the order of the requests.
    """
    score_chunks(run, engine, requests, name, wanted)
    chunks = _chunks(requests, name)
    merged = pd.concat([artifacts.read_table(run, file) for file in chunks], ignore_index=True)
    starts = np.cumsum([0, *(len(r.rows) for r in requests)])
    places = np.concatenate([np.arange(starts[i], starts[i + 1]) for index in chunks.values() for i in index])
    return merged.iloc[np.argsort(places)].reset_index(drop=True)


def load_scorable(cfg: StudyConfig, run: Run, tokenizer) -> ExitModel:
    """The trained model, ready to score."""
    model = build_model(cfg, tokenizer, soft_vectors(run))
    load_trained(model, artifacts.read_arrays(run, ADAPTER) | artifacts.read_arrays(run, HEADS))
    return merge_adapter(model)


def scoring_fingerprint(cfg: StudyConfig, run: Run) -> str:
    """Hash of everything that scores depend on: what training depends on, its weights, how they are read out."""
    package = Path(__file__).resolve().parents[1]
    return artifacts.fingerprint({
        "training": training_fingerprint(cfg, run),
        "weights": [artifacts.artifact_hash(run, name) for name in (ADAPTER, HEADS)],
        "sources": [artifacts.sha256_file(path) for name in SOURCES for path in sorted(package.glob(name))],
    })


def _parts(requests: dict[str, list[Request]]) -> dict[str, list[Request]]:
    """What is scored of each part: selection and test rows in every mode, risk rows in mode 'both'."""
    return {"select": requests["select"], "risk": only_mode(requests["risk"], "both"), "test": requests["test"]}


def score_parts(
    cfg: StudyConfig, run: Run, engine: scorer.Engine, requests: dict[str, list[Request]]
) -> pd.DataFrame:
    """Raw logits of the selection and test rows in every mode, and of the risk rows in mode 'both'.

    Returns:
        Columns row, mode, logit_<layer>.
    """
    wanted = scoring_fingerprint(cfg, run)
    tables = [score_requests(run, engine, part, name, wanted) for name, part in _parts(requests).items()]
    return pd.concat(tables, ignore_index=True)


def score_share(
    cfg: StudyConfig, run: Run, engine: scorer.Engine, requests: dict[str, list[Request]],
    process: int, n_processes: int,
) -> None:  # fmt: skip
    """One process's share of `score_parts`, left as finished chunks, which `score_parts` then only merges.

    Args:
        cfg, run, engine, requests: as for `score_parts`.
        process, n_processes: as for `score_chunks`.
    """
    wanted = scoring_fingerprint(cfg, run)
    for name, part in _parts(requests).items():
        score_chunks(run, engine, part, name, wanted, process, n_processes)


def describe_rows(run: Run, logits: pd.DataFrame) -> pd.DataFrame:
    """Scores with what is known of each row: user_id, request_id, split, half and label in front."""
    rows = artifacts.read_table(run, "split.parquet")[["row", "request_id", "split", "half"]]
    rows = rows.merge(artifacts.read_table(run, "interactions.parquet")[["row", "user_id", "label"]], on="row")
    first = ["row", "user_id", "request_id", "mode", "split", "half", "label"]
    table = logits.merge(rows, on="row", how="left", validate="many_to_one")
    return table[first + [column for column in logits if column not in first]]


def calibrate_scores(scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[list[float]]]]:
    """Turn raw logits into calibrated p_yes, head by head and mode by mode, fitted on the selection half only.

    Args:
        scores: from `describe_rows`, with logit_<layer> columns.

    Returns:
        The same rows with p_yes_<layer> in place of logit_<layer>, and per mode [E, 2] slope and intercept.
    """
    columns = [column for column in scores if column.startswith("logit_")]
    names = [column.replace("logit_", "p_yes_") for column in columns]
    table, calibration = scores.drop(columns=columns), {}
    p_yes = np.zeros((len(scores), len(columns)), dtype=np.float32)
    for mode in scores["mode"].unique():
        here = (scores["mode"] == mode).to_numpy()
        fit = scores[here & (scores["half"] == "select")]
        pairs = [exit_heads.fit_calibration(fit[column].to_numpy(float), fit["label"].to_numpy()) for column in columns]
        calibration[mode] = [list(pair) for pair in pairs]
        p_yes[here] = exit_heads.calibrate(scores.loc[here, columns].to_numpy(float), np.array(pairs))
    return pd.concat([table, pd.DataFrame(p_yes, columns=names, index=table.index)], axis=1), calibration
