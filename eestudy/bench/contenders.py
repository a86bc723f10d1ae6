"""The contenders of the benchmark, each opened by name: what people would use, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from eestudy import backbone, exit_heads, rivals, scorer
from eestudy.bench.setup import Setup
from eestudy.contest import (
    EARLY_EXIT,
    FULL_DEPTH,
    LLAMA,
    OURS_TRUNCATED,
    PLAIN,
    PREFIX_REUSE,
    TRUNCATED,
    WARM,
    precision_of,
    suffix,
)
from eestudy.rivals import llama_cpp

CACHE_BYTES = 2**30
N_SAMPLE = 4  # requests
LLAMA_BESIDE = 16  # candidates that llama.cpp's packed form takes in one batch


@dataclass(frozen=True)
class Contender:
    """One way to score requests."""

    name: str
    one: Callable[[object], np.ndarray]  # request -> calibrated p_yes [C]
    many: Callable[[Sequence], list[np.ndarray]]  # the same for requests that wait together


@dataclass(frozen=True)
class Choices:
    """What was found best before the race, on a few requests of its own."""

    plain_batch_size: int = 16
    reduced: tuple[str, ...] = ()  # precisions of ours beside the exact one
    library_reduced: tuple[str, ...] = ()  # of the Hugging Face rivals
    llama: tuple[str, str] | None = None  # (form, quantisation); None: the optional package is not there


def names(choices: Choices) -> list[str]:
    """All contenders, rivals first."""
    library = [suffix(p) for p in ("", *choices.library_reduced)]
    found = [PLAIN, *(PREFIX_REUSE + cut + end for cut in ("", TRUNCATED) for end in library)]
    found += [LLAMA + cut for cut in ("", TRUNCATED) if choices.llama]
    return [*found, *names_of_ours(choices), FULL_DEPTH + WARM, EARLY_EXIT + WARM]


def names_of_ours(choices: Choices) -> list[str]:
    """Our contenders that begin with nothing known, in every precision; the exact ones first."""
    return [ours + suffix(p) for p in ("", *choices.reduced) for ours in (FULL_DEPTH, EARLY_EXIT, OURS_TRUNCATED)]


def borrowed_mb(name: str, setup: Setup) -> float:
    """What a contender goes on using of the loaded model, in MB (2^20 bytes); all else it copies or reads itself."""
    if name.startswith("ours"):
        used = [setup.model.get_input_embeddings().weight]
    elif name.startswith(LLAMA) or precision_of(name):
        used = []
    else:
        used = rivals.truncate(setup.model, setup.heads.exit_layers[_exit_of(name, setup)]).parameters()
    return sum(p.numel() * p.element_size() for p in used) / 2**20


@contextmanager
def open_contenders(setup: Setup, choices: Choices, wanted: Sequence[str], folder) -> Iterator[dict[str, Contender]]:
    """Open contenders by name; servers are closed at the end.

    Args:
        setup: the run.
        choices: batch size, quantisation and the like.
        wanted: from `names`.
        folder: where exported weights are kept; what lies there is taken to be of this model.
    """
    with ExitStack() as stack:
        yield {name: _open(name, setup, choices, folder, stack) for name in wanted}


def _open(name: str, setup: Setup, choices: Choices, folder, stack: ExitStack) -> Contender:
    if name.startswith(LLAMA):
        return _llama(name, setup, choices, folder, stack)
    return _ours(name, setup) if name.startswith("ours") else _library(name, setup, choices)


def _calibrated(setup: Setup, exit: int, logits: np.ndarray) -> np.ndarray:
    return exit_heads.calibrate(logits[:, None], setup.calibration[exit:exit + 1])[:, 0]


def _exit_of(name: str, setup: Setup) -> int:
    return setup.static_exit if TRUNCATED in name else len(setup.heads.exit_layers) - 1


def _library(name: str, setup: Setup, choices: Choices) -> Contender:
    exit = _exit_of(name, setup)
    head = setup.heads.heads[exit]
    precision = precision_of(name)
    dtype = getattr(torch, precision) if precision else None
    model = rivals.as_library(rivals.truncate(setup.model, setup.heads.exit_layers[exit]), dtype=dtype)
    if not name.startswith(PLAIN):
        def one(request):
            return _calibrated(setup, exit, rivals.prefix_reuse(model, head, request.prefix, request.suffixes))
        return Contender(name, one, lambda requests: [one(r) for r in requests])

    def many(requests):
        prompts = [[*r.prefix, *s] for r in requests for s in r.suffixes]
        logits = rivals.score_prompts(model, head, prompts, choices.plain_batch_size)
        ends = np.cumsum([len(r.suffixes) for r in requests])[:-1]
        return np.split(_calibrated(setup, exit, logits), ends)

    return Contender(name, lambda request: many([request])[0], many)


def engine_of(setup: Setup, precision: str) -> scorer.Engine:
    """Our engine in a reduced precision, '' for the exact one; int8 looks at a few requests of the selection half."""
    sample = setup.requests["select"][:N_SAMPLE]
    return scorer.build_engine(setup.model, setup.heads, setup.calibration, precision or None, sample)


def _ours(name: str, setup: Setup) -> Contender:
    engine = engine_of(setup, precision_of(name))
    rule = setup.rule if name.startswith(EARLY_EXIT) else scorer.static_rule(_exit_of(name, setup))
    cache = scorer.PrefixCache(CACHE_BYTES) if WARM in name else None

    def many(requests):
        return [found.p_yes for found in scorer.score_all(engine, requests, rule, cache)]

    return Contender(name, lambda request: scorer.score(engine, [request], rule, cache)[0].p_yes, many)


def _llama(name: str, setup: Setup, choices: Choices, folder, stack: ExitStack) -> Contender:
    exit, (form, quantisation) = _exit_of(name, setup), choices.llama
    yes_id, no_id = backbone.answer_ids(setup.tokenizer, setup.cfg.backbone)
    head, layer = setup.heads.heads[exit], setup.heads.exit_layers[exit]
    path = folder / f"{quantisation}-{layer}.gguf"
    if not path.exists():
        llama_cpp.export_gguf(setup.model, head, path, backbone.template_gguf(), quantisation, (yes_id, no_id), layer)
    opener = {"server": llama_cpp.open_server, "packed": llama_cpp.open_packed}[form]
    longest = setup.cfg.prompt.max_prefix_tokens + LLAMA_BESIDE * setup.cfg.prompt.max_suffix_tokens
    server = stack.enter_context(opener(path, setup.cfg.latency.n_threads, context_tokens=longest))

    def one(request):
        logits = llama_cpp.score_request(server, request.prefix, request.suffixes, yes_id, no_id, head.bias.item())
        return _calibrated(setup, exit, logits)

    return Contender(name, one, lambda requests: [one(r) for r in requests])
