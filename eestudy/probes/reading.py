"""The trained model reads the changed prompts: every head's answer, and what has become of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eestudy import artifacts, exit_heads, metrics, scorer, training
from eestudy.config import StudyConfig
from eestudy.probes.variants import (
    AS_TRAINED,
    HISTORY_TITLE,
    TARGET,
    all_variants,
    known_of,
    probed_rows,
    variant_prompts,
)
from eestudy.progress import progress
from eestudy.retrievers.material import Material

KEYS = ["probe", "setting", "hostile"]


def changed_prompts(material: Material, tokenizer) -> pd.DataFrame:
    """Every variant's prompts: row, request_id, user_id, prefix, suffix, probe, setting, hostile."""
    cfg = material.cfg.probes
    rows, few = probed_rows(material, cfg.n_rows), probed_rows(material, cfg.n_worded_rows)
    known, tables = known_of(material, rows), []
    for variant in progress(all_variants(material), "changed prompts", unit="variant"):
        read = few if variant.probe in (TARGET, HISTORY_TITLE) else rows
        table = variant_prompts(material, read, known, variant, tokenizer)
        tables.append(table.assign(probe=variant.probe, setting=variant.setting, hostile=variant.hostile))
    return pd.concat(tables, ignore_index=True)


def as_requests(different: pd.DataFrame, tokenizer) -> list[training.Request]:
    """One request for every prefix, with all suffixes that follow it.

    Args:
        different: row, request_id, user_id, prefix, suffix, prefixes standing together; no two lines alike.
        tokenizer: the backbone's.
    """
    made = []
    for prefix, part in different.groupby("prefix", sort=False):
        ids = tokenizer([prefix, *part["suffix"]], add_special_tokens=False)["input_ids"]
        blank = np.zeros(len(part), dtype=np.int64)  # neither modes nor labels are asked for
        made.append(training.Request(ids[0], ids[1:], part["row"].to_numpy(), blank, blank,
                                     int(part["user_id"].iloc[0])))  # fmt: skip
    return made


def read_variants(material: Material, changed: pd.DataFrame, tokenizer, engine=None) -> pd.DataFrame:
    """Calibrated p_yes of every head on every changed prompt; finished chunks are kept.

    Args:
        material: the run, with adapter and heads.
        changed: from `changed_prompts`.
        tokenizer: the backbone's.
        engine: of the trained model; None: the run's.

    Returns:
        Columns row, user_id, label, probe, setting, hostile, p_yes_<layer>.
    """
    cfg, run = material.cfg, material.run
    different = changed.drop_duplicates(["row", "prefix", "suffix"]).sort_values(["prefix", "row"], kind="stable")
    different = different[["row", "request_id", "user_id", "prefix", "suffix"]].reset_index(drop=True)
    wanted = artifacts.fingerprint({"scoring": training.scoring_fingerprint(cfg, run),
                                    "asked": artifacts.sha256_bytes(different.to_csv().encode())})  # fmt: skip
    if engine is None:
        model = training.load_scorable(cfg, run, tokenizer)
        engine = scorer.build_engine(model.backbone, model.heads)
    scored = training.score_requests(run, engine, as_requests(different, tokenizer), "probes", wanted)
    pairs = np.array(artifacts.read_json(run, "calibration.json")["slope_intercept"]["both"])
    names = [f"p_yes_{layer}" for layer in cfg.heads.exit_layers]
    logits = scored[[f"logit_{layer}" for layer in cfg.heads.exit_layers]].to_numpy(float)
    different[names] = exit_heads.calibrate(logits, pairs)
    read = changed.merge(different.drop(columns=["request_id", "user_id"]), on=["row", "prefix", "suffix"],
                         validate="many_to_one")  # fmt: skip
    return read.merge(material.asked[["row", "label"]], on="row")[["row", "user_id", "label", *KEYS, *names]]


def summary(read: pd.DataFrame, cfg: StudyConfig) -> pd.DataFrame:
    """What each variant did to full depth's answers, against the same rows' unchanged prompts.

    Args:
        read: from `read_variants`.
        cfg: resamples, seed, and from where a score counts as moved.

    Returns:
        One line a variant, and one a probe with `setting` -1 for all of its wordings together: probe, setting, hostile,
        n (rows), n_users, auc with _lo and _hi, auc_minus (paired, less the unchanged prompts) with _lo and _hi,
        shift (mean change of p_yes) with _lo and _hi, moved (share of rows), flipped (share whose side of 1/2 changes).
    """
    last = f"p_yes_{cfg.heads.exit_layers[-1]}"
    read = read.assign(p=read[last].astype(float), hostile=read["hostile"].astype(object))
    plain = read[read["probe"] == AS_TRAINED].set_index("row")["p"]
    read["before"] = read["row"].map(plain)
    groups = [(key, part) for key, part in read.groupby(KEYS, sort=False, dropna=False)]
    worded = read[read["hostile"].notna()]
    groups += [((probe, -1, hostile), part) for (probe, hostile), part in worded.groupby(["probe", "hostile"])]
    return pd.DataFrame([dict(zip(KEYS, key, strict=True)) | _effect(part, cfg) for key, part in groups])


def _effect(part: pd.DataFrame, cfg: StudyConfig) -> dict:
    shared = {"user_id": part["user_id"], "n_bootstrap": cfg.policy.n_bootstrap, "seed": cfg.seed}
    auc = metrics.estimate(part["label"], part["p"], metric="auc", **shared)
    gap = metrics.difference(part["label"], part["p"], part["before"], metric="auc", **shared)
    moved = (part["p"] - part["before"]).to_numpy()
    shift = metrics.ratio_estimate(moved, np.ones(len(part)), **shared)
    return {"n": len(part), "n_users": part["user_id"].nunique(), **_ends("auc", auc), **_ends("auc_minus", gap),
            **_ends("shift", shift), "moved": float((np.abs(moved) >= cfg.probes.moved).mean()),
            "flipped": float(((part["p"] >= 0.5) != (part["before"] >= 0.5)).mean())}  # fmt: skip


def _ends(name: str, found: dict) -> dict:
    low, high = found["ci95"] or (np.nan, np.nan)
    return {name: found["value"], f"{name}_lo": low, f"{name}_hi": high}


