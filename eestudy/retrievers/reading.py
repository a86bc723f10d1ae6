"""The trained LLM reads what every way found: the same rows, the same heads at full depth, other evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eestudy import artifacts, exit_heads, prompts, retriever, scorer, training
from eestudy.retriever import Way
from eestudy.retrievers.material import Material, drawn_requests


def suffix_table(
    material: Material, shown: Mapping[str, pd.DataFrame], ways: Sequence[Way], titles: Sequence[str]
) -> pd.DataFrame:  # fmt: skip
    """What the LLM reads of each candidate, by way, of whole requests that together hold the wanted number of rows.

    Args:
        material: the run; its settings say how many rows are read.
        shown: way -> evidence of `material.asked`, in its order, from `retriever.combine`.
        ways: the ways.
        titles: [I] cut titles.

    Returns:
        Columns row, request_id, user_id, way, suffix; by request, then row, then way.
    """
    asked, stars = material.asked, material.cfg.data.has_stars
    drawn = drawn_requests(asked, material.cfg.retrievers.n_llm_rows, material.cfg.seed)
    chosen = asked["request_id"].isin(drawn).to_numpy()
    tables = []
    for way in ways:
        part = shown[way.name][chosen]
        tables.append(asked.loc[chosen, ["row", "request_id", "user_id"]].assign(way=way.name, suffix=[
            prompts.suffix_text(way.mode, titles[item], others, own, stars)
            for item, others, own in zip(asked.loc[chosen, "item_id"], part["others"], part["own"], strict=True)
        ]))  # fmt: skip
    return pd.concat(tables).sort_values(["request_id", "row"], kind="stable", ignore_index=True)


def make_requests(different: pd.DataFrame, prefixes: pd.Series, tokenizer) -> list[training.Request]:
    """Requests with one suffix for every line, so that a prefix is computed once for all ways.

    Args:
        different: row, request_id, user_id, suffix, by request: no two lines of a row alike.
        prefixes: text by request_id.
        tokenizer: the backbone's.
    """
    def ids(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    made = []
    for request_id, part in different.groupby("request_id", sort=True):
        blank = np.zeros(len(part), dtype=np.int64)  # neither modes nor labels are asked for
        made.append(training.Request(ids([prefixes[request_id]])[0], ids(part["suffix"]), part["row"].to_numpy(), blank,
                                     blank, int(part["user_id"].iloc[0])))  # fmt: skip
    return made


def read_all(material: Material, suffixes: pd.DataFrame, ways: Sequence[Way], tokenizer, engine=None) -> pd.DataFrame:
    """Score every way's prompts at full depth; chunks that are finished are kept.

    Log-odds are calibrated as notebook 05 calibrated them, in the kind of prompt that the way shows: with the graph's
    evidence of validation. For the rivals that is the setting in which they would be served, not their own best.

    Args:
        material: the run, with adapter and heads.
        suffixes: from `suffix_table`.
        ways: the ways.
        tokenizer: the backbone's.
        engine: of the trained model; None: the run's.

    Returns:
        The suffixes' table with n_tokens and p_yes.
    """
    cfg, run = material.cfg, material.run
    different = suffixes.drop_duplicates(["row", "suffix"]).reset_index(drop=True)
    prefixes = artifacts.read_table(run, "prompts.parquet").drop_duplicates("request_id").set_index("request_id")
    requests = make_requests(different, prefixes["prefix"], tokenizer)
    wanted = artifacts.fingerprint({"scoring": training.scoring_fingerprint(cfg, run),
                                    "asked": artifacts.sha256_bytes(different.to_csv().encode())})  # fmt: skip
    if engine is None:
        model = training.load_scorable(cfg, run, tokenizer)
        engine = scorer.build_engine(model.backbone, model.heads)
    scored = training.score_requests(run, engine, requests, "retrievers", wanted)
    different["logit"] = scored[f"logit_{cfg.heads.exit_layers[-1]}"].to_numpy()
    different["n_tokens"] = [len(suffix) for request in requests for suffix in request.suffixes]
    read = suffixes.merge(different[["row", "suffix", "logit", "n_tokens"]], on=["row", "suffix"], validate="m:1")
    return calibrated(read, ways, artifacts.read_json(run, "calibration.json")["slope_intercept"])


def calibrated(read: pd.DataFrame, ways: Sequence[Way], fitted: Mapping[str, Sequence]) -> pd.DataFrame:
    """p_yes in place of logit, by the last head's slope and intercept in the mode of each way."""
    p_yes = np.zeros(len(read))
    for way in ways:
        here = (read["way"] == way.name).to_numpy()
        last = np.array(fitted[way.mode])[-1:]  # [1, 2]
        p_yes[here] = exit_heads.calibrate(read.loc[here, ["logit"]].to_numpy(float), last)[:, 0]
    return read.drop(columns="logit").assign(p_yes=p_yes)


def evidence_of(
    material: Material, retrievers: Mapping[str, retriever.Retriever], ways: Sequence[Way]
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Evidence of the rows asked by retriever; the graph's is what the run's own prompts were made of."""
    cfg, stars = material.cfg.retriever, material.cfg.data.has_stars
    stored = artifacts.read_table(material.run, "evidence.parquet").set_index("row")
    found = {"graph": stored.loc[material.asked["row"]].reset_index()}
    for name in sorted({source for way in ways for source in (way.users, way.items)} - {None, "graph"}):
        told = retriever.shown_by(name, stars) or name
        chosen_by = None if told == name else retrievers[name].user_similarity
        found[name] = retriever.look_up(material.asked, material.reference, material.allowed, retrievers[told],
                                        (cfg.n_similar_users, cfg.n_similar_items), stars, chosen_by)  # fmt: skip
    return found
