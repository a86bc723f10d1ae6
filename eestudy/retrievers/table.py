"""One line a way: what its neighbours say alone, what the LLM makes of them, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy import metrics, retriever
from eestudy.retriever import Way
from eestudy.retrievers.lookups import AFTER, READY, REQUEST, asks_with
from eestudy.retrievers.material import Material
from eestudy.retrievers.vectors import Vectors

BYTES = 2**20


def quality(
    label, scores: Mapping[str, np.ndarray], user_id, ways: Sequence[Way], metric: str, name: str, n_boot: int,
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    """A metric of every way with its interval, and less that of the graph's way it is compared with.

    Args:
        label, user_id: [n].
        scores: way -> [n]; a way without is left empty.
        ways: the ways.
        metric, name: of `metrics.METRICS`; how its columns are called.
        n_boot, seed: resamples of users, the same for all.

    Returns:
        Indexed by way: <name>, <name>_lo, <name>_hi, <name>_minus, <name>_minus_lo, <name>_minus_hi.
    """
    samples = metrics.paired_bootstrap(label, scores, user_id, n_boot, seed, metric)
    value = {way: metrics.value_of(metric, label, score, user_id) for way, score in scores.items()}
    rows = []
    for way in ways:
        row = {"way": way.name}
        if way.name in scores:
            row |= _three(name, value[way.name], samples[way.name])
        if way.name in scores and way.against in scores:
            row |= _three(f"{name}_minus", value[way.name] - value[way.against],
                          samples[way.name] - samples[way.against])  # fmt: skip
        rows.append(row)
    columns = [f"{name}{part}{end}" for part in ("", "_minus") for end in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=["way", *columns]).set_index("way")


def _three(name: str, value: float, samples: np.ndarray) -> dict[str, float]:
    low, high = metrics.interval(samples) or (np.nan, np.nan)
    return {name: value, f"{name}_lo": low, f"{name}_hi": high}


def beyond_alone(
    label, p_yes: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray], user_id, n_boot: int, seed: int
) -> pd.DataFrame:  # fmt: skip
    """AUC of the LLM that reads what a way found, less that of the way's neighbours alone, on the same rows.

    Args:
        label, user_id: [n].
        p_yes, alone: way -> [n]; each way of `alone` gets a line.
        n_boot, seed: resamples of users, the same for all.

    Returns:
        Indexed by way: auc_llm_minus_alone, auc_llm_minus_alone_lo, auc_llm_minus_alone_hi.
    """
    pairs = {(way, who): scores[way] for way in alone for who, scores in (("llm", p_yes), ("alone", alone))}
    samples = metrics.paired_bootstrap(label, pairs, user_id, n_boot, seed)
    value = {pair: metrics.auc(label, score) for pair, score in pairs.items()}
    rows = [{"way": way} | _three("auc_llm_minus_alone", value[way, "llm"] - value[way, "alone"],
                                  samples[way, "llm"] - samples[way, "alone"]) for way in alone]  # fmt: skip
    return pd.DataFrame(rows).set_index("way")


def times_table(times: pd.DataFrame, n_boot: int, seed: int) -> pd.DataFrame:
    """Percentiles of each way's three rows, and how many times the median of the graph's it takes after an interaction.

    Args:
        times: from `lookups.measure`.
        n_boot, seed: resamples of requests, both contenders together.

    Returns:
        Indexed by way: n_lookups, <row>_ms_p50, <row>_ms_p99, ratio, ratio_lo, ratio_hi (one target, after a new
        interaction), request_ratio, _lo, _hi (all targets of a request).
    """
    seconds = {key: part.sort_values("request")["seconds"].to_numpy() for key, part in times.groupby(["way", "row"])}
    rows = []
    for way in times["way"].unique():
        row = {"way": way, "n_lookups": len(seconds[way, READY])}
        for kind in (READY, AFTER, REQUEST):
            row |= {f"{kind}_ms_p{q}": 1000 * np.percentile(seconds[way, kind], q) for q in (50, 99)}
        for kind, name in ((AFTER, "ratio"), (REQUEST, "request_ratio")):
            row |= median_ratio(seconds[way, kind], seconds["gcn", kind], name, n_boot, seed)
        rows.append(row)
    return pd.DataFrame(rows).set_index("way")


def median_ratio(slow: np.ndarray, fast: np.ndarray, name: str, n_boot: int, seed: int) -> dict[str, float]:
    """Median of `slow` [n] over median of `fast` [n], paired by request, with its 95 % interval over requests."""
    draws = np.random.default_rng(seed).integers(0, len(slow), (n_boot, len(slow)))
    return _three(name, float(np.median(slow) / np.median(fast)),
                  np.median(slow[draws], axis=1) / np.median(fast[draws], axis=1))  # fmt: skip


def cost_table(
    vectors: Mapping[str, Vectors], costs: Mapping[str, float], ways: Sequence[Way], model_bytes: int, stars: bool
) -> pd.DataFrame:  # fmt: skip
    """Seconds to make what lies ready, and megabytes (2^20 bytes) that a request needs in memory.

    Returns:
        Indexed by way: build_s (each part once, whichever sides use it), index_mb (vectors), model_mb (weights that
        read the history when an interaction comes in).
    """
    rows = []
    for way in ways:
        names, items = asks_with(way, stars), vectors.get(way.items or "")
        parts = {*(vectors[name].users_cost for name in names), items.items_cost if items else ""}
        size = sum(vectors[name].users.nbytes for name in names) + (items.items.nbytes if items else 0)
        rows.append({"way": way.name, "build_s": sum(costs[part] for part in parts), "index_mb": size / BYTES,
                     "model_mb": model_bytes / BYTES if "llm" in names else 0.0})  # fmt: skip
    return pd.DataFrame(rows).set_index("way")


def tokens_table(read: pd.DataFrame) -> pd.DataFrame:
    """Indexed by way: tokens_added, the mean tokens of a candidate's suffix beyond those without evidence."""
    mean = read.groupby("way")["n_tokens"].mean()
    return (mean - mean["none"]).rename("tokens_added").to_frame()


def neighbours_table(shown: Mapping[str, pd.DataFrame], ways: Sequence[Way], stars: bool) -> pd.DataFrame:
    """Indexed by way: n_others and n_own, the mean number of ratings shown; NaN without stars: a digit says it all."""
    rows = [{"way": way.name, **{f"n_{side}": shown[way.name][side].map(len).mean() if stars else np.nan
                                 for side in ("others", "own")}} for way in ways]  # fmt: skip
    return pd.DataFrame(rows).set_index("way")


def assemble(
    material: Material, ways: Sequence[Way], shown: Mapping[str, pd.DataFrame], read: pd.DataFrame,
    others: Sequence[pd.DataFrame],
) -> pd.DataFrame:  # fmt: skip
    """The whole table, one line a way, in their order.

    Args:
        material: the run.
        ways, shown: the ways and their evidence of the rows asked.
        read: from `reading.read_all`.
        others: what else is told, indexed by way.
    """
    asked, boot, seed = material.asked, material.cfg.policy.n_bootstrap, material.cfg.seed
    stars = material.cfg.data.has_stars
    alone = {way.name: retriever.signal(way, shown[way.name], stars) for way in ways}
    alone = {name: score for name, score in alone.items() if score is not None}
    wide = read.pivot(index="row", columns="way", values="p_yes")
    rows = asked.set_index("row").loc[wide.index]
    p_yes = {way.name: wide[way.name].to_numpy() for way in ways}
    parts = [quality(asked["label"], alone, asked["user_id"], ways, "auc", "auc_alone", boot, seed)]
    parts += [quality(rows["label"], p_yes, rows["user_id"], ways, metric, f"{metric}_llm", boot, seed)
              for metric in ("auc", "log_loss")]  # fmt: skip
    there = {name: pd.Series(score, index=asked["row"]).loc[wide.index].to_numpy() for name, score in alone.items()}
    parts.append(beyond_alone(rows["label"], p_yes, there, rows["user_id"], boot, seed))
    first = pd.DataFrame([{"way": way.name, "users": way.users, "items": way.items, "words": way.words,
                           "against": way.against, "n_alone": len(asked), "n_llm": len(rows)} for way in ways])
    return first.set_index("way").join([*parts, *others]).reset_index()
