"""What `make retrievers` found, for notebook 03: the run's own table, or the committed one of its dataset."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from eestudy import artifacts
from eestudy.artifacts import metric
from eestudy.verdicts import said

MEASURED = ("evidence.parquet", "embeddings.safetensors", "adapter.safetensors", "exit_heads.safetensors",
            "calibration.json")  # fmt: skip

NEWEST = "auc_llm_minus_alone"  # a column: a table that lacks it is of an older version, and not told


@dataclass(frozen=True)
class Told:
    """One line a way, and whether this run measured it."""

    table: pd.DataFrame  # indexed by way
    own: bool


def subject(run: artifacts.Run) -> str:
    """What a table is of: hash of the run's evidence and trained weights."""
    return artifacts.fingerprint({name: artifacts.artifact_hash(run, name) for name in MEASURED})


def told_retrievers(run: artifacts.Run) -> Told | None:
    """The run's own table, if it is of its present evidence and weights; else the committed reference's, else None."""
    name, committed = artifacts.RETRIEVERS, artifacts.committed_dir(run) / artifacts.RETRIEVERS
    mine = artifacts.artifact_hash(run, name) and artifacts.read_meta(run, name).get("measured_on") == subject(run)
    if mine and NEWEST in (table := artifacts.read_table(run, name)):
        return Told(table.set_index("way"), True)
    table = pd.read_csv(committed) if committed.exists() else pd.DataFrame()
    return Told(table.set_index("way"), False) if NEWEST in table else None


def retriever_entries(table: pd.DataFrame) -> list[dict]:
    """Entries of `metrics_03.json`.

    Args:
        table: of `Told`.

    Returns:
        Of every way the AUC of its neighbours alone and of the LLM reading them, and the LLM's log loss; the graph
        against the LLM retriever and against chance in both AUCs; the milliseconds of graph and LLM retriever, and how
        many times longer the latter takes after a new interaction.
    """
    found, names = [], {"auc_alone": "auc_alone", "auc_llm": "auc_llm_reading", "log_loss_llm": "log_loss_llm_reading"}
    for way, row in table.iterrows():
        for column, unit, n in (("auc_alone", "AUC", "n_alone"), ("auc_llm", "AUC", "n_llm"),
                                ("log_loss_llm", "nats", "n_llm")):  # fmt: skip
            if np.isfinite(row[column]):
                found.append(_entry(f"{names[column]}_retriever_{way}", row, column, unit, row[n]))
    for way, column in product(("llm", "random"), ("auc_alone", "auc_llm")):  # the table has them the other way round
        row = table.loc[way]
        ends = (-row[f"{column}_minus_hi"], -row[f"{column}_minus_lo"])
        found.append(metric(f"{names[column]}_gcn_minus_{way}_retriever", -row[f"{column}_minus"], "AUC",
                            ci95=ends if np.isfinite(ends).all() else None, n=row[f"n_{column[4:]}"]))  # fmt: skip
    llm = table.loc["llm"]
    for column, name in (("ratio", "retriever_lookup_ratio_llm_vs_gcn"),
                         ("request_ratio", "retriever_request_ratio_llm_vs_gcn")):  # fmt: skip
        found.append(_entry(name, llm, column, "ratio", llm["n_lookups"], kind="time"))
    for way, row in (("gcn", "ready"), ("gcn", "after"), ("llm", "ready"), ("llm", "after")):
        found.append(metric(f"retriever_{row}_ms_p50_{way}", table.loc[way, f"{row}_ms_p50"], "ms", "time",
                            n=table.loc[way, "n_lookups"]))  # fmt: skip
    return found


def _entry(name: str, row: pd.Series, column: str, unit: str, n, kind: str = "quality") -> dict:
    ends = (row[f"{column}_lo"], row[f"{column}_hi"])
    return metric(name, row[column], unit, kind, ci95=ends if np.isfinite(ends).all() else None, n=n)


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading: numbers with their intervals, what was not measured left empty."""
    return pd.DataFrame({
        "AUC alone": said(table, "auc_alone"), "alone, less its rival": said(table, "auc_alone_minus", "+"),
        "AUC, LLM reading": said(table, "auc_llm"), "LLM, less its rival": said(table, "auc_llm_minus", "+"),
        "LLM less alone": said(table, "auc_llm_minus_alone", "+"),
        "log loss, LLM": said(table, "log_loss_llm"), "tokens added": table["tokens_added"].round(1).to_numpy(),
    }, index=table["words"].rename(None))  # fmt: skip


def ways_sentence(table: pd.DataFrame) -> str:
    """Who is worth asking: the graph against the LLM, the same LLM made cheap, and chance; each with its interval."""
    def of(way: str, column: str, sign: str = "", digits: int = 3) -> str:
        return said(table.loc[[way]], column, sign, digits)[0]

    def less(way: str, column: str) -> str:
        low, high = (table.loc[way, f"{column}_minus{end}"] for end in ("_lo", "_hi"))
        word = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        return f"{of(way, f'{column}_minus', '+')} ({word})"

    def both(way: str) -> str:
        return f"AUC alone {less(way, 'auc_alone')}, read by the LLM {less(way, 'auc_llm')}"

    def times(way: str) -> str:
        return f"{of(way, 'ratio', ',', 0 if table.loc[way, 'ratio'] > 100 else 1)} times"

    best = table["auc_llm"].idxmax()
    return (
        f"against the graph's neighbours, those of the LLM that reads the histories, frozen and not tuned to retrieve: "
        f"{both('llm')}; after a new interaction its look-up takes {times('llm')} as long. The same LLM with every "
        f"title read beforehand and a user's titles averaged: {both('llm_titles')}; {times('llm_titles')} as long. "
        f"Chance ({table.loc['random', 'words']}; one draw): {both('random')}. The graph with the asking user folded "
        f"in, against the trained vector: {both('gcn_folded_in')}. The highest AUC of the LLM reading, "
        f"{of(best, 'auc_llm')}, is that of {table.loc[best, 'words']}; with the user's own side by the "
        f"graph alone it is {of('own_gcn', 'auc_llm')}. What similar users add to that side: "
        f"{of('gcn_own_gcn', 'auc_alone_minus', '+')} alone (a plain mean of ranks), "
        f"{of('gcn_own_gcn', 'auc_llm_minus', '+')} read by the LLM, which saw few prompts without them. The LLM "
        f"that reads both, against the plain mean of their ranks: {of('gcn_own_gcn', 'auc_llm_minus_alone', '+')}."
    )  # fmt: skip
