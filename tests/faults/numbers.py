"""Long scoring does not drift or grow; a NaN or an infinity anywhere is an error that says where; threads agree."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import numpy as np
import pandas as pd
import psutil
import torch

from eestudy import artifacts, backbone, exit_heads, exit_policies, metrics, retriever, scorer
from eestudy.config import BackboneConfig, PolicyConfig
from eestudy.exit_policies import PolicyInputError
from faults.outcome import Outcome

LAYERS = (1, 2, 3, 4, 5, 6)
SAME = 1e-6  # of p_yes, whatever was scored in between
THREADS_AGREE = 1e-5  # of p_yes: sums in another order
MAX_GROWTH_MB = 30
ODD = (float("nan"), float("inf"), -float("inf"))


@dataclass(frozen=True)
class Request:
    """What the engine reads."""

    prefix: list
    suffixes: list
    user: int


def held_mb() -> float:
    """Memory that this process holds now, in MB (2^20 bytes)."""
    return psutil.Process().memory_info().rss / 2**20


def model_and_heads(seed: int = 0):
    """A small random model and its untrained heads."""
    model = backbone.load_model(BackboneConfig(source="random-llama"), seed)
    return model, exit_heads.ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))


def requests_of(n: int, seed: int) -> list[Request]:
    """Requests of random tokens and sizes, by a third as many users."""
    rng = np.random.default_rng(seed)
    return [Request(rng.integers(1, 400, rng.integers(4, 40)).tolist(),
                    [rng.integers(1, 400, rng.integers(1, 9)).tolist() for _ in range(rng.integers(1, 6))],
                    int(rng.integers(n // 3 + 1))) for _ in range(n)]  # fmt: skip


def long_scoring(n_requests: int, seed: int) -> Outcome:
    """Score the same requests again and again, with a small cache, in changing company: the answers stay the same."""
    outcome = Outcome("scoring without an end", seed)
    engine, rng = scorer.build_engine(*model_and_heads()), np.random.default_rng(seed)
    requests = requests_of(200, seed)
    policy = exit_policies.policies(0.55, PolicyConfig())["max_probability"]
    rule, cache = scorer.ExitRule(policy.should_exit, 0.6), scorer.PrefixCache(500_000)
    first = [scorer.score(engine, [request], rule)[0].p_yes for request in requests]
    held = None
    while outcome.tried < n_requests:
        chosen = rng.integers(len(requests), size=rng.integers(1, 8))
        found = scorer.score(engine, [requests[i] for i in chosen], rule, cache)
        held = held_mb() if held is None and outcome.tried > n_requests // 4 else held
        for i, scored in zip(chosen, found, strict=True):
            off = np.abs(scored.p_yes - first[i]).max()
            outcome.count(None, off < SAME, f"request {i} is off by {off}")
    growth = held_mb() - held
    assert growth < MAX_GROWTH_MB, f"{growth:.0f} MB more than after a quarter"
    return outcome


def threads(n_requests: int, seed: int) -> Outcome:
    """The same answers with one thread and with two."""
    outcome, before = Outcome("one thread and two", seed), torch.get_num_threads()
    engine, requests = scorer.build_engine(*model_and_heads()), requests_of(n_requests, seed)
    rule, found = scorer.ExitRule(scorer.never_exit), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(scorer.score_all(engine, requests, rule))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        off = np.abs(one.logits - two.logits).max()
        outcome.count(None, off < THREADS_AGREE, off)
    return outcome


def _refused(outcome: Outcome, work, *named: str) -> None:
    """Whether something odd is an error of the package's own kind that names where it is."""
    kinds = (backbone.BackboneError, artifacts.ArtifactError, PolicyInputError, metrics.MetricInputError, ValueError)
    try:
        work()
        outcome.count(False, None, f"nobody noticed: {named}")
    except kinds as error:
        outcome.count(all(name in str(error) for name in named), None, f"{named} not in {error}")


def odd_weights(n_cases: int, seed: int) -> Outcome:
    """One weight of the model or of a head is odd, or one layer overflows."""
    outcome, rng = Outcome("odd weight", seed), random.Random(seed)  # noqa: S311
    model, heads = model_and_heads()
    for case in range(n_cases):
        chosen, other = copy.deepcopy(model), copy.deepcopy(heads)
        owner = (chosen, other)[case % 3 == 2]
        name, weight = rng.choice([(n, p) for n, p in owner.named_parameters() if p.dim()])
        row = rng.randrange(len(weight))
        with torch.no_grad():
            weight[row] = rng.choice(ODD)
        _refused(outcome, lambda pair=(chosen, other): scorer.build_engine(*pair),
                 name.removeprefix("model.").removeprefix("lm_head."), f"row {row}")  # fmt: skip
    return outcome


def overflowing_layer(n_cases: int, seed: int) -> Outcome:
    """A layer whose finite weights make infinite states: the exit after it is named, and the candidate."""
    outcome, rng = Outcome("overflowing layer", seed), random.Random(seed)  # noqa: S311
    model, heads = model_and_heads()
    for request in requests_of(n_cases, seed):
        spoilt, layer = copy.deepcopy(model), rng.randrange(6)
        with torch.no_grad():
            for part in (spoilt.model.layers[layer].mlp.gate_proj, spoilt.model.layers[layer].mlp.up_proj):
                part.weight.mul_(1e30)
        engine = scorer.build_engine(spoilt, heads)
        _refused(outcome, lambda e=engine, r=request: scorer.score(e, [r], scorer.ExitRule(scorer.never_exit)),
                 f"layer {layer + 1}:", "candidate")  # fmt: skip
    return outcome


def odd_values(folder, n_cases: int, seed: int) -> Outcome:
    """Odd embeddings and scores, through everything that takes them."""
    outcome, rng = Outcome("odd embedding or score", seed), np.random.default_rng(seed)
    run = artifacts.Run(folder, "ml-100k", "smoke", 0)
    policy = exit_policies.policies(0.55, PolicyConfig())["confidence"]
    label = np.arange(20) % 2
    for case in range(n_cases):
        values, row = rng.random((20, 6)), int(rng.integers(20))
        values[row, rng.integers(6)] = ODD[case % 3]
        scores = pd.DataFrame(values, columns=[f"p_yes_{layer}" for layer in LAYERS]).assign(
            row=100 + np.arange(20), request_id=1, split="test", mode="both", half="")
        tokens = pd.DataFrame({"row": scores["row"], "n_prefix_tokens": 9, "n_suffix_both": 3})
        checks = (
            (lambda v=values: retriever.vector_similarity(v), f"vector {row}"),
            (lambda v=values: retriever.build_index(v), f"vector {row}"),
            (lambda v=values: artifacts.write_arrays(run, "embeddings.safetensors", {"user": v}), f"user: row {row}"),
            (lambda v=values: exit_policies.exit_index(policy, v, 0.5), f"row {row}"),
            (lambda s=scores, t=tokens: exit_policies.judged_rows(s, t, "test"), f"row {100 + row}"),
            (lambda v=values: metrics.auc(label, v[:, np.flatnonzero(~np.isfinite(v).all(0))[0]]), f"score {row}"),
        )  # fmt: skip
        work, named = checks[case % len(checks)]
        _refused(outcome, work, named)
    return outcome
