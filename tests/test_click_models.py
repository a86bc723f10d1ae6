"""Click models: the FM is its formula, nothing leaks, interactions are learned, bad input is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from transformers import BertConfig, BertModel

from eestudy import click_models, metrics, retriever
from eestudy.click_models import fitting
from eestudy.config import ClickModelsConfig

QUICK = ClickModelsConfig(
    n_history=4, n_bins=4, hidden=(16,), batch_size=256, max_passes=3, network_trials=((4, 0.03, 1e-4, 0.1),) * 2,
    boosted_trials=((4, 0.1, 20), (8, 0.1, 20)), logistic_trials=((1.0, 1), (0.1, 2)),
)  # fmt: skip
NUMBERS, TEXT = ["user_mean", "own_mean"], ["title_closest"]
SHAPE = (40, 24)


def world(seed=0, n_users=SHAPE[0], n_items=SHAPE[1]):
    """Rows as notebook 03 gives them: parts by position within the user, numbers from the label part on."""
    rng = np.random.default_rng(seed)
    user_id = np.repeat(np.arange(n_users), n_items)
    item_id = np.concatenate([rng.permutation(n_items) for _ in range(n_users)])
    place = np.tile(np.arange(n_items), n_users)
    taste = rng.normal(size=n_users)[user_id] + rng.normal(size=n_items)[item_id]
    label = (taste + rng.normal(size=len(taste)) > 0).astype(int)
    split = np.select([place < 12, place < 18, place < 21], ["graph", "label", "validation"], "test")
    rows = pd.DataFrame({"row": np.arange(len(place)), "user_id": user_id, "item_id": item_id, "label": label,
                         "timestamp": 10 * place, "observed": True, "split": split})  # fmt: skip
    rows["half"] = np.where((split == "validation") & (user_id % 2 == 0), "select", "")
    rows["judged"] = (split != "graph") & (user_id % 3 > 0)
    rows["request_timestamp"] = np.where(split == "graph", -1, 10 * np.select([place < 18, place < 21], [12, 18], 21))
    for name in (*NUMBERS, *TEXT):
        unknown = (split == "graph") | (rng.random(len(rows)) < 0.05)
        rows[name] = np.where(unknown, np.nan, taste + rng.normal(size=len(rows)))
    return rows


def fit(rows, settings=QUICK, seed=0):
    return click_models.fit_all(rows, SHAPE, NUMBERS, TEXT, settings, seed)


@pytest.fixture(scope="module")
def fitted():
    rows = world()
    return rows, *fit(rows)


def columns(training):
    return [click_models.column_name(name, training) for name in (*click_models.NETWORKS, *click_models.NUMBER_MODELS)]


# --- networks ---


def test_the_fm_is_the_explicit_pairwise_formula():
    sizes = {"user": 5, "item": 7, "bin": 3}
    fm = click_models.make_network("fm", sizes, 4, 0.0, (), 0).double()
    generator = torch.Generator().manual_seed(1)
    fields = {name: torch.randint(1, size, (20,), generator=generator) for name, size in sizes.items()}
    with torch.no_grad():
        for weight in fm.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
        found = torch.logit(fm(fields))
        for n in range(20):
            w = [fm.weights.embed_dict[name].weight[fields[name][n]] for name in sizes]
            v = [fm.vectors.embed_dict[name].weight[fields[name][n]] for name in sizes]
            logit = fm.bias + sum(float(x) for x in w)
            for f in range(3):
                for g in range(f + 1, 3):
                    logit = logit + v[f] @ v[g]
            assert float(found[n]) == pytest.approx(float(logit), abs=1e-9)


@pytest.mark.parametrize("name", click_models.NETWORKS)
def test_a_row_scores_alone_as_in_a_batch(name):
    sizes = {"user": 5, "item": 7, "bin": 3}
    network = click_models.make_network(name, sizes, 4, 0.3, (8,), 0).eval()
    fields = {key: torch.arange(6) % size for key, size in sizes.items()} | {"history": torch.arange(18).view(6, 3) % 7}
    with torch.no_grad():
        batch = network(fields)
        alone = torch.cat([network({key: value[n : n + 1] for key, value in fields.items()}) for n in range(6)])
    torch.testing.assert_close(alone, batch)
    assert ((batch > 0) & (batch < 1)).all()


def test_padding_of_a_history_is_nothing():
    network = click_models.make_network("din", {"user": 5, "item": 7}, 4, 0.0, (8,), 0).eval()
    shared = {"user": torch.tensor([1]), "item": torch.tensor([2])}
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
        network.embedding.embed_dict["item"].weight[0] = 0
        short, long = (network({**shared, "history": torch.tensor([ids])}) for ids in ([3, 4], [0, 0, 0, 3, 4]))
        other = network({**shared, "history": torch.tensor([[5, 6]])})
    torch.testing.assert_close(short, long)
    assert abs(float(short) - float(other)) > 1e-6


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown network 'wide'; known: fm"):
        click_models.make_network("wide", {"user": 2, "item": 2}, 4, 0.0, (8,), 0)
    with pytest.raises(ValueError, match="unknown training set 'none'; known: same, all"):
        click_models.training_rows(world(), "none")


def planted(n=6000, seed=0):
    """Clicks where the group of the user is the group of the item: no user and no item is liked more than another."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(60 * 100, n, replace=False)
    rows = pd.DataFrame({"row": np.arange(n), "user_id": pairs // 100, "item_id": pairs % 100,
                         "timestamp": np.arange(n), "observed": True, "judged": True, "request_timestamp": 2**40})
    same = rows["user_id"] % 2 == rows["item_id"] % 2
    rows["label"] = np.where(rng.random(n) < 0.9, same, ~same).astype(int)
    rows["split"] = rng.choice(["graph", "label", "validation", "test"], n, p=[0.6, 0.2, 0.1, 0.1])
    rows["half"] = np.where(rows["split"] == "validation", "select", "")
    rows["number"] = np.where(rows["split"] == "graph", np.nan, rng.normal(size=n))
    return rows


@pytest.mark.parametrize("name", click_models.NETWORKS)
def test_networks_learn_an_interaction_that_weights_of_ids_cannot(name):
    rows = planted()
    many = QUICK.model_copy(update={"max_passes": 30, "patience": 30})
    history = click_models.earlier_clicks(rows, 4)
    material = click_models.prepare(rows, history, (60, 100), ["number"], [], 4, "all")
    test = np.flatnonzero(rows["split"] == "test")
    found = click_models.fit_network(name, material, (8, 0.03, 1e-5, 0.0), many, 0)
    label = rows["label"].to_numpy()
    assert metrics.auc(label[test], found.predict(test)) > 0.8
    ids = np.zeros((len(rows), 160))
    ids[np.arange(len(rows)), rows["user_id"]] = ids[np.arange(len(rows)), 60 + rows["item_id"]] = 1
    weights = LogisticRegression().fit(ids[material.train], label[material.train])
    assert metrics.auc(label[test], weights.predict_proba(ids[test])[:, 1]) < 0.6


# --- what rows may know ---


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_histories_equal_a_loop(seed, k):
    rng = np.random.default_rng(seed)
    known = pd.DataFrame({"user_id": rng.integers(0, 3, 12), "item_id": rng.permutation(12),
                          "moment": rng.integers(0, 6, 12)})  # fmt: skip
    user, before = rng.integers(0, 4, 9), rng.choice([0, 2, 5, 2**40], 9)
    for row, u, t in zip(click_models.histories(user, before, known, k), user, before, strict=True):
        mine = known[(known["user_id"] == u) & (known["moment"] < t)].sort_values(["moment", "item_id"])
        wanted = (mine["item_id"] + 1).tolist()[-k:]
        assert row.tolist() == [0] * (k - len(wanted)) + wanted


def test_no_click_is_known_before_it_happens():
    rows = world()
    history = click_models.earlier_clicks(rows, 30)
    by_pair = {(row.user_id, row.item_id): row for row in rows.itertuples()}
    for row, seen in zip(rows.itertuples(), history, strict=True):
        for item in seen[seen > 0] - 1:
            known = by_pair[row.user_id, item]
            limit = row.timestamp if row.split == "graph" else row.request_timestamp
            assert known.label == 1 and known.timestamp < limit and item != row.item_id
            assert known.split == "graph" or (known.split == "label" and row.split in ("validation", "test"))
    assert (history[rows["split"] == "test"] > 0).sum(1).mean() > (history[rows["split"] == "label"] > 0).sum(1).mean()


def test_sampled_opposites_see_what_was_taken_before_their_turn():
    taken = pd.DataFrame({"row": range(3), "user_id": 0, "item_id": [5, 6, 7], "label": 1, "timestamp": [1, 2, 3],
                          "observed": True, "split": "graph", "request_timestamp": -1})  # fmt: skip
    drawn = taken.assign(row=-1, item_id=[1, 2, 3], label=0, timestamp=0, observed=False)
    found = click_models.earlier_clicks(pd.concat([taken, drawn]), 2)
    assert found.tolist() == [[0, 0], [0, 6], [6, 7]] * 2


def test_without_a_clock_the_parts_decide():
    rows = world().assign(timestamp=0)
    rows.loc[rows["split"] != "graph", "request_timestamp"] = 2**40
    history = click_models.earlier_clicks(rows, 30)
    clicked = rows[(rows["label"] == 1) & rows["split"].isin(("graph", "label"))].groupby("user_id").size()
    test = (rows["split"] == "test").to_numpy()
    assert ((history[test] > 0).sum(1) == rows.loc[test, "user_id"].map(clicked).fillna(0)).all()


def test_bins_hold_as_many_each_and_nothing_is_a_bin_of_its_own():
    values = np.append(np.arange(100.0), np.nan)
    bins = click_models.binned(values, click_models.bin_edges(values, 4))
    assert np.bincount(bins).tolist() == [1, 25, 25, 25, 25]
    assert click_models.bin_edges([np.nan], 4).size == 0
    assert click_models.binned([np.nan, 3.0], np.zeros(0)).tolist() == [0, 1]


# --- fitting ---


def test_scores_are_probabilities_of_all_validation_and_test_rows(fitted):
    rows, scores, table = fitted
    assert scores["row"].tolist() == rows.loc[rows["split"].isin(("validation", "test")), "row"].tolist()
    assert scores.columns.tolist() == ["row", *columns("same"), *columns("all")]
    p = scores.drop(columns="row").to_numpy()
    assert np.isfinite(p).all() and ((p >= 0) & (p <= 1)).all()
    assert (table["n_trials"] == 2).all() and (table[["training_s", "batch_us", "single_us"]] > 0).all(axis=None)
    networks = table["model"].isin(click_models.NETWORKS)
    for training in click_models.TRAINING_SETS:
        learned = click_models.training_rows(rows, training)
        part = table["training"] == training
        assert (table.loc[part & networks, "n_rows"] == learned.sum()).all()
        assert (table.loc[part & ~networks, "n_rows"] == (learned & (rows["split"] == "label")).sum()).all()


def test_labels_of_test_rows_and_of_the_risk_half_reach_no_score(fitted):
    rows, scores, _ = fitted
    hidden = (rows["split"] == "test") | ((rows["split"] == "validation") & (rows["half"] != "select"))
    pd.testing.assert_frame_equal(fit(rows.assign(label=rows["label"].where(~hidden, 1 - rows["label"])))[0], scores)


def test_models_of_the_same_labels_never_see_the_other_label_rows(fitted):
    rows, _, _ = fitted
    others = (rows["split"] == "label") & ~rows["judged"]
    rows = rows.assign(observed=~others)  # nor are these rows in anybody's history
    flipped = rows.assign(label=rows["label"].where(~others, 1 - rows["label"]))
    before, after = fit(rows)[0], fit(flipped)[0]
    pd.testing.assert_frame_equal(before[columns("same")], after[columns("same")])
    assert (before[columns("all")] != after[columns("all")]).any().all()


def test_fitting_repeats_and_leaves_the_global_generator_alone(fitted):
    rows, scores, table = fitted
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again, same_table = fit(rows)
    torch.testing.assert_close(torch.rand(3), expected)
    pd.testing.assert_frame_equal(again, scores)
    assert same_table["setting"].tolist() == table["setting"].tolist()
    assert not np.allclose(fit(rows, seed=1)[0]["fm_all_labels"], scores["fm_all_labels"])


def test_the_trial_of_highest_auc_on_the_selection_half_is_chosen(fitted):
    rows, _, table = fitted
    material = click_models.prepare(rows, click_models.earlier_clicks(rows, 4), SHAPE, NUMBERS, TEXT, 4, "all")
    found = [click_models.fit_numbers("logistic_text", material, trial, 0) for trial in QUICK.logistic_trials]
    best = max(found, key=lambda one: one.select_auc)
    line = table[(table["model"] == "logistic_text") & (table["training"] == "all")].iloc[0]
    assert line["setting"] == best.setting and line["auc_validation"] == best.select_auc
    assert len({one.select_auc for one in found}) == 2


def test_quality_is_that_of_the_metrics(fitted):
    rows, scores, table = fitted
    judged = rows[(rows["split"] == "test") & rows["judged"]]
    found = click_models.quality(table, scores, judged, 50, 0)
    both = judged.merge(scores, on="row")
    for line in found.itertuples():
        score = both[click_models.column_name(line.model, line.training)]
        assert line.auc == pytest.approx(metrics.auc(both["label"], score))
        assert line.log_loss == pytest.approx(metrics.log_loss(both["label"], score))
        assert line.auc_lo <= line.auc <= line.auc_hi and line.n == len(judged)
    assert found["auc"].max() > 0.7


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.drop(columns=["own_mean", "judged"]), "lack judged, own_mean"),
    (lambda rows: rows.assign(own_mean=np.inf), "own_mean is infinite"),
    (lambda rows: rows.assign(label=rows["label"].where(rows["split"] != "graph", 1)), "graph_negatives"),
    (lambda rows: rows.assign(judged=False), "raise data.n_label_rows"),
    (lambda rows: rows.assign(half=""), "selection half"),
    (lambda rows: rows.assign(title_closest=np.nan), "no label row to learn from has title_closest"),
])  # fmt: skip
def test_rows_that_cannot_be_fitted_are_refused_by_name(change, message):
    with pytest.raises(click_models.ClickModelError, match=message):
        fit(change(world()))


def test_every_model_is_tried_as_often():
    with pytest.raises(ValidationError, match="equally many"):
        ClickModelsConfig(logistic_trials=((1.0, 1),))
    declared = ClickModelsConfig()
    assert len({len(click_models.trials_of(name, declared))
                for name in (*click_models.NETWORKS, *click_models.NUMBER_MODELS)}) == 1  # fmt: skip


def test_a_pass_over_many_rows_holds_the_ones_with_numbers():
    rows = world()
    material = click_models.prepare(rows, click_models.earlier_clicks(rows, 4), SHAPE, NUMBERS, TEXT, 4, "same")
    n_told, n_train = len(material.told), len(material.train)
    for most in (2 * n_told + 10, n_told, 10 * n_train):
        drawn = fitting._rows_of_pass(material, most, torch.Generator().manual_seed(0)).numpy()
        assert len(drawn) == len(set(drawn)) == min(most, n_train) and set(drawn) <= set(material.train)
        assert len(set(drawn) & set(material.told)) == (n_told if most > n_told else most // 2)


# --- sentences ---


class Words:
    """A tokenizer of words: each letter sum is an id."""

    def __call__(self, texts, **_):
        ids = [[1 + sum(map(ord, word)) % 29 for word in text.split()] or [1] for text in texts]
        longest = max(map(len, ids))
        padded = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
        return {"input_ids": padded, "attention_mask": (padded > 0).long()}


def test_sentence_vectors_do_not_depend_on_their_neighbours():
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                 intermediate_size=32)).eval()  # fmt: skip
    titles = ["one", "a much longer title of many words", "two words", ""]
    together = retriever.sentence_vectors(titles, model, Words())
    alone = np.concatenate([retriever.sentence_vectors([title], model, Words()) for title in titles])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_the_sentence_model_of_the_wheel_knows_what_is_meant():
    vectors = retriever.sentence_vectors(["A dog in the park", "Puppies outdoors", "Tax law for lawyers"])
    similarity = retriever.sentence_similarity(vectors)
    near, far = similarity(np.array([0, 0]), np.array([1, 2]))
    assert near > far + 0.2
