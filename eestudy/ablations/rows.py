"""One row of the table: its prompts, its training, its scores and its record, in a folder of its own.

What notebooks 01 to 03 have made is read from the study's run of the same seed. A row that was killed goes on from its
training's checkpoint and its finished chunks. A finished row of the same fingerprint is not run again, be it in the
run's folder or committed.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from eestudy import ablation_results, artifacts, backbone, data, latency, prompts, scorer, training
from eestudy.ablations.table import Row, all_rows, each_seed, settings_of
from eestudy.artifacts import Run
from eestudy.config import StudyConfig
from eestudy.training.model import LIBRARIES
from eestudy.training.model import SOURCES as TRAINING_SOURCES
from eestudy.training.scoring import SOURCES as SCORING_SOURCES
from eestudy.wordings import TAUGHT, WORDINGS

TABLES = ("interactions", "users", "items", "split", "evidence")
RESULT, SCORES = "result.json", "scores.parquet"
SOURCES = (*TRAINING_SOURCES, *SCORING_SOURCES, "ablations/rows.py", "retriever/graph.py", "retriever/evidence.py",
           "data/splits.py")  # fmt: skip
SETTINGS = {"seed": True, "data": True, "retriever": True, "prompt": True, "backbone": True, "heads": True,
            "ablation": {"withheld_share", "soft_tokens", "hostile_share"}}  # fmt: skip
SCHEMA_VERSION = 1
TEACHER_SHARE = 0.5  # of the teacher's answer in a target; half is usual, and was not tuned


@dataclass(frozen=True)
class Finished:
    """A row that was run: its record and its scores, and whether today's code and settings would run it the same."""

    record: dict
    scores: pd.DataFrame  # row, user_id, request_id, mode, split, half, label, n_prefix_tokens, …, p_yes_<layer>
    current: bool


def open_row(source: Run, row: Row, seed: int) -> Run:
    """The row's own run: <dataset>/<profile>/ablations/<row>-<seed>, beside the study's runs."""
    return Run(source.root.parent / "ablations" / f"{row.name}-{seed}", source.dataset, source.profile, seed)


def missing_tables(source: Run) -> list[str]:
    """Which of the tables that rows read the study's run lacks."""
    return [f"{name}.parquet" for name in TABLES if artifacts.artifact_hash(source, f"{name}.parquet") is None]


def row_fingerprint(cfg: StudyConfig, row: Row, source: Run) -> str:
    """Hash of what a row's result depends on and what is the same on every machine: settings, data, sources, versions.

    The graph's evidence differs between processors in its last bits; the settings and sources that make it count
    instead, and its own hash stands in the row's record.

    Args:
        cfg: the row's settings, from `settings_of`.
        row: its modes count.
        source: the study's run of the same seed.
    """
    package = Path(__file__).resolve().parents[1]
    files = [path for name in SOURCES for path in sorted(package.glob(name))]
    return artifacts.fingerprint({
        "settings": cfg.model_dump(mode="json", include=SETTINGS, exclude={"data": {"folder"}}), "modes": row.modes,
        "teacher": row.teacher, "taught": [WORDINGS[i][0] for i in TAUGHT] if cfg.ablation.hostile_share else None,
        "inputs": {name: artifacts.artifact_hash(source, f"{name}.parquet") for name in ("interactions", "items")},
        "sources": {path.relative_to(package).as_posix(): artifacts.sha256_file(path) for path in files},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    })


def run_row(row: Row, study: StudyConfig, seed: int, source: Run) -> Finished:
    """Train and score one row, or go on where it was killed.

    Args:
        row: of the table.
        study: the study's own settings.
        seed: of the row; `source` must have been made with it.
        source: the study's run: `TABLES` are read, and held to their hashes.

    Raises:
        ArtifactError: the study's run lacks a table; the message says how to make it.
        ValueError: the row's settings cannot stand.
    """
    cfg = settings_of(row, study, seed)
    run, wanted = open_row(source, row, seed), row_fingerprint(cfg, row, source)
    run.root.mkdir(parents=True, exist_ok=True)
    tokenizer = backbone.load_tokenizer(cfg.backbone)
    prepare_tables(cfg, source, run, tokenizer, wanted)
    requests = training.load_requests(run, tokenizer)
    if row.teacher:
        requests["label"] = learn_from(row, study, seed, source, tokenizer, requests["label"])
    log = training.train(cfg, run, tokenizer, requests)
    seconds = log.groupby("kind")["seconds"].sum().to_dict()
    with artifacts.stopwatch(seconds, "scoring"):  # of this sitting: chunks that a killed one left are not counted
        scores = score_row(cfg, row, run, tokenizer, requests)
    artifacts.write_table(run, SCORES, scores, fingerprint=wanted)
    record = describe(row, study, cfg, source, log) | {"seconds": seconds, "fingerprint": wanted,
                                                       "scores_sha256": artifacts.artifact_hash(run, SCORES)}
    artifacts.write_json(run, RESULT, record, fingerprint=wanted)
    return Finished(record, scores, True)


def learn_from(row: Row, study: StudyConfig, seed: int, source: Run, tokenizer, requests: list) -> list:
    """A row's label requests with the answers of its teacher, which is run first where it is not there as of today.

    Args:
        row, study, seed, source: as for `run_row`.
        tokenizer: the backbone's.
        requests: the row's label part; the teacher has learnt from the same rows.
    """
    teacher = next(other for other in all_rows(study) if other.name == row.teacher)
    run, cfg = open_row(source, teacher, seed), settings_of(teacher, study, seed)
    if not artifacts.is_current(run, RESULT, row_fingerprint(cfg, teacher, source)):
        run_row(teacher, study, seed, source)
    model = training.load_scorable(cfg, run, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    engine = scorer.build_engine(model.backbone, model.heads)
    scored = training.score_requests(run, engine, requests, "label", training.scoring_fingerprint(cfg, run))
    p_yes = 1 / (1 + np.exp(-scored[f"logit_{cfg.heads.exit_layers[-1]}"].to_numpy(float)))
    return training.taught(requests, np.split(p_yes, np.cumsum([len(r.rows) for r in requests])[:-1]), TEACHER_SHARE)


def prepare_tables(cfg: StudyConfig, source: Run, run: Run, tokenizer, wanted: str) -> None:
    """The row's prompts, and of the other tables what training and scoring read: the judged rows.

    Args:
        cfg: the row's settings: numbers of rows, prompt.
        source: whole tables, and where evidence of all judged rows lies.
        run: receives prompts, prompt_tokens, split and interactions.
        tokenizer: the backbone's.
        wanted: the row's fingerprint; tables of it are kept, so that a checkpoint stays good.
    """
    inputs = artifacts.fingerprint({"row": wanted, "evidence": artifacts.artifact_hash(source, "evidence.parquet")})
    made = ("interactions.parquet", "split.parquet", "prompt_tokens.parquet", "prompts.parquet")
    needed = (*made, training.VECTORS) if cfg.ablation.soft_tokens else made
    if all(artifacts.is_current(run, name, inputs) for name in needed):
        return
    frames = judge_rows({name: artifacts.read_table(source, f"{name}.parquet") for name in TABLES}, cfg)
    if cfg.ablation.withheld_share:
        frames = withhold(frames, cfg)
    judged = frames["split"].loc[frames["split"]["judged"], "row"]
    frames["evidence"] = frames["evidence"][frames["evidence"]["row"].isin(judged)]
    table, tokens = prompts.build_prompts(cfg, frames, tokenizer)
    if cfg.ablation.soft_tokens:
        tokens = add_vectors(source, run, tokens, inputs)
    if cfg.ablation.hostile_share:
        table = with_hostile_titles(table, frames, cfg, tokenizer)
    small = [frames[name][frames[name]["row"].isin(judged)] for name in ("interactions", "split")]
    for name, frame in zip(made, (*small, tokens, table), strict=True):
        artifacts.write_table(run, name, frame, fingerprint=inputs)


def add_vectors(source: Run, run: Run, tokens: pd.DataFrame, inputs: str) -> pd.DataFrame:
    """Give the row the graph's vectors for its soft tokens; returns the token counts with one more each.

    These are the vectors of the graph that no label row has entered, for every part: vectors of another training
    would mean something else, and a graph that knows a label gives it away.
    """
    stored = artifacts.read_arrays(source, "embeddings.safetensors")
    vectors = {"users": stored["user_label"], "items": stored["item_label"]}
    artifacts.write_arrays(run, training.VECTORS, vectors, fingerprint=inputs)
    counts = [column for column in tokens if column.startswith(("n_prefix", "n_suffix"))]
    return tokens.assign(**{column: tokens[column] + 1 for column in counts})


def with_hostile_titles(table: pd.DataFrame, frames: dict[str, pd.DataFrame], cfg: StudyConfig, tokenizer):
    """The prompts, those of the label part written anew with items some of whose titles instruct; labels stay.

    Args:
        table, frames: from and for `prompts.build_prompts`.
        cfg: share of the items, and the seed that draws them and one of the wordings `TAUGHT` for each.
        tokenizer: the backbone's.
    """
    items, rng = frames["items"], np.random.default_rng([cfg.seed, 11])
    said = pd.Series(rng.choice([WORDINGS[i][0] for i in TAUGHT], len(items)), index=items.index)
    instructs = rng.random(len(items)) < cfg.ablation.hostile_share
    titles = items["title"].where(~instructs, said + " " + items["title"].astype(str))
    worse, _ = prompts.build_prompts(cfg, frames | {"items": items.assign(title=titles)}, tokenizer)
    learned = frames["split"].loc[frames["split"]["split"] == "label", "row"]
    return table.where(~table["row"].isin(learned), worse)


def withheld_items(items: pd.DataFrame, cfg: StudyConfig) -> np.ndarray:
    """Ids of the items that nothing in training may hold; the seed draws them."""
    n = round(len(items) * cfg.ablation.withheld_share)
    return np.random.default_rng([cfg.seed, 9]).permutation(items["item_id"].to_numpy())[:n]


def judge_rows(frames: dict[str, pd.DataFrame], cfg: StudyConfig) -> dict[str, pd.DataFrame]:
    """The tables with the rows marked that the row of the table learns from and is judged on."""
    split, user = frames["split"], frames["interactions"].set_index("row")["user_id"]
    judged = data.sample_judged(split, split["row"].map(user), cfg.data, cfg.seed)
    judged &= (split["half"] != "risk").to_numpy()  # no row of the table controls risk
    return frames | {"split": split.assign(judged=judged)}


def withhold(frames: dict[str, pd.DataFrame], cfg: StudyConfig) -> dict[str, pd.DataFrame]:
    """The tables without the withheld items, but for their judged test rows, and without any other test row judged.

    Args:
        frames: from `judge_rows`.
        cfg: share and seed.
    """
    split, item = frames["split"], frames["interactions"].set_index("row")["item_id"]
    withheld = split["row"].map(item).isin(withheld_items(frames["items"], cfg))
    asked, later = split.loc[withheld & split["judged"], "row"], split["split"] == "test"
    kept = split.loc[~withheld | later, "row"]
    less = judge_rows(frames | {name: frames[name][frames[name]["row"].isin(kept)].reset_index(drop=True)
                                for name in ("interactions", "split")}, cfg)  # fmt: skip
    rest = less["split"]
    judged = np.where(rest["split"] == "test", rest["row"].isin(asked), rest["judged"])
    return less | {"split": rest.assign(judged=judged)}


def score_row(cfg: StudyConfig, row: Row, run: Run, tokenizer, requests: dict[str, list]) -> pd.DataFrame:
    """Calibrated p_yes of every head on the selection and test rows, in the row's modes, with token counts.

    Returns:
        Columns row, user_id, request_id, mode, split, half, label, n_prefix_tokens, n_suffix_tokens, p_yes_<layer>.
    """
    model = training.load_scorable(cfg, run, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    engine, wanted = scorer.build_engine(model.backbone, model.heads), training.scoring_fingerprint(cfg, run)
    raw = pd.concat([
        training.score_requests(run, engine, training.only_mode(requests[part], mode), f"{part}_{mode}", wanted)
        for mode in row.modes for part in ("select", "test")
    ], ignore_index=True)  # fmt: skip
    scores, fitted = training.calibrate_scores(training.describe_rows(run, raw))
    artifacts.write_json(run, "calibration.json", {"slope_intercept": fitted})  # for `make probes`
    return pd.concat([_with_tokens(scores, run, mode) for mode in row.modes], ignore_index=True)


def _with_tokens(scores: pd.DataFrame, run: Run, mode: str) -> pd.DataFrame:
    tokens = artifacts.read_table(run, "prompt_tokens.parquet")[["row", "n_prefix_tokens", f"n_suffix_{mode}"]]
    tokens = tokens.rename(columns={f"n_suffix_{mode}": "n_suffix_tokens"})
    table = scores[scores["mode"] == mode].merge(tokens, on="row", validate="one_to_one")
    heads = [column for column in table if column.startswith("p_yes_")]
    return table[[column for column in table if column not in heads] + heads]


def describe(row: Row, study: StudyConfig, cfg: StudyConfig, source: Run, log: pd.DataFrame) -> dict:
    """A row's provenance: what it changed, from which data, with which code and libraries, on how many labels."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for name in SOURCES for path in package.glob(name))
    steps = log[log["kind"] == "step"]
    return {
        "schema_version": SCHEMA_VERSION, "row": row.name, "dataset": artifacts.study_name(source.dataset),
        "profile": source.profile, "seed": cfg.seed, "question": row.question, "modes": list(row.modes),
        "changes": changes_of(study, cfg), "n_labels": int(steps["labels"].sum()), "n_steps": len(steps),
        "inputs": {f"{name}.parquet": artifacts.artifact_hash(source, f"{name}.parquet") for name in TABLES},
        "source_hash": artifacts.fingerprint({str(path.relative_to(package)): artifacts.sha256_file(path)
                                              for path in files}),
        "environment": latency.environment(),
    }  # fmt: skip


def changes_of(study: StudyConfig, cfg: StudyConfig) -> dict[str, list]:
    """{'section.field': [the study's value, the row's]} wherever the two differ."""
    before, after = study.model_dump(mode="json"), cfg.model_dump(mode="json")
    return {f"{section}.{name}": [before[section][name], value]
            for section, fields in after.items() if isinstance(fields, dict)
            for name, value in fields.items() if before[section][name] != value}  # fmt: skip


# --- finished rows --------------------------------------------------------------------------------------------


def reference_path(source: Run, row: Row, seed: int) -> Path:
    """Where a committed row lies, without its ending (.json, .parquet)."""
    return ablation_results.kept_folder(source) / f"{row.name}-{seed}"


def find_finished(row: Row, study: StudyConfig, seed: int, source: Run) -> Finished | None:
    """A row that was run: in the run's folder or committed, the current one first; None where there is neither.

    A record without its scores, or with others, does not count.
    """
    wanted = row_fingerprint(settings_of(row, study, seed), row, source)
    run, kept = open_row(source, row, seed), reference_path(source, row, seed)
    found = [_read(run.path(RESULT), run.path(SCORES), wanted),
             _read(kept.with_name(kept.name + ".json"), kept.with_name(kept.name + ".parquet"), wanted)]  # fmt: skip
    return max((one for one in found if one is not None), key=lambda one: one.current, default=None)


def find_all(cfg: StudyConfig, dataset: str, profile: str) -> dict[tuple[str, int], Finished | None]:
    """`find_finished` of the whole table, by (row's name, seed).

    Args:
        cfg: the study's own settings.
        dataset, profile: of the study's runs, one a seed.
    """
    return {(row.name, seed): find_finished(row, cfg, seed, artifacts.open_run(dataset, profile, seed))
            for row, seed in each_seed(all_rows(cfg))}  # fmt: skip


def _read(record: Path, scores: Path, wanted: str) -> Finished | None:
    try:
        told, content = json.loads(record.read_text()), scores.read_bytes()
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or told.get("scores_sha256") != artifacts.sha256_bytes(content):
        return None
    return Finished(told, pd.read_parquet(io.BytesIO(content)), told.get("fingerprint") == wanted)


def keep_row(row: Row, seed: int, source: Run) -> Sequence[Path]:
    """Copy a finished row to where committed results lie; returns the two files."""
    run, kept = open_row(source, row, seed), reference_path(source, row, seed)
    files = kept.with_name(kept.name + ".json"), kept.with_name(kept.name + ".parquet")
    for name, file in zip((RESULT, SCORES), files, strict=True):
        artifacts.write_atomic(file, artifacts.read_bytes(run, name))
    return files
