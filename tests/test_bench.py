"""Whoever races gives the answers it should, and a benchmark measures each part once."""

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts, backbone, contest, exit_policies, prompts, scorer, training
from eestudy.bench import __main__ as bench
from eestudy.bench import contenders, growth, race, startup, traffic
from eestudy.bench.setup import BenchRequest, equal_static_exit, load_setup, sized_requests
from eestudy.config import BenchConfig
from eestudy.rivals import llama_cpp

TOKENIZER = toys.byte_tokenizer()
LAYERS = (1, 2, 3, 4, 5, 6)
STATIC = 2  # an exit that is neither the first nor the last
TINY = BenchConfig(candidates=(1, 4), n_requests=(2, 1), repeats=1, n_tuning_requests=1, llama_settings=(),
                   n_quality_requests=2, n_stage_requests=2, n_growth_repeats=1, n_service_requests=3, real_run_s=0.05)
REDUCED = tuple(p for p in contest.REDUCED if backbone.supported(p))
CHOICES = contenders.Choices(plain_batch_size=4)
EXACT = contenders.names(CHOICES)
llama = pytest.mark.skipif(not llama_cpp.available(), reason="llama.cpp is not installed: make llama")


def study():
    cfg = toys.study()
    latency = cfg.latency.model_copy(update={"plain_batch_sizes": (1, 4), "n_threads": 1})
    return cfg.model_copy(update={"bench": TINY, "latency": latency})


def shake(model):
    """Weights as after a training: an adapter that changes something, heads that differ."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or ".heads." in f".{name}":
            torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim else 0.5, generator=generator)


def write_scores(cfg, run, tokens):
    """head_scores, calibration, policies and the chosen policy, as notebooks 05 and 06 leave them."""
    model = training.load_scorable(cfg, run, TOKENIZER)
    requests = training.load_requests(run, TOKENIZER)
    engine = scorer.build_engine(model.backbone, model.heads)
    logits = pd.concat([training.score_requests(run, engine, requests[part], part, "print")
                        for part in ("select", "test")])
    scores, calibration = training.calibrate_scores(training.describe_rows(run, logits.reset_index(drop=True)))
    artifacts.write_table(run, "head_scores.parquet", scores)
    artifacts.write_json(run, "calibration.json", {"slope_intercept": calibration})
    select = exit_policies.judged_rows(scores, tokens, "validation", "both", "select")
    rule = exit_policies.policies(select["label"].mean(), cfg.policy)["confidence"]
    swept = exit_policies.sweep(select, [rule], cfg.policy).assign(split="validation")
    chosen = swept.loc[(swept["mean_exit_layer"] - 3).abs().idxmin()]
    artifacts.write_table(run, "policies.csv", swept)
    artifacts.write_json(run, "selected_policy.json", {"policy": rule.name, "threshold": chosen["threshold"]})


def make_run(folder):
    """A toy run that has come as far as notebook 06."""
    cfg, frames, rng = study(), toys.frames(), np.random.default_rng(0)
    frames["prompts"], tokens = prompts.build_prompts(cfg, frames, TOKENIZER)
    run = toys.run_with({**frames, "prompt_tokens": tokens}, folder)
    vectors = {"user_final": rng.normal(size=(12, 4)), "item_final": rng.normal(size=(20, 4))}
    artifacts.write_arrays(run, "embeddings.safetensors", {k: v.astype(np.float32) for k, v in vectors.items()})
    model = training.build_model(cfg, TOKENIZER)
    shake(model)
    arrays = training.trained_arrays(model)
    for name, start in ((training.ADAPTER, "adapter."), (training.HEADS, "heads.")):
        artifacts.write_arrays(run, name, {key: value for key, value in arrays.items() if key.startswith(start)})
    write_scores(cfg, run, tokens)
    return cfg, run


@pytest.fixture(scope="module", autouse=True)
def no_unused_rows():
    """Counts are compared with arithmetic: batches as long as their tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eestudy.scorer.batches.ROWS", 1)
        yield


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "load_tokenizer", lambda cfg: TOKENIZER)
        found = load_setup(*make_run(tmp_path_factory.mktemp("bench") / "run"))
    return dataclasses.replace(found, static_exit=STATIC)


@pytest.fixture(scope="module")
def engine(setup):
    return scorer.build_engine(setup.model, setup.heads, setup.calibration)


def offline(setup, name, request):
    """What a contender has to answer, out of the table of head scores: p_yes [C]."""
    rows = setup.head_scores.set_index("row").loc[request.rows]
    p = rows[[f"p_yes_{layer}" for layer in LAYERS]].to_numpy(float)
    if name.startswith(contest.EARLY_EXIT):
        index = exit_policies.exit_index(setup.rule, p, setup.rule.threshold, setup.rule.min_exit)
        return exit_policies.exit_scores(p, index)
    return p[:, STATIC if contest.TRUNCATED in name else -1]


def asked(requests):
    return [BenchRequest(k, request.prefix, request.suffixes) for k, request in enumerate(requests)]


# the setup

def test_a_run_is_read_as_notebook_06_left_it(setup):
    assert set(setup.head_scores["mode"]) == {"both"}
    select = setup.head_scores.query("half == 'select'")
    chosen = artifacts.read_json(setup.run, "selected_policy.json")
    policy = exit_policies.policies(select["label"].mean(), setup.cfg.policy)[chosen["policy"]]
    p = select[[f"p_yes_{layer}" for layer in LAYERS]].to_numpy()
    np.testing.assert_array_equal(setup.rule.should_exit(p, setup.rule.threshold),
                                  policy.should_exit(p, chosen["threshold"]))
    for part, split in (("select", "validation"), ("test", "test")):
        rows = np.concatenate([request.rows for request in setup.requests[part]])
        wanted = setup.head_scores.loc[setup.head_scores["split"] == split, "row"]
        assert sorted(rows) == sorted(wanted)
        assert {mode for request in setup.requests[part] for mode in request.modes} == {0}


def test_the_exits_of_the_toy_run_differ(setup, engine):
    """Else early exit, truncation and full depth could not be told apart below."""
    found = scorer.score_all(engine, setup.requests["test"], setup.rule)
    assert len(np.unique(np.concatenate([scored.exit_index for scored in found]))) > 2
    columns = setup.head_scores[[f"p_yes_{layer}" for layer in LAYERS]].to_numpy()
    assert np.abs(columns[:, STATIC] - columns[:, -1]).max() > 0.01


def test_a_run_that_has_not_come_so_far_is_refused(tmp_path):
    with pytest.raises(artifacts.ArtifactError, match="make reproduce"):
        load_setup(study(), toys.run_with({}, tmp_path / "run"))


@pytest.mark.parametrize(("quality", "max_auc_loss", "wanted"),
                         [((0, 1, 2, 3, 4, 4), 0.0, 4), ((4, 4, 4, 4, 4, 4), 0.0, 0), ((0, 4, 0, 0, 0, 4), 0.0, 1),
                          ((0, 0, 0, 0, 0, 4), 1.0, 0), ((4, 0, 0, 0, 0, 1), 0.0, 0)])
def test_the_truncated_rival_is_the_shallowest_that_loses_nothing_on_validation(quality, max_auc_loss, wanted):
    """Exit e ranks `quality[e]` of 4 clicks above the non-clicks; the test rows say the opposite."""
    label = np.repeat([0, 1], 4)
    columns = {f"p_yes_{layer}": np.where(np.arange(8) < 8 - q, 0.2, 0.8)
               for layer, q in zip(LAYERS, quality, strict=True)}
    select = pd.DataFrame({"half": "select", "label": label, **columns})
    cfg = study()
    cfg = cfg.model_copy(update={"policy": cfg.policy.model_copy(update={"max_auc_loss": max_auc_loss})})
    assert equal_static_exit(pd.concat([select, select.assign(half="", label=1 - label)]), cfg) == wanted


@dataclass(frozen=True)
class Plain:
    prefix: list
    suffixes: list


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.sampled_from([1, 2, 16, 50]), st.integers(1, 12))
def test_requests_of_one_size_are_real_text(sizes, n_candidates, n_requests):
    suffixes = iter(range(sum(sizes)))
    requests = [Plain([100 + i], [[next(suffixes)] for _ in range(n)]) for i, n in enumerate(sizes)]
    made = sized_requests(requests, n_candidates, n_requests)
    assert len(made) == n_requests and len({request.user for request in made}) == n_requests
    real = {tuple(request.prefix): request.suffixes for request in requests}
    every = [tuple(suffix) for request in requests for suffix in request.suffixes]
    for request in made:
        assert len(request.suffixes) == n_candidates
        own = real[tuple(request.prefix)]
        assert request.suffixes[:len(own)] == own[:n_candidates]  # its own ones first
        counts = Counter(map(tuple, request.suffixes))
        assert set(counts) <= set(every)
        assert max(counts.values()) == math.ceil(n_candidates / len(every))  # nobody twice before everybody once
    fullest = [len(real[tuple(request.prefix)]) for request in made[:len(requests)]]
    assert fullest == sorted(sizes, reverse=True)[:n_requests]


# the contenders

@pytest.mark.parametrize("choices", [
    CHOICES, contenders.Choices(reduced=contest.REDUCED, library_reduced=("bfloat16",), llama=("packed", "F32"))])
def test_every_contender_has_one_name(choices):
    names = contenders.names(choices)
    assert len(set(names)) == len(names)
    assert set(contenders.names_of_ours(choices)) <= set(names)
    assert any(name.startswith(contest.LLAMA) for name in names) == bool(choices.llama)
    ours = [name.startswith("ours") for name in names]
    assert ours == sorted(ours)  # rivals first
    assert set(names) >= {contest.exact_name(name) for name in names}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_contender_answers_as_the_offline_table(setup, name):
    requests = setup.requests["test"]
    with contenders.open_contenders(setup, CHOICES, [name], None) as opened:
        together = opened[name].many(asked(requests))
        assert len(together) == len(requests) and opened[name].name == name
        for request, question, found in zip(requests, asked(requests), together, strict=True):
            wanted = offline(setup, name, request)
            np.testing.assert_allclose(opened[name].one(question), wanted, atol=1e-4)
            np.testing.assert_allclose(found, wanted, atol=1e-4)  # in the order asked, too


@pytest.mark.parametrize("name", EXACT)
def test_answers_do_not_depend_on_who_was_asked_before(setup, name):
    """Same users, other histories: a warm contender must not answer out of an old prefix."""
    requests = setup.requests["test"][:6]
    turned = [BenchRequest(k, r.prefix, r.suffixes) for k, r in enumerate(requests[::-1])]
    with contenders.open_contenders(setup, CHOICES, [name], None) as opened:
        opened[name].many(asked(requests))
        for request, found in zip(requests[::-1], opened[name].many(turned), strict=True):
            np.testing.assert_allclose(found, offline(setup, name, request), atol=1e-4)


def test_reduced_precision_answers_nearly_the_same(setup):
    choices = contenders.Choices(reduced=REDUCED, library_reduced=("bfloat16",))
    names = [name for name in contenders.names(choices) if contest.precision_of(name)]
    assert {contest.precision_of(name) for name in names} == {*REDUCED, "bfloat16"}
    requests = setup.requests["test"][:5]
    with contenders.open_contenders(setup, choices, names, None) as opened:
        for name in names:
            gaps = [np.abs(p - offline(setup, name, r)) for p, r in zip(opened[name].many(asked(requests)), requests,
                                                                        strict=True)]
            assert 0 < np.median(np.concatenate(gaps)) < 0.05, name  # really rounded, but not another model


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """llama.cpp's file copies its tokenizer from a file; here from one with as many tokens as the tiny model has."""
    from gguf import GGUFWriter

    path = tmp_path_factory.mktemp("gguf") / "template.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*sorted(TOKENIZER.get_vocab(), key=TOKENIZER.get_vocab().get),
                           *(f"extra{i}" for i in range(49152 - len(TOKENIZER)))])
    writer.add_token_types([1] * 49152)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@llama
def test_llama_answers_nearly_the_same_in_both_forms_at_both_depths(setup, template, tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "template_gguf", lambda: template)
    requests, written = setup.requests["test"][:4], {}
    for form in ("packed", "server"):
        choices = contenders.Choices(llama=(form, "F32"))
        names = [name for name in contenders.names(choices) if name.startswith(contest.LLAMA)]
        assert len(names) == 2
        with contenders.open_contenders(setup, choices, names, tmp_path) as opened:
            for name in names:
                for found, request in zip(opened[name].many(asked(requests)), requests, strict=True):
                    np.testing.assert_allclose(found, offline(setup, name, request), atol=2e-2)
        written[form] = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(written["packed"]) == {f"F32-{LAYERS[STATIC]}.gguf", "F32-6.gguf"}
    assert written["server"] == written["packed"]  # exported once


def test_memory_counts_what_a_contender_borrows_of_the_loaded_model(setup):
    whole = sum(p.numel() for p in setup.model.parameters()) * 4 / 2**20
    layer = sum(p.numel() for p in setup.model.model.layers[0].parameters()) * 4 / 2**20
    embedding = 49152 * 32 * 4 / 2**20
    short = whole - layer * (LAYERS[-1] - LAYERS[STATIC])
    wanted = {contest.PLAIN: whole, contest.PREFIX_REUSE: whole, contest.PREFIX_REUSE + contest.TRUNCATED: short,
              contest.PREFIX_REUSE + "_bfloat16": 0, contest.LLAMA: 0, contest.FULL_DEPTH: embedding,
              contest.EARLY_EXIT + "_int8": embedding}
    for name, mb in wanted.items():
        assert contenders.borrowed_mb(name, setup) == pytest.approx(mb), name


# the race

@pytest.fixture(scope="module")
def raced(setup):
    requests = sized_requests(setup.requests["test"], 5, 3)
    choices = dataclasses.replace(CHOICES, reduced=REDUCED)
    return requests, race.race_all(setup, choices, contenders.names(choices), requests, 2, None)


def layer_gflop(engine):
    shape = growth.layer_shape(engine.fused)
    return shape.qkv_flop / 1e9, shape.rest_flop / 1e9


def test_a_race_has_a_row_a_contender_repeat_and_request(raced):
    requests, table = raced
    names = [*contenders.names(dataclasses.replace(CHOICES, reduced=REDUCED)),
             *(contest.PEAK + contest.suffix(p) for p in ("", *REDUCED))]
    keys = [*itertools.product(names, range(2), range(3)), *itertools.product(names, [0], [contest.ALL_AT_ONCE])]
    assert sorted(table[["contender", "repeat", "request"]].itertuples(index=False, name=None)) == sorted(keys)
    assert list(table.columns) == ["contender", "repeat", "request", "seconds", "n_candidates", "gflop"]
    assert (table["seconds"] > 0).all() and (table["gflop"] > 0).all()
    assert (table["n_candidates"] == np.where(table["request"] == contest.ALL_AT_ONCE, 15, 5)).all()
    at_once = table[table["request"] == contest.ALL_AT_ONCE].groupby("contender")["gflop"].first()
    alone = table[table["request"] != contest.ALL_AT_ONCE].query("repeat == 0").groupby("contender")["gflop"].sum()
    pd.testing.assert_series_equal(at_once, alone)
    found = contest.contender_table(table)
    assert set(found["contender"]) == set(names) and np.isfinite(found.drop(columns="contender")).all(axis=None)


def test_counted_work_is_what_arithmetic_says(raced, engine):
    requests, table = raced
    gflop = table.query("repeat == 0 and request >= 0").pivot(index="request", columns="contender", values="gflop")
    qkv, rest = layer_gflop(engine)
    for i, request in enumerate(requests):
        tokens, n = scorer.n_tokens(request), len(request.suffixes)
        fresh, deep = tokens - len(request.prefix), len(LAYERS) - 1
        longest = max(len(suffix) for suffix in request.suffixes)
        pair, reach = 4 * growth.layer_shape(engine.fused).width / 1e9, len(request.prefix) + longest
        assert gflop.loc[i, contest.PEAK] == pytest.approx(tokens * (deep + 1) * (qkv + rest))
        full = deep * tokens * (qkv + rest) + tokens * qkv + n * rest
        assert gflop.loc[i, contest.FULL_DEPTH] == pytest.approx(full)
        attention = pair * (len(request.prefix) * (len(request.prefix) + 1) / 2 + n * longest * reach)
        ends = n * (pair * reach + 2 * engine.fused.embedding.shape[1] / 1e9)  # attention of the answers, and the head
        predicted = growth.predicted_gflop(engine.fused, [request], len(LAYERS))
        assert full == pytest.approx(predicted - deep * attention - ends)
        known = deep * fresh * (qkv + rest) + fresh * qkv + n * rest  # all the prefix is out of the cache
        assert gflop.loc[i, contest.FULL_DEPTH + contest.WARM] == pytest.approx(known)
        padded = (len(request.prefix) + n * longest) * (deep + 1) * (qkv + rest)
        assert gflop.loc[i, contest.PREFIX_REUSE] == pytest.approx(padded)
        short = STATIC * tokens * (qkv + rest) + tokens * qkv + n * rest
        assert gflop.loc[i, contest.OURS_TRUNCATED] == pytest.approx(short)
        for p in REDUCED:
            assert gflop.loc[i, contest.FULL_DEPTH + contest.suffix(p)] == gflop.loc[i, contest.FULL_DEPTH]
    assert (gflop[contest.EARLY_EXIT] < gflop[contest.FULL_DEPTH]).any()
    assert (gflop[contest.EARLY_EXIT + contest.WARM] < gflop[contest.EARLY_EXIT]).all()


def test_the_choice_is_the_fastest_that_was_tried(setup, monkeypatch):
    tried = {}

    def interleave(calls, requests, warmup, repeats):
        tried.update(calls)
        seconds = {"hf_plain 1": 3.0, "hf_plain 4": 2.0, "hf_plain 8": 4.0}
        return pd.DataFrame({"contender": list(calls), "seconds": [seconds[name] for name in calls]})

    monkeypatch.setattr(race.latency, "interleave", interleave)
    found = race.choose(setup, asked(setup.requests["test"][:1]), (1, 4, 8), (), None)
    assert len(tried) == 3 and found.plain_batch_size == 4 and found.llama is None
    assert found.reduced == REDUCED and set(found.library_reduced) <= {"bfloat16"}


def test_llama_settings_that_do_not_open_are_left_out(setup, monkeypatch, capsys):
    def open_contenders(setup, choices, names, folder):
        if choices.llama and choices.llama[0] == "server":
            raise llama_cpp.LlamaCppError("another build")
        return contextlib.nullcontext({name: contenders.Contender(name, len, len) for name in names})

    monkeypatch.setattr(race, "open_contenders", open_contenders)
    monkeypatch.setattr(race.latency, "interleave", lambda calls, *_: pd.DataFrame(
        {"contender": list(calls), "seconds": [float("F32" in name) for name in calls]}))
    settings_ = [("server", "F16"), ("packed", "F32"), ("packed", "Q8_0")]
    assert race.choose(setup, [], (4,), settings_, None).llama == ("packed", "Q8_0")
    assert "does not race as server F16: another build" in capsys.readouterr().out
    assert race.choose(setup, [], (4,), settings_[:1], None).llama is None


@pytest.mark.parametrize("choices", [contenders.Choices(), contenders.Choices(8, ("int8",), ()), contenders.Choices(
    4, contest.REDUCED, ("bfloat16",), ("server", "Q8_0"))])
def test_choices_survive_being_written_down(run, choices):
    artifacts.write_table(run, "bench_choices.csv", race.choices_table(choices))
    assert race.read_choices(artifacts.read_table(run, "bench_choices.csv")) == choices


def test_every_contender_scores_the_same_rows_once(setup):
    requests = setup.requests["test"][:7]
    found = race.quality_all(setup, CHOICES, EXACT, requests, None)
    rows = sorted(np.concatenate([request.rows for request in requests]))
    for name in EXACT:
        part = found[found["contender"] == name]
        assert sorted(part["row"]) == rows
        for request in requests:
            p = part.set_index("row").loc[request.rows, "p_yes"]
            np.testing.assert_allclose(p, offline(setup, name, request), atol=1e-4)


def test_the_quality_of_a_warm_contender_is_that_of_its_warm_path(setup, monkeypatch):
    """Each request comes twice, the second time with its prefix known."""
    caches = []

    class Cache(scorer.PrefixCache):
        def __init__(self, max_bytes):
            super().__init__(max_bytes)
            caches.append(self)

    monkeypatch.setattr(scorer, "PrefixCache", Cache)
    race.quality_all(setup, CHOICES, [contest.FULL_DEPTH + contest.WARM], setup.requests["test"][:7], None)
    assert [(cache.misses, cache.hits) for cache in caches] == [(7, 7)]


def test_ours_are_scored_on_every_selection_and_test_row(setup):
    found = race.ours_everywhere(setup, CHOICES)
    reduced_full_depth = {contest.FULL_DEPTH + contest.suffix(p) for p in CHOICES.reduced}
    assert set(found["contender"].unique()) == {*contenders.names_of_ours(CHOICES)} - reduced_full_depth
    for (name, part), group in found.groupby(["contender", "part"]):
        wanted = np.concatenate([request.rows for request in setup.requests[part]])
        assert sorted(group["row"]) == sorted(wanted)
        p = group.set_index("row")["p_yes"]
        for request in setup.requests[part]:
            np.testing.assert_allclose(p.loc[request.rows], offline(setup, name, request), atol=1e-4)
    lost = contest.auc_against_full_depth(found, setup.head_scores, setup.cfg, "select")
    assert contest.best_of_ours(pd.DataFrame({
        "contender": np.repeat(lost["contender"], 2), "repeat": 0, "request": [0, contest.ALL_AT_ONCE] * len(lost),
        "seconds": 1.0, "n_candidates": 1, "gflop": 1.0}), lost, 0.002) in set(lost["contender"])


# start-up and memory

def test_the_peak_sees_what_was_held_in_between():
    before = startup.resident_mb()
    if math.isnan(before):
        pytest.skip("this system does not tell a process's memory in /proc")

    def hold():
        block = np.ones(100 * 2**20, dtype=np.uint8)
        return block[::4096].sum() and startup.time.sleep(0.1)

    assert startup.peak_mb(hold) - before > 90
    assert startup.resident_mb() - before < 50  # and it is gone again


def test_a_failing_call_fails_and_stops_the_looking():
    def fails():
        raise KeyError("no such request")

    n = startup.threading.active_count()
    with pytest.raises(KeyError):
        startup.peak_mb(fails)
    assert startup.threading.active_count() == n


def test_starting_up_is_measured_with_what_is_borrowed(setup):
    opened = []

    def open_it():
        opened.append(contenders._ours(contest.EARLY_EXIT, setup))
        return opened[-1]

    requests = sized_requests(setup.requests["test"], 4, 2)
    found = startup.measure(open_it, 1e6, requests)
    assert set(found) == {"open_s", "first_answer_s", "memory_mb"} and len(opened) == 1
    assert all(np.isfinite(value) and value > 0 for value in found.values()) or math.isnan(startup.resident_mb())
    assert not found["memory_mb"] < 1e6 - 100


def test_every_contender_starts_in_a_process_of_its_own(run, monkeypatch):
    commands = []

    def start(command, **kwargs):
        commands.append(command)
        wrong = "hf_plain" in command
        answer = "a library's greeting\n" + json.dumps({"load_s": 1.5, "open_s": 0.5})
        return subprocess.CompletedProcess(command, int(wrong), answer, "no memory left")

    monkeypatch.setattr(startup.subprocess, "run", start)
    found = startup.startup_table(run, ["ours_full_depth", "llama_cpp"], 4)
    assert found.to_dict("records") == [{"contender": name, "load_s": 1.5, "open_s": 0.5}
                                        for name in ("ours_full_depth", "llama_cpp")]
    called = []
    monkeypatch.setattr(bench, "load_setup", lambda cfg, run_: run_)
    monkeypatch.setattr(bench, "measure_startup", lambda setup, name, n: called.append((setup, name, n)) or {})
    for command in commands:
        bench.main(command[3:])  # what the process does with these words
    assert called == [(run, "ours_full_depth", 4), (run, "llama_cpp", 4)]
    with pytest.raises(RuntimeError, match="hf_plain does not start:\nno memory left"):
        startup.startup_table(run, ["hf_plain"], 4)


# under load

@pytest.fixture(scope="module")
def served(setup, engine):
    requests = setup.requests["test"][:5]
    rule = setup.rule
    rules = [scorer.ExitRule(rule.should_exit, t, rule.min_exit) for t in (rule.threshold, 1e9)]
    return requests, rules, traffic.time_service(engine, requests, rules)


def test_service_is_timed_once_at_every_setting(served, engine, setup):
    requests, rules, service = served
    assert list(service.columns) == ["setting", "request", "seconds", "n_candidates", "token_layers"]
    keys = sorted(service[["setting", "request"]].itertuples(index=False, name=None))
    assert keys == list(itertools.product(range(2), range(5)))
    for line in service.itertuples():
        request = requests[line.request]
        assert line.n_candidates == len(request.rows)
        assert line.token_layers == scorer.score(engine, [request], rules[line.setting])[0].token_layers
    assert (service.groupby("request")["token_layers"].max() == [6 * scorer.n_tokens(r) for r in requests]).all()


def test_real_runs_answer_everybody_once_three_ways(served, engine, monkeypatch):
    requests, rules, service = served
    answered, real = [], scorer.score
    monkeypatch.setattr(scorer, "score", lambda engine, asked, rule: answered.append(
        (next(i for i, r in enumerate(requests) if r is asked[0]), rules.index(rule))) or real(engine, asked, rule))
    service = service.assign(seconds=0.001 * (1 + service["setting"]))
    found = traffic.real_runs(engine, requests, rules, service, 1.5, 2.0, 0.02, seed=3)
    n = int(0.02 * 1.5 / 0.002)
    assert found.groupby(["run", "clock"], sort=False).size().to_dict() == {
        (name, clock): n for name in ("full depth", "early exit", "load-aware") for clock in ("real", "simulated")}
    on_clock = found[found["clock"] == "real"]
    assert answered == list(zip(on_clock["request"], on_clock["setting"], strict=True))
    same = found.groupby(["run", "clock"])[["arrival_s", "request"]].agg(list)
    assert len({str(value) for value in same.to_numpy().tolist()}) == 1  # all meet the same arrivals
    assert (found["latency_s"] > 0).all() and (found["start_s"] >= found["arrival_s"]).all()
    simulated = found[found["clock"] == "simulated"]
    np.testing.assert_allclose(simulated["finish_s"] - simulated["start_s"], 0.001 * (1 + simulated["setting"]))


def test_the_last_setting_of_the_real_runs_is_full_depth(setup, engine):
    kept, made = {}, {}

    def part(name, make):
        made[name] = make
        return kept.setdefault(name, make())

    policies = artifacts.read_table(setup.run, "policies.csv")
    requests = setup.requests["test"][:3]
    traffic.measure(setup, engine, requests, policies, "confidence", part)
    assert list(kept) == ["service", "real"]
    ladder = contest.ladder(policies, "confidence", setup.rule.threshold)
    work = kept["service"].pivot(index="request", columns="setting", values="token_layers")
    assert list(work.columns) == list(range(len(ladder)))
    assert work[len(ladder) - 1].tolist() == [6 * scorer.n_tokens(request) for request in requests]
    for s, threshold in enumerate(ladder[:-1]):
        rule = dataclasses.replace(setup.rule, threshold=threshold)
        assert work[s].tolist() == [scorer.score(engine, [r], rule)[0].token_layers for r in requests]


# the whole

@pytest.fixture
def own_setup(setup, tmp_path):
    """A copy of the run, to be written into."""
    shutil.copytree(setup.run.root, tmp_path / "own")
    return dataclasses.replace(setup, run=dataclasses.replace(setup.run, root=tmp_path / "own"))


def in_this_process(setup):
    def table(run, names, n_candidates):
        lines = [{"contender": name, "load_s": 1.0, **bench.measure_startup(setup, name, n_candidates)}
                 for name in names]
        return pd.DataFrame(lines)
    return table


def stamps(run):
    return {path.name: path.stat().st_mtime_ns for path in run.root.glob("bench_*.csv")}


def test_a_benchmark_measures_each_part_once_and_others_weights_anew(own_setup, monkeypatch):
    run = own_setup.run
    monkeypatch.setattr(bench.startup, "startup_table", in_this_process(own_setup))
    monkeypatch.setattr(bench.growth.growth_curves, "__defaults__", ({"candidates": (1, 2), "batch": (1, 2)}, 2, 1, 0))
    bench.measure_all(own_setup)
    first = stamps(run)
    assert set(first) >= set(artifacts.BENCH)
    names = set(artifacts.read_table(run, "bench_startup.csv")["contender"])
    measured = contest.read(run)
    assert measured.own and set(measured.tables["quality"]["contender"]) == names
    entries = contest.entries(measured.tables["race"], measured.tables["ours"], own_setup.head_scores, own_setup.cfg)
    assert all(entry["value"] is not None for entry in entries)
    bench.measure_all(own_setup)
    assert stamps(run) == first
    run.path("bench_race_4.csv").write_bytes(b"broken")
    run.path("bench_race.csv").unlink()
    bench.measure_all(own_setup)
    assert {name for name, at in stamps(run).items() if first[name] != at} == {"bench_race_4.csv", "bench_race.csv"}


def test_other_weights_settings_or_policies_make_the_parts_stale(own_setup):
    before, run = bench.fingerprint(own_setup), own_setup.run
    assert bench.fingerprint(own_setup) == before
    found = {before}
    for name in bench.INPUTS:
        artifacts.write_bytes(run, name, artifacts.read_bytes(run, name) + b"\n")
        found.add(bench.fingerprint(own_setup))
    for section, name_, value in (("policy", "min_exit", 1), ("bench", "repeats", 9), ("latency", "n_threads", 7)):
        changed = getattr(own_setup.cfg, section).model_copy(update={name_: value})
        cfg = own_setup.cfg.model_copy(update={section: changed})
        found.add(bench.fingerprint(dataclasses.replace(own_setup, cfg=cfg)))
    assert len(found) == 1 + len(bench.INPUTS) + 3


def test_every_source_pattern_names_a_file():
    package = artifacts.ROOT / "eestudy"
    assert all(list(package.glob(pattern)) for pattern in bench.SOURCES)


def test_exports_of_other_weights_are_not_used_again(own_setup):
    folder = bench.export_folder(own_setup)
    (folder / "F32-6.gguf").write_text("these weights")
    (folder.parent / "F32-6.gguf").write_text("an older layout")
    assert bench.export_folder(own_setup) == folder and (folder / "F32-6.gguf").exists()
    artifacts.write_bytes(own_setup.run, training.HEADS, b"other weights")
    other = bench.export_folder(own_setup)
    assert other != folder and list(folder.parent.iterdir()) == [other] and not list(other.iterdir())


@pytest.mark.parametrize("words", [["--profile", "smoke"], ["--profile", "no-such-profile"]])
def test_a_run_that_is_not_there_is_an_error_that_names_the_remedy(run, words):
    with pytest.raises(SystemExit, match="error: .*(make reproduce|eestudy/config/)"):
        bench.main(words)
