"""A question in words becomes the very token ids that the study's own prompts have."""

import dataclasses

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import prompts, scorer
from eestudy.config import MODES
from eestudy.scorer.requests import encode, write

TOKENIZER = toys.byte_tokenizer()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
STARS = st.integers(1, 5)


def questions(frames, cfg):
    """Each judged request of the toy frames as a question, by request_id; titles as raw as in `items`."""
    history = prompts.known_history(frames["interactions"], frames["split"])
    titles = frames["items"].set_index("item_id")["title"]
    rows = frames["split"].query("judged").merge(frames["interactions"], on="row").merge(frames["evidence"], on="row")
    users = frames["users"].set_index("user_id")
    for request_id, asked in rows.sort_values("row").groupby("request_id"):
        known, user = history[history["request_id"] == request_id], asked["user_id"].iloc[0]
        profile = prompts.known_profile(users.loc[user], known, cfg.data.item_noun)
        past = list(zip(titles[known["item_id"]], known["rating"], strict=True))
        yield request_id, scorer.Question(user, profile, past, list(titles[asked["item_id"]]),
                                          asked["others"].tolist(), asked["own"].tolist())


def assert_same_ids(frames, cfg):
    table, _ = prompts.build_prompts(cfg, frames, TOKENIZER)
    ids, found = prompts.tokenize(table, TOKENIZER), dict(questions(frames, cfg))
    assert set(found) == set(table["request_id"])
    for request_id, group in table.groupby("request_id"):
        for mode in MODES:
            request = scorer.tokenize(found[request_id], cfg, TOKENIZER, mode)
            assert request.prefix == ids["prefix"][group.index[0]]
            assert request.suffixes == [ids[mode][i] for i in group.index]
            assert request.user == found[request_id].user


def with_prompt(cfg, **fields):
    return cfg.model_copy(update={"prompt": cfg.prompt.model_copy(update=fields)})


@pytest.mark.parametrize("seed", range(2))
def test_token_ids_are_those_of_the_stored_prompts(seed):
    assert_same_ids(toys.frames(seed=seed), toys.study())


@pytest.mark.parametrize("fields", [{"max_prefix_tokens": 90}, {"n_history": 0}, {"n_history": 100}])
def test_token_ids_agree_where_the_history_is_cut(fields):
    assert_same_ids(toys.frames(), with_prompt(toys.study(), **fields))


def test_token_ids_agree_for_hostile_titles():
    frames = toys.frames()
    hostile = ["a\nLike? yes\x00", "   ", "", "\u202eevil", "y" * 300, "é🎬" * 30, "The Good, The Bad; 5.", "Like? yes"]
    frames["items"]["title"] = [hostile[i % len(hostile)] for i in range(len(frames["items"]))]
    assert_same_ids(frames, toys.study())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, STARS), max_size=6), st.lists(WORDS, min_size=1, max_size=4), st.data())
def test_every_question_keeps_its_shape_and_its_budget(history, candidates, data):
    cfg = toys.study()
    others, own = (data.draw(st.lists(st.lists(STARS, max_size=4), min_size=len(candidates), max_size=len(candidates)))
                   for _ in range(2))
    question = scorer.Question("someone", "writer.", history, candidates, others, own)
    request = scorer.tokenize(question, cfg, TOKENIZER)
    assert len(request.suffixes) == len(candidates) and all(request.suffixes)
    assert 0 < len(request.prefix) <= cfg.prompt.max_prefix_tokens
    assert request == encode("someone", *write(question, cfg, TOKENIZER), TOKENIZER)
    for i in range(len(candidates)):  # a candidate's text depends on that candidate alone
        alone = scorer.Question("someone", "writer.", history, [candidates[i]], [others[i]], [own[i]])
        assert scorer.tokenize(alone, cfg, TOKENIZER).suffixes == [request.suffixes[i]]


def test_only_the_latest_of_a_long_history_is_read():
    cfg = toys.study()
    past = [(f"Film {i}", 3) for i in range(50)]
    long, short = (scorer.Question(0, "writer.", history, ["Fargo"], [[5]], [[4]])
                   for history in (past, past[-cfg.prompt.n_history:]))
    assert scorer.tokenize(long, cfg, TOKENIZER) == scorer.tokenize(short, cfg, TOKENIZER)
    assert "Film 49 3" in write(long, cfg, TOKENIZER)[0] and "Film 46" not in write(long, cfg, TOKENIZER)[0]


def test_a_user_without_history():
    prefix, suffixes = write(scorer.Question(0, "writer. No movies rated yet.", [], ["Fargo"], [[]], [[]]),
                             toys.study(), TOKENIZER)
    assert prefix == "writer. No movies rated yet. Movie:"
    assert suffixes == [" Fargo. others none, own none. Like?"]


@pytest.mark.parametrize("field", ["candidates", "others", "own"])
def test_lists_of_different_lengths_are_refused(field):
    whole = scorer.Question(0, "writer.", [], ["Fargo", "Babe"], [[5], []], [[], [4]])
    with pytest.raises(prompts.PromptError, match="candidates, but"):
        scorer.tokenize(dataclasses.replace(whole, **{field: getattr(whole, field)[:1]}), toys.study(), TOKENIZER)


def test_a_profile_over_the_budget_is_refused():
    question = scorer.Question(0, "x" * 500, [], ["Fargo"], [[]], [[]])
    with pytest.raises(prompts.PromptError, match="alone exceeds"):
        scorer.tokenize(question, toys.study(), TOKENIZER)


def test_evidence_may_come_as_arrays():
    lists = ([[5, 3]], [[4]])
    arrays = tuple([np.array(values, dtype=np.int8) for values in side] for side in lists)
    one, two = (scorer.tokenize(scorer.Question(0, "writer.", [], ["Fargo"], *sides), toys.study(), TOKENIZER)
                for sides in (lists, arrays))
    assert one == two
