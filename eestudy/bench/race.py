"""The race: every contender in turn on the same requests, and this machine's matrix products beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from eestudy import backbone, latency, scorer
from eestudy.bench.contenders import Choices, Contender, engine_of, names_of_ours, open_contenders
from eestudy.bench.setup import BenchRequest, Setup
from eestudy.contest import ALL_AT_ONCE, FULL_DEPTH, LLAMA, PEAK, PLAIN, REDUCED, WARM, exact_name, suffix
from eestudy.progress import progress
from eestudy.rivals import llama_cpp

PRODUCTS = ("aten.mm", "aten.addmm", "mkldnn._linear_pointwise")


def matmul_peak(setup: Setup, precision: str) -> Contender:
    """Nothing but the products of all layers with this model's weights, for as many tokens as a packed request has."""
    fused = engine_of(setup, precision).fused
    width, inner = setup.model.config.hidden_size, setup.model.config.intermediate_size
    heads = setup.model.config.num_attention_heads * setup.model.model.layers[0].self_attn.head_dim

    @torch.inference_mode()
    def one(request):
        n = scorer.n_tokens(request)
        n += scorer.unused(n)
        x, attended, mlp = (torch.ones(n, size) for size in (width, heads, inner))
        for layer in fused.layers:
            layer.qkv(x), layer.out(attended), layer.gate_up(x), layer.down(mlp)
        return np.empty(0)

    return Contender(PEAK + suffix(precision), one, lambda requests: [one(r) for r in requests])


def weight_gflop(contender: Contender, request) -> float:
    """GFLOP of a request in products with the model's weights (attention, about 3 % more, is not counted)."""
    packed = {torch.ops.mkldnn._linear_pointwise: _packed_flop} if backbone.supported("float32_packed") else {}
    with FlopCounterMode(display=False, custom_mapping=packed) as counter:
        contender.one(request)
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if str(op) in PRODUCTS) / 1e9


def _packed_flop(x_shape, *_, out_shape=None, **__) -> int:
    """Of `backbone.precision`'s packed product, for which torch has no count."""
    return 2 * math.prod(x_shape) * out_shape[-1]


def race_all(setup: Setup, choices: Choices, names: Sequence[str], requests: Sequence, repeats: int, folder):
    """Every contender and this machine's matrix products in turn: single requests, then once all of them together.

    Args:
        setup, choices, names, folder: as for `open_contenders`.
        requests: of one size.
        repeats: passes.

    Returns:
        Columns contender, repeat, request (-1: all requests together), seconds, n_candidates (of what was timed),
        gflop (weight products of what was timed; NaN for llama.cpp).
    """
    with open_contenders(setup, choices, names, folder) as opened:
        peaks = [matmul_peak(setup, precision) for precision in ("", *choices.reduced)]
        every = opened | {peak.name: peak for peak in peaks}
        for contender in opened.values():
            _warm_up(contender, requests)
        gflop = {name: [weight_gflop(contender, request) for request in requests] for name, contender in every.items()
                 if not name.startswith(LLAMA) and name == exact_name(name)}  # fmt: skip
        alone = latency.interleave({name: c.one for name, c in every.items()}, requests, len(requests), repeats)
        at_once = latency.interleave({name: c.many for name, c in every.items()}, [requests], 0, 1)
    times = pd.concat([alone, at_once.assign(request=ALL_AT_ONCE)], ignore_index=True)
    sizes = np.array([len(r.suffixes) for r in requests])
    times["n_candidates"] = [sizes.sum() if i == ALL_AT_ONCE else sizes[i] for i in times["request"]]
    times["gflop"] = [_gflop_of(gflop, name, i) for name, i in zip(times["contender"], times["request"], strict=True)]
    return times


def _warm_up(contender: Contender, requests: Sequence) -> None:
    """From here on a contender that keeps prefixes knows those of these requests."""
    if WARM in contender.name:
        contender.many(requests)


def _gflop_of(gflop: Mapping[str, Sequence[float]], name: str, request: int) -> float:
    found = gflop.get(exact_name(name))
    return float("nan") if found is None else float(sum(found)) if request == ALL_AT_ONCE else found[request]


def choose(setup: Setup, requests: Sequence, batch_sizes: Sequence[int], llama_settings: Sequence, folder) -> Choices:
    """The best settings on this machine, tried on requests that are in no race.

    Args:
        setup: the run.
        requests: a few.
        batch_sizes: of the plain way.
        llama_settings: (form, quantisation) to try; empty where llama.cpp is not there.
        folder: where exported weights are kept.
    """
    reduced = tuple(p for p in REDUCED if backbone.supported(p))
    ways = [Choices(size, reduced, reduced[:1] if "bfloat16" in reduced else ()) for size in batch_sizes]
    best = _fastest(setup, {f"{PLAIN} {way.plain_batch_size}": (PLAIN, way) for way in ways}, requests, folder)
    if not llama_settings:
        return best
    tried = [replace(best, llama=tuple(setting)) for setting in llama_settings]
    ways = {f"{LLAMA} {' '.join(way.llama)}": (LLAMA, way) for way in tried if _opens(setup, way, folder)}
    return _fastest(setup, ways, requests, folder) if ways else best


def _opens(setup: Setup, choices: Choices, folder) -> bool:
    """Whether llama.cpp takes this model in this setting; why not is printed, and it does not race."""
    try:
        with open_contenders(setup, choices, [LLAMA], folder):
            return True
    except llama_cpp.LlamaCppError as error:
        print(f"llama.cpp does not race as {' '.join(choices.llama)}: {error}", flush=True)
        return False


def _fastest(setup: Setup, ways: Mapping[str, tuple[str, Choices]], requests: Sequence, folder) -> Choices:
    with ExitStack() as stack:
        calls = {label: stack.enter_context(open_contenders(setup, choices, [name], folder))[name].one
                 for label, (name, choices) in ways.items()}  # fmt: skip
        times = latency.interleave(calls, requests, 1, 1)
    return ways[times.groupby("contender")["seconds"].sum().idxmin()][1]


def quality_all(setup: Setup, choices: Choices, names: Sequence[str], requests: Sequence, folder) -> pd.DataFrame:
    """p_yes of every contender on the same rows: columns contender, row, p_yes; `requests` have `rows` [C]."""
    with open_contenders(setup, choices, names, folder) as opened:
        return pd.concat([_scores(contender, requests) for contender in opened.values()], ignore_index=True)


def ours_everywhere(setup: Setup, choices: Choices) -> pd.DataFrame:
    """p_yes of our own contenders on every selection and test row: columns contender, part, row, p_yes.

    Exact full depth is in the run's head scores already, by the same engine. Full depth in a reduced precision is
    slower than what may be chosen, and is judged with the rivals on fewer rows.
    """
    last = f"p_yes_{setup.heads.exit_layers[-1]}"
    scored = setup.head_scores[["row", last]].rename(columns={last: "p_yes"})
    tables = []
    for part, some in setup.requests.items():
        rows = np.concatenate([request.rows for request in some])
        tables.append(scored[scored["row"].isin(rows)].assign(contender=FULL_DEPTH, part=part))
    wanted = [name for name in names_of_ours(choices) if not name.startswith(FULL_DEPTH)]
    with open_contenders(setup, choices, wanted, None) as opened:
        for contender in opened.values():
            tables += [_scores(contender, some).assign(part=part) for part, some in setup.requests.items()]
    return pd.concat(tables, ignore_index=True)


def _scores(contender: Contender, requests: Sequence) -> pd.DataFrame:
    asked = [BenchRequest(k, request.prefix, request.suffixes) for k, request in enumerate(requests)]
    _warm_up(contender, asked)
    tables = [pd.DataFrame({"row": np.asarray(requests[r.user].rows), "p_yes": contender.one(r)})
              for r in progress(asked, f"answers of {contender.name}", unit="request")]  # fmt: skip
    return pd.concat(tables, ignore_index=True).assign(contender=contender.name)


def choices_table(choices: Choices) -> pd.DataFrame:
    """Choices as a table of names and JSON values; None has no line, since CSV readers take `null` for a gap."""
    lines = [(name, json.dumps(value)) for name, value in asdict(choices).items() if value is not None]
    return pd.DataFrame(lines, columns=["choice", "value"])


def read_choices(table: pd.DataFrame) -> Choices:
    """Choices out of `choices_table`."""
    values = {name: json.loads(value) for name, value in zip(table["choice"], table["value"], strict=True)}
    return Choices(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
