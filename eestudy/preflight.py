"""Before anything is trained: what a reader's own files, rules and language model can support, and what breaks them.

A *draft* is a study that is only thought of: the sections of a toml and two tables. `says` writes it into a temporary
folder, lets the package read it as it would read any study, and returns what the package says.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD

from eestudy import artifacts, backbone, config, data, prompts, retriever
from eestudy.config import BackboneConfig, DataConfig, StudyConfig
from eestudy.data.__main__ import look
from eestudy.data.checks import FEW, HALF
from eestudy.data.own import own_file
from eestudy.data.tables import TableFile, open_database, read_table
from eestudy.retriever.evidence import forward_parts

MOST_ROWS = 20_000  # of the reader's ratings that a draft holds: enough to break
N_CLICKS = 8  # that `few_clicks` leaves
MORE_THAN_HALF = 1.2  # rows that `half_by_one` adds for each that is there; without stars, opposites come on top
N_FACTORS = 16
REFERENCE = artifacts.reference_dir() / "ml-100k" / "laptop"


@dataclass(frozen=True)
class Draft:
    """A study that is only thought of."""

    name: str  # of its toml
    sections: dict[str, dict]  # of the toml, without `file` and the like: its files are written as plain CSV
    tables: dict[str, pd.DataFrame]  # ratings, items: text, by the reader's column names


def own_files(cfg: StudyConfig) -> dict[str, TableFile]:
    """The reader's two files, ratings and items.

    Raises:
        data.DataError: the study names no files of its own, or a file is missing.
    """
    tables = {"ratings": cfg.data.ratings, "items": cfg.data.items}
    if None in tables.values():
        raise data.DataError(f"{cfg.data.name} brings no files of its own, and these are the checks for such. Name a "
                             "toml: DATASET=path/to/study.toml. examples/study.toml shows the form.")
    return {name: own_file(table, cfg.data) for name, table in tables.items()}


def read_draft(dataset: str, cfg: StudyConfig) -> Draft:
    """The reader's own study as a draft: what its toml says, and the first rows of its files.

    Args:
        dataset: path of the toml.
        cfg: its settings.

    Raises:
        data.DataError: as `own_files`; a column that is not there; an empty file.
    """
    sections = {name: dict(section) for name, section in config.read_own(Path(dataset)).items()}
    described, tables = sections["data"], {}
    del described["name"], described["folder"]
    for name, file in own_files(cfg).items():
        columns = {ours: theirs if file.header else ours for ours, theirs in file.columns.items()}
        with open_database() as database:
            read_table(database, name, file)
            limit = f"limit {MOST_ROWS}" if name == "ratings" else ""
            found = database.execute(f"select * from {name} order by line {limit}").fetchdf()  # noqa: S608 our names
        tables[name] = found[list(columns)].rename(columns=columns)
        described[name] = {"file": f"{name}.csv", "columns": columns}
    return Draft(Path(dataset).name, sections, tables)


def toml_text(sections: dict[str, dict]) -> str:
    """Sections as the text of a toml, tables of a section as sections of their own after it."""
    lines = []
    for name, section in sections.items():
        tables = {field: value for field, value in section.items() if isinstance(value, dict)}
        plain = [_toml_line(field, value) for field, value in section.items() if field not in tables]
        lines += [f"[{name}]", *plain, ""]
        for field, table in tables.items():
            lines += [f"[{name}.{_toml_key(field)}]", *(_toml_line(*pair) for pair in table.items()), ""]
    return "\n".join(lines)


def _toml_line(field: str, value) -> str:
    return f"{_toml_key(field)} = {_toml_value(value)}"


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _toml_value(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_toml_line(*pair) for pair in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def says(draft: Draft, folder: Path | None = None) -> list[data.Finding]:
    """What the package says to a draft; an error counts as a finding that stops. Nothing of it is kept.

    The profile is `laptop` whatever the run's: only there has the draft's toml the last word.

    Args:
        draft: the study.
        folder: an empty one to write into; None: a temporary one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="eestudy-") as made:
            return says(draft, Path(made))
    for name, table in draft.tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    toml = folder / draft.name
    toml.write_text(toml_text(draft.sections), encoding="utf-8")
    try:
        return [data.Finding(**finding) for finding in look(config.load(str(toml)))["findings"]]
    except ValueError as error:  # data.DataError is one
        return [data.Finding(True, str(error).replace(f"{folder}/", ""), "")]


def table_of(findings: dict[str, Sequence[data.Finding]]) -> pd.DataFrame:
    """What was said to each of several drafts: a row a finding, or one that says that nothing was."""
    rows = []
    for name, found in findings.items():
        rows += [(name, "stops" if one.stops else "take care", f"{one.what}. {one.remedy}".rstrip(" .") + ".")
                 for one in found] or [(name, "goes on", "")]  # fmt: skip
    return pd.DataFrame(rows, columns=["study", "the package", "and says"]).set_index(["study", "the package"])


# Drafts made of other drafts


def with_data(draft: Draft, **fields) -> Draft:
    """The draft with other fields in [data]; None takes one out."""
    section = {name: value for name, value in (draft.sections["data"] | fields).items() if value is not None}
    return replace(draft, sections=draft.sections | {"data": section})


def with_columns(draft: Draft, **columns: str | None) -> Draft:
    """The draft whose toml says otherwise which column of the ratings is what; None: it names none."""
    described = draft.sections["data"]["ratings"]
    named = {ours: theirs for ours, theirs in (described["columns"] | columns).items() if theirs is not None}
    return with_data(draft, ratings=described | {"columns": named})


def with_table(draft: Draft, name: str, table: pd.DataFrame) -> Draft:
    """The draft with another table: 'ratings' or 'items'."""
    return replace(draft, tables=draft.tables | {name: table})


def first_users(draft: Draft, n: int) -> Draft:
    """The draft with the rows of its first n users alone."""
    ratings, who = draft.tables["ratings"], _column(draft, "user_id")
    return with_table(draft, "ratings", ratings[ratings[who].isin(ratings[who].unique()[:n])])


def _column(draft: Draft, ours: str, table: str = "ratings") -> str | None:
    return draft.sections["data"][table]["columns"].get(ours)


def few_clicks(draft: Draft) -> Draft:
    """Hardly anybody likes anything: the lowest rating everywhere but in a few rows; without stars, hardly anybody."""
    stars = _column(draft, "rating")
    if stars is None or draft.sections["data"].get("label_rule") == "sampled-negatives":
        return first_users(draft, 3)
    ratings = draft.tables["ratings"]
    values = pd.to_numeric(ratings[stars], errors="coerce")
    low, high = ratings.loc[values.idxmin(), stars], ratings.loc[values.idxmax(), stars]
    liked = np.arange(len(ratings)) % max(1, len(ratings) // N_CLICKS) == 0
    return with_table(draft, "ratings", ratings.assign(**{stars: np.where(liked, high, low)}))


def no_timestamps(draft: Draft) -> Draft:
    """The toml names no column of timestamps and says nothing of the clock."""
    return with_columns(with_data(draft, clock=None), timestamp=None)


def one_moment(draft: Draft) -> Draft:
    """Every row has the timestamp of the first, as after an import: the day on which the file was written."""
    when = _column(draft, "timestamp")
    if when is None:
        return draft
    ratings = draft.tables["ratings"]
    return with_table(draft, "ratings", ratings.assign(**{when: ratings[when].iloc[0]}))


def half_by_one(draft: Draft) -> Draft:
    """One user has more rows than all others, on items of their own, and no setting holds them back."""
    ratings, items = draft.tables["ratings"], draft.tables["items"]
    who, item = _column(draft, "user_id"), _column(draft, "item_id")
    names = [f"extra-{place}" for place in range(int(MORE_THAN_HALF * len(ratings)))]
    more = ratings.iloc[np.arange(len(names)) % len(ratings)].assign(**{who: ratings[who].iloc[0], item: names})
    known = items.sample(len(names), replace=True, random_state=0)
    known = known.assign(**{_column(draft, "item_id", "items"): names})
    draft = with_table(draft, "ratings", pd.concat([ratings, more], ignore_index=True))
    draft = with_table(draft, "items", pd.concat([items, known], ignore_index=True))
    return with_data(draft, min_ratings=None, max_user_rows=None)


BROKEN: dict[str, Callable[[Draft], Draft]] = {
    "too few clicks": few_clicks, "no timestamps": no_timestamps, "all at one moment": one_moment,
    "half of the rows by one user": half_by_one,
}  # fmt: skip


# What stands


def parts_table(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Judged rows of each part: rows, clicks, others, users, and how many rows the rarer class has.

    Args:
        frames: interactions and split, from `data.prepare`.
    """
    rows = frames["interactions"].merge(frames["split"], on="row")
    rows = rows[rows["judged"]]
    part = rows["split"].where(rows["half"] == "", rows["split"] + ": " + rows["half"])
    names = [name for name in ("label", "validation: select", "validation: risk", "test") if name in set(part)]
    found = rows.groupby(part).agg(rows=("row", "size"), clicks=("label", "sum"), users=("user_id", "nunique"))
    found = found.loc[names].rename_axis("part")
    found.insert(2, "others", found["rows"] - found["clicks"])
    return found.assign(rarer=found[["clicks", "others"]].min(axis=1))


def figure(frames: dict[str, pd.DataFrame], settings: DataConfig) -> Figure:
    """Three looks: how the rows are spread over users, the two classes of every part, and when the rows were made."""
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8))
    observed = frames["interactions"][frames["interactions"]["observed"]]
    _draw_users(left, observed)
    _draw_classes(middle, parts_table(frames))
    _draw_times(right, observed["timestamp"], settings.clock)
    return drawn


def _draw_users(axis, observed: pd.DataFrame) -> None:
    held = observed["user_id"].value_counts(normalize=True).cumsum().to_numpy()
    people = np.arange(1, len(held) + 1) / len(held)
    axis.plot([0, *people], [0, *held], color="C0", marker="o" if len(held) < 20 else "")
    axis.plot([0, 1], [0, 1], color="0.5", linestyle=":")
    axis.text(0.8, 0.72, "all alike", color="0.3", va="top")
    axis.axhline(HALF, color="C4", linestyle="--")
    axis.text(0.98, HALF - 0.02, "one user here: stops", color="C4", ha="right", va="top", fontsize=9)
    axis.set(title="Who wrote the rows?", xlabel="users, most active first (share)",
             ylabel="rows that they hold (share)", xlim=(0, 1), ylim=(0, 1.02))  # fmt: skip


def _draw_classes(axis, parts: pd.DataFrame) -> None:
    at = np.arange(len(parts))
    for shift, name, colour, hatch in ((-0.2, "clicks", "C0", ""), (0.2, "others", "0.75", "//")):
        bars = axis.bar(at + shift, parts[name], 0.38, color=colour, hatch=hatch, edgecolor="white", label=name)
        axis.bar_label(bars, fontsize=8)
    axis.axhline(FEW, color="C4", linestyle="--", label=f"below {FEW}: take care")
    axis.set_xticks(at, [name.replace(": ", ":\n") for name in parts.index], fontsize=9)
    axis.set(title="Enough of both classes?", ylabel="judged rows")
    axis.legend()


def _draw_times(axis, timestamps: pd.Series, clock: str) -> None:
    if clock == "none":
        axis.axis("off")
        axis.text(0.5, 0.5, "No clock: the parts\nare drawn within the user.", ha="center", va="center")
    elif clock == "order":
        axis.hist(timestamps, bins=30, color="C0", edgecolor="white")
        axis.set(title="In which order?", xlabel="position as the file says it", ylabel="rows")
    else:
        axis.hist(pd.to_datetime(timestamps, unit="s"), bins=30, color="C0", edgecolor="white")
        axis.tick_params(axis="x", rotation=30)
        axis.set(title="When?", xlabel="date", ylabel="rows")


# The language model


def encoder_error() -> str:
    """What the package says to an encoder as backbone: one made here, of which only the configuration exists."""
    from transformers import BertConfig

    with tempfile.TemporaryDirectory(prefix="eestudy-") as folder:
        source = Path(folder) / "my-encoder"
        BertConfig().save_pretrained(source)
        try:
            backbone.load_model(BackboneConfig(source=str(source)))
        except backbone.BackboneError as error:
            return str(error).replace(f"{folder}/", "")
    raise AssertionError("an encoder was taken for a decoder")


# Prompts without a trained graph


def untrained_evidence(cfg: StudyConfig, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Evidence as in notebook 03, with neighbours by a truncated SVD of who rated what in place of the trained graph.

    How many ratings a prompt shows, and so its tokens, is the same; which ones, the graph will say.

    Args:
        cfg: the study's settings.
        frames: interactions, users, items, split, from `data.prepare`.
    """
    interactions, split = frames["interactions"], frames["split"]
    found = [_svd_retriever(known, len(frames["users"]), len(frames["items"]), cfg.seed)
             for _, known in forward_parts(interactions, split)]  # fmt: skip
    k = cfg.retriever.n_similar_users
    if not cfg.data.has_stars:
        return retriever.split_matches(interactions, split, *found, k)
    return retriever.split_evidence(interactions, split, *found, k, cfg.retriever.n_similar_items)


def _svd_retriever(known: pd.DataFrame, n_users: int, n_items: int, seed: int) -> retriever.Retriever:
    entries = (known["rating"].to_numpy(np.float32), (known["user_id"].to_numpy(), known["item_id"].to_numpy()))
    ratings = csr_array(entries, shape=(n_users, n_items))  # [U, I]
    svd = TruncatedSVD(min(N_FACTORS, n_items), random_state=seed)
    users = svd.fit_transform(ratings)  # [U, D]
    return retriever.graph_retriever(users, svd.components_.T)


def sample_prompts(cfg: StudyConfig, frames: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Prompts of all judged rows and their tokens, see `prompts.build_prompts`, with `untrained_evidence`."""
    frames = frames | {"evidence": untrained_evidence(cfg, frames)}
    return prompts.build_prompts(cfg, frames, backbone.load_tokenizer(cfg.backbone))


def work(tokens: pd.DataFrame) -> dict[str, float]:
    """What there is to read: prompts, requests, and tokens where every prefix is read once."""
    prefixes = tokens.groupby("request_id")["n_prefix_tokens"].first()
    return {"prompts": len(tokens), "requests": len(prefixes),
            "tokens": int(prefixes.sum() + tokens["n_suffix_both"].sum())}  # fmt: skip


def reference_work() -> dict[str, float]:
    """The same of the committed reference, and the minutes that its whole run took."""
    listed = json.loads((REFERENCE / "metrics.json").read_text())["metrics"]
    value = {entry["name"]: entry["value"] for entry in listed}
    minutes = sum(json.loads((REFERENCE / "durations.json").read_text()).values()) / 60
    n, requests = value["n_prompts"], value["n_prompts"] / value["candidates_per_request_mean"]
    read = requests * value["prefix_tokens_mean"] + n * value["suffix_tokens_mean"]
    return {"prompts": int(n), "requests": round(requests), "tokens": round(read), "minutes": minutes}
