"""The changed prompts: other amounts of evidence or history, aggregates, titles that instruct, and what defends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, defences, prompts, retriever
from eestudy.config import StudyConfig
from eestudy.probe_results import AT_READING, INSTRUCTION, QUOTES, SPELLED, STRIPPING, USUAL
from eestudy.retrievers.material import Material, drawn_requests
from eestudy.wordings import HELD_OUT, WORDINGS

AS_TRAINED, NEIGHBORS, HISTORY, GROUPS = "as trained", "neighbors", "history", "groups"
TARGET, HISTORY_TITLE, EVIDENCE_TITLE = PLACES = "target", "history title", "evidence title"
COLUMNS = ["row", "request_id", "user_id", "item_id"]


@dataclass(frozen=True)
class Variant:
    """One change of the prompt.

    probe: which ingredient, or in which place the wording stands: one of the names above.
    setting: how many neighbours or titles, of how many at least; which wording.
    hostile: whether the wording instructs; None for the other probes.
    form: how the prompt is written: one of the names above.
    """

    probe: str
    setting: int = 0
    hostile: bool | None = None
    form: str = USUAL


def all_variants(material: Material) -> list[Variant]:
    """The unchanged prompt first, then every change."""
    cfg = material.cfg.probes
    found = [Variant(AS_TRAINED)]
    found += [Variant(NEIGHBORS, k) for k in cfg.n_neighbors] + [Variant(HISTORY, k) for k in cfg.n_history]
    found += [Variant(GROUPS, k) for k in cfg.groups]
    numbers = range(min(cfg.n_wordings, len(WORDINGS)))
    found += worded((TARGET, HISTORY_TITLE), numbers)
    for form in AT_READING:
        found += attacked(numbers, form)
    return [*found, Variant(AS_TRAINED, form=SPELLED), *worded((EVIDENCE_TITLE,), numbers, SPELLED)]


def worded(places: Iterable[str], numbers: Iterable[int], form: str = USUAL) -> list[Variant]:
    """Every wording beside its twin in every place."""
    return [Variant(place, i, hostile, form) for place in places for i in numbers for hostile in (True, False)]


def attacked(numbers: Iterable[int], form: str) -> list[Variant]:
    """What a form is measured by: its unchanged prompts, and those of `numbers` that no training has shown."""
    return [Variant(AS_TRAINED, form=form), *worded((TARGET, HISTORY_TITLE), sorted({*numbers} & {*HELD_OUT}), form)]


def probed_rows(material: Material, n_rows: int) -> pd.DataFrame:
    """Judged test rows of whole requests drawn at random, `n_rows` or a few more: `COLUMNS` and label."""
    drawn = drawn_requests(material.asked, n_rows, material.cfg.seed)
    return material.asked[material.asked["request_id"].isin(drawn)].reset_index(drop=True)


def worded_rows(rows: pd.DataFrame, n_rows: int, seed: int) -> pd.DataFrame:
    """One row of each user, drawn at random, at most `n_rows`: a mean over wordings varies with people, not with rows.

    Args:
        rows: from `probed_rows`.
        n_rows: fewer where there are fewer users.
        seed: of the draw.
    """
    drawn = rows.sample(frac=1, random_state=seed).drop_duplicates("user_id").head(n_rows)
    return drawn.sort_index().reset_index(drop=True)


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
        Columns row, request_id, user_id, prefix, suffix, silent (nothing is shown of other people), in the order of
        `rows`.
    """
    cfg = _settings(material.cfg, variant, tokenizer)
    titles = _shown(material.titles, variant, tokenizer, cfg)
    shown = _evidence(material, rows, variant)
    targets = [titles[item] for item in rows["item_id"]]
    if variant.probe == TARGET:
        targets = _shown([_said(variant, material.titles[item]) for item in rows["item_id"]], variant, tokenizer, cfg)
    suffix = [prompts.suffix_text("both", title, others, own, cfg.data.has_stars)
              for title, others, own in zip(targets, shown["others"], shown["own"], strict=True)]  # fmt: skip
    if variant.form == SPELLED:
        suffix = [_spelled(material, text, *found, variant, tokenizer, cfg)
                  for text, *found in zip(suffix, shown["own_items"], shown["own"], strict=True)]  # fmt: skip
    prefix = {request_id: _prefix(material, known[request_id], variant, titles, tokenizer, cfg)
              for request_id in rows["request_id"].unique()}  # fmt: skip
    table = rows[["row", "request_id", "user_id"]].assign(prefix=rows["request_id"].map(prefix), suffix=suffix)
    return table.assign(silent=(shown["others"].str.len() == 0).to_numpy()).reset_index(drop=True)


def _settings(cfg: StudyConfig, variant: Variant, tokenizer) -> StudyConfig:
    """The run's settings; a longer history, quotation marks and an instruction get the room that they need."""
    n_history = variant.setting if variant.probe == HISTORY else cfg.prompt.n_history
    more = max(0, n_history - cfg.prompt.n_history)  # titles, each with a rating and a semicolon
    room = cfg.prompt.max_prefix_tokens + more * (cfg.prompt.max_title_tokens + 3)
    if variant.form == QUOTES:
        room += 2 * n_history
    if variant.form == INSTRUCTION:
        room += prompts.n_tokens(tokenizer, f"{defences.INSTRUCTION} ")
    prompt = cfg.prompt.model_copy(update={"n_history": n_history, "max_prefix_tokens": room})
    return cfg.model_copy(update={"prompt": prompt})


def _evidence(material: Material, rows: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """others, own and own_items of each row: the run's own, with another number of similar users, or aggregates."""
    stored = artifacts.read_table(material.run, "evidence.parquet").set_index("row").loc[rows["row"]]
    if variant.probe == GROUPS:
        return defences.with_aggregates(stored, variant.setting, material.cfg.data.has_stars)
    if variant.probe != NEIGHBORS:
        return stored
    if variant.setting == 0:
        return stored.assign(others=[np.zeros(0, np.int8)] * len(stored))
    arrays, cfg = artifacts.read_arrays(material.run, "embeddings.safetensors"), material.cfg
    graph = retriever.graph_retriever(arrays["user_final"], arrays["item_final"])
    found = retriever.look_up(rows, _digits_from(material), material.allowed, graph,
                              (variant.setting, cfg.retriever.n_similar_items), cfg.data.has_stars)  # fmt: skip
    return stored.assign(others=found["others"].to_numpy())


def _digits_from(material: Material) -> pd.DataFrame:
    """The rows that say what a digit means, as in the run's own evidence: the whole selection half, judged or not."""
    rows = material.interactions.merge(material.split, on="row", validate="one_to_one")
    return rows.loc[rows["half"] == "select", material.reference.columns].reset_index(drop=True)


def _shown(titles: Sequence[str], variant: Variant, tokenizer, cfg: StudyConfig) -> list[str]:
    """Titles as the prompt has them: cut, and before or after that what the form does to them."""
    before = {QUOTES: defences.without_quotes, STRIPPING: defences.stripped}.get(variant.form, str)
    cut = prompts.cut_titles([before(title) for title in titles], tokenizer, cfg.prompt.max_title_tokens)
    return [defences.quoted(title) for title in cut] if variant.form == QUOTES else cut


def _said(variant: Variant, title: str) -> str:
    """A title with the variant's wording in front."""
    return f"{WORDINGS[variant.setting][0 if variant.hostile else 1]} {title}"


def _spelled(material: Material, suffix: str, items, own, variant: Variant, tokenizer, cfg: StudyConfig) -> str:
    """A suffix with the most similar of the user's items by title, as `prompt.n_own_titles` would have it.

    A wording stands in front of the first of these titles.
    """
    near = [material.titles[item] for item in items[: cfg.probes.n_spelled]]
    if variant.probe == EVIDENCE_TITLE and near:
        near[0] = _said(variant, near[0])
    ratings = own[: len(near)] if cfg.data.has_stars else [0] * len(near)
    text = prompts.history_text(_shown(near, variant, tokenizer, cfg), ratings, cfg.data.has_stars, name="Near")
    return suffix.removesuffix(prompts.QUESTION) + text + prompts.QUESTION


def _prefix(material: Material, known: Known, variant: Variant, titles: Sequence[str], tokenizer, cfg) -> str:
    """The prefix of a request; a title with a wording is that of the latest item of its history."""
    shown = [titles[item] for item in known.items]
    if variant.probe == HISTORY_TITLE and known.items:
        shown[-1] = _shown([_said(variant, material.titles[known.items[-1]])], variant, tokenizer, cfg)[0]
    profile = f"{defences.INSTRUCTION} {known.profile}" if variant.form == INSTRUCTION else known.profile
    return prompts.prefix_text(cfg, tokenizer, profile, shown, known.ratings)
