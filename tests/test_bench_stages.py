"""The online path of a request gives what the offline tables gave: evidence, prompt, token ids, answers."""

import numpy as np
import pandas as pd
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts, backbone, contest, exit_heads, prompts, retriever, scorer, training
from eestudy.bench import stages
from eestudy.bench.setup import Setup
from eestudy.config import BackboneConfig

TOKENIZER = toys.byte_tokenizer()
LAYERS = (1, 2, 3, 4, 5, 6)
RULE = scorer.static_rule(2)


@pytest.fixture(scope="module")
def engine():
    model = backbone.load_model(BackboneConfig(source="random-llama"))
    heads = exit_heads.ExitHeads(LAYERS, *backbone.answer_direction(model, 5, 9))
    return scorer.build_engine(model, heads)


def make_setup(folder, seed):
    """A toy run whose evidence and prompts are built as notebooks 03 and 04 build them."""
    cfg, frames, rng = toys.study(), toys.frames(seed=seed), np.random.default_rng(seed)
    shapes = {"user": (12, 4), "item": (20, 4)}
    vectors = {f"{side}_{graph}": rng.standard_normal(shape).astype(np.float32)
               for side, shape in shapes.items() for graph in ("label", "final")}
    graphs = [retriever.graph_retriever(vectors[f"user_{g}"], vectors[f"item_{g}"]) for g in ("label", "final")]
    # few neighbours, so that the choice among the visible ratings matters
    cfg = cfg.model_copy(update={"retriever": cfg.retriever.model_copy(
        update={"n_similar_users": 3, "n_similar_items": 2})})
    frames["evidence"] = retriever.split_evidence(frames["interactions"], frames["split"], *graphs, 3, 2)
    frames["items"]["title"] = [f"Film\n{i} " + "long " * (i % 4) for i in range(20)]
    frames["prompts"] = prompts.build_prompts(cfg, frames, TOKENIZER)[0]
    run = toys.run_with(frames, folder)
    artifacts.write_arrays(run, "embeddings.safetensors", vectors)
    requests = {"test": training.only_mode(training.load_requests(run, TOKENIZER)["test"], "both")}
    return Setup(cfg, run, TOKENIZER, None, None, None, requests, RULE, 0, None)


@pytest.fixture(scope="module", params=[0, 1])
def setup(request, tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("toy"), request.param)


def test_the_online_path_gives_the_stored_token_ids_and_answers(setup, engine):
    shelf = stages.fill_shelf(setup.run)
    assert len(setup.requests["test"]) > 10
    for stored in setup.requests["test"]:
        candidates = stages.arriving(setup.run, stored.rows)
        seconds, request, found = stages.answer(setup, engine, RULE, shelf, candidates)
        assert request.prefix == stored.prefix and request.suffixes == stored.suffixes
        wanted = scorer.score(engine, [stored], RULE)[0]
        np.testing.assert_array_equal(found.p_yes, wanted.p_yes)
        assert list(seconds) == list(contest.STAGES)


def test_evidence_of_one_request_is_that_of_the_table(setup):
    shelf, table = stages.fill_shelf(setup.run), artifacts.read_table(setup.run, "evidence.parquet").set_index("row")
    for stored in setup.requests["test"]:
        found = stages.find_evidence(shelf, stages.arriving(setup.run, stored.rows), setup.cfg)
        pd.testing.assert_frame_equal(found.set_index("row"), table.loc[stored.rows], check_dtype=False)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4))
def test_the_prepared_retrieval_equals_the_one_that_sorts_everything(seed, n_ratings, n_candidates):
    """Any visible ratings, with ties in time, candidates nobody rated, users who rated nothing."""
    rng, n_users, n_items = np.random.default_rng(seed), 5, 8
    pairs = rng.permutation(n_users * n_items)
    user, asked = rng.integers(n_users), rng.permutation(n_items)[:n_candidates]
    pairs = pairs[~((pairs // n_items == user) & np.isin(pairs % n_items, asked))][:n_ratings]
    visible = pd.DataFrame({"row": range(len(pairs)), "user_id": pairs // n_items, "item_id": pairs % n_items,
                            "rating": rng.integers(1, 6, len(pairs)).astype(float),
                            "timestamp": rng.integers(0, 6, len(pairs))})
    candidates = pd.DataFrame({"row": 100 + np.arange(n_candidates), "user_id": user, "item_id": asked,
                               "request_timestamp": 4})
    similar = retriever.graph_retriever(rng.standard_normal((n_users, 3)), rng.standard_normal((n_items, 3)))
    shelf = stages.Shelf(visible, visible.groupby("user_id").indices, visible.groupby("item_id").indices,
                         None, None, similar, None)
    cfg = toys.study()
    k = cfg.retriever.n_similar_users, cfg.retriever.n_similar_items
    pd.testing.assert_frame_equal(stages.find_evidence(shelf, candidates, cfg),
                                  retriever.build_evidence(candidates, visible, similar, *k))


def test_a_rating_that_is_asked_for_is_refused_there_too(setup):
    shelf = stages.fill_shelf(setup.run)
    seen = shelf.visible.iloc[[0]].assign(request_timestamp=10**9)
    with pytest.raises(ValueError, match="among the visible"):
        stages.find_evidence(shelf, seen, setup.cfg)


def test_nothing_later_than_the_request_is_read(setup, engine):
    """Every rating made at the request's time or later, and all of validation and test, may change."""
    stored = setup.requests["test"][0]
    candidates = stages.arriving(setup.run, stored.rows)
    when, shelf = candidates["request_timestamp"].iloc[0], stages.fill_shelf(setup.run)
    late = shelf.visible["timestamp"] >= when
    changed = shelf.visible.assign(rating=np.where(late, 6 - shelf.visible["rating"], shelf.visible["rating"]))
    other = stages.Shelf(changed, shelf.of_user, shelf.of_item, shelf.users, shelf.titles, shelf.similar, None)
    assert stages.answer(setup, engine, RULE, other, candidates)[1].suffixes == stored.suffixes
    judged = artifacts.read_table(setup.run, "split.parquet").query("split in ('validation', 'test')")["row"]
    assert not shelf.visible["row"].isin(judged).any()


def test_times_have_a_row_per_request_and_stage(setup, engine):
    times = stages.stage_times(setup, engine, RULE, 5, seed=3)
    assert times["request"].nunique() == 5 and len(times) == 5 * (len(contest.STAGES) + 1)
    assert (times.groupby("request")["stage"].agg(set) == {*contest.STAGES, contest.UNPREPARED}).all()
    for i, n in times.groupby("request")["n_candidates"].first().items():
        assert n == len(setup.requests["test"][i].rows)
    again = stages.stage_times(setup, engine, RULE, 10**6, seed=4)
    assert set(again["request"]) == set(range(len(setup.requests["test"])))


def test_shares_add_up_and_leave_out_what_is_no_stage():
    seconds = {"retrieval": 1, "prompt": 2, "tokenisation": 3, "scoring": 14, contest.UNPREPARED: 100}
    records = [(i, 2, stage, scale * s) for i, scale in enumerate((1, 1, 4)) for stage, s in seconds.items()]
    times = pd.DataFrame(records, columns=["request", "n_candidates", "stage", "seconds"])
    found = contest.stage_shares(times).set_index("stage")
    assert list(found.index) == [*contest.STAGES, "total"] and (found["n"] == 3).all()
    np.testing.assert_allclose(found["share"], [0.05, 0.1, 0.15, 0.7, 1])
    np.testing.assert_allclose(found["latency_ms_p50"], [1000, 2000, 3000, 14000, 20000])
