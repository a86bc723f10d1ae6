"""What every part of the benchmark starts from: the trained model of a run, its policy, its test requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, backbone, exit_policies, latency, metrics, scorer, training
from eestudy.artifacts import Run
from eestudy.config import StudyConfig


@dataclass(frozen=True)
class Setup:
    """A run that has come as far as its exit policy."""

    cfg: StudyConfig
    run: Run
    tokenizer: object
    model: object  # the Hugging Face causal LM, adapter merged
    heads: object  # exit_heads.ExitHeads
    calibration: np.ndarray  # [E, 2]
    requests: dict[str, list]  # 'select' and 'test': training.Request, all evidence shown
    rule: scorer.ExitRule  # the policy that notebook 06 chose on validation
    static_exit: int  # 0-based exit of the shallowest static depth whose validation AUC loss is below the limit
    head_scores: pd.DataFrame  # rows with all evidence shown: row, user_id, label, split, half, p_yes_<layer>


@dataclass(frozen=True)
class BenchRequest:
    """Token ids of one request of the benchmark."""

    user: int
    prefix: list[int]
    suffixes: list[list[int]]


def load_setup(cfg: StudyConfig, run: Run) -> Setup:
    """Read a run's trained model, policy and requests.

    Raises:
        artifacts.ArtifactError: the run has not come as far as notebook 06.
    """
    latency.set_threads(cfg.latency.n_threads)
    scores = artifacts.read_table(run, "head_scores.parquet").query("mode == 'both'")
    tokenizer = backbone.load_tokenizer(cfg.backbone)
    exit_model = training.load_scorable(cfg, run, tokenizer)
    requests = training.load_requests(run, tokenizer)
    calibration = np.array(artifacts.read_json(run, "calibration.json")["slope_intercept"]["both"])
    return Setup(
        cfg, run, tokenizer, exit_model.backbone, exit_model.heads, calibration,
        {part: training.only_mode(requests[part], "both") for part in ("select", "test")},
        chosen_rule(run, cfg, scores), equal_static_exit(scores, cfg), scores,
    )  # fmt: skip


def chosen_rule(run: Run, cfg: StudyConfig, head_scores: pd.DataFrame) -> scorer.ExitRule:
    """The policy and threshold that notebook 06 chose on the selection half."""
    chosen = artifacts.read_json(run, "selected_policy.json")
    base_rate = head_scores.loc[head_scores["half"] == "select", "label"].mean()
    policy = exit_policies.policies(base_rate, cfg.policy)[chosen["policy"]]
    return scorer.ExitRule(policy.should_exit, chosen["threshold"], cfg.policy.min_exit)


def equal_static_exit(head_scores: pd.DataFrame, cfg: StudyConfig) -> int:
    """The shallowest exit whose AUC on the selection half is within `max_auc_loss` of full depth: the truncated rival.

    Args:
        head_scores: half, label and p_yes_<layer>.
        cfg: exit layers and `policy.max_auc_loss`.
    """
    select = head_scores[head_scores["half"] == "select"]
    auc = [metrics.auc(select["label"], select[f"p_yes_{layer}"]) for layer in cfg.heads.exit_layers]
    return int(np.flatnonzero(np.array(auc) >= auc[-1] - cfg.policy.max_auc_loss)[0])


def sized_requests(requests: Sequence, n_candidates: int, n_requests: int) -> list[BenchRequest]:
    """Requests of exactly `n_candidates`, made of real prefixes and real suffixes.

    The fullest requests first; where one has too few candidates, those of the next ones fill it up, and where all of
    them are too few they come again: what is asked stays real text, only whom it is asked about is not.

    Args:
        requests: objects with prefix and suffixes, at least one.
        n_candidates: C of each.
        n_requests: how many.
    """
    fullest = sorted(requests, key=lambda request: -len(request.suffixes))
    pool = [suffix for request in fullest for suffix in request.suffixes]
    starts = np.cumsum([0, *(len(request.suffixes) for request in fullest)])  # of each one's own in the pool
    made = []
    for k in range(n_requests):
        i = k % len(fullest)
        suffixes = [pool[(starts[i] + j) % len(pool)] for j in range(n_candidates)]
        made.append(BenchRequest(k, list(fullest[i].prefix), suffixes))
    return made
