"""Every row of the table can be run, resumes where it was killed, is done once, and is compared as declared."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from torch.nn import functional as F

from eestudy import ablation_results, ablations, artifacts, backbone, config, exit_heads, prompts, training, wordings
from eestudy.ablations import __main__ as command
from eestudy.ablations import analysis, duels, rows
from eestudy.ablations.rows import Finished
from eestudy.ablations.table import Row, static_depths
from eestudy.commands import INTERRUPTED

TOKENIZER = toys.byte_tokenizer()
STUDY = toys.study()


def frames():
    """A made-up dataset with all that the controls read."""
    made, rng = toys.frames(n_users=15), np.random.default_rng(1)
    n = len(made["evidence"])
    made["evidence"] = made["evidence"].assign(item_mean=rng.uniform(1, 5, n).round(3), n_item=rng.integers(0, 40, n))
    made["evidence"]["own_items"] = [rng.integers(0, len(made["items"]), len(own)) for own in made["evidence"]["own"]]
    made["items"] = made["items"].assign(year="1995", genres=[f"Drama No{i}" for i in range(len(made["items"]))])
    return made


@pytest.fixture(scope="module")
def tables():
    return frames()


@pytest.fixture
def source(tables, tmp_path, monkeypatch):
    """The study's run that the rows read, the toy tokenizer, and an empty place for committed results."""
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path / "reference")
    monkeypatch.setattr(backbone, "load_tokenizer", lambda _: TOKENIZER)
    monkeypatch.setattr(config, "load", lambda *_: STUDY)
    return toys.run_with(tables, tmp_path / "run/ml-100k/smoke/seed-0")


def row_of(name) -> Row:
    return next(row for row in ablations.all_rows(toys.study()) if row.name == name)


# --- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", config.DATASETS)
@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_every_row_has_settings_that_can_stand(dataset, profile):
    cfg = config.load(dataset, profile)
    table = ablations.all_rows(cfg)
    names = [row.name for row in table]
    assert len(names) == len(set(names)) > 20
    for row, seed in ablations.each_seed(table):
        changed = ablations.settings_of(row, cfg, seed)
        assert changed.seed == seed and changed.data.n_test_rows == cfg.ablation.n_test_rows
        kept = changed.backbone.n_layers_kept or cfg.heads.exit_layers[-1]
        assert exit_heads.check_exit_layers(changed.heads.exit_layers, kept)
        for name in row.compared_with:
            other = table[names.index(name)]
            assert names.index(name) < names.index(row.name), "what is compared with comes first"
            assert row.at_exit is None or row.at_exit in ablations.settings_of(other, cfg, 0).heads.exit_layers
            assert set(row.seeds) & set(other.seeds)


def test_every_row_is_asked_at_the_first_seed_before_any_is_repeated():
    known = ablations.all_rows(STUDY)
    pairs = ablations.each_seed(known)
    assert [row for row, seed in pairs if seed == 0] == list(known)
    assert [seed for _, seed in pairs] == sorted(seed for row in known for seed in row.seeds)


def test_static_models_see_as_many_labels_as_their_speed_affords():
    cfg = config.load("ml-100k", "laptop")
    assert static_depths(cfg) == [4, 6, 10, 15]
    table = {row.name: ablations.settings_of(row, cfg, 0) for row in ablations.all_rows(cfg)}
    for k in (4, 6, 10, 15):
        assert table[f"static_{k}"].data.n_label_rows == cfg.ablation.n_label_rows
        assert table[f"static_{k}_same_time"].data.n_label_rows == pytest.approx(30 / k * cfg.ablation.n_label_rows)


@pytest.mark.parametrize(("changes", "message"), [
    ({"heads": {"lora_rnak": 3}}, "ablation wrong: heads.lora_rnak: Extra inputs are not permitted"),
    ({"heads": {"loss_weights": "steep"}}, "ablation wrong: heads.loss_weights: Input should be"),
    ({"haeds": {"lora_rank": 3}}, "ablation wrong: unknown section haeds"),
    ({"seed": {"x": 3}}, "ablation wrong: unknown section seed"),
])  # fmt: skip
def test_a_row_that_cannot_stand_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ablations.settings_of(Row("wrong", "?", "heads", changes), toys.study(), 0)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="ablation wrong: unknown mode all; known: both"):
        ablations.settings_of(Row("wrong", "?", "heads", modes=("all",)), toys.study(), 0)


def test_unknown_rows_on_the_command_line_are_named(source):
    with pytest.raises(SystemExit, match="unknown ablation minimal; known: main, only_none"):
        command.main(["--only", "minimal"])


# --- the settings that rows change ----------------------------------------------------------------------------


def study(**sections):
    cfg = toys.study()
    return cfg.model_copy(update={
        name: getattr(cfg, name).model_copy(update=fields) for name, fields in sections.items()})


def requests_of(tables, tmp_path):
    table, tokens = prompts.build_prompts(toys.study(), tables, TOKENIZER)
    run = toys.run_with({**tables, "prompts": table, "prompt_tokens": tokens}, tmp_path / "toy")
    return run, training.load_requests(run, TOKENIZER)


def test_a_truncated_model_is_the_whole_models_exit_before_training(tables, tmp_path):
    _, requests = requests_of(tables, tmp_path)
    whole = training.build_model(study(), TOKENIZER)
    cut = training.build_model(study(backbone={"n_layers_kept": 3}, heads={"exit_layers": (2, 3)}), TOKENIZER)
    assert backbone.n_layers(cut.backbone) == 3 < backbone.n_layers(whole.backbone)
    some = requests["test"][:2]
    logits = training.head_logits(whole, some)
    np.testing.assert_array_equal(training.head_logits(cut, some), logits[:, 1:3])
    assert np.ptp(logits[:, 2]) > 0


def test_more_layers_than_there_are_cannot_be_kept():
    with pytest.raises(backbone.BackboneError, match="n_layers_kept is 7, but there are 6"):
        training.build_model(study(backbone={"n_layers_kept": 7}), TOKENIZER)


def test_a_fresh_backbone_follows_the_seed_and_leaves_other_draws_alone(tmp_path):
    small = backbone.load_model(study().backbone, 3)
    small.save_pretrained(tmp_path / "taught")
    cfg = study(backbone={"source": str(tmp_path / "taught"), "random_weights": True}).backbone
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    one, same, other = (backbone.load_model(cfg, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, small.lm_head.weight)
    assert torch.equal(backbone.load_model(cfg.model_copy(update={"random_weights": False})).lm_head.weight,
                       small.lm_head.weight)


def test_distillation_against_a_loop():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1], [1.0, -2.0]], requires_grad=True)
    teacher = [1 / (1 + np.exp(-z)) for z in (1.0, -2.0)]
    loss = 0.0
    for head in ((0.3, -1.0), (2.0, 0.1)):
        for z, t in zip(head, teacher, strict=True):
            p = 1 / (1 + np.exp(-z))
            loss -= (t * np.log(p) + (1 - t) * np.log(1 - p)) / 4
    found = exit_heads.distillation_loss(logits)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    found.backward()
    assert logits.grad[-1].abs().sum() == 0 and (logits.grad[:-1].abs() > 0).all()
    assert exit_heads.distillation_loss(logits[:1]).item() == 0


def test_weights_of_heads_average_one():
    assert exit_heads.head_weights((1, 2, 6), "equal") == [1, 1, 1]
    np.testing.assert_allclose(exit_heads.head_weights((1, 2, 6), "linear"), [1 / 3, 2 / 3, 2])
    assert exit_heads.head_weights((1, 2, 6), "last") == [0, 0, 3]


def test_the_objective_without_ablations_is_the_mean_bit_by_bit():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0))
    losses = F.softplus(logits).mean(1)
    assert torch.equal(training.loop._objective(study(), losses, logits, 1.0), losses.mean())
    last = training.loop._objective(study(heads={"loss_weights": "last"}), losses, logits, 1.0)
    assert last.item() == pytest.approx(losses[-1].item())
    taught = training.loop._objective(study(heads={"distill": 0.5}), losses, logits, 0.25)
    extra = 0.5 * 0.25 * exit_heads.distillation_loss(logits)
    assert taught.item() == pytest.approx((losses.mean() + extra).item()) and extra > 0.01


def trained(cfg, tables, tmp_path):
    """(untrained arrays, trained arrays) of one setting."""
    run, requests = requests_of(tables, tmp_path)
    before = training.trained_arrays(training.build_model(cfg, TOKENIZER))
    training.train(cfg, run, TOKENIZER, requests)
    return before, artifacts.read_arrays(run, training.ADAPTER) | artifacts.read_arrays(run, training.HEADS)


def test_a_frozen_backbone_keeps_its_adapter_and_its_heads_learn(tables, tmp_path):
    before, after = trained(study(heads={"train_adapter": False, "requests_per_step": 6}), tables, tmp_path)
    for key in before:
        assert np.array_equal(before[key], after[key]) == key.startswith("adapter."), key


def test_heads_without_weight_do_not_learn(tables, tmp_path):
    cfg = study(heads={"loss_weights": "last", "requests_per_step": 6, "lora_lr": 0.0})
    run, requests = requests_of(tables, tmp_path)
    model = training.build_model(cfg, TOKENIZER)
    training.initialise_heads(training.loop.Accelerator(cpu=True), model, requests["label"], cfg.heads.n_init_rows)
    before = training.trained_arrays(model)
    training.train(cfg, run, TOKENIZER, requests)
    after = artifacts.read_arrays(run, training.HEADS)
    moved = [not np.array_equal(before[f"heads.heads.{i}.weight"], after[f"heads.heads.{i}.weight"]) for i in range(6)]
    assert moved == [False] * 5 + [True]


def test_a_model_of_one_kind_of_evidence_reads_no_other(tables, tmp_path, monkeypatch):
    run, requests = requests_of(tables, tmp_path)
    read, real = set(), training.loop.shared_logits

    def watch(accelerator, model, some):
        read.update(mode for request in some for mode in request.modes)
        return real(accelerator, model, some)

    monkeypatch.setattr(training.loop, "shared_logits", watch)
    cfg = study(prompt={"keep_probability": (0, 0, 1)}, heads={"requests_per_step": 6})
    assert {mode for batch in training.make_batches(cfg, requests["label"]) for r in batch for mode in r.modes} == {2}
    training.train(cfg, run, TOKENIZER, requests)
    assert read == {2}


def suffixes(tables, mode="both", **prompt):
    table, _ = prompts.build_prompts(study(prompt={"n_history": 2, **prompt}), tables, TOKENIZER)
    items = tables["interactions"].set_index("row")["item_id"]
    return table.assign(item=table["row"].map(items), text=table[f"suffix_{mode}"]).set_index("row")


def test_titles_are_dealt_out_anew_or_replaced(tables):
    real, shuffled, ids = (suffixes(tables, "none", titles=how) for how in ("real", "shuffled", "ids"))
    assert (ids["text"] == [f" movie {item}. Like?" for item in ids["item"]]).all()
    assert "Film" in real["prefix"].iloc[-1].replace(" Film:", "") and "movie 1" in "".join(ids["prefix"])
    given = shuffled.groupby("item")["text"].unique()
    assert (given.str.len() == 1).all() and given.str[0].is_unique, "one title an item, and no two the same"
    assert set(shuffled["text"]) <= {f" Film {i}. Like?" for i in range(20)}
    assert (shuffled["text"] != real["text"]).mean() > 0.5


def test_evidence_is_dealt_out_anew_within_each_part_only(tables):
    real, shuffled = suffixes(tables), suffixes(tables, shuffle_evidence=True)
    part = tables["split"].set_index("row").loc[real.index]
    part = part["split"] + part["half"]

    def evidence(table):
        return table["text"].str.split(".", n=1).str[1]

    for name in part.unique():
        here = part == name
        assert sorted(evidence(real)[here]) == sorted(evidence(shuffled)[here])
    assert (evidence(real) != evidence(shuffled)).mean() > 0.5
    assert (real["suffix_none"] == shuffled["suffix_none"]).all()


def test_the_items_mean_stands_for_the_similar_users(tables):
    table = suffixes(tables, "similar_users", others="item_mean")
    known = tables["evidence"].set_index("row").loc[table.index]
    for row, text in table["text"].items():
        mean, n = known.loc[row, ["item_mean", "n_item"]]
        assert text.split(".", 1)[1] == (f" others {int(mean + 0.5)} {mean:.1f}. Like?" if n else " others none. Like?")
    taken = prompts._everybody(pd.DataFrame({"n_item": [0, 1, 2, 3, 4, 5000]}), stars=False)
    assert taken == [[0], [1], [2], [2], [3], [9]]


def test_year_and_genres_stand_behind_the_title_where_they_are_known(tables):
    about = tables["items"].assign(year=["", *["1995"] * 19], genres=["", "", *["Drama"] * 18])
    table = suffixes({**tables, "items": about}, "none", show_genres=True)
    shown = {0: "", 1: " (1995)", 2: " (1995, Drama)"}
    for item, text in table[["item", "text"]].to_numpy():
        assert text == f" Film {item}{shown[min(item, 2)]}. Like?"


def test_similar_items_are_spelled_out_with_their_ratings(tables):
    cfg = ablations.settings_of(row_of("own_titles"), toys.study(), 0)
    plain, _ = prompts.build_prompts(toys.study(), tables, TOKENIZER)
    spelled, tokens = prompts.build_prompts(cfg, tables, TOKENIZER)
    titles = prompts.cut_titles(tables["items"]["title"], TOKENIZER, cfg.prompt.max_title_tokens)
    told = tables["evidence"].set_index("row")
    for row, before, after in zip(plain["row"], plain["suffix_both"], spelled["suffix_both"], strict=True):
        pairs = zip(told["own_items"][row], told["own"][row], strict=True)
        near = [f"{titles[item]} {rating}" for item, rating in pairs]
        said = f" Near: {'; '.join(near[:3])}." if near else ""
        assert after == before.removesuffix(" Like?") + said + " Like?"
    assert (spelled["suffix_similar_users"] == plain["suffix_similar_users"]).all()


def test_withheld_items_are_nowhere_in_training_and_alone_in_test(source, tables):
    row = row_of("withheld_items")
    cfg = ablations.settings_of(row, toys.study(), 0)
    withheld = set(rows.withheld_items(tables["items"], cfg).tolist())
    assert len(withheld) == round(0.3 * len(tables["items"]))
    run, titles = rows.open_row(source, row, 0), tables["items"].set_index("item_id")["title"]
    run.root.mkdir(parents=True)
    rows.prepare_tables(cfg, source, run, TOKENIZER, "w")
    split, known = artifacts.read_table(run, "split.parquet"), artifacts.read_table(run, "interactions.parquet")
    part = known.merge(split[["row", "split"]], on="row")
    asked = part[part["split"] == "test"]
    assert set(asked["item_id"]) <= withheld and len(asked)
    assert not set(part.loc[part["split"] != "test", "item_id"]) & withheld and (part["split"] == "label").any()
    shown = artifacts.read_table(run, "prompts.parquet")
    assert not [t for t in titles[sorted(withheld)] if shown["prefix"].str.contains(f" {t} ", regex=False).any()]
    whole = rows.open_row(source, row_of("only_none"), 0)
    whole.root.mkdir(parents=True)
    rows.prepare_tables(ablations.settings_of(row_of("only_none"), toys.study(), 0), source, whole, TOKENIZER, "w")
    others = artifacts.read_table(whole, "split.parquet")
    assert set(asked["row"]) <= set(others.loc[others["split"] == "test", "row"]), "comparable, row by row"


def test_titles_that_instruct_are_learnt_from_and_never_judged_on(source, tables):
    made = {}
    for name in ("main", "hostile_titles"):
        run, row = rows.open_row(source, row_of(name), 0), row_of(name)
        run.root.mkdir(parents=True)
        rows.prepare_tables(ablations.settings_of(row, toys.study(), 0), source, run, TOKENIZER, "w")
        shown = artifacts.read_table(run, "prompts.parquet")
        made[name] = shown.merge(artifacts.read_table(run, "split.parquet")[["row", "split"]], on="row")
        assert artifacts.artifact_hash(run, "interactions.parquet")
    plain, hostile = made.values()
    learned = plain["split"] == "label"
    assert hostile[~learned].equals(plain[~learned]) and learned.any()
    limit = toys.study().prompt.max_title_tokens - 1
    taught = tuple(f" {wordings.WORDINGS[i][0][:limit].strip()}" for i in wordings.TAUGHT)
    begins = hostile.loc[learned, "suffix_none"].str.startswith(taught)
    assert 0.2 < begins.mean() < 0.8, "about half of the items"
    assert (hostile["suffix_none"] == plain["suffix_none"])[learned].equals(~begins)
    assert (hostile["prefix"] != plain["prefix"])[learned].any(), "in histories, too"


# --- running --------------------------------------------------------------------------------------------------


def test_two_rows_from_end_to_end_killed_and_resumed(source, tmp_path, monkeypatch, capsys):
    asked = ["--profile", "smoke", "--only", "static_2", "--only", "only_none"]
    chosen = [row_of("only_none"), row_of("static_2")]
    whole = toys.run_with(frames(), tmp_path / "run/ml-100k/whole/seed-0")
    wanted = {row.name: rows.run_row(row, toys.study(), 0, whole) for row in chosen}
    real, calls = training.loop._step, []

    def dies(*args):
        calls.append(args[4])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training.loop, "_step", dies)
    monkeypatch.setattr(command, "each_seed", lambda some: [(row, 0) for row in some])
    with pytest.raises(SystemExit) as stopped:  # Ctrl-C: one line that says how to go on
        command.main(asked)
    assert stopped.value.code == INTERRUPTED
    command.main([*asked, "--keep"])
    assert calls[5] == 4, "it goes on after the checkpoint of step 3"
    for row in chosen:
        found = ablations.find_finished(row, toys.study(), 0, source)
        assert found.current and found.record["changes"]["data.n_label_rows"] == [120, 40]
        pd.testing.assert_frame_equal(found.scores, wanted[row.name].scores)
        assert set(found.scores["split"]) == {"validation", "test"} and set(found.scores["half"]) == {"select", ""}
        assert set(found.scores["mode"]) == set(row.modes)
    told = capsys.readouterr().out
    assert "== ablation only_none, seed 0: " in told and "Not run (main against" not in told
    assert "Not run (only_both against only_none)." in told
    n_steps = len(calls)
    command.main(asked)  # what is finished is not run again
    assert len(calls) == n_steps


def test_a_taught_model_learns_from_its_teacher_who_is_trained_first(source, monkeypatch):
    taught, seen = row_of("static_2_distilled"), []
    real = training.train

    def train(cfg, run, tokenizer, requests):
        seen.append((run.root.name, requests["label"]))
        return real(cfg, run, tokenizer, requests)

    monkeypatch.setattr(training, "train", train)
    found = rows.run_row(taught, toys.study(), 0, source)
    assert [name for name, _ in seen] == ["main-0", "static_2_distilled-0"] and found.record["row"] == taught.name
    (_, plain), (_, requests) = seen
    run, cfg = rows.open_row(source, row_of("main"), 0), ablations.settings_of(row_of("main"), toys.study(), 0)
    logits = training.head_logits(training.load_scorable(cfg, run, TOKENIZER), [plain[3]])[:, -1]
    assert plain[3].targets is None
    np.testing.assert_allclose(requests[3].targets, 0.5 / (1 + np.exp(-logits)) + 0.5 * plain[3].labels, atol=1e-5)
    kept = training.keep(requests[3], requests[3].modes == 1)
    np.testing.assert_array_equal(kept.targets, requests[3].targets[requests[3].modes == 1])
    again = rows.run_row(taught, toys.study(), 0, source)
    assert len(seen) == 3, "the teacher is there"
    pd.testing.assert_frame_equal(again.scores, found.scores)
    other = rows.run_row(row_of("static_2"), toys.study(), 0, source)
    assert (other.scores["p_yes_2"] != found.scores["p_yes_2"]).any()


@pytest.fixture
def finished(source):
    row = row_of("static_2")
    return row, source, rows.run_row(row, toys.study(), 0, source)


def test_a_rows_record_says_where_it_comes_from(finished):
    row, source, found = finished
    record = found.record
    assert record["changes"]["backbone.n_layers_kept"] == [None, 2]
    assert record["changes"]["heads.exit_layers"] == [[1, 2, 3, 4, 5, 6], [2]]
    assert record["inputs"]["evidence.parquet"] == artifacts.artifact_hash(source, "evidence.parquet")
    assert record["n_labels"] >= 40 and record["seconds"]["step"] > 0 and record["environment"]["versions"]["torch"]
    assert [column for column in found.scores if column.startswith("p_yes")] == ["p_yes_2"]


def test_a_finished_row_of_another_fingerprint_is_not_done(finished, monkeypatch):
    row, source, _ = finished
    assert ablations.find_finished(row, toys.study(), 0, source).current
    other = study(heads={"lora_lr": 2e-3})
    assert not ablations.find_finished(row, other, 0, source).current
    ran = []
    monkeypatch.setattr(rows, "run_row", lambda row, *_: ran.append(row.name))
    command.run_all((Row(row.name, row.question, row.family, row.changes),), toys.study(), {0: source})
    command.run_all((Row(row.name, row.question, row.family, row.changes),), other, {0: source})
    assert ran == ["static_2"]


def test_what_was_finished_without_keep_is_kept_when_asked_for(finished):
    row, source, found = finished
    row = dataclasses.replace(row, seeds=(0,))
    kept = [rows.reference_path(source, row, 0).with_name(f"{row.name}-0{ending}") for ending in (".json", ".parquet")]
    command.run_all((row,), toys.study(), {0: source})
    assert not any(path.exists() for path in kept)
    command.run_all((row,), toys.study(), {0: source}, keep=True)
    assert json.loads(kept[0].read_text()) == found.record and kept[1].exists()


def test_a_committed_row_is_done_unless_its_scores_are_not_its_own(finished):
    row, source, found = finished
    record, scores = rows.keep_row(row, 0, source)
    source.root.parent.joinpath("ablations").rename(source.root / "away")
    again = ablations.find_finished(row, toys.study(), 0, source)
    assert again.current and json.loads(record.read_text()) == again.record
    pd.testing.assert_frame_equal(again.scores, found.scores)
    found.scores.assign(p_yes_2=0.5).to_parquet(scores)
    assert ablations.find_finished(row, toys.study(), 0, source) is None


def test_a_budget_begins_no_row_that_would_overrun_it(source, monkeypatch, capsys):
    monkeypatch.setattr(rows, "find_finished", lambda *_: None)
    ran = []
    monkeypatch.setattr(rows, "run_row", lambda row, *_: ran.append(row.name))
    monkeypatch.setattr(command.time, "perf_counter", lambda: 60.0 * len(ran))  # a minute a row
    three = tuple(Row(name, "?", "heads") for name in "abc")
    command.run_all(three, toys.study(), {0: source}, budget=2.5)
    assert ran == ["a", "b"] and "the next row would be c" in capsys.readouterr().out


def test_a_row_that_fails_is_named_and_the_others_are_told(source, monkeypatch, capsys):
    def run_row(row, *_):
        if row.name == "only_none":
            raise ValueError("it did not learn")

    monkeypatch.setattr(rows, "run_row", run_row)
    monkeypatch.setattr(command.time, "perf_counter", lambda: 0.0)
    summarised = []
    monkeypatch.setattr(command, "summarise", lambda *_: summarised.append(1) or {"comparisons": pd.DataFrame()})
    names = ("--only", "only_none", "--only", "only_both", "--seed", "0")
    with pytest.raises(SystemExit, match="only_none, seed 0: it did not learn"):
        command.main(["--profile", "smoke", *names, "--budget-minutes", "0"])
    assert summarised == [1]


def test_a_row_waits_for_its_seeds_evidence_and_the_others_run(source, monkeypatch, capsys):
    monkeypatch.setattr(rows, "find_finished", lambda *_: None)
    ran = []
    monkeypatch.setattr(rows, "run_row", lambda row, study, seed, _: ran.append((row.name, seed)))
    sources = {seed: artifacts.open_run("ml-100k", "smoke", seed) for seed in (0, 1)}
    command.run_all((Row("a", "?", "heads", seeds=(0, 1)), Row("b", "?", "heads")), STUDY, sources)
    assert ran == [("a", 0), ("b", 0)]
    assert "a, seed 1, waits for interactions.parquet, users.parquet" in capsys.readouterr().out


def test_a_damaged_table_stops_the_row(source):
    source.path("evidence.parquet").write_bytes(b"half of it")
    with pytest.raises(SystemExit, match="evidence.parquet is damaged.*make reproduce"):
        command.main(["--profile", "smoke", "--only", "only_none"])


# --- what is told ---------------------------------------------------------------------------------------------


def test_holm_by_hand():
    np.testing.assert_allclose(analysis.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(analysis.holm([0.01, 0.5], n_tests=10), [0.1, 1.0])


def test_seeds_of_other_code_are_no_noise_of_training(finished):
    row, _, found = finished
    row = dataclasses.replace(row, seeds=(0, 1, 2))
    stale = dataclasses.replace(found, current=False)
    assert analysis.of_seeds(row, {(row.name, 0): found, (row.name, 1): stale}) == [found]
    assert analysis.of_seeds(row, {(row.name, 0): stale, (row.name, 2): stale}) == [stale, stale]
    assert analysis.training_noise([row], {(row.name, 0): found, (row.name, 1): stale})[1] == 0


def test_p_counts_the_smaller_side():
    assert analysis.two_sided_p(np.array([1.0, 2, 3, -1, np.nan] * 20)) == pytest.approx(2 * 21 / 81)
    assert analysis.two_sided_p(np.ones(99)) == pytest.approx(0.02)


def made_up(layers, skill, seed=0, n_users=60):
    """A finished row whose scores at each exit know the label as well as `skill` says."""
    rng, n = np.random.default_rng(5), n_users * 6
    table = pd.DataFrame({"row": range(n), "user_id": np.arange(n) // 6, "request_id": np.arange(n) // 3,
                          "mode": "both", "split": np.where(np.arange(n) % 6 < 3, "validation", "test"),
                          "label": rng.integers(0, 2, n), "n_prefix_tokens": 60, "n_suffix_tokens": 20})
    table["half"] = np.where(table["split"] == "validation", "select", "")
    noise = np.random.default_rng(seed)
    for layer, know in zip(layers, skill, strict=True):
        z = know * (table["label"] - 0.5) + noise.normal(size=n)
        table[f"p_yes_{layer}"] = 1 / (1 + np.exp(-z))
    return Finished({}, table, True)


def test_comparisons_count_those_not_run_and_invent_nothing():
    table = (Row("main", "?", "heads", compared_with=()), Row("good", "Better?", "heads"),
             Row("same", "Same?", "heads"), Row("missing", "More?", "heads"))
    results = {("main", 0): made_up((1, 2), (0, 0.5)), ("good", 0): made_up((1, 2), (0, 3), seed=1),
               ("same", 0): made_up((2,), (0.5,), seed=2)}
    found = analysis.compare_all(table, results, toys.study()).set_index("row")
    test = analysis.test_rows(results["good", 0], "both")
    gap = analysis.metrics.difference(
        test["label"], test["p_yes_2"], analysis.test_rows(results["main", 0], "both")["p_yes_2"], test["user_id"],
        toys.study().ablation.n_bootstrap)
    assert found.loc["good", "value"] == pytest.approx(gap["value"]) and found.loc["good", "lo"] == gap["ci95"][0]
    assert ablation_results.answer(found.loc["good"]) == "undecided: no model was trained twice"
    table = (Row("main", "?", "heads", compared_with=(), seeds=(0, 1)), *table[1:])
    results["main", 1] = made_up((1, 2), (0, 0.5), seed=9)  # now it is known how far trainings lie apart
    found = analysis.compare_all(table, results, toys.study()).set_index("row")
    assert found.loc["good", "value"] == pytest.approx(gap["value"]) and found.loc["good", "lo"] < gap["ci95"][0]
    assert found.loc["good", "p_holm"] == pytest.approx(3 * found.loc["good", "p"])
    missing = found.loc["missing"]
    assert missing[["value", "lo", "p", "p_holm"]].isna().all() and missing["state"] == "not run"
    told = [ablation_results.sentence(line) for line in found.reset_index().to_dict("records")]
    assert told[0].startswith("Better? AUC of good (evidence: both; layer 2) 0.") and "users and trainings" in told[0]
    assert told[1].endswith("no difference shown.") and told[2] == "More? Not run (missing against main)."


def test_a_comparison_is_made_in_every_shared_mode_and_of_every_shared_seed():
    table = (Row("main", "?", "heads", compared_with=(), modes=("both", "none"), seeds=(0, 1, 2)),
             Row("text", "Worse?", "controls", modes=("both", "none"), seeds=(0, 1, 2)),
             Row("other", "Worse?", "evidence", compared_with=("main", "text"), modes=("similar_users",)))
    assert [(row.name, against.name, *modes) for row, against, *modes in analysis.declared(table)] == [
        ("text", "main", "both", "both"), ("text", "main", "none", "none"),
        ("other", "main", "similar_users", "both"), ("other", "text", "similar_users", "both")]
    results = {("main", seed): made_up((2,), (1.0,), seed) for seed in (0, 1, 2)}
    results |= {("text", seed): made_up((2,), (0.5,), 7 + seed) for seed in (0, 1)}
    assert analysis.chosen_exit(made_up((1, 2, 3), (0.5, 3, 0.5)), "both") == 2
    results = {key: Finished({}, pd.concat([one.scores, one.scores.assign(mode="none")]), True)
               for key, one in results.items()}  # fmt: skip
    line = analysis.compare_all(table, results, toys.study()).iloc[0]
    alone = [analysis.compare_all(table, {(name, 0): results[name, seed] for name in ("main", "text")},
                                  toys.study()).iloc[0] for seed in (0, 1)]  # fmt: skip
    values = [one["value"] for one in alone]
    assert line["seeds"] == 2 and line["value"] == pytest.approx(np.mean(values))
    assert line["sd"] == pytest.approx(np.std(values, ddof=1)) and np.isnan(alone[0]["sd"])
    assert line["noise_sd"] > 0 and np.isnan(alone[0]["noise_sd"]) and alone[0]["hi"] - alone[0]["lo"] > 0


def test_the_noise_of_training_against_a_loop_and_a_reseed_is_no_finding():
    table = (Row("main", "?", "heads", compared_with=(), seeds=(0, 1, 2)), Row("again", "Other?", "heads"))
    skills = {0: (1.2, 0.8), 1: (0.6, 1.6), 2: (2.0, 0.4)}  # trainings that differ more than users do
    results = {("main", seed): made_up((1, 2), know, seed) for seed, know in skills.items()}
    auc = [[analysis.metrics.auc(test["label"], test[f"p_yes_{k}"]) for k in (1, 2)]
           for test in (analysis.test_rows(one, "both") for one in results.values())]  # fmt: skip
    spread, freedom = analysis.training_noise(table, results)
    assert spread == pytest.approx(np.sqrt(np.var(auc, axis=0, ddof=1).mean())) and freedom == 2
    results["again", 0] = results["main", 1]  # the same row with another seed, told as if it were a change
    line = analysis.compare_all(table, results, toys.study()).iloc[0]
    assert ablation_results.answer(line) == "no difference shown" and line["hi"] - line["lo"] > 2 * spread
    assert np.isnan(analysis.training_noise(table[1:], results)[0])
    drawn = analysis.with_trainings(np.zeros(200_000), (0.1, 30), n_seeds=4, seed=0)
    assert drawn.std() == pytest.approx(0.1 * np.sqrt(2 / 4 * 30 / 28), rel=0.02)  # t's variance is df / (df - 2)


def test_rows_of_today_count_before_others_and_a_missing_mode_is_not_run():
    table = (Row("main", "?", "heads", compared_with=(), modes=("both", "none"), seeds=(0, 1)),
             Row("text", "Worse?", "controls", modes=("both", "none"), seeds=(0, 1)))
    results = {(name, seed): made_up((2,), (1.0,), 3 * seed) for name in ("main", "text") for seed in (0, 1)}
    results["text", 1] = Finished({}, results["text", 1].scores, False)
    lines = analysis.compare_all(table, results, toys.study()).set_index("mode")
    assert lines.loc["both", "seeds"] == 1 and lines.loc["both", "state"] == "finished"
    assert lines.loc["none", "state"] == "not run"
    assert set(analysis.curves(table, results, toys.study()).query("mode == 'none'")["state"]) == {"not run"}
    results["text", 0] = Finished({"n_steps": 150}, results["text", 0].scores, False)
    results["main", 0] = Finished({"n_steps": 100}, results["main", 0].scores, True)
    line = analysis.compare_all(table, results, toys.study()).iloc[0]
    assert line["seeds"] == 2 and line["state"] == "of other code" and "(other code)" in ablation_results.answer(line)
    line = line.to_dict() | {"steps": 150.0, "steps_compared": 100.0}
    assert ablation_results.sentence(line).endswith("They learned in 150 against 100 steps.")


def test_times_belong_to_one_run(source, monkeypatch, tmp_path):
    """Times of one policy beside the work of another would say nothing."""
    monkeypatch.setattr(artifacts, "committed_dir", lambda run: tmp_path)
    monkeypatch.setattr(duels, "timed_share", lambda latency, head, tokens, selected, cfg: (
        latency["a"][0], head["a"][0], tokens["a"][0], selected["policy"]))  # fmt: skip
    frame = pd.DataFrame({"a": [1.0]})
    for name in ("latency.csv", "head_scores.parquet", "prompt_tokens.parquet"):
        artifacts.write_table(source, name, frame)
    assert command.measured_times(toys.study(), source)[0].empty  # without the policy that was timed, nothing is told
    artifacts.write_json(source, "selected_policy.json", {"policy": "margin"})
    assert command.measured_times(toys.study(), source)[1] == (1.0, 1.0, 1.0, "margin")
    source.path("latency.csv").unlink()
    (tmp_path / "rows").mkdir()
    (frame + 8).to_csv(tmp_path / "latency.csv", index=False)
    for name in ("head_scores.parquet", "rows/prompt_tokens.parquet"):
        (frame + 8).to_parquet(tmp_path / name)
    (tmp_path / "selected_policy.json").write_text('{"policy": "entropy"}')
    assert command.measured_times(toys.study(), source)[1] == (9.0, 9.0, 9.0, "entropy")


def test_heads_are_compared_at_an_exit_that_both_have():
    table = (Row("main", "?", "heads", compared_with=()), Row("few", "?", "heads", at_exit=2),
             Row("deep", "?", "heads", at_exit=2))
    results = {("main", 0): made_up((1, 2, 3), (0, 0.5, 2)), ("few", 0): made_up((2, 3), (2, 0), 1),
               ("deep", 0): made_up((3,), (2,), 2)}
    found = analysis.compare_all(table, results, toys.study()).set_index("row")
    assert found["exits"].tolist() == ["layer 2", "layer 3"] == found["exits_compared"].tolist()
    test = analysis.test_rows(results["few", 0], "both")
    assert found.loc["few", "auc"] == analysis.metrics.auc(test["label"], test["p_yes_2"])


def test_curves_hold_every_exit_and_show_missing_rows():
    table = (Row("main", "?", "heads"), Row("missing", "?", "heads"))
    told = analysis.curves(table, {("main", 0): made_up((1, 2), (0.5, 2))}, toys.study())
    main = told[told["row"] == "main"].set_index(["exit_layer", "metric"])
    assert len(main) == 6 and (main["lo"] < main["value"]).all() and (main["value"] < main["hi"]).all()
    assert main.loc[(2, "auc"), "value"] > main.loc[(1, "auc"), "value"] + 0.1
    assert told.loc[told["row"] == "missing", "state"].tolist() == ["not run"]


NAMES = ["auc_retrieval_minus_own_no_retrieval_model", "auc_retrieval_minus_item_mean_prompt",
         "auc_similar_users_minus_item_mean_prompt", "auc_random_backbone_minus_main", "auc_shuffled_titles_minus_main",
         "auc_ids_minus_main", "auc_shuffled_evidence_minus_main",
         "auc_dynamic_minus_static_same_latency", "auc_dynamic_minus_static_same_latency_same_time",
         "auc_dynamic_minus_static_same_latency_distilled",
         *(f"auc_{row}_minus_main_no_evidence" for row in ablation_results.CONTROLS[:-1])]


def told_of(results):
    tables = command.summary(toys.study(), results, pd.DataFrame(), np.nan)
    return ablation_results.Ablations(**tables, own=True)


def test_headline_entries_are_null_until_their_rows_are_run():
    for entries in (ablation_results.headline_entries(None), ablation_results.headline_entries(told_of({}))):
        assert [entry["name"] for entry in entries] == NAMES
        assert all(entry["value"] is None and entry["ci95"] is None for entry in entries)


def test_headline_and_tables_tell_what_was_run():
    results = {("only_none", 0): made_up((6,), (0.3,), 1), ("only_both", 0): made_up((6,), (3,), 2)}
    for found, mode in zip(results.values(), ("none", "both"), strict=True):
        found.scores["mode"] = mode
    told = told_of(results)
    entry, p, against = ablation_results.headline_entries(told)[:3]
    line = told.comparisons.set_index(["row", "compared_with"]).loc[("only_both", "only_none")]
    assert entry["value"] == pytest.approx(line["value"], abs=1e-6) and entry["value"] > 0 and entry["n"] == 180
    assert entry["ci95"] == pytest.approx([line["lo"], line["hi"]], abs=1e-6)
    assert (p["name"], p["value"]) == ("p_adjusted_retrieval_minus_own_no_retrieval_model", None)  # one training each
    assert against["value"] == pytest.approx(line["auc_compared"], abs=1e-6)
    shown = ablation_results.family_table(told, "evidence")
    assert shown.index.tolist() == ["only_both"] and shown["against"].tolist() == ["only_none"]  # what was run
    assert shown["answer"].tolist() == ["undecided: no model was trained twice"]
    assert shown["evidence there"].iloc[0] == "none"
    said = ablation_results.family_sentences(told, "evidence")
    assert len(said) == 2 and "only_both" in said[0]
    assert "Not compared yet: only_item_mean against only_none;" in said[1]
    assert "(evidence: none; layer 6)" in said[0] and "only_both against only_none" not in said[1]
    assert ablation_results.family_text(told, "evidence") == "".join(f"- {one}\n" for one in said)
    assert "make ablations" in ablation_results.family_text(None, "evidence")


def test_a_control_counts_with_its_evidence_in_the_headline():
    results = {}
    for row, skill in (("main", 3), ("random_backbone", 1)):
        scores = made_up((6,), (skill,), 1).scores
        both = pd.concat([scores, made_up((6,), (0,), 2).scores.assign(mode="none")], ignore_index=True)
        results[row, 0] = Finished({}, both, True)
    told = told_of(results)
    entries = {entry["name"]: entry for entry in ablation_results.headline_entries(told)}
    wanted = told.comparisons.set_index(["row", "mode"]).loc[("random_backbone", "both"), "value"]
    assert entries["auc_random_backbone_minus_main"]["value"] == pytest.approx(wanted, abs=1e-6) and wanted < 0
    assert entries["auc_ids_minus_main"]["value"] is None
    bare = told.comparisons.set_index(["row", "mode"]).loc[("random_backbone", "none"), "value"]  # noise against noise
    assert entries["auc_random_backbone_minus_main_no_evidence"]["value"] == pytest.approx(bare, abs=1e-6) != wanted


def test_the_figure_of_curves_draws_what_was_run():
    told = told_of({("main", 0): made_up((1, 2), (0, 3))})
    figure = ablation_results.curves_figure(told, {"a": {("main", "both"): "all", ("ids", "both"): "ids"}, "b": {}})
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert sorted(lines) == ["all", "chance"] and [axis.get_title("left") for axis in figure.axes] == ["a", "b"]
    wanted = told.curves[(told.curves["row"] == "main") & (told.curves["metric"] == "auc")].set_index("exit_layer")
    for layer, value in zip(*lines["all"].get_data(), strict=True):
        assert value == wanted.loc[layer, "value"]
    assert "chance" in [line.get_label() for line in figure.axes[1].get_lines()]
    said = ablation_results.ends_sentence(told, {("ids", "both"): "ids", ("main", "both"): "all"})
    first, last = (f"{wanted.loc[layer, 'value']:.3f} [{wanted.loc[layer, 'lo']:.3f}, " for layer in (1, 2))
    assert f"exit: all {first}" in said and f" and {last}" in said and "ids" not in said
    assert ablation_results.ends_sentence(None, {("main", "both"): "all"}) == ""


def test_a_main_row_that_learned_nothing_is_said():
    texts = {}
    for skill in (0, 3):
        scores = made_up((6,), (skill,), 1).scores
        both = pd.concat([scores, scores.assign(mode="none")], ignore_index=True)
        texts[skill] = ablation_results.family_text(told_of({("main", 0): Finished({}, both, True)}), "evidence")
        assert texts[skill].startswith("- At the common budget the row main comes to an AUC of 0.")
    assert "says little" in texts[0] and "says little" not in texts[3]


def test_the_summary_is_the_runs_own_else_the_committed_one(source):
    assert ablation_results.told(source) is None
    told = command.summarise(STUDY, source, keep=True)
    assert ablation_results.told(source).own and len(told["comparisons"]) > 20
    source.path("ablation_seeds.csv").unlink()
    kept = ablation_results.told(source)
    assert not kept.own and kept.comparisons["row"].tolist() == told["comparisons"]["row"].tolist()


def latency_table(ms):
    return pd.DataFrame([{"contender": name, "workload": "drawn", "n_candidates": 2, "seconds": t / 1000}
                         for name, t in ms.items()])  # fmt: skip


def test_the_rival_is_chosen_on_validation_and_early_exit_gets_its_time():
    cfg = toys.study()
    assert static_depths(cfg) == [1, 2, 3]
    results = {("main", 0): made_up(range(1, 7), (0.5, 0.8, 1, 1.5, 1.5, 1.5)), ("static_3", 0): made_up((3,), (3,), 3),
               ("static_1", 0): made_up((1,), (0.2,), 1), ("static_2", 0): made_up((2,), (1.0,), 2)}
    latency = latency_table({f"packed_static_{k}": 10 * k for k in (1, 2, 3, 6)} | {"packed_early_exit": 45})
    told = duels.same_latency(results, cfg, latency, 1.0)
    assert told["seeds"] == 1 and told["rivals"] == ["static_3"] and told["static_ms"] == pytest.approx([30])
    assert 10 < told["dynamic_ms"][0] <= 30 and told["value"] < 0
    slow = duels.same_latency(results, cfg, latency, 1.5)  # leaving early costs more: fewer layers fit
    assert slow["dynamic_ms"][0] <= 30 * 1.2 and slow["static_ms"] == pytest.approx([30])
    none = duels.same_latency(results, cfg, latency, 10)  # no dynamic rule fits: everybody leaves at one exit
    assert none["fixed"] == 1 and told["fixed"] == 0 and np.isnan(none["p"])
    assert none["dynamic_ms"] == pytest.approx([30])
    stale = {**results, ("static_3", 0): Finished({}, results["static_3", 0].scores, False)}
    assert duels.same_latency(stale, cfg, latency, 1.0)["state"] == "of other code" != told["state"]
    other = {**results, ("static_2", 0): made_up((4,), (1.0,), 2)}  # of other code, which knew another exit
    assert duels.same_latency(other, cfg, latency, 1.0) is None
    assert duels.same_latency({**results, ("static_2", 0): None}, cfg, latency, 1.0) is None
    assert duels.same_latency(results, cfg, latency.iloc[:0], 1.0) is None


def test_the_overhead_is_over_a_fixed_exit_of_the_same_work():
    latency = latency_table({f"packed_static_{k}": 10 * k for k in (1, 2, 3, 6)} | {"packed_early_exit": 45})
    assert duels.overhead(latency, 0.5, 6) == pytest.approx(1.5)
    assert duels.overhead(latency, 0.9, 6) == 1.0  # 45 ms for the work of 54: no bonus
    assert np.isnan(duels.overhead(latency, np.nan, 6))


def test_the_work_of_the_timed_policy_is_that_of_the_requests_that_were_timed():
    """Half of the requests are decided at the first exit; which of them were timed decides what their work was."""
    rows = pd.DataFrame({"row": range(8), "request_id": [0, 0, 1, 1, 2, 2, 3, 3], "user_id": [0, 0, 1, 1, 2, 2, 3, 3],
                         "mode": "both", "label": [1, 0] * 4, "split": ["validation"] * 4 + ["test"] * 4,
                         "half": ["select"] * 4 + [""] * 4, "p_yes_1": [0.9] * 6 + [0.5] * 2, "p_yes_2": 0.9})
    tokens = pd.DataFrame({"row": range(8), "n_prefix_tokens": 10, "n_suffix_both": 5})
    selected = {"policy": "max_probability", "threshold": 0.8}
    for request, share in ((2, 0.5), (3, 1.0)):  # one of two layers; both
        latency = pd.DataFrame({"workload": ["drawn", "full"], "request_id": [request, 5 - request],
                                "n_candidates": [1, 2]})
        assert duels.timed_share(latency, rows, tokens, selected, toys.study()) == pytest.approx(share)
        alike = latency.assign(n_candidates=2)  # then both were drawn from the same
        assert duels.timed_share(alike, rows, tokens, selected, toys.study()) == pytest.approx(0.75)
    assert np.isnan(duels.timed_share(latency.iloc[:0], rows, tokens, selected, toys.study()))


def test_duels_are_told_or_said_not_to_be_measured():
    cfg = toys.study()
    results = {("main", 0): made_up(range(1, 7), (0.5, 0.8, 1, 1.5, 1.5, 1.5))}
    results |= {(f"static_{k}", 0): made_up((k,), (k,), k) for k in (1, 2, 3)}
    latency = latency_table({f"packed_static_{k}": 10 * k for k in (1, 2, 3, 6)} | {"packed_early_exit": 30})
    told = duels.duel_table(results, cfg, latency, 0.5).set_index("learned")
    assert told.loc["same labels", "rivals"] and np.isnan(told.loc["same time", "value"])
    first, second, _ = map(ablation_results.duel_sentence, told.reset_index().to_dict("records"))
    assert first.endswith("undecided: no model was trained twice.") and "not measured" in second
    line = told.reset_index().iloc[0].to_dict() | {"p_holm": 0.01, "value": 0.1, "fixed": 1}
    assert "better. In 1 of the seeds no dynamic rule was as fast" in ablation_results.duel_sentence(line)
    assert "worse (other code)." in ablation_results.duel_sentence(line | {"value": -0.1, "state": "x", "fixed": 0})


def test_the_spread_of_seeds():
    results = {("main", seed): made_up((1,), (1.0,), seed) for seed in (0, 1)}
    table = Row("main", "?", "heads", seeds=(0, 1, 2)), Row("one", "?", "heads")
    told = analysis.seed_spread(table, results).iloc[0]
    values = [analysis.metrics.auc(t["label"], t["p_yes_1"])
              for t in (analysis.test_rows(one, "both") for one in results.values())]
    assert told["seeds"] == 2 and told["auc_mean"] == pytest.approx(np.mean(values))
    assert told["auc_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
