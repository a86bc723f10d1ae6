"""Graph vectors as tokens: words stay what they were, what is trained is what scores, and no label leaks in."""

import numpy as np
import pytest
import torch
import toys

from eestudy import ablations, artifacts, backbone, scorer, training
from eestudy.ablations import rows

TOKENIZER = toys.byte_tokenizer()
FIRST = len(TOKENIZER)
VECTORS = {name: np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
           for name, n in (("users", 12), ("items", 20))}


@pytest.fixture
def models():
    return (training.build_model(toys.study(), TOKENIZER), training.build_model(toys.study(), TOKENIZER, VECTORS))


def embedded(model, ids):
    return backbone.decoder(model.backbone).embed_tokens(torch.tensor(ids))


def test_words_stay_what_they_were(models):
    plain, soft = models
    pack = backbone.make_pack([5, 6, 7], [[8, 9], [10]])
    with torch.no_grad():
        torch.testing.assert_close(soft(pack), plain(pack), rtol=0, atol=0)


def test_a_soft_token_follows_its_vector_and_is_as_large_as_a_word(models):
    _, soft = models
    with torch.no_grad():
        words, made = embedded(soft, range(3, FIRST)), embedded(soft, range(FIRST, FIRST + 32))
        assert 0.8 < float(made.std() / words.std()) < 1.25
        other = VECTORS | {"users": VECTORS["users"].copy()}
        other["users"][3] += 1
        moved = embedded(training.build_model(toys.study(), TOKENIZER, other), range(FIRST, FIRST + 32))
    # all vectors are brought to one size together, so a change of one shows in the others, but far less
    change = (moved - made).norm(dim=1)
    assert change.argmax() == 3


def test_the_table_that_scores_holds_the_same_embeddings(models):
    _, soft = models
    ids = torch.arange(FIRST + 32)
    table = backbone.decoder(soft.backbone).embed_tokens.table()
    assert isinstance(table, torch.nn.Embedding) and table.num_embeddings == FIRST + 32
    torch.testing.assert_close(table(ids), embedded(soft, ids.tolist()), rtol=0, atol=0)


def test_tokens_stand_behind_the_prefix_and_before_the_title():
    request = training.Request([1, 2], [[3], [4, 5]], np.array([7, 9]), np.array([0, 0]), np.array([0, 1]), user=4)
    (found,) = training.with_soft_tokens([request], 100, 12, {7: 0, 9: 19})
    assert found.prefix == [1, 2, 104] and found.suffixes == [[112, 3], [131, 4, 5]]
    assert request.prefix == [1, 2] and request.suffixes == [[3], [4, 5]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The row of the table that has soft tokens, trained on the toy study."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("soft")
        patch.setenv("RUN_DIR", str(folder))
        patch.setattr(artifacts, "reference_dir", lambda: folder / "reference")
        patch.setattr(backbone, "load_tokenizer", lambda _: TOKENIZER)
        frames = toys.frames()
        vectors, frames["evidence"] = toys.graph_evidence(toys.study(), frames, np.random.default_rng(0))
        source = toys.run_with(frames, folder / "ml-100k/smoke/seed-0")
        artifacts.write_arrays(source, "embeddings.safetensors", vectors)
        row = next(row for row in ablations.all_rows(toys.study()) if row.name == "soft_tokens")
        finished = rows.run_row(row, toys.study(), 0, source)
        yield ablations.settings_of(row, toys.study(), 0), rows.open_row(source, row, 0), vectors, finished


def test_vectors_are_those_of_the_graph_without_label_rows(trained):
    _, run, vectors, _ = trained
    kept = artifacts.read_arrays(run, training.VECTORS)
    np.testing.assert_array_equal(kept["users"], vectors["user_label"])
    np.testing.assert_array_equal(kept["items"], vectors["item_label"])


def test_prompts_hold_them_and_their_tokens_are_counted(trained):
    _, run, _, finished = trained
    requests = training.load_requests(run, TOKENIZER)
    known = artifacts.read_table(run, "interactions.parquet").set_index("row")
    for request in requests["label"] + requests["test"]:
        assert request.prefix[-1] == FIRST + known.loc[request.rows[0], "user_id"]
        assert [s[0] for s in request.suffixes] == (FIRST + 12 + known.loc[request.rows, "item_id"]).tolist()
    one = finished.scores[finished.scores["mode"] == "both"].set_index("row").loc[requests["test"][0].rows[0]]
    assert one["n_prefix_tokens"] == len(requests["test"][0].prefix)
    assert one["n_suffix_tokens"] == len(training.only_mode(requests["test"], "both")[0].suffixes[0])


def test_what_is_trained_is_what_scores(trained):
    cfg, run, _, _ = trained
    requests = training.only_mode(training.load_requests(run, TOKENIZER)["test"], "both")[:3]
    apart = training.build_model(cfg, TOKENIZER, training.soft_vectors(run))
    fresh = {name: value for name, value in training.trained_arrays(apart).items() if name.startswith("soft.")}
    arrays = artifacts.read_arrays(run, training.ADAPTER) | artifacts.read_arrays(run, training.HEADS)
    assert all(np.abs(arrays[name] - value).max() > 0 for name, value in fresh.items()) and len(fresh) == 4
    training.load_trained(apart, arrays)
    merged = training.load_scorable(cfg, run, TOKENIZER)
    wanted = training.head_logits(apart, requests)
    np.testing.assert_allclose(training.head_logits(merged, requests), wanted, atol=1e-4)
    engine = scorer.build_engine(merged.backbone, merged.heads)
    scored = training.score_requests(run, engine, requests, "again", "x")
    columns = [column for column in scored if column.startswith("logit_")]
    np.testing.assert_allclose(scored[columns].to_numpy(), wanted, atol=1e-4)
