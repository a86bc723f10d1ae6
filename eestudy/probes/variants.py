"""The changed prompts: more or fewer neighbours, a longer or shorter history, titles that instruct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, prompts, retriever
from eestudy.config import StudyConfig
from eestudy.probes.wordings import WORDINGS
from eestudy.retrievers.material import Material, drawn_requests

AS_TRAINED, NEIGHBORS, HISTORY, TARGET, HISTORY_TITLE = "as trained", "neighbors", "history", "target", "history title"
COLUMNS = ["row", "request_id", "user_id", "item_id"]


@dataclass(frozen=True)
class Variant:
    """One change of the prompt.

    probe: which ingredient: one of the five names above.
    setting: how many neighbours or titles; which wording.
    hostile: whether the wording instructs; None for the other probes.
    """

    probe: str
    setting: int = 0
    hostile: bool | None = None


def all_variants(material: Material) -> list[Variant]:
    """The unchanged prompt first, then every change."""
    cfg = material.cfg.probes
    found = [Variant(AS_TRAINED)]
    found += [Variant(NEIGHBORS, k) for k in cfg.n_neighbors] + [Variant(HISTORY, k) for k in cfg.n_history]
    return found + [Variant(place, i, hostile) for place in (TARGET, HISTORY_TITLE)
                    for i in range(min(cfg.n_wordings, len(WORDINGS))) for hostile in (True, False)]  # fmt: skip


def probed_rows(material: Material, n_rows: int) -> pd.DataFrame:
    """Judged test rows of whole requests drawn at random, `n_rows` or a few more: `COLUMNS` and label."""
    drawn = drawn_requests(material.asked, n_rows, material.cfg.seed)
    return material.asked[material.asked["request_id"].isin(drawn)].reset_index(drop=True)


@dataclass(frozen=True)
class Known:
    """What a request knows of its user, before any prompt is made of it."""

    profile: str
    items: list[int]  # the whole history, oldest first
    ratings: list[float]


def known_of(material: Material, rows: pd.DataFrame) -> dict[int, Known]:
    """request_id -> what is known of its user, from `prompts.known_history`."""
    cfg, history = material.cfg.data, prompts.known_history(material.interactions, material.split)
    users = artifacts.read_table(material.run, "users.parquet").set_index("user_id")
    by_request, empty = dict(list(history.groupby("request_id"))), history.iloc[:0]
    found = {}
    for request_id, user in rows.drop_duplicates("request_id")[["request_id", "user_id"]].itertuples(index=False):
        known = by_request.get(request_id, empty)
        profile = prompts.known_profile(users.loc[user], known, cfg.item_noun, cfg.has_stars)
        found[request_id] = Known(profile, known["item_id"].tolist(), known["rating"].tolist())
    return found


def variant_prompts(
    material: Material, rows: pd.DataFrame, known: Mapping[int, Known], variant: Variant, tokenizer
) -> pd.DataFrame:  # fmt: skip
    """What the model reads of each row.

    Args:
        material: the run.
        rows: from `probed_rows`.
        known: from `known_of`.
        variant: the change.
        tokenizer: the backbone's.

    Returns:
        Columns row, request_id, user_id, prefix, suffix, in the order of `rows`.
    """
    cfg = _settings(material.cfg, variant)
    titles = prompts.cut_titles(material.titles, tokenizer, cfg.prompt.max_title_tokens)
    shown = _evidence(material, rows, variant)
    targets = [titles[item] for item in rows["item_id"]]
    if variant.probe == TARGET:
        targets = [_worded(material.titles[item], variant, tokenizer, cfg) for item in rows["item_id"]]
    suffix = [prompts.suffix_text("both", title, others, own, cfg.data.has_stars)
              for title, others, own in zip(targets, shown["others"], shown["own"], strict=True)]  # fmt: skip
    prefix = {request_id: _prefix(material, known[request_id], variant, titles, tokenizer, cfg)
              for request_id in rows["request_id"].unique()}  # fmt: skip
    table = rows[["row", "request_id", "user_id"]].assign(prefix=rows["request_id"].map(prefix), suffix=suffix)
    return table.reset_index(drop=True)


def _settings(cfg: StudyConfig, variant: Variant) -> StudyConfig:
    """The run's settings; a longer history gets the room that it needs."""
    if variant.probe != HISTORY:
        return cfg
    more = max(0, variant.setting - cfg.prompt.n_history)  # titles, each with a rating and a semicolon
    room = cfg.prompt.max_prefix_tokens + more * (cfg.prompt.max_title_tokens + 3)
    prompt = cfg.prompt.model_copy(update={"n_history": variant.setting, "max_prefix_tokens": room})
    return cfg.model_copy(update={"prompt": prompt})


def _evidence(material: Material, rows: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """others and own of each row: the run's own, or with another number of similar users."""
    stored = artifacts.read_table(material.run, "evidence.parquet").set_index("row").loc[rows["row"]]
    if variant.probe != NEIGHBORS:
        return stored
    if variant.setting == 0:
        return stored.assign(others=[np.zeros(0, np.int8)] * len(stored))
    arrays, cfg = artifacts.read_arrays(material.run, "embeddings.safetensors"), material.cfg
    graph = retriever.graph_retriever(arrays["user_final"], arrays["item_final"])
    found = retriever.look_up(rows, material.reference, material.allowed, graph,
                              (variant.setting, cfg.retriever.n_similar_items), cfg.data.has_stars)  # fmt: skip
    return stored.assign(others=found["others"].to_numpy())


def _worded(title: str, variant: Variant, tokenizer, cfg: StudyConfig) -> str:
    """A title with the variant's wording in front, cut as every title is."""
    wording = WORDINGS[variant.setting][0 if variant.hostile else 1]
    return prompts.cut_titles([f"{wording} {title}"], tokenizer, cfg.prompt.max_title_tokens)[0]


def _prefix(material: Material, known: Known, variant: Variant, titles: Sequence[str], tokenizer, cfg) -> str:
    """The prefix of a request; a title with a wording is that of the latest item of its history."""
    shown = [titles[item] for item in known.items]
    if variant.probe == HISTORY_TITLE and known.items:
        shown[-1] = _worded(material.titles[known.items[-1]], variant, tokenizer, cfg)
    return prompts.prefix_text(cfg, tokenizer, known.profile, shown, known.ratings)
