"""Report: equivalence with plain loops, nulls stay null, untrusted titles stay text, the check can fail."""

import copy
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from eestudy import artifacts, backbone, config, metrics, report, verdicts
from eestudy.report import (
    comparison,
    datasets,
    figures,
    full_profile,
    headline,
    narrative,
    page,
    readme,
    reference,
    retrieval,
    signature,
    sizes,
    tables,
)
from eestudy.report.__main__ import main
from eestudy.report.judged import llm_scores, policy_scores, stack

LAYERS = [2, 4, 6]
HOSTILE = ['<script>alert("x")</script>', "*bold* [link](http://evil.example) | cell", "' onload='x",
           "Zero\x00 \u202eWidth\u200b\nTwo", "# Heading `code` &amp; $x$"]  # fmt: skip
CHOSEN = {"policy": "confidence"}


def _p(rng, label, strength, shift=0.4):
    return 1 / (1 + np.exp(-(strength * (label - 0.5) + rng.normal(0, 1, len(label)) + shift)))


def _interactions(rng, n_users, per_user, n_items):
    user_id = np.repeat(np.arange(n_users), per_user)
    n = len(user_id)
    rating = rng.integers(1, 6, n).astype(np.float32)
    frame = pd.DataFrame({"row": np.arange(n), "user_id": user_id, "item_id": rng.integers(0, n_items, n),
                          "rating": rating, "label": (rating >= 4).astype(np.int8),
                          "timestamp": np.arange(n, dtype=np.int64)})  # fmt: skip
    place = np.tile(np.arange(per_user), n_users)
    split = np.select([place < per_user // 2, place < 3 * per_user // 4], ["label", "validation"], "test")
    half = np.where(split == "validation", np.where(user_id % 2, "select", "risk"), "")
    request = pd.factorize(pd.Series(user_id).astype(str) + split)[0]
    parts = pd.DataFrame({"row": frame["row"], "split": split, "half": half, "request_id": request,
                          "request_timestamp": 0, "judged": True})  # fmt: skip
    return frame, parts


def _head_scores(rng, frame, parts, layers):
    tables_ = []
    for mode, strength in zip(config.MODES, (1.6, 1.2, 0.6), strict=True):
        keep = parts["split"].isin(("validation", "test"))
        if mode != "both":
            keep &= parts["half"] != "risk"
        part = frame.loc[keep, ["row", "user_id", "label"]].merge(parts[["row", "request_id", "split", "half"]])
        for layer in layers:
            depth = min(1, 0.3 + layer / layers[-1]) if mode == "both" else layer / layers[-1]
            part[f"p_yes_{layer}"] = _p(rng, part["label"].to_numpy(), strength * depth)
        tables_.append(part.assign(mode=mode))
    return pd.concat(tables_, ignore_index=True)


def _policies(run, head, layers):
    test = head[(head["split"] == "test") & (head["mode"] == "both")]
    names = ("confidence", "patience", "shuffled", "oracle", "static")
    index = {name: np.arange(len(test)) % (len(layers) - i % 2) for i, name in enumerate(names)}
    rows = [{"split": split, "policy": name, "threshold": 0.5, "auc": 0.7, "gauc": 0.6, "log_loss": 0.6, "ece": 0.1,
             "mean_exit_layer": 4.0, "mean_exit_fraction": 0.3 + i / 20, "token_layer_fraction": 0.4 + i / 20,
             "selected": name not in ("shuffled", "oracle")}
            for split in ("validation", "test") for i, name in enumerate(names)]  # fmt: skip
    rows += [{**rows[-5], "threshold": t, "selected": False, "token_layer_fraction": t} for t in (0.3, 0.6)]
    artifacts.write_table(run, "policies.csv", pd.DataFrame(rows))
    decisions = [pd.DataFrame({"row": test["row"], "policy": name, "exit_index": index[name]}) for name in names]
    artifacts.write_table(run, "exit_decisions.parquet", pd.concat(decisions))
    artifacts.write_json(run, "selected_policy.json", {"policy": "confidence", "threshold": 0.5})


def _latency(run, rng, layers):
    contenders = {"plain": 8.0, "packed_full_depth": 1.0, "packed_early_exit": 0.45,
                  f"packed_static_{layers[0]}": 0.3, f"packed_static_{layers[-1]}": 1.0}  # fmt: skip
    rows = [{"contender": name, "repeat": repeat, "request_id": request, "n_candidates": 8, "n_tokens": 300,
             "seconds": seconds * rng.uniform(0.9, 1.1), "workload": workload}
            for name, seconds in contenders.items() for repeat in range(2) for request in range(5)
            for workload in ("full", "drawn")]  # fmt: skip
    artifacts.write_table(run, "latency.csv", pd.DataFrame(rows))


def write_run(run, n_users=20, per_user=16, layers=LAYERS, titles=HOSTILE):
    """Synthetic artifacts of notebooks 01 to 07."""
    rng = np.random.default_rng(0)
    frame, parts = _interactions(rng, n_users, per_user, len(titles))
    label = frame["label"].to_numpy()
    artifacts.write_table(run, "interactions.parquet", frame)
    artifacts.write_table(run, "split.parquet", parts)
    artifacts.write_table(run, "items.parquet", pd.DataFrame({"item_id": range(len(titles)), "title": titles}))
    simple = {name: _p(rng, label, 0.2 * i) for i, name in enumerate((*config.TRIVIAL_BASELINES, "logistic_mf"))}
    simple["click_rate"] = np.full(len(frame), label.mean())
    artifacts.write_table(run, "baseline_scores.parquet", pd.DataFrame({"row": frame["row"], **simple}))
    evidence = {"logistic_evidence": _p(rng, label, 1.5), "boosted_evidence": _p(rng, label, 1.3)}
    artifacts.write_table(run, "evidence_model_scores.parquet", pd.DataFrame({"row": frame["row"], **evidence}))
    head = _head_scores(rng, frame, parts, layers)
    artifacts.write_table(run, "head_scores.parquet", head)
    prompts = [f"History: {title}\nTarget " for title in np.array(titles, dtype=object)[frame["item_id"]]]
    artifacts.write_table(run, "prompts.parquet", pd.DataFrame({"row": frame["row"], "prefix": prompts,
                                                                "suffix_both": "The others 5 4. Like?"}))  # fmt: skip
    counted = {"n_prefix_tokens": 90, "n_suffix_tokens": 26}
    artifacts.write_table(run, "prompt_tokens.parquet", frame[["row"]].assign(mode="both", **counted))
    artifacts.write_table(run, "evidence.parquet", frame[["row"]].assign(item_mean=3.5, others=[[5, 4]] * len(frame)))
    _policies(run, head, layers)
    _latency(run, rng, layers)
    early = artifacts.metric("auc_early_exit", 0.7, "AUC", ci95=(0.6, 0.8), n=80)
    ratio = artifacts.metric("throughput_ratio_early_exit_vs_plain", 6.5, "times", kind="time", ci95=(6, 7), n=10)
    artifacts.write_json(run, "metrics_06.json", [early])
    artifacts.write_json(run, "metrics_07.json", [ratio])


def run_08(run, n_bootstrap=50):
    """What notebook 08 does."""
    choices = report.choices(run) | CHOSEN
    judged = report.judge(run, choices, n_bootstrap, 0)
    layers = report.exit_layers(artifacts.read_table(run, "head_scores.parquet"))
    curves = report.depth_curves(judged, layers)
    table = report.tradeoff_table(judged, layers, artifacts.read_table(run, "policies.csv"),
                                  artifacts.read_table(run, "latency.csv"), choices, {})  # fmt: skip
    artifacts.write_json(run, "choices.json", choices)
    artifacts.write_table(run, "depth_curves.csv", curves)
    artifacts.write_table(run, "tradeoff.csv", table)
    artifacts.write_json(run, "metrics_08.json", report.tradeoff_metrics(judged, layers, curves, choices))
    return judged, layers, curves, table, choices


def run_09(run):
    """What notebook 09 does."""
    cfg = config.load(run.dataset, run.profile, run.seed)
    found = report.build_metrics(run, cfg)
    artifacts.write_json(run, "metrics.json", found)
    blocks = report.report_blocks(run, found, 20)
    artifacts.write_bytes(run, "report.md", report.to_markdown(blocks).encode())
    return found


def test_the_report_says_which_rows_were_not_used(tmp_path):
    run = artifacts.Run(tmp_path, "ml-100k", "smoke", 0)
    assert narrative.unused_blocks(run) == []
    artifacts.write_json(run, "quarantine.json", [{"file": "items.csv", "reason": "title is empty", "n_rows": 7}])
    artifacts.write_json(run, "left_out.json", [{"rule": "a rating of 0: not rated", "n_rows": 12}])
    text = report.to_markdown(narrative.unused_blocks(run))
    assert "title is empty | 7 | set aside (items.csv)" in text and "not rated | 12 | left out by a setting" in text
    for name in ("quarantine.json", "left_out.json"):
        artifacts.write_json(run, name, [])
    assert "every row was used" in report.to_markdown(narrative.unused_blocks(run))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished synthetic run: (run, judged, layers, curves, table, choices, metrics)."""
    run = artifacts.Run(tmp_path_factory.mktemp("run"), "ml-100k", "laptop", 0)
    write_run(run)
    made = run_08(run)
    report.save(run, report.tradeoff_figure(made[3], "confidence"), "08_tradeoff_token_layers")
    return run, *made, run_09(run)


def test_training_that_was_found_done_is_charged_for(tmp_path):
    run = artifacts.Run(tmp_path, "ml-100k", "laptop", 0)
    assert headline.reproduce_minutes(run)["value"] is None
    artifacts.write_table(run, "training.csv", pd.DataFrame({"step": [1, 2], "seconds": [100.0, 500.0]}))
    for scored, wanted in ((1200.0, 1260.0), (480.0, 540 + 600)):
        artifacts.write_json(run, "durations.json", {"01_data": 60.0, "05_exit_heads": scored})
        assert headline.reproduce_minutes(run)["value"] == pytest.approx(wanted / 60)


# --- scores and tables ---


def test_scores_are_aligned_by_row(built):
    run, judged = built[0], built[1]
    head = artifacts.read_table(run, "head_scores.parquet").sample(frac=1, random_state=0)
    label = artifacts.read_table(run, "interactions.parquet").set_index("row")["label"]
    frame, scores = llm_scores(head, "test")
    for place, row in enumerate(frame["row"]):
        for mode in config.MODES:
            one = head[(head["row"] == row) & (head["mode"] == mode)].iloc[0]
            assert scores[f"{mode}@4"][place] == one["p_yes_4"]
    assert (judged.label == label.loc[judged.row]).all()


def test_policy_scores_equal_a_loop(built):
    run, judged, layers = built[:3]
    decisions = artifacts.read_table(run, "exit_decisions.parquet")
    for policy, part in decisions.groupby("policy"):
        exits = dict(zip(part["row"], part["exit_index"], strict=True))
        wanted = [judged.scores[f"both@{layers[exits[row]]}"][place] for place, row in enumerate(judged.row)]
        assert judged.scores[policy].tolist() == wanted


def test_missing_decisions_are_an_error(built):
    run, judged = built[:2]
    decisions = artifacts.read_table(run, "exit_decisions.parquet").iloc[1:]
    with pytest.raises(report.ReportError, match="exit_decisions"):
        policy_scores(decisions, judged.row, np.zeros((len(judged.row), 3)))


def test_a_mode_without_rows_is_an_error(built):
    head = artifacts.read_table(built[0], "head_scores.parquet")
    with pytest.raises(report.ReportError, match="none"):
        llm_scores(head[head["mode"] != "none"], "test")


def test_choices_do_not_read_test(built, tmp_path):
    run, choices = built[0], built[5]
    spoilt = artifacts.Run(tmp_path, "ml-100k", "laptop", 0)
    split = artifacts.read_table(run, "split.parquet")
    for name in ("split.parquet", "interactions.parquet", "evidence_model_scores.parquet", "baseline_scores.parquet"):
        table = artifacts.read_table(run, name)
        if "scores" in name:  # on test rows the worst becomes the best
            table.loc[(split["split"] == "test").to_numpy(), table.columns[1:]] *= -1
        artifacts.write_table(spoilt, name, table)
    assert report.choices(spoilt).items() <= choices.items()


def test_depth_curves_equal_direct_metrics(built):
    judged, curves = built[1], built[3]
    for _, row in curves.iterrows():
        score = judged.scores[f"{row['mode']}@{row['layer']}"]
        assert row["auc"] == pytest.approx(metrics.auc(judged.label, score))
        assert row["gauc"] == pytest.approx(metrics.gauc(judged.label, score, judged.user_id))
        assert row["auc_lo"] <= row["auc_hi"]
        click_rate = metrics.log_loss(judged.label, judged.scores[report.CLICK_RATE])
        assert row["log_loss_minus_click_rate"] == pytest.approx(metrics.log_loss(judged.label, score) - click_rate)


@given(st.lists(st.floats(0.3, 0.95), min_size=2, max_size=8))
def test_first_layer_of_gain_equals_a_loop(auc):
    layers = list(range(1, len(auc) + 1))
    found = tables.first_layer_of_gain(auc, layers)
    if max(auc) <= 0.5:
        assert np.isnan(found)
    else:
        assert found == next(m for m, a in zip(layers, auc, strict=True) if a - 0.5 >= 0.95 * (max(auc) - 0.5))


def test_layer_interval_holds_layers_there_are(built):
    judged, layers = built[1:3]
    found = tables.layer_of_gain(judged, "none", layers)
    assert {found["value"], *found["ci95"]} <= set(layers)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=8))
def test_dominated_equals_a_loop(points):
    table = pd.DataFrame([{"setting": str(i), "kind": "control" if control else "static", "auc": q / 4.0,
                           "token_layer_fraction": c / 4.0} for i, (c, q, control) in enumerate(points)])  # fmt: skip
    marked = tables.mark_dominated(table)
    for i, (cost, quality, _) in enumerate(points):
        worse = any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q, control in points if not control)
        assert marked["dominated"][i] == worse
    edge = figures.frontier(table, "token_layer_fraction", "auc")["setting"]
    assert not marked.set_index("setting").loc[edge, "dominated"].any()


def test_tradeoff_has_every_setting_once_and_baselines_at_no_cost(built):
    table = built[4]
    fixed = table[table["kind"] != "sweep"]
    assert fixed["setting"].is_unique
    assert set(fixed["kind"]) == {"static", "dynamic", "control", "baseline", "stacked", "plain"}
    baselines = table[table["kind"] == "baseline"]
    assert (baselines["token_layer_fraction"] == 0).all() and baselines["latency_ms_mean"].isna().all()
    sources = fixed.set_index("setting")["latency_source"]
    assert sources["confidence"] == "measured" and sources["static 4"] == tables.READ_OFF
    shuffled = fixed.set_index("setting").loc["shuffled"]
    assert shuffled["auc"] == 0.7 and np.isnan(shuffled["auc_lo"])  # the mean of many permutations, as 06 found it


def test_latency_between_measured_fixed_exits_only():
    table = pd.DataFrame({"setting": list("abcd"), "kind": "static", "token_layer_fraction": [0.1, 0.2, 0.3, 0.4],
                          "contender": ["", "packed_static_2", "packed_early_exit", "packed_static_4"]})  # fmt: skip
    latency = pd.DataFrame({"contender": ["packed_static_2", *["packed_static_4"] * 3],
                            "seconds": [1.0, 2.0, 4.0, 99.0],
                            "workload": ["drawn", "drawn", "drawn", "full"], "n_candidates": [3, 3, 3, 9]})  # fmt: skip
    marked = tables.mark_latency(table, latency)
    assert np.isnan(marked["latency_ms_mean"][0])
    assert marked["latency_ms_mean"].tolist()[1:] == pytest.approx([1000, 2000, 3000])
    assert marked["latency_source"].tolist() == ["", "measured", tables.READ_OFF, "measured"]
    assert marked["throughput_rps"][3] == pytest.approx(1 / 3)
    timed = tables.mark_latency(table.assign(token_layer_fraction_timed=[0.3, 0.2, 0.2, 0.4]), latency)
    assert timed["latency_ms_mean"].tolist() == pytest.approx([2000, 1000, 1000, 3000])
    alike = tables.mark_latency(table, latency.assign(n_candidates=3))["latency_ms_mean"]
    assert alike[3] == pytest.approx(35000)  # where all are alike the fullest ones are as good a draw
    slow = pd.DataFrame({"contender": ["packed_early_exit"], "seconds": 2.9, "workload": "drawn", "n_candidates": 3})
    again = tables.mark_latency(table.assign(token_layer_fraction=[0.25, 0.2, 0.3, 0.4]), pd.concat([latency, slow]))
    assert again["latency_ms_mean"].tolist() == pytest.approx([1500, 1000, 2900, 3000])  # no rule bends the line


def test_empty_latency_is_null_not_zero(built):
    run, judged, layers, _, _, choices = built[:6]
    empty = artifacts.read_table(run, "latency.csv").iloc[:0]
    table = report.tradeoff_table(judged, layers, artifacts.read_table(run, "policies.csv"), empty, choices, {})
    assert table[["latency_ms_mean", "throughput_rps"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="latency_ms_mean"):
        report.signature_figure(table, choices, SPEED, SPEED, report.published({}), "")


def test_stacking_uses_both_models():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 2000)
    a, b = _p(rng, label, 1.0, 0), _p(rng, label, 1.0, 0)
    both = stack(label[:1000], [a[:1000], b[:1000]], [a[1000:], b[1000:]])
    assert metrics.auc(label[1000:], both) > max(metrics.auc(label[1000:], s[1000:]) for s in (a, b)) + 0.02
    assert stack(np.ones(3), [a[:3], b[:3]], [a[3:6], b[3:6]]) == pytest.approx((a[3:6] + b[3:6]) / 2)


# --- the classic click models ---


@pytest.fixture(scope="module")
def with_classic(built, tmp_path_factory):
    """The synthetic run with click models beside it: (run, judged, layers, choices)."""
    run = artifacts.Run(tmp_path_factory.mktemp("classic"), "ml-100k", "laptop", 0)
    shutil.copytree(built[0].root, run.root, dirs_exist_ok=True)
    frame, rng = artifacts.read_table(run, "interactions.parquet"), np.random.default_rng(3)
    strengths = {"fm_same_labels": 0.2, "din_same_labels": 1.5, "fm_all_labels": 2.0, "din_all_labels": 0.1}
    scores = {name: _p(rng, frame["label"].to_numpy(), strength) for name, strength in strengths.items()}
    artifacts.write_table(run, "click_model_scores.parquet", pd.DataFrame({"row": frame["row"], **scores}))
    choices = report.choices(run) | CHOSEN
    return run, report.judge(run, choices, 50, 0), built[2], choices


def test_the_best_classic_model_of_each_training_set_is_chosen_on_validation(with_classic, tmp_path):
    run, judged, _, choices = with_classic
    assert [choices[key] for key in report.CLASSIC] == ["din_same_labels", "fm_all_labels"]
    assert {"din_same_labels", "fm_all_labels"} <= set(judged.simple) and "din_all_labels" not in judged.scores
    spoilt = artifacts.Run(tmp_path, "ml-100k", "laptop", 0)
    shutil.copytree(run.root, spoilt.root, dirs_exist_ok=True)
    split, scores = (artifacts.read_table(run, f"{name}.parquet") for name in ("split", "click_model_scores"))
    scores.loc[(split["split"] == "test").to_numpy(), scores.columns[1:]] *= -1  # on test the worst becomes the best
    artifacts.write_table(spoilt, "click_model_scores.parquet", scores)
    assert report.choices(spoilt).items() <= choices.items()


def test_the_llm_is_set_against_the_classic_models_pairwise(with_classic):
    run, judged, layers, choices = with_classic
    gains = report.frequency_gains(judged, report.training_counts(run, judged.row), report.STACKED_CLASSIC,
                                   choices["best_classic_all_labels"], 50, 0)  # fmt: skip
    found = {item["name"]: item for item in report.classic_metrics(judged, layers, choices, gains)}
    auc = {name: metrics.auc(judged.label, score) for name, score in judged.scores.items()}
    full, stacked = auc[f"both@{layers[-1]}"], auc[report.STACKED_CLASSIC]
    wanted = {"llm_minus_best_classic_same_labels": full - auc["din_same_labels"],
              "llm_minus_best_classic_all_labels": full - auc["fm_all_labels"],
              "stacked_minus_best_classic_all_labels": stacked - auc["fm_all_labels"]}  # fmt: skip
    for name, value in wanted.items():
        assert found[f"auc_{name}"]["value"] == pytest.approx(value, abs=1e-6) and found[f"auc_{name}"]["ci95"]
        assert headline.headline(list(found.values()))[f"auc_{name}"]["value"] == found[f"auc_{name}"]["value"]
    assert stacked > max(full, auc["fm_all_labels"]) - 0.01  # both know something
    said = narrative.classic_sentences(found, choices)
    assert len(said) == 3 and "on the same labels (din)" in said[0] and "on all training data (fm)" in said[2]
    table = report.tradeoff_table(judged, layers, artifacts.read_table(run, "policies.csv"),
                                  artifacts.read_table(run, "latency.csv"), choices, {})  # fmt: skip
    assert table.set_index("setting").loc["din_same_labels", "kind"] == "baseline"
    json.dumps(list(found.values()), allow_nan=False)


def test_the_gain_to_quote_is_the_smaller_one():
    def item(value):
        return {"value": value, "ci95": [value - 0.01, value + 0.01], "n": 2}

    name = "retrieval_minus_own_no_retrieval_model"
    for own, quoted in ((0.05, "+0.050"), (0.2, "+0.100")):
        values = {"auc_retrieval_gain": item(0.1), f"auc_{name}": item(own), "n_ablation_labels": item(2600)}
        said = narrative._trained_apart(values)
        assert f"the smaller one: {quoted} [" in said[1]
        assert said[0].startswith("Trained apart, on about 2,600 labels each: ") and "undecided" in said[0]
        wins = "a model with all evidence wins"
        for p, verdict in ((0.04, wins), (0.06, f"{wins} by itself, not once all declared comparisons count")):
            more = values | {f"p_adjusted_{name}": item(p), f"auc_{name}_compared": item(0.518)}
            said = narrative._trained_apart(more)[0]
            assert said.endswith(f"; {verdict}.") and f"p {p:.3f} adjusted" in said and "(AUC 0.518)" in said
    assert narrative._trained_apart({"auc_retrieval_gain": item(0.1)}) == []


def test_what_the_controls_show_is_one_sentence():
    def item(value, n=1):
        return {"value": value, "ci95": [value - 0.01, value + 0.01], "n": n}

    values = {"n_ablation_labels": item(2600)}
    assert narrative._control_sentences(values) == []
    for key, value, p in (("random_backbone", 0.02, 0.7), ("ids", -0.01, None), ("shuffled_evidence", -0.2, 0.04)):
        values |= {f"auc_{key}_minus_main": item(value), f"auc_{key}_minus_main_compared": item(0.744)}
        values |= {} if p is None else {f"p_adjusted_{key}_minus_main": item(p)}
    said, = narrative._control_sentences(values)
    assert "on about 2,600 labels each" in said and "(AUC 0.744)" in said and "titles shuffled" not in said
    assert "language model's +0.020 [+0.010, +0.030] (p 0.700 adjusted for all comparisons, trainings 1), " in said
    assert "1), higher by itself, not once all declared comparisons count;" in said
    assert "ids in place of titles -0.010 [-0.020, +0.000], undecided: no model was trained twice;" in said
    assert said.endswith("-0.200 [-0.210, -0.190] (p 0.040 adjusted for all comparisons, trainings 1), lower.")
    values |= {"auc_ids_minus_main_no_evidence": item(-0.16), "auc_ids_minus_main_no_evidence_compared": item(0.668),
               "p_adjusted_ids_minus_main_no_evidence": item(0.03)}  # fmt: skip
    assert narrative._control_sentences(values)[0] == said
    assert "no evidence: trained apart, on about 2,600 labels each with one part spoilt, less the same training " \
           "unspoilt (AUC 0.668): ids in place of titles -0.160" in narrative._control_sentences(values)[1]  # fmt: skip


def test_gains_by_frequency_equal_a_loop(with_classic):
    run, judged, _, _ = with_classic
    frame, split = (artifacts.read_table(run, f"{name}.parquet") for name in ("interactions", "split"))
    known = frame[split["split"].isin(("graph", "label"))]
    counts = report.training_counts(run, judged.row)
    for place, row in enumerate(judged.row[:40]):
        for side in ("item", "user"):
            assert counts[side][place] == (known[f"{side}_id"] == frame[f"{side}_id"][row]).sum()
    counts["item"] = np.arange(len(counts)) % 30
    counts["user"] = 7
    first, second = "both@6", "fm_all_labels"
    gains = report.frequency_gains(judged, counts, first, second, 50, 0).set_index(["side", "ratings"])
    for name, low, high in (("0", 0, 0), ("1_to_5", 1, 5), ("6_to_20", 6, 20), ("over_20", 21, 99)):
        inside = counts["item"].between(low, high).to_numpy()
        wanted = [metrics.auc(judged.label[inside], judged.scores[score][inside]) for score in (first, second)]
        clicks = judged.label[inside].sum()  # few of a class: nothing is told
        told = wanted[0] - wanted[1] if 10 <= clicks <= inside.sum() - 10 else np.nan
        assert gains.loc[("item", name), "gain"] == pytest.approx(told, nan_ok=True)
        assert gains.loc[("item", name), "n"] == inside.sum()
    assert gains.loc[("user", "6_to_20"), "n"] == len(judged.label) and np.isnan(gains.loc[("user", "0"), "gain"])
    clicked = np.flatnonzero(judged.label)
    counts["item"] = np.where(np.isin(np.arange(len(counts)), clicked[:9]) | (judged.label == 0), 3, 30)
    few = report.frequency_gains(judged, counts, first, second, 50, 0).set_index(["side", "ratings"]).loc["item"]
    assert few.loc["1_to_5", "n"] > 9 and np.isnan(few.loc["1_to_5", ["gain", "gain_lo"]].astype(float)).all()
    text = report.frequency_table(gains.reset_index())
    assert "too few rows" in set(text["stacked less classic"]) and "1 to 5" in set(text["number"])


def test_a_run_without_classic_models_says_nothing_of_them(built):
    _, judged, layers, _, _, choices, found = built
    assert not set(report.CLASSIC) & set(choices) and report.STACKED_CLASSIC not in judged.scores
    assert report.classic_metrics(judged, layers, choices, pd.DataFrame()) == []
    assert found["headline"]["auc_llm_minus_best_classic_same_labels"] is None
    assert not any("classic" in text for text in report.findings(found))


# --- metrics.json ---


def test_headline_has_exactly_the_promised_names(built):
    found = built[-1]
    assert tuple(found["headline"]) == report.HEADLINE and len(report.HEADLINE) == 45
    assert found["headline"]["token_layer_fraction"] is None  # the synthetic 06 did not measure it
    for name in ("auc_early_exit", "auc_llm_minus_evidence_model", "layer_of_95_percent_of_gain_with_evidence"):
        assert set(found["headline"][name]) == {"value", "ci95", "n", "unit"}
    assert found["not_measured"] == ["00", "01", "02", "03", "04", "05"]
    json.dumps(found, allow_nan=False)


def test_headline_of_nothing_is_null():
    assert set(headline.headline([]).values()) == {None}
    null = artifacts.metric("auc_early_exit", None, "AUC")
    assert headline.headline([null])["auc_early_exit"] is None


def test_one_name_with_two_values_stays_two_entries():
    one, two = artifacts.metric("a", 1, "AUC"), artifacts.metric("a", 2, "AUC")
    assert headline.merge_metrics({"05": [one], "08": [one]}) == [one]
    assert [m["name"] for m in headline.merge_metrics({"05": [one], "08": [two]})] == ["a", "a_08"]
    other_split = artifacts.metric("a", 2, "AUC", split="validation")
    assert headline.merge_metrics({"05": [one], "08": [other_split]}) == [one, other_split]


def test_source_hash_ignores_outputs(tmp_path):
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "code", "source": ["1 + 1"], "outputs": []}
    path = tmp_path / "notebooks" / "a.ipynb"
    hashes = []
    for outputs, source in (([], "1 + 1"), ([{"text": "2"}], "1 + 1"), ([], "1 + 2")):
        path.write_text(json.dumps({"cells": [cell | {"outputs": outputs, "source": [source]}]}))
        hashes.append(headline.source_hash(tmp_path))
    assert hashes[0] == hashes[1] != hashes[2]


# --- sentences and pages ---


@pytest.mark.parametrize(("value", "ci95", "word"), [
    (0.1, (0.05, 0.2), "; A wins."), (-0.1, (-0.2, -0.05), "; B wins."), (0.1, (-0.1, 0.2), "inconclusive"),
    (0.1, None, "nothing is claimed"), (None, None, "not measured"),
])  # fmt: skip
def test_verdict_names_the_winner_or_none(value, ci95, word):
    assert word in report.verdict({"value": value, "ci95": ci95}, "A", "B")


def test_all_null_headline_renders(built):
    empty = {**built[-1], "metrics": [], "headline": dict.fromkeys(report.HEADLINE), "choices": {}}
    assert "not measured" in report.summary(empty)
    lines = report.readme_table(empty).splitlines()
    assert len(lines) == 7 and all(line.count("|") == 3 for line in lines)
    assert "nan" not in report.summary(empty).lower().replace("nance", "")


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        for name, value in attrs:
            assert name != "src" or value.startswith("data:image/png;base64,")


def test_report_html_is_self_contained_and_escaped(built):
    text = report.to_html(report.report_blocks(built[0], artifacts.read_json(built[0], "metrics.json"), 20))
    parser = _Tags()
    parser.feed(text)
    assert not parser.seen & {"script", "link", "a", "iframe"} and "img" in parser.seen
    assert not {name for name in parser.attributes if name.startswith("on")}
    assert "&lt;script&gt;" in text and not set(text) & set("\x00\u202e\u200b")


def test_report_markdown_keeps_titles_as_text(built):
    text = built[0].path("report.md").read_text()
    assert "<script" not in text and not re.search(r"(?<!\\)\]\((?!figures/)", text)
    assert not set(text) & set("\x00\u202e\u200b")
    assert r"\*bold\*" in text


@given(st.text())
def test_escaping_leaves_no_markup(text):
    assert not set(page.escape_html(text)) & set("<>\"'\n\r\x00")
    escaped = page.escape_markdown(text)
    assert not set(escaped) & set("<>\n\r\x00")
    bare = escaped.replace("\\\\", "")
    assert all(bare[i - 1] == "\\" for i, c in enumerate(bare) if c in "`*_[]|")


def test_examples_are_few_and_known(built):
    rows = narrative.examples(built[0], 4)
    assert len(rows) == 4 and {row["title"] for row in rows} <= set(HOSTILE)
    assert len({row["row"] for row in rows}) == 4
    assert all("The others" in row["prompt"] for row in rows)


def test_published_numbers_carry_their_evidence_class(built):
    table = comparison.published(built[-1] | {"dataset": "bookcrossing"})
    assert set(table["evidence_class"]) <= set(comparison.CLASSES)
    assert table[["metric", "dataset", "unit", "source", "where"]].ne("").all(axis=None)
    values = {name: item["value"] for name, item in built[-1]["headline"].items() if item}
    gcn = table.set_index("metric").loc["auc_gcn_retriever", "our_value"]
    assert gcn == pytest.approx(100 * values["auc_full_depth_similar_users_only"])
    assert np.isnan(table.set_index("metric").loc["auc_llm_retriever", "our_value"])
    elsewhere = table[table["dataset"].str.contains("Amazon|MovieLens")]  # another dataset's number is no neighbour
    assert len(elsewhere) > 4 and elsewhere["our_value"].isna().all() and elsewhere["ours"].eq("").all()


# --- make check ---


def _state(table, name):
    return table.set_index("name").loc[name, "state"]


def _changed(found, name, **fields):
    other = copy.deepcopy(found)
    for item in other["metrics"]:
        if item["name"] == name:
            item.update(fields)
    return other


def test_a_run_agrees_with_itself(built):
    table = report.compare(built[-1], built[-1], {})
    assert not (table["state"] == "fail").any()
    assert _state(table, "n_judged_test_rows") == "pass"
    assert _state(table, "throughput_ratio_early_exit_vs_plain") == "shown"
    assert _state(table, "auc_early_exit_minus_evidence_model") == "inconclusive"


@pytest.mark.parametrize(("name", "value", "fits"), [
    ("base_rate_drop_graph_to_test", -0.1, True), ("base_rate_drop_graph_to_test", -1.1, False),
    ("auc_users_as_studied", 6695.0, False), ("auc_early_exit_minus_full_depth", -0.1, True),
])  # fmt: skip
def test_a_difference_may_be_negative_and_nothing_may_leave_its_range(name, value, fits):
    item = {"name": name, "value": value, "ci95": None, "unit": "fraction" if "rate" in name else "AUC"}
    rows = comparison.invariants({"headline": dict.fromkeys(report.HEADLINE), "metrics": [item]})
    assert [row["state"] for row in rows] == ["pass" if fits else "fail"]


@pytest.mark.parametrize(("name", "value"), [
    ("auc_full_depth_retrieval", 0.1), ("auc_full_depth_retrieval", None), ("n_judged_test_rows", 1),
    ("auc_early_exit", 1.2),
])  # fmt: skip
def test_check_can_fail(built, name, value):
    table = report.compare(built[-1], _changed(built[-1], name, value=value), {})
    assert "fail" in table.loc[table["name"] == name, "state"].tolist()


def test_measured_deviation_is_the_tolerance(built):
    name, wanted = "auc_full_depth_retrieval", built[-1]
    value = {item["name"]: item["value"] for item in wanted["metrics"]}[name]
    for shift, deviation, state in ((0.029, 0.01, "pass"), (0.031, 0.01, "fail")):
        moved = _changed(wanted, name, value=value - shift)
        trivial_far = _changed(wanted, "auc_best_trivial_baseline", value=0.5)
        assert _state(report.compare(trivial_far, moved, {name: deviation}), name) == state


@pytest.mark.parametrize(("name", "unit", "ci95", "allowed"), [
    ("auc_dynamic_minus_static_same_cost", "AUC", (-0.001, 0.001), 0.01), ("auc_x", "AUC", (0.7, 0.8), 0.05),
    ("mean_exit_fraction", "fraction of layers", (0.139, 0.142), 0.1), ("share", "fraction", None, 0.1),
    ("layer_of_95_percent_of_gain_with_evidence", "layer", (4, 4), 5), ("something", "AUC", None, None),
])  # fmt: skip
def test_tolerance_without_a_measured_deviation(name, unit, ci95, allowed):
    item = {"name": name, "unit": unit, "ci95": ci95, "split": "test"}
    assert comparison.tolerance(item, {}) == (allowed if allowed is None else pytest.approx(allowed))
    assert comparison.tolerance(item, {name: 0.002}) == pytest.approx(0.006)
    on_validation = item | {"split": "validation"}  # deviations are of test: another split's entry has none
    assert comparison.tolerance(on_validation, {name: 0.002}) == comparison.tolerance(item, {})


def test_tolerance_that_reaches_the_trivial_baseline_never_passes(built):
    name, found = "auc_full_depth_retrieval", built[-1]
    assert _state(report.compare(found, found, {name: 1.0}), name) == "inconclusive"
    assert _state(report.compare(found, found, {"auc_retrieval_gain": 1.0}), "auc_retrieval_gain") == "inconclusive"


@pytest.mark.parametrize("key", ["data", "split", "sampling"])
def test_other_data_or_split_fails(built, key):
    other = copy.deepcopy(built[-1])
    other["hashes"][key] = "0" * 64
    assert _state(report.compare(built[-1], other, {}), key) == "fail"


def test_another_asset_fails_and_an_added_one_does_not(built):
    found = built[-1]
    wanted, changed = copy.deepcopy(found), copy.deepcopy(found)
    wanted["hashes"]["assets"] = {"recbole": "a" * 64}
    changed["hashes"]["assets"] = {"recbole": "b" * 64, "new": "c" * 64}
    assert _state(report.compare(wanted, changed, {}), "asset recbole") == "fail"
    changed["hashes"]["assets"]["recbole"] = "a" * 64
    assert not (report.compare(wanted, changed, {})["state"] == "fail").any()


def test_another_seed_shows_counts(built):
    other = _changed(built[-1], "n_judged_test_rows", value=7) | {"seed": 1}
    assert _state(report.compare(built[-1], other, {}), "n_judged_test_rows") == "shown"


def test_missing_headline_name_breaks_an_invariant(built):
    other = copy.deepcopy(built[-1])
    del other["headline"]["auc_early_exit"]
    assert _state(report.compare(built[-1], other, {}), "headline") == "fail"


def test_seed_deviation():
    runs = [{"seed": seed, "metrics": [artifacts.metric("a", value, "AUC"), artifacts.metric("t", 1, "s", "time")]}
            for seed, value in ((0, 0.7), (1, 0.8))]  # fmt: skip
    assert report.seed_deviation(runs) == {"a": pytest.approx(np.std([0.7, 0.8], ddof=1), abs=1e-6)}
    with pytest.raises(ValueError, match="two or more"):
        report.seed_deviation(runs[:1])


# --- make reference and the command line ---


@pytest.fixture
def places(built, tmp_path, monkeypatch):
    """RUN_DIR with the built run's files, and a reference folder of its own."""
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(reference.folder, "__defaults__", (tmp_path / "reference",))
    monkeypatch.setattr(reference.make, "__defaults__", (tmp_path / "reference",))
    monkeypatch.setattr(reference.read, "__defaults__", (tmp_path / "reference",))
    monkeypatch.setattr(reference.losses, "__defaults__", (tmp_path / "reference",))
    target = artifacts.open_run("ml-100k", "laptop", 0)
    target.root.rmdir()
    shutil.copytree(built[0].root, target.root)
    return target, tmp_path / "reference" / "ml-100k" / "laptop"


def test_reference_then_check(places, capsys, tmp_path, monkeypatch):
    run, folder = places
    readme = tmp_path / "README.md"  # never the real one
    readme.write_text("a <!-- results:start --><!-- results:end --> b <!-- expect:start --><!-- expect:end --> c")
    page = tmp_path / "full_profile.md"
    page.write_text("<!-- hours:start --><!-- hours:end -->")
    monkeypatch.setattr("eestudy.report.__main__.README", readme)
    monkeypatch.setattr("eestudy.report.__main__.FULL_PROFILE", page)
    notebook = {"cells": [{"cell_type": "code", "source": "", "metadata": {"papermill": {"x": 1}}, "outputs": [
        {"output_type": "stream", "text": [f"read {run.root}/items\n", *[f"{HOSTILE[1]}\n"] * 30]},
        {"output_type": "stream", "text": [f"read {run.root}/items\n"]}]}], "metadata": {"papermill": {}}}  # fmt: skip
    (run.root / "notebooks").mkdir()
    (run.root / "notebooks" / "01_data.ipynb").write_text(json.dumps(notebook))
    assert main(["reference"]) == 0
    (folder / "seed_deviation.json").write_text("{}")
    assert main(["reference"]) == 0 and (folder / "seed_deviation.json").exists()
    copied = (folder / "notebooks" / "01_data.ipynb").read_text()
    assert HOSTILE[1][:6] not in copied and "left out" in copied and "papermill" not in copied
    assert str(run.root) not in copied and "<run>/items" in copied
    assert len(json.loads((folder / "examples.json").read_text())) <= 20
    assert json.loads((folder / "provenance.json").read_text())["versions"]["numpy"]
    assert (folder / "figures" / "08_tradeoff_token_layers.png").exists()
    assert main(["check"]) == 0
    assert "fail: 0" in capsys.readouterr().out
    found = artifacts.read_json(run, "metrics.json")
    artifacts.write_json(run, "metrics.json", _changed(found, "auc_full_depth_retrieval", value=0.1))
    assert main(["check"]) == 1
    assert "auc_full_depth_retrieval" in capsys.readouterr().out
    assert main(["summary"]) == 0
    assert "| ml-100k |" in page.read_text()
    once = readme.read_text()
    assert "| AUC at full depth" in once and once.startswith("a ") and once.endswith(" c")
    assert main(["readme"]) == 0
    assert readme.read_text() == once


def test_a_new_reference_says_what_it_loses(places):
    run, folder = places
    assert reference.losses(run, folder.parents[1]) == []
    folder.mkdir(parents=True)
    for name in ("bench_race.csv", "bench_growth.csv", "probes.csv", "latency.csv"):
        (folder / name).write_text("a\n1\n")
    artifacts.write_bytes(run, "bench_growth.csv", b"a\n2\n")
    bench, probes = reference.losses(run, folder.parents[1])
    assert bench.startswith("bench_race.csv of the old reference") and "make bench DATASET=ml-100k" in bench
    assert probes.startswith("probes.csv") and "make probes DATASET=ml-100k PROFILE=laptop SEED=0" in probes


def test_counts_only_reference_keeps_no_quality(built):
    kept = reference.counts_only(built[-1])
    assert {item["kind"] for item in kept["metrics"]} == {"count"}
    assert tuple(kept["headline"]) == report.HEADLINE and set(kept["headline"].values()) == {None}
    assert not (report.compare(kept, built[-1], {})["state"] == "fail").any()
    table = report.compare(kept, _changed(built[-1], "n_judged_test_rows", value=1), {})
    assert _state(table, "n_judged_test_rows") == "fail"


def test_check_without_reference_or_run_says_what_to_do(places, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="make reference"):
        main(["check"])
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="make reproduce"):
        main(["summary"])
    with pytest.raises(SystemExit, match="nope"):
        main(["check", "--dataset", "nope"])


def test_titles_are_counted_over_notebooks():
    def book(lines):
        return {"cells": [{"outputs": [{"data": {"text/plain": "\n".join(["Toy Story"] * lines)}}]}]}

    kept, dropped = book(3), book(3)
    left = reference.limit_titles(kept, ["Toy Story", "M"], 5)
    assert left == 2 and "data" in kept["cells"][0]["outputs"][0]
    assert reference.limit_titles(dropped, ["Toy Story"], left) == 2
    assert dropped["cells"][0]["outputs"][0]["text"] == reference.LEFT_OUT


# --- figures ---


def test_settings_that_are_equal_share_a_mark():
    same = {"token_layer_fraction": 0.5, "mean_exit_fraction": 0.4, "gauc": 0.7, "log_loss": 0.5, "ece": 0.1}
    table = pd.DataFrame([{"setting": name, **same, "auc": auc} for name, auc in
                          (("margin", 0.8), ("ratio", 0.79), ("entropy", 0.8), ("patience", 0.8 + 1e-12))])  # fmt: skip
    assert figures.equal_settings(table, "margin") == [["margin", "entropy", "patience"], ["ratio"]]
    assert figures.equal_settings(table, "ratio") == [["ratio"], ["entropy", "margin", "patience"]]


def test_figures_have_titles_and_labels(built):
    curves, table = built[3], built[4]
    made = [report.depth_figure(curves, table, ["item_mean"]), report.loss_figure(curves, 0.69),
            report.tradeoff_figure(table, "confidence"), signature_of(built)]  # fmt: skip
    for figure in made:
        assert figure.get_suptitle() or figure.axes[0].get_title(loc="left")
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)
    figures.plt.close("all")


SPEED, LEAVING = {"value": 4.0, "ci95": (3.0, 5.0)}, {"value": 2.0, "ci95": (1.5, 2.5)}


def signature_of(built, title="What was found."):
    clicks = pd.DataFrame({"model": ["logistic"], "training": ["same"], "single_us": [500.0]})
    table = pd.concat([built[4], pd.DataFrame([{**built[4][built[4]["kind"] == "baseline"].iloc[-1],
                                                "setting": "logistic_same_labels"}])])  # fmt: skip
    timed = report.timed_classics(table, clicks, artifacts.read_table(built[0], "latency.csv"))
    assert timed.set_index("setting").loc["logistic_same_labels", "latency_ms_mean"] == 4.0  # eight calls of 0.5 ms
    assert timed["latency_ms_mean"].notna().sum() == table["latency_ms_mean"].notna().sum() + 1
    return report.signature_figure(timed, built[5] | {"policy": "confidence"}, SPEED, LEAVING, report.published({}),
                                   title)


def test_the_signature_figure_names_what_it_shows_and_the_class_of_the_claim(built):
    figure = signature_of(built)
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(name in said for name in ("early exit (confidence)", "plain way", "logistic same labels",
                                         "4.0 [3.0, 5.0]", "1.19 times (class D)"))  # fmt: skip
    figures.plt.close("all")


@pytest.mark.parametrize(("loss", "rival", "said"), [
    ((0.01, 0.02), (-0.03, -0.01), ("gains accuracy", "less accurate than")),
    ((-0.02, -0.01), (0.01, 0.03), ("at a price", "more accurate than")),
    ((-0.01, 0.02), (-0.01, 0.03), ("no loss of accuracy shown", "not shown to differ")),
    (None, None, ("no loss of accuracy shown", "not shown to differ"))])  # fmt: skip
def test_the_takeaway_follows_from_its_intervals(loss, rival, said):
    text = report.takeaway(SPEED, LEAVING, {"value": 0.0, "ci95": loss}, {"value": 0.0, "ci95": rival}, "din")
    assert all(words in text for words in (*said, "an LLM (din: ", "4.0 [3.0, 5.0] times"))
    assert "2.0 [1.5, 2.5] times as many as full depth" in text


def test_a_ratios_bound_never_reads_as_no_difference():
    slower = {"value": 0.904, "ci95": (0.8, 0.9992), "unit": "ratio"}
    assert verdicts.with_interval(slower, 1) == "0.904 [0.800, 0.999]"
    assert verdicts.with_interval(slower | {"unit": "AUC"}, 1) == "0.9 [0.8, 1.0]"


def test_the_classic_models_are_told_in_auc_and_log_loss():
    item = {"value": 0.01, "ci95": (0.005, 0.02), "n": 9}
    name = "llm_minus_best_classic_same_labels"
    said, = report.classic_sentences({f"auc_{name}": item, f"log_loss_{name}": item},
                                     {"best_classic_same_labels": "din_same_labels"})  # fmt: skip
    assert "(din)" in said and said.endswith("wins; log loss, where less is better, +0.010 [+0.005, +0.020] nats.")


def test_a_bound_that_is_not_zero_never_reads_as_zero():
    assert verdicts.with_interval({"value": 0.0012, "ci95": (0.0003, 0.002)}) == "0.0012 [0.0003, 0.0020]"
    assert verdicts.with_interval({"value": 0.0012, "ci95": (0.0, 0.002)}) == "0.001 [0.000, 0.002]"
    assert verdicts.with_interval({"value": 0.0, "ci95": (-1e-9, 1e-9)}) == "0.00000 [0.00000, 0.00000]"


def test_without_the_papers_row_no_claim_is_drawn():
    assert signature.claimed(report.published({}).query("metric != 'throughput_ratio'")) is None


def test_readme_answer_says_no_more_than_the_intervals(built):
    def item(name, value, ci95):
        return {"name": name, "value": value, "ci95": ci95, "n": 9, "unit": "AUC", "kind": "quality", "split": "test"}

    intervals = ((-0.1, 0.1), (0.01, 0.1), (-0.2, -0.01), *[(-0.1, 0.1)] * 6)
    found = [item(f"auc_{name}", 0.0, ci95) for name, ci95 in zip(readme.ANSWERED, intervals, strict=True)]
    found.append(item("throughput_ratio_early_exit_vs_plain", 9.0, (8.0, 10.0)))
    found += [item("modal_exit_share", 0.9, None), item("modal_exit_layer", 4.0, None)]
    found.append(item("throughput_ratio_early_exit_vs_static_selected", 0.5, (0.4, 0.6)))
    found.append(item("throughput_ratio_early_exit_vs_packed_full_depth_as_they_come", 3.0, (2.0, 4.0)))
    text = readme.readme_answer({"metrics": found, "headline": {}})
    assert text.count("no difference shown") == 7 and text.count("better") == 1 and text.count("worse") == 1
    assert "90 % of the candidates leave after layer 4" in text and "slower than that, 0.50 [0.40, 0.60]" in text
    assert "9.0 [8.0, 10.0] times" in text and "worth 3.0 [2.0, 4.0] times" in text
    assert "Random weights" not in text
    found += [item("auc_random_backbone_minus_main", -0.1, (-0.2, -0.01)), item("n_ablation_labels", 2600.0, None)]
    for p, said in ((None, "undecided: no model was trained twice"), (0.01, "it does"),
                    (0.2, "it does by itself, not once all declared comparisons count")):  # fmt: skip
        more = [*found, item("p_adjusted_random_backbone_minus_main", p, None)]
        told = readme.readme_answer({"metrics": more, "headline": {}}).partition("Random weights")[2]
        assert told.endswith(f"on about 2,600 labels, AUC -0.100 [-0.200, -0.010]: {said}.")
    assert readme.readme_answer({"metrics": found[:3], "headline": {}}) == "Not all of it is measured yet."
    assert "whom one asks" not in text
    found += [item("auc_others_mean_graph_minus_random", -0.02, (-0.04, -0.01)),
              item("auc_others_mean_graph_minus_everybody", 0.004, (-0.01, 0.02)),
              item("auc_llm_reading_gcn_minus_random_retriever", 0.03, (0.01, 0.05)),
              item("auc_llm_reading_gcn_minus_llm_retriever", 0.02, (-0.01, 0.04)),
              item("retriever_lookup_ratio_llm_vs_gcn", 3028.4, (2590.0, 3464.0))]  # fmt: skip
    told = readme.readme_answer({"metrics": found, "headline": {}}).partition("whom one asks?")[2]
    assert "at random: worse, -0.020 [-0.040, -0.010]; against all who may be asked: no difference shown, " in told
    assert "Read by the LLM, against one random draw: +0.030 [+0.010, +0.050]. " in told
    assert "untuned: no difference shown, +0.020 [" in told
    assert "takes 3,028 [2,590, 3,464] times" in told


def test_readme_tells_how_other_datasets_fare_and_judges_by_their_intervals():
    def measured(dataset, loss, low, high):
        entries = [artifacts.metric("throughput_ratio_early_exit_vs_plain_as_they_come", 2.0, "ratio", ci95=(1.0, 3.0)),
                   artifacts.metric("auc_early_exit_minus_full_depth", loss, "AUC", ci95=(low, high))]
        return {"dataset": dataset, "metrics": entries}

    found = [measured("a", -0.1, -0.2, -0.05), measured("b", 0.0, -0.1, 0.1), {"dataset": "c", "metrics": []}]
    text = readme.readme_elsewhere(found, "b")
    assert "a 2.0 [1.0, 3.0] times, worse in AUC (-0.100 [-0.200, -0.050])" in text and "no difference" not in text
    assert "no difference shown" in readme.readme_elsewhere(found, "a")
    assert readme.readme_elsewhere(found[2:], "a") == "\n" and "ask" not in text
    chance = artifacts.metric("auc_others_mean_graph_minus_random", -0.02, "AUC", ci95=(-0.04, -0.01))
    found[2]["metrics"].append(chance)
    assert readme.readme_elsewhere(found[2:], "a").endswith("them): c worse (-0.020 [-0.040, -0.010]).\n")
    assert readme.readme_elsewhere(found[2:], "c") == "\n"


# --- all datasets ---


def test_the_table_over_datasets_shows_every_reference(tmp_path):
    def entry(name, value, split="test"):
        return artifacts.metric(name, value, "AUC", ci95=(value - 0.01, value + 0.01), n=9, split=split)

    measured = [entry("auc_full_depth_retrieval", 0.8), entry("auc_retrieval_gain", 0.1), entry("auc_early_exit", 0.79),
                entry("gauc_users_kept", 0.25), entry("gauc_early_exit", 0.71),
                entry("throughput_ratio_early_exit_vs_plain_as_they_come", 2.0),
                entry("auc_full_depth_retrieval", 0.1, split="validation")]  # fmt: skip
    for name, items in (("b", measured), ("a", [])):
        path = tmp_path / name / "laptop" / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"dataset": name, "metrics": items}))
    found = datasets.read_references(root=tmp_path)
    tables = datasets.dataset_tables(found)
    assert len(tables) == 4
    for table in tables:
        assert table.iloc[:, 0].tolist() == ["a", "b"] and table.iloc[0, 1:].str.startswith("not measured").all()
    auc, gains, within, cost = tables
    assert within.loc[1, "users who count"] == "25 %" and within.loc[1, "early exit"] == "0.710 [0.700, 0.720]"
    assert cost.loc[1, "ours against plain"] == "2.0 [2.0, 2.0]"
    assert cost.loc[1, "fullest: ours against plain"] == "not measured"
    assert auc.loc[1, "all evidence"] == "0.800 [0.790, 0.810]"
    assert gains.loc[1, "evidence less none"] == "+0.100 [+0.090, +0.110]"
    own = {"dataset": "b", "profile": "laptop", "metrics": [entry("auc_full_depth_retrieval", 0.9)], "headline": {}}
    beside = datasets.beside_references(own, tmp_path)
    assert beside == [own]  # its own reference gives way, the other one holds nothing
    assert datasets.beside_references(own | {"dataset": "c"}, tmp_path)[0]["dataset"] == "b"


def test_two_sizes_of_a_run_stand_side_by_side_and_a_difference_says_what_its_interval_shows(tmp_path):
    def entry(name, value, half, split="test"):
        ends = None if half is None else (value - half, value + half)
        return artifacts.metric(name, value, "AUC", ci95=ends, n=9, split=split)

    loss = "auc_early_exit_minus_full_depth"
    for profile, half in (("laptop", 0.02), ("overnight", 0.005), ("smoke", 0.1)):
        entries = [entry(loss, -0.01, half), entry("training_labels", 5412, None, "label"),
                   entry("training_labels", 7, None)]  # fmt: skip
        path = tmp_path / "a" / profile / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"dataset": "a", "profile": profile, "metrics": entries}))
    found = sizes.read_sizes("a", tmp_path)
    table = sizes.size_table(found).set_index("what")
    assert list(table) == ["laptop", "overnight"]
    told = table.loc["AUC: early exit less full depth, all evidence"]
    assert told.tolist() == ["-0.010 [-0.030, +0.010]: no difference shown", "-0.010 [-0.015, -0.005]: lower"]
    assert table.loc["label rows the LLM learned from"].tolist() == ["5,412", "5,412"]
    assert (table.loc["AUC early exit"] == "not measured").all() and (table.loc["test users"] == "not measured").all()
    assert sizes.read_sizes("b", tmp_path) == []
    said = sizes.changed_answers(found)
    assert "early exit less full depth, all evidence -0.010 [-0.015, -0.005]: lower (before: -0.010 [-0.030, " in said
    assert said.count("before") == 1 and sizes.changed_answers(found[:1]) == ""
    assert "no answer changes" in sizes.changed_answers([found[0], found[0]])


def test_references_of_other_sources_are_told_apart():
    def made(dataset, source):
        return {"dataset": dataset, "source_hash": source}

    text, = datasets.made_by([made("a", "1"), made("b", "2"), made("c", "1")])
    assert "same sources: a, c; b." in text
    assert datasets.made_by([made("a", "1"), made("b", "1")]) == []


def reading(**changed):
    """Entries that the sentences on retrieval are made of: name -> (value, low, high)."""
    found = {"auc_retrieval_gain": (0.1, 0.05, 0.15), "auc_similar_users_gain": (0.01, -0.01, 0.03),
             "evidence_n_item_median_test": (3.0, 3.0, 3.0), "evidence_without_others_test": (0.25, 0.25, 0.25),
             "auc_others_mean": (0.6, 0.5, 0.7), "auc_others_mean_graph_minus_random": (0.001, -0.01, 0.012),
             "auc_item_mean_before_request": (0.59, 0.5, 0.6)} | changed  # fmt: skip
    return {name: artifacts.metric(name, value, "AUC", ci95=(low, high), n=9)
            for name, (value, low, high) in found.items()}


def test_retrieval_is_said_to_help_only_where_its_interval_does():
    effect, density, popularity = retrieval.retrieval_sentences(reading())
    assert "all of it, raises AUC by +0.100 [+0.050, +0.150]" in effect
    assert "as in the paper, shows no effect on AUC, +0.010 [-0.010, +0.030]" in effect
    assert "from 3 users" in density and "25.0 %" in density
    assert "no difference shown, though one of up to 0.012 is not excluded" in popularity
    assert "item's mean 0.590" in popularity
    worse = reading(auc_similar_users_gain=(-0.1, -0.2, -0.05), auc_others_mean_graph_minus_random=(0.1, 0.05, 0.2))
    effect, _, popularity = retrieval.retrieval_sentences(worse)
    assert "lowers AUC by -0.100" in effect and "it matters whom one asks" in popularity
    assert retrieval.retrieval_sentences({}) == []


def test_the_graphs_neighbours_stand_beside_random_ones():
    found = reading(auc_match=(0.7, 0.6, 0.8), auc_llm_reading_gcn_minus_random_retriever=(0.01, -0.02, 0.04),
                    auc_others_mean_graph_minus_random=(-0.03, -0.05, -0.01),
                    auc_others_mean_graph_minus_everybody=(-0.04, -0.06, -0.02))  # fmt: skip
    popularity, said = retrieval.retrieval_sentences(found)[-2:]
    assert ("-0.030 [-0.050, -0.010] against random ones, as alike as the graph finds those: random ones tell more; "
            "against all there are -0.040 [-0.060, -0.020]. ") in popularity  # fmt: skip
    assert said.endswith("random ones: AUC +0.010 [-0.020, +0.040] (over users; another draw would differ).")
    del found["auc_llm_reading_gcn_minus_random_retriever"]
    assert len(retrieval.retrieval_sentences(found)) == 3


def test_it_is_said_whether_neighbours_tell_more_than_plain_means():
    means = {"auc_user_mean": (0.72, 0.68, 0.75), "auc_llm_minus_item_plus_user_mean": (-0.06, -0.09, -0.04),
             "auc_evidence_logistic_minus_item_plus_user_mean": (0.002, -0.007, 0.012)}  # fmt: skip
    said = retrieval.retrieval_sentences(reading(**means))[1]
    assert "ratings alone has an AUC of 0.720" in said and "+0.002 [-0.007, +0.012] (no more is shown)" in said
    assert "-0.060 [-0.090, -0.040] (less)" in said
    nobody_rates = reading(**means | {"auc_user_mean": (0.5, 0.5, 0.5)})
    assert len(retrieval.retrieval_sentences(nobody_rates)) == 3


def test_the_papers_figures_stand_beside_ours_of_the_same_dataset(built):
    head = built[-1]["headline"]
    ours = {"dataset": "bookcrossing", "metrics": [], "headline": head}
    table = datasets.paper_table([ours, {"dataset": "ml-100k", "metrics": [], "headline": head}])
    assert len(table) == 3 and table["the paper"].str.startswith("BookCrossing: ").all()
    row = table[table["published"] == "72.51 percent"].iloc[0]
    assert row["class"] == "T" and "auc full depth similar users only" in row["nearest of ours"]


# --- the page of the full profile ---


@pytest.mark.parametrize("shape", [full_profile.SMALL, *full_profile.LARGE], ids=lambda shape: shape.name)
def test_sizes_are_those_of_the_models(shape):
    kind = transformers.Qwen3Config if shape.query_norm else transformers.LlamaConfig
    cfg = kind(hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
               num_key_value_heads=shape.key_heads, head_dim=shape.head_dim, intermediate_size=shape.inner,
               vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied)  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(cfg)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in adapted.parameters() if not p.requires_grad)
    assert (shape.parameters, shape.adapter(16)) == (frozen, trained)


def kept_per_token(shape):
    """Bytes that autograd keeps of a token in one layer of a random model: four layers less two."""
    kind = transformers.Qwen3Config if shape.query_norm else transformers.LlamaConfig
    found = []
    for n_layers in (2, 4):
        cfg = kind(hidden_size=shape.hidden, num_hidden_layers=n_layers, num_attention_heads=shape.heads,
                   num_key_value_heads=shape.key_heads, head_dim=shape.head_dim, intermediate_size=shape.inner,
                   vocab_size=99)  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(cfg, attn_implementation=backbone.ATTENTION,
                                                              dtype=torch.bfloat16)  # fmt: skip
        model = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules="all-linear"))
        pack, weights = backbone.make_pack([1] * 20, [[2] * 9] * 20), {p.data_ptr() for p in model.parameters()}
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            list(backbone.exit_states(model, pack, [n_layers]))
        stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept
                  if t.data_ptr() not in weights}  # fmt: skip
        found.append(sum(stores.values()) / 200)
    return (found[1] - found[0]) / 2


@pytest.mark.parametrize("widths", [(256, 4, 4, 64, 704, False), (256, 8, 2, 32, 896, False),
                                    (512, 8, 2, 64, 1792, False), (256, 8, 2, 64, 704, True)])  # fmt: skip
def test_what_a_layer_keeps_of_a_token_is_what_autograd_keeps(widths):
    hidden, heads, key_heads, head_dim, inner, query_norm = widths
    shape = full_profile.Shape("x", hidden, 4, heads, key_heads, head_dim, inner, 99, False, query_norm)
    assert shape.kept_per_token == pytest.approx(kept_per_token(shape), rel=0.05)


def test_memory_and_work_grow_as_stated():
    shape = full_profile.LARGE[0]
    one, two = (full_profile.training_memory(shape, 16, tokens, False) for tokens in (500, 1000))
    assert two["activations"] == 2 * one["activations"] and two["weights"] == one["weights"]
    less = full_profile.training_memory(shape, 16, 500, True)
    assert less["activations"] < one["activations"] / 5
    plain, again = (full_profile.work(shape, 1e6, 1e6, kept) for kept in (False, True))
    assert again[0] == 1.5 * plain[0] and again[1] == plain[1] == plain[0] / 2


def test_the_committed_page_is_what_the_references_give():
    text = (artifacts.ROOT / "results" / "full_profile.md").read_text()
    blocks = full_profile.full_profile_blocks(datasets.read_references())
    assert readme.fill(text, blocks) == text and all(f"<!-- {name}:start -->" in text for name in blocks)


def test_the_promise_is_told_by_bound_and_not_measured_without_it():
    names = {"violation_rate_max": 0.012, "none_qualifies_at_5_percent": 0.25, "token_layers_saved_at_5_percent": 0.4,
             "real_at_5_percent": 0.031, "none_qualifies_at_1_percent": 1.0,
             "none_qualifies_at_1_percent_300_users": 0.0}  # fmt: skip
    values = {f"risk_{name}": artifacts.metric(f"risk_{name}", value, "fraction of draws")
              for name, value in names.items()}  # fmt: skip
    text = narrative._risk_sentence(values)
    assert text.index("1 %: none qualifies in 1.000") < text.index("5 %: none qualifies in 0.250")
    assert "0.400 of the token-layers saved on average" in text and "0.012" in text
    assert "in the one real calibration: none qualifies" in text  # full depth: no risk was estimated
    values["risk_real_at_5_percent"]["ci95"] = [0.02, 0.05]
    assert "the one real calibration: risk on test rows 0.0310 [0.0200, 0.0500]" in narrative._risk_sentence(values)
    assert "300" not in text and narrative._risk_sentence({}).endswith("not measured.")


def test_groups_that_leaving_early_harms_are_named_with_their_interval():
    def told(**ends):
        return narrative._harmed_sentence({f"{narrative.WHOSE}{name}": {"name": name, "value": -0.01, "ci95": ci95}
                                           for name, ci95 in ends.items()})  # fmt: skip

    assert told(similar_users_only=[-0.02, -0.01], no_retrieval=[-0.02, -0.01]) == []  # kinds of evidence, no groups
    said, = told(the_users_ratings_before_second=[-0.02, -0.005], similar_users_found_none=[-0.02, 0.001],
                 gender_female=None)  # fmt: skip
    assert "Of 2 groups" in said and said.endswith("of: the user’s ratings before second (-0.010 [-0.020, -0.005]).")
    assert told(age_from_18=[-0.02, 0.001])[0].endswith("of: none.")


def test_what_the_promise_saves_on_other_losses_is_told_and_that_answers_are_no_order():
    def item(value, *ci95):
        return {"value": value, "ci95": list(ci95) or None}

    values = {"risk_violation_rate_max": item(0.01, 0.0, 0.02), "risk_none_qualifies_at_2_percent": item(0.0),
              "risk_token_layers_saved_at_2_percent": item(0.63), "risk_disagreement_early_exit": item(0.0, 0.0, 0.003),
              "auc_early_exit_minus_full_depth": item(-0.008, -0.016, -0.001)}  # fmt: skip
    assert "Answers that agree are not an order that agrees: AUC changes by -0.008" in narrative._risk_sentence(values)
    assert "The same promise" not in narrative._risk_sentence(values)
    values |= {"risk_ranking_token_layers_saved_at_2_percent": item(0.018),
               "auc_early_exit_minus_full_depth": item(-0.008, -0.016, 0.001)}  # fmt: skip
    said = narrative._risk_sentence(values)
    assert "The same promise on pairs of a user that change order 0.018 at 2 % of the token-layers saved" in said
    assert "Answers that agree" not in said


def test_gauc_says_of_how_many_users_and_whether_it_is_above_chance():
    values = {"gauc_full_depth_retrieval": {"value": 0.566, "ci95": [0.499, 0.631]}}
    assert narrative._gauc_text(values) == \
        "GAUC (within users) 0.566 [0.499, 0.631]; not shown to be above chance"  # fmt: skip
    values |= {"n_users_of_gauc": {"value": 124}, "n_judged_test_users": {"value": 1995}}
    values["gauc_full_depth_retrieval"]["ci95"] = [0.501, 0.631]
    assert narrative._gauc_text(values) == "GAUC (within users; 124 of 1,995 users count) 0.566 [0.501, 0.631]"


@pytest.mark.parametrize(("last", "told"), [(0.62, True), (0.60, True), (0.58, False)])
def test_a_training_whose_last_look_was_the_best_is_not_called_converged(tmp_path, last, told):
    run = artifacts.Run(tmp_path, "ml-100k", "smoke", 0)
    looks = pd.DataFrame({"kind": ["step", "look", "look", "look"], "auc_4": 0.5, "auc_30": [np.nan, 0.6, 0.55, last]})
    artifacts.write_table(run, "training.csv", looks)
    found = {item["name"]: item for item in headline.training_looks(run)}
    assert [item["value"] for item in found.values()] == [last, 0.6]
    assert bool(narrative._training_sentence(found)) == told
    artifacts.write_table(run, "training.csv", looks[:2])
    assert headline.training_looks(run) == []  # nothing to compare one look with


def test_users_who_count_for_gauc_are_those_with_both_answers(built):
    _, judged, _, _, _, _, found = built
    counted = sum(len(set(judged.label[judged.user_id == user])) == 2 for user in set(judged.user_id))
    assert next(item for item in found["metrics"] if item["name"] == "n_users_of_gauc")["value"] == counted > 0
