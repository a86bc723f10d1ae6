"""The trained model reads the changed prompts: every head's answer, and what has become of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from eestudy import artifacts, exit_heads, metrics, scorer, training
from eestudy.config import StudyConfig
from eestudy.probe_results import ALL, HARDENED, HELD_OUT_HALF, SAME_BUDGET, USUAL
from eestudy.probes.variants import (
    AS_TRAINED,
    PLACES,
    Variant,
    all_variants,
    attacked,
    known_of,
    probed_rows,
    variant_prompts,
    worded_rows,
)
from eestudy.progress import progress
from eestudy.retrievers.material import Material
from eestudy.wordings import HELD_OUT

KEYS = ["probe", "setting", "hostile", "form"]
UNKNOWN = {"value": np.nan, "ci95": None}
AGAINST = {HARDENED: SAME_BUDGET}  # whose unchanged prompts and whose shifts a form is compared with; else the usual


def changed_prompts(material: Material, tokenizer, variants: list[Variant] | None = None) -> pd.DataFrame:
    """Every variant's prompts.

    Args:
        material: the run.
        tokenizer: the backbone's.
        variants: None: all of them.

    Returns:
        Columns row, request_id, user_id, prefix, suffix, silent, probe, setting, hostile, form.
    """
    cfg = material.cfg.probes
    rows = probed_rows(material, cfg.n_rows)
    few = worded_rows(rows, cfg.n_worded_rows, material.cfg.seed)
    known, tables = known_of(material, rows), []
    for variant in progress(variants or all_variants(material), "changed prompts", unit="variant"):
        read = few if variant.probe in PLACES else rows
        table = variant_prompts(material, read, known, variant, tokenizer)
        tables.append(table.assign(**{key: getattr(variant, key) for key in KEYS}))
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


def read_variants(
    material: Material, changed: pd.DataFrame, tokenizer, engine=None, exit_layer: int | None = None
) -> pd.DataFrame:
    """Calibrated p_yes of every head on every changed prompt; finished chunks are kept.

    Args:
        material: the run, with adapter and heads.
        changed: from `changed_prompts`.
        tokenizer: the backbone's.
        engine: of the trained model; None: the run's.
        exit_layer: whose answer is the model's; None: the last.

    Returns:
        Columns row, user_id, label, silent, probe, setting, hostile, form, p_yes_<layer>, p (the answer).
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
    read["p"] = read[f"p_yes_{exit_layer or cfg.heads.exit_layers[-1]}"].astype(float)
    return read.merge(material.asked[["row", "label"]], on="row")[["row", "user_id", "label", "silent", *KEYS, *names,
                                                                   "p"]]  # fmt: skip


def read_trained_apart(material: Material, models: dict, tokenizer) -> list[pd.DataFrame]:
    """The same attacks, in the usual form, on models that were trained apart; each under its own name as the form.

    Args:
        material: the study's run, whose prompts are read.
        models: from `trained_apart.models`.
        tokenizer: the backbone's.
    """
    found, numbers = [], range(material.cfg.probes.n_wordings)
    for form, model in models.items():
        changed = changed_prompts(material, tokenizer, attacked(numbers, form))
        apart = replace(material, cfg=model.cfg, run=model.run)
        found.append(read_variants(apart, changed, tokenizer, exit_layer=model.exit_layer))
    return found


def summary(read: pd.DataFrame, cfg: StudyConfig) -> pd.DataFrame:
    """What each variant did to the answers, on the same rows.

    Unchanged prompts of another form are held against the usual ones, wordings against the unchanged prompts of their
    own form.

    Args:
        read: from `read_variants`.
        cfg: resamples, seed, and from where a score counts as moved.

    Returns:
        One line a variant; for a place, hostile and form also one of all wordings together (`setting` ALL) and one of
        those that no training has shown (HELD_OUT_HALF): probe, setting, hostile, form, n (rows), n_users, auc with
        _lo and _hi, auc_minus (paired difference) with _lo and _hi (both NaN of several wordings together, whose scores
        no request ever ranks together), shift (mean change of p_yes) with _lo and _hi, beyond (of instructions: paired,
        less the shift by their harmless twins) with _lo and _hi, beyond_minus (paired, less that of the same wordings
        in the usual form; NaN where that is itself) with _lo and _hi, moved (share of rows), flipped (share whose side
        of 1/2 changes), silent (share that shows nothing of other people).
    """
    read = _with_moves(read.assign(hostile=read["hostile"].astype(object)))
    groups = list(read.groupby(KEYS, sort=False, dropna=False))
    worded = read[read["hostile"].notna()]
    for number, part in ((ALL, worded), (HELD_OUT_HALF, worded[worded["setting"].isin(HELD_OUT)])):
        groups += [((probe, number, hostile, form), lines)
                   for (probe, hostile, form), lines in part.groupby(["probe", "hostile", "form"], sort=False)]
    return pd.DataFrame([dict(zip(KEYS, key, strict=True)) | _effect(part, cfg, key[1] < 0) for key, part in groups])


def _with_moves(read: pd.DataFrame) -> pd.DataFrame:
    """The scores with before (of the unchanged prompt), move, beyond and beyond_usual (of the form compared with)."""
    compared, plain = read["form"].map(AGAINST).fillna(USUAL), read["probe"] == AS_TRAINED
    unchanged = read[plain].set_index(["form", "row"])["p"]
    against = read["form"].mask(read["hostile"].isna(), compared)
    read["before"] = unchanged.reindex(pd.MultiIndex.from_arrays([against, read["row"]])).to_numpy()
    read["move"] = read["p"] - read["before"]
    keys, instructs = ["form", "probe", "setting", "row"], read["hostile"].eq(True)
    read["beyond"] = (read["move"] - _looked_up(read[read["hostile"].eq(False)], "move", read[keys])).where(instructs)
    itself = read["form"].isin({USUAL, *AGAINST.values()})
    usual = _looked_up(read[instructs], "beyond", read[keys].assign(form=compared))
    return read.assign(beyond_usual=usual.where(instructs & ~itself))


def _looked_up(of: pd.DataFrame, column: str, wanted: pd.DataFrame) -> pd.Series:
    """A column of the line of `of` with the same keys; NaN where there is none."""
    return wanted.merge(of[[*wanted, column]], how="left", validate="many_to_one").set_index(wanted.index)[column]


def _effect(part: pd.DataFrame, cfg: StudyConfig, pooled: bool) -> dict:
    shared = {"user_id": part["user_id"], "n_bootstrap": cfg.policy.n_bootstrap, "seed": cfg.seed}
    auc = gap = UNKNOWN
    if not pooled:
        auc = metrics.estimate(part["label"], part["p"], metric="auc", **shared)
        gap = metrics.difference(part["label"], part["p"], part["before"], metric="auc", **shared)
    shift, beyond, less = (
        metrics.ratio_estimate(values.to_numpy(), np.ones(len(part)), **shared) if values.notna().all() else UNKNOWN
        for values in (part["move"], part["beyond"], part["beyond"] - part["beyond_usual"]))  # fmt: skip
    return {"n": len(part), "n_users": part["user_id"].nunique(), **_ends("auc", auc), **_ends("auc_minus", gap),
            **_ends("shift", shift), **_ends("beyond", beyond), **_ends("beyond_minus", less),
            "moved": float((part["move"].abs() >= cfg.probes.moved).mean()),
            "flipped": float(((part["p"] >= 0.5) != (part["before"] >= 0.5)).mean()),
            "silent": float(part["silent"].mean())}  # fmt: skip


def _ends(name: str, found: dict) -> dict:
    low, high = found["ci95"] or (np.nan, np.nan)
    return {name: found["value"], f"{name}_lo": low, f"{name}_hi": high}
