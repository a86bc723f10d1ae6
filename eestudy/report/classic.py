"""The LLM against the best classic click models: same labels, all labels, stacked, and for whom stacking pays."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy import artifacts, metrics
from eestudy.artifacts import metric as entry
from eestudy.report.headline import UNITS
from eestudy.report.judged import CLASSIC, SAMPLED, STACKED_CLASSIC, Judged, difference, estimate
from eestudy.verdicts import with_ends

NO_AUC = "too few rows"
COUNTS = "training_counts.parquet"  # of a run made from a reference, which has no interactions to count
LEAST_OF_CLASS = 10  # rows of clicks, and as many of none, before anything is told
# rows in the graph and label part: lowest and highest count of a bin
FREQUENCIES = {"0": (0, 0), "1_to_5": (1, 5), "6_to_20": (6, 20), "over_20": (21, np.inf)}


def training_counts(run: artifacts.Run, row) -> pd.DataFrame:
    """How often each row's item and user stand in the graph and label part.

    Args:
        run: reads interactions and split; `COUNTS` where it was made from a reference.
        row: [n] row numbers.

    Returns:
        item, user: int [n].
    """
    if artifacts.artifact_hash(run, COUNTS):
        return artifacts.read_table(run, COUNTS).set_index("row").loc[row, ["item", "user"]].reset_index(drop=True)
    split = artifacts.read_table(run, "split.parquet")
    table = artifacts.read_table(run, "interactions.parquet").merge(split, on="row")
    known = table["split"].isin(("graph", "label"))
    if "observed" in table:  # an item that was sampled as an opposite is not one that was taken
        known &= table["observed"]
    asked = table.set_index("row").loc[row]
    return pd.DataFrame({side: asked[f"{side}_id"].map(table.loc[known, f"{side}_id"].value_counts())
                         .fillna(0).to_numpy(np.int64) for side in ("item", "user")})  # fmt: skip


def frequency_gains(
    judged: Judged, counts: pd.DataFrame, first: str, second: str, n_bootstrap: int, seed: int
) -> pd.DataFrame:  # fmt: skip
    """AUC of `first` less AUC of `second` among rows whose item, or user, is as frequent in training.

    Args:
        judged: the judged test rows.
        counts: from `training_counts`, in the order of `judged.row`.
        first, second: names of scores.
        n_bootstrap: resamples of users, of those who have rows in the bin.
        seed: of the resamples.

    Returns:
        side (item, user), ratings (a key of `FREQUENCIES`), n, n_users, auc_second, gain, gain_lo, gain_hi; empty
        where a class has too few rows: an AUC of a handful says nothing, and its resamples, which cannot move, would
        promise certainty.
    """
    rows = []
    for side in counts.columns:
        for name, (low, high) in FREQUENCIES.items():
            inside = counts[side].between(low, high).to_numpy()
            label, user = judged.label[inside], judged.user_id[inside]
            row = {"side": side, "ratings": name, "n": int(inside.sum()), "n_users": len(np.unique(user))}
            if min(label.sum(), (1 - label).sum()) >= LEAST_OF_CLASS:
                a, b = judged.scores[first][inside], judged.scores[second][inside]
                gap = metrics.difference(label, a, b, user, n_bootstrap, seed)
                low_end, high_end = gap["ci95"] or (np.nan, np.nan)
                row |= {"auc_second": metrics.auc(label, b), "gain": gap["value"], "gain_lo": low_end,
                        "gain_hi": high_end}  # fmt: skip
            rows.append(row)
    columns = ["side", "ratings", "n", "n_users", "auc_second", "gain", "gain_lo", "gain_hi"]
    return pd.DataFrame(rows, columns=columns)


def classic_metrics(judged: Judged, layers: list[int], chosen: dict[str, str], gains: pd.DataFrame) -> list[dict]:
    """Entries of `metrics_08.json` on the classic click models; [] where the run has none.

    Args:
        judged: the judged test rows.
        layers: exit layers, ascending.
        chosen: from `judged.choices`.
        gains: from `frequency_gains`, of the stack over the best classic model on all labels.
    """
    if not set(CLASSIC) <= set(chosen):
        return []
    llm = f"both@{layers[-1]}"
    pairs = {f"llm_minus_{key}": (llm, chosen[key]) for key in CLASSIC}
    pairs["stacked_minus_best_classic_all_labels"] = (STACKED_CLASSIC, chosen["best_classic_all_labels"])
    found = []
    for metric in SAMPLED:
        values = {key: estimate(judged, metric, chosen[key]) for key in CLASSIC}
        values |= {name: difference(judged, metric, *pair) for name, pair in pairs.items()}
        found += [entry(f"{metric}_{name}", item["value"], UNITS[metric], ci95=item["ci95"], n=item["n"])
                  for name, item in values.items()]  # fmt: skip
    return found + [
        entry(f"auc_stacked_minus_best_classic_{row.side}_ratings_{row.ratings}", row.gain, "AUC", n=row.n,
              ci95=(row.gain_lo, row.gain_hi) if np.isfinite(row.gain_lo) else None)
        for row in gains.itertuples(index=False)
    ]  # fmt: skip


def frequency_table(gains: pd.DataFrame) -> pd.DataFrame:
    """`frequency_gains` for reading: one line a bin, numbers with intervals."""
    def said(row):
        return with_ends(row.gain, row.gain_lo, row.gain_hi, "+") or NO_AUC

    rows = list(gains.itertuples(index=False))
    return pd.DataFrame({
        "training rows of": gains["side"], "number": gains["ratings"].str.replace("_", " "), "test rows": gains["n"],
        "users": gains["n_users"],
        "AUC, classic": [f"{row.auc_second:.3f}" if np.isfinite(row.auc_second) else NO_AUC for row in rows],
        "stacked less classic": [said(row) for row in rows],
    })  # fmt: skip
