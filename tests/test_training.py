"""Training resumes to the very same weights, drops evidence as asked, and scores packs as it would score alone."""

import numpy as np
import pandas as pd
import pytest
import torch
import toys

from eestudy import artifacts, backbone, prompts, scorer, training
from eestudy.config import MODES

TOKENIZER = toys.byte_tokenizer()


@pytest.fixture(scope="module")
def tables():
    frames = toys.frames()
    table, tokens = prompts.build_prompts(toys.study(), frames, TOKENIZER)
    return {**frames, "prompts": table, "prompt_tokens": tokens}


@pytest.fixture
def run(tables, tmp_path):
    return toys.run_with(tables, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tables, tmp_path_factory):
    run = toys.run_with(tables, tmp_path_factory.mktemp("finished") / "run")
    log = training.train(toys.study(), run, TOKENIZER, training.load_requests(run, TOKENIZER))
    return run, log


def test_requests_hold_every_judged_row_in_every_mode(run, tables):
    requests = training.load_requests(run, TOKENIZER)
    rows = np.concatenate([r.rows for part in requests.values() for r in part])
    assert sorted(rows) == sorted(list(tables["prompts"]["row"]) * len(MODES))
    label = tables["interactions"].set_index("row")["label"]
    suffix = tables["prompts"].set_index("row")
    for request in requests["label"][:5]:
        for c, (row, mode) in enumerate(zip(request.rows, request.modes, strict=True)):
            assert request.labels[c] == label[row]
            text = suffix.loc[row, f"suffix_{MODES[mode]}"]
            assert request.suffixes[c] == TOKENIZER.encode(text, add_special_tokens=False)


def test_evidence_dropout_keeps_each_row_once(run):
    requests = training.load_requests(run, TOKENIZER)["label"]
    rng = np.random.default_rng(0)
    modes = []
    for request in requests * 20:
        dropped = training.drop_evidence(request, (0.5, 0.3, 0.2), rng)
        assert sorted(dropped.rows) == sorted(set(request.rows))
        modes.extend(dropped.modes)
    np.testing.assert_allclose(np.bincount(modes, minlength=3) / len(modes), (0.5, 0.3, 0.2), atol=0.06)


def test_batches_read_every_request_once_an_epoch_in_a_seeded_order(run):
    cfg = toys.study(requests_per_step=2)
    requests = training.load_requests(run, TOKENIZER)["label"]
    one, two = training.make_batches(cfg, requests), training.make_batches(cfg, requests)
    rows = [r.rows.tolist() for batch in one for r in batch]
    assert sorted(sum(rows, [])) == sorted(set(np.concatenate([r.rows for r in requests])))
    assert rows == [r.rows.tolist() for batch in two for r in batch]
    assert all(len(batch) <= 2 for batch in one)
    other = training.make_batches(cfg.model_copy(update={"seed": 1}), requests)
    assert rows != [r.rows.tolist() for batch in other for r in batch]


def test_training_lowers_the_loss(run):
    cfg = toys.study(max_epochs=6, lora_lr=1e-2, head_lr=1e-2)
    log = training.train(cfg, run, TOKENIZER, training.load_requests(run, TOKENIZER))
    loss = log.loc[log["kind"] == "step", "loss"]
    assert loss.tail(20).mean() < loss.head(20).mean() - 0.02


def test_a_killed_training_ends_in_the_same_weights(run, finished, monkeypatch):
    wanted = artifacts.read_arrays(finished[0], training.ADAPTER) | artifacts.read_arrays(finished[0], training.HEADS)
    requests, cfg = training.load_requests(run, TOKENIZER), toys.study()
    real, calls = training.loop._step, []

    def dies(*args):
        calls.append(1)
        if len(calls) in (5, 9):  # two steps after a checkpoint, and once more after resuming
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training.loop, "_step", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.train(cfg, run, TOKENIZER, requests)
    log = training.train(cfg, run, TOKENIZER, requests)
    found = artifacts.read_arrays(run, training.ADAPTER) | artifacts.read_arrays(run, training.HEADS)
    assert found.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_array_equal(found[key], wanted[key], err_msg=key)
    pd.testing.assert_frame_equal(log.drop(columns="seconds"), finished[1].drop(columns="seconds"))
    assert not [path for path in run.root.iterdir() if path.name.startswith("checkpoint")]


def test_a_kill_while_a_checkpoint_is_written_costs_only_the_steps_since_the_one_before(run, finished, monkeypatch):
    requests, cfg = training.load_requests(run, TOKENIZER), toys.study()
    real, started = training.loop._step, []

    def dies(*args):
        started.append(args[4])
        if len(started) == 8:  # after the second checkpoint
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training.loop, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(cfg, run, TOKENIZER, requests)
    steps = {name: artifacts.read_meta(run, name)["step"] for name in training.CHECKPOINTS}
    assert sorted(steps.values()) == [3, 6]
    run.path(max(steps, key=steps.get)).write_bytes(b"half of it")
    training.train(cfg, run, TOKENIZER, requests)
    assert started[8] == 4
    for name in (training.ADAPTER, training.HEADS):
        assert artifacts.artifact_hash(run, name) == artifacts.artifact_hash(finished[0], name)


def test_finished_training_is_not_repeated_and_stale_training_is(finished, monkeypatch):
    run, log = finished

    def must_not_run(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.loop, "_step", must_not_run)
    requests = training.load_requests(run, TOKENIZER)
    pd.testing.assert_frame_equal(training.train(toys.study(), run, TOKENIZER, requests), log)
    with pytest.raises(AssertionError, match="trained again"):
        training.train(toys.study(lora_lr=5e-4), run, TOKENIZER, requests)


def test_lost_training_log_or_weights_train_again(run):
    cfg, requests = toys.study(), training.load_requests(run, TOKENIZER)
    log = training.train(cfg, run, TOKENIZER, requests)
    weights = artifacts.artifact_hash(run, training.HEADS)
    run.path("training.csv").unlink()
    again = training.train(cfg, run, TOKENIZER, requests)
    pd.testing.assert_frame_equal(log.drop(columns="seconds"), again.drop(columns="seconds"))
    assert artifacts.artifact_hash(run, training.HEADS) == weights


def test_scores_of_other_weights_are_made_again(finished):
    run, _ = finished
    before = training.scoring_fingerprint(toys.study(), run)
    heads = artifacts.read_arrays(run, training.HEADS)
    wanted = artifacts.read_meta(run, training.HEADS)["fingerprint"]
    moved = {key: value + 1e-3 for key, value in heads.items()}
    artifacts.write_arrays(run, training.HEADS, moved, fingerprint=wanted)
    assert training.scoring_fingerprint(toys.study(), run) != before
    artifacts.write_arrays(run, training.HEADS, heads, fingerprint=wanted)
    assert training.scoring_fingerprint(toys.study(), run) == before


def engine(model):
    return scorer.build_engine(model.backbone, model.heads)


def test_the_merged_model_gives_the_same_logits(finished):
    run, _ = finished
    cfg, requests = toys.study(), training.load_requests(run, TOKENIZER)["test"][:3]
    apart = training.build_model(cfg, TOKENIZER)
    training.load_trained(apart, artifacts.read_arrays(run, training.ADAPTER)
                          | artifacts.read_arrays(run, training.HEADS))
    merged = training.load_scorable(cfg, run, TOKENIZER)
    np.testing.assert_allclose(training.head_logits(apart, requests), training.head_logits(merged, requests), atol=1e-4)


def test_scores_in_chunks_equal_scores_at_once_and_alone(finished, monkeypatch):
    run, _ = finished
    model = training.load_scorable(toys.study(), run, TOKENIZER)
    requests = training.load_requests(run, TOKENIZER)["test"]
    monkeypatch.setattr(training.scoring, "REQUESTS_PER_CHUNK", 2)
    chunked = training.score_requests(run, engine(model), requests, "toy", "print")
    columns = [c for c in chunked if c.startswith("logit_")]
    # two implementations of the same arithmetic (the engine and the library's layers), so the study's 1e-4 counts
    np.testing.assert_allclose(chunked[columns].to_numpy(), training.head_logits(model, requests), atol=1e-4)
    request = requests[0]
    for c in range(len(request.rows)):
        alone = training.keep(request, np.arange(len(request.rows)) == c)
        np.testing.assert_allclose(chunked[columns].to_numpy()[c], training.head_logits(model, [alone])[0], atol=1e-4)


def test_a_finished_chunk_is_kept_and_a_damaged_one_is_made_again(finished, monkeypatch):
    run, _ = finished
    engine_ = engine(training.load_scorable(toys.study(), run, TOKENIZER))
    requests = training.load_requests(run, TOKENIZER)["select"]
    first = training.score_requests(run, engine_, requests, "again", "print")
    run.path("chunks/again_00000.parquet").write_bytes(b"broken")
    pd.testing.assert_frame_equal(training.score_requests(run, engine_, requests, "again", "print"), first)
    monkeypatch.setattr(scorer, "score_all", None)  # would fail if it were called
    pd.testing.assert_frame_equal(training.score_requests(run, engine_, requests, "again", "print"), first)


def test_chunks_depend_on_users_alone_and_keep_the_order_of_requests(finished, monkeypatch):
    run, _ = finished
    monkeypatch.setattr(training.scoring, "REQUESTS_PER_CHUNK", 2)
    requests = training.load_requests(run, TOKENIZER)["label"]
    owner = artifacts.read_table(run, "interactions.parquet").set_index("row")["user_id"]
    assert all(set(owner[request.rows]) == {request.user} for request in requests)
    chunks = list(training.scoring._chunks(requests, "users").values())
    assert sorted(np.concatenate(chunks)) == list(range(len(requests)))
    users = [{requests[i].user for i in index} for index in chunks]
    assert sum(len(some) for some in users) == len(set.union(*users)) and len(users) > 3
    table = training.score_requests(run, engine(training.load_scorable(toys.study(), run, TOKENIZER)), requests,
                                    "users", "print")
    np.testing.assert_array_equal(table["row"], np.concatenate([request.rows for request in requests]))


def test_calibration_reads_the_selection_half_only(finished):
    run, _ = finished
    requests = training.load_requests(run, TOKENIZER)
    model = training.load_scorable(toys.study(), run, TOKENIZER)
    raw = training.describe_rows(run, training.score_parts(toys.study(), run, engine(model), requests))
    scores, calibration = training.calibrate_scores(raw)
    flipped = raw.assign(label=np.where(raw["half"] == "select", raw["label"], 1 - raw["label"]))
    assert training.calibrate_scores(flipped)[1] == calibration
    p_yes = scores[[c for c in scores if c.startswith("p_yes_")]].to_numpy()
    assert ((p_yes > 0) & (p_yes < 1)).all()
    select = scores[(scores["half"] == "select") & (scores["mode"] == "both")]
    assert select["p_yes_6"].mean() == pytest.approx(select["label"].mean(), abs=1e-3)
    assert set(scores.loc[scores["half"] == "risk", "mode"]) == {"both"}


def test_the_fingerprint_follows_inputs_and_settings(run):
    before = training.training_fingerprint(toys.study(), run)
    assert before == training.training_fingerprint(toys.study(), run)
    assert before != training.training_fingerprint(toys.study(lora_rank=3), run)
    table = artifacts.read_table(run, "prompts.parquet")
    artifacts.write_table(run, "prompts.parquet", table.assign(prefix=table["prefix"] + "!"))
    assert before != training.training_fingerprint(toys.study(), run)


def test_the_fingerprint_counts_every_source_under_its_own_path(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(training.model.artifacts, "fingerprint", lambda parts: seen.update(parts) or "x")
    training.training_fingerprint(toys.study(), run)
    assert {"training/loop.py", "training/model.py", "backbone/packs.py", "exit_heads.py", "prompts.py"} <= set(
        seen["sources"])  # by file name alone, two files called model.py would count as one


def test_a_loss_that_is_not_a_number_stops_training(run, monkeypatch):
    monkeypatch.setattr(training.loop.exit_heads, "joint_loss", lambda logits, labels: logits.sum(1) * torch.nan)
    with pytest.raises(FloatingPointError, match="lower heads.lora_lr"):
        training.train(toys.study(), run, TOKENIZER, training.load_requests(run, TOKENIZER))


def test_learning_rates_warm_up_and_fall_to_zero():
    factors = [training.schedule(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == 1.0 and factors[-1] < 0.01
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_answers_that_are_not_one_token_are_refused():
    cfg = toys.study().backbone.model_copy(update={"yes": " certainly"})
    with pytest.raises(backbone.BackboneError, match="one token"):
        backbone.answer_ids(TOKENIZER, cfg)
