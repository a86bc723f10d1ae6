"""The graph equals its formula, evidence equals a plain loop, and nothing later than the request gets in."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from eestudy import retriever
from eestudy.retriever import evidence, evidence_models, graph

N_USERS, N_ITEMS = 9, 20
LATER = ("validation", "test", "development")


def toy(seed=0, per_user=10):
    """Interactions and split of a small dataset with many ties in time, in the shape notebook 01 writes."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(N_USERS), per_user)
    item = np.concatenate([rng.permutation(N_ITEMS)[:per_user] for _ in range(N_USERS)])
    time = np.concatenate([np.sort(rng.integers(0, 12, per_user)) for _ in range(N_USERS)])
    rating = rng.integers(1, 6, len(user)).astype(np.float32)
    frame = pd.DataFrame({"row": np.arange(len(user)), "user_id": user, "item_id": item, "rating": rating,
                          "label": (rating >= 4).astype(np.int8), "timestamp": time,
                          "observed": True})  # fmt: skip
    part = np.array(["graph"] * 5 + ["label"] * 2 + ["validation"] + ["test"] * 2)[frame.groupby("user_id").cumcount()]
    part = np.where((part == "test") & (user == 0), "development", part)
    split = pd.DataFrame({"row": frame["row"], "split": part})
    first = frame.groupby(["user_id", part])["timestamp"].transform("min")
    return frame, split.assign(request_timestamp=np.where(part == "graph", -1, first))


def random_retriever(seed=0):
    rng = np.random.default_rng(seed)
    return retriever.graph_retriever(rng.standard_normal((N_USERS, 4)), rng.standard_normal((N_ITEMS, 4)))


def all_evidence(interactions, split, k=3):
    return retriever.split_evidence(interactions, split, random_retriever(1), random_retriever(2), k, k)


def loop_evidence(interactions, split, k):
    """The definition, one pair at a time."""
    parts = split.set_index("row")
    found = []
    for one in interactions.merge(split[["row", "split", "request_timestamp"]], on="row").itertuples():
        if one.split == "graph":
            continue
        allowed_parts = ["graph"] if one.split == "label" else ["graph", "label"]
        similar = random_retriever(1 if one.split == "label" else 2)
        seen = [
            other
            for other in interactions.itertuples()
            if parts.loc[other.row, "split"] in allowed_parts and other.timestamp < one.request_timestamp
        ]
        raters = [(-similar.user_similarity(np.array([one.user_id]), np.array([other.user_id]))[0], other.user_id,
                   other.rating) for other in seen if other.item_id == one.item_id]  # fmt: skip
        own = [(-similar.item_similarity(np.array([one.item_id]), np.array([other.item_id]))[0], other.item_id,
                other.rating) for other in seen if other.user_id == one.user_id]  # fmt: skip
        found.append({
            "row": one.row, "n_user": len(own), "n_item": len(raters),
            "user_mean": np.mean([rating for *_, rating in own]) if own else np.nan,
            "item_mean": np.mean([rating for *_, rating in raters]) if raters else np.nan,
            "others": [int(rating) for *_, rating in sorted(raters)[:k]],
            "own": [int(rating) for *_, rating in sorted(own)[:k]],
            "own_items": [item for _, item, _ in sorted(own)[:k]],
        })  # fmt: skip
    return pd.DataFrame(found)


def same(first, second):
    """Whether two evidence frames agree, lists and gaps included."""
    lists = ("others", "own", "own_items")
    pd.testing.assert_frame_equal(*(one.assign(**{name: one[name].map(list) for name in lists}).reset_index(drop=True)
                                    for one in (first, second)))  # fmt: skip
    return True


# --- the graph


def dense_formula(edge_index, embedding, n_layers):
    """Mean over layers of (D^-1/2 A D^-1/2)^k E."""
    adjacency = np.zeros((len(embedding), len(embedding)))
    adjacency[edge_index[0], edge_index[1]] = 1
    degree = adjacency.sum(1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    step = scale[:, None] * adjacency * scale[None, :]
    layers = [np.linalg.matrix_power(step, layer) @ embedding for layer in range(n_layers + 1)]
    return np.mean(layers, axis=0)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_lightgcn_is_the_mean_over_layers_of_the_dense_formula(n_layers):
    interactions, _ = toy()
    edges = interactions[interactions["label"] == 1]
    edge_index = retriever.bipartite_edges(edges["user_id"], edges["item_id"], N_USERS)
    model = retriever.make_model(N_USERS, N_ITEMS, 5, n_layers)
    matrix = retriever.propagation_matrix(edge_index, N_USERS + N_ITEMS)
    expected = dense_formula(edge_index.numpy(), model.embedding.weight.detach().numpy().astype(float), n_layers)
    with torch.no_grad():
        np.testing.assert_allclose(model.get_embedding(matrix).numpy(), expected, atol=1e-6)


def test_the_propagation_matrix_is_what_the_library_does_with_the_edges():
    interactions, _ = toy()
    edge_index = retriever.bipartite_edges(interactions["user_id"], interactions["item_id"], N_USERS)
    ours = retriever.make_model(N_USERS, N_ITEMS, 5, 2)
    plain = graph.LightGCN(N_USERS + N_ITEMS, 5, 2)
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        matrix = retriever.propagation_matrix(edge_index, N_USERS + N_ITEMS)
        torch.testing.assert_close(ours.get_embedding(matrix), plain.get_embedding(edge_index))


def test_training_lowers_the_loss_repeats_itself_and_leaves_torch_as_it_was():
    edges = toy()[0]
    settings = {"embedding_dim": 8, "epochs": 15, "batch_size": 32, "lr": 0.05}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    user, item, losses = retriever.train_lightgcn(edges["user_id"], edges["item_id"], N_USERS, N_ITEMS, **settings)
    again = retriever.train_lightgcn(edges["user_id"], edges["item_id"], N_USERS, N_ITEMS, **settings)
    other = retriever.train_lightgcn(edges["user_id"], edges["item_id"], N_USERS, N_ITEMS, **settings, seed=1)
    assert user.shape == (N_USERS, 8) and item.shape == (N_ITEMS, 8) and user.dtype == np.float32
    assert np.array_equal(user, again[0]) and np.array_equal(item, again[1]) and losses == again[2]
    assert not np.array_equal(user, other[0])
    assert losses[-1] < losses[0]
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_graph_without_edges_is_refused():
    with pytest.raises(ValueError, match="at least one edge"):
        retriever.train_lightgcn(np.array([], int), np.array([], int), 2, 2)


def test_negatives_are_never_edges_unless_a_user_has_everything():
    user, item = np.array([0, 0, 1] + [2] * 4), np.array([0, 1, 3, 0, 1, 2, 3])  # user 2 has all four items
    known = np.sort(user * 4 + item)
    asking = np.repeat([0, 1], 500)
    negative = graph.sample_negatives(asking, known, 4, np.random.default_rng(0))
    assert not np.isin(asking * 4 + negative, known).any()
    assert set(negative[asking == 0]) == {2, 3} and set(negative[asking == 1]) == {0, 1, 2}
    assert len(graph.sample_negatives(np.array([2, 2]), known, 4, np.random.default_rng(0))) == 2


def test_rank_items_puts_unseen_items_in_order_and_finds_the_relevant():
    user_emb, item_emb = np.array([[1.0], [1.0], [0.0]]), np.array([[4.0], [3.0], [2.0], [1.0]])
    seen = (np.array([0, 1]), np.array([0, 3]))
    relevant = (np.array([0, 0, 1]), np.array([1, 3, 2]))
    hits, n_relevant = retriever.rank_items(user_emb, item_emb, seen, relevant, k=2)
    assert hits.tolist() == [[True, False], [False, False]]  # user 0 ranks 1, 2, 3; user 1 ranks 0, 1, 2
    assert n_relevant.tolist() == [2, 1]


@pytest.mark.parametrize(("edges", "expected"), [("rated", 7 * N_USERS), ("clicked", None)])
def test_graph_interactions_takes_the_named_parts_only(edges, expected):
    interactions, split = toy()
    chosen = retriever.graph_interactions(interactions, split, ("graph", "label"), edges)
    assert set(split.set_index("row").loc[chosen["row"], "split"]) == {"graph", "label"}
    assert len(chosen) == expected if expected else (chosen["label"] == 1).all()


# --- search


@pytest.mark.parametrize("own_process", [False, True])
def test_neighbors_are_the_largest_cosines_in_place_and_in_a_process_of_its_own(own_process):
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((30, 6)), rng.standard_normal((4, 6))
    ids, cosine = retriever.neighbors(vectors, queries, 5, own_process)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    assert np.array_equal(ids, np.argsort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(cosine, np.take_along_axis(expected, ids, axis=1), atol=1e-6)


def test_a_failing_search_process_says_why():
    with pytest.raises(RuntimeError, match="neighbors"):
        retriever.neighbors(np.zeros((3, 2)), np.zeros((1, 5)), 1, own_process=True)


def test_the_file_that_runs_alone_imports_neither_torch_nor_the_package():
    source = Path(retriever.neighbors.__code__.co_filename).read_text()
    names = {node.names[0].name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)}
    names |= {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert "faiss" in names and not any(name.split(".")[0] in ("torch", "torch_geometric", "eestudy") for name in names)


@pytest.mark.skipif("sys.platform == 'darwin'", reason="faiss and torch do not share a process on macOS")
def test_a_faiss_look_up_among_the_raters_finds_the_raters_of_the_evidence():
    interactions, split = toy()
    emb = np.random.default_rng(2).standard_normal((N_USERS, 4))
    similar = retriever.graph_retriever(emb, np.ones((N_ITEMS, 1)))
    rows = interactions.merge(split, on="row").query("split == 'test'")
    allowed = interactions[split["split"].isin(["graph", "label"])]
    found = retriever.build_evidence(rows, allowed, similar, 3, 3)
    index = retriever.build_index(emb)
    for one, others in zip(rows.itertuples(), found["others"], strict=True):
        seen = allowed[(allowed["item_id"] == one.item_id) & (allowed["timestamp"] < one.request_timestamp)]
        ids = retriever.search(index, emb[[one.user_id]], 3, among=seen["user_id"].to_numpy())[0][0]
        rating = seen.set_index("user_id")["rating"]
        assert [rating[user] for user in ids if user >= 0] == list(others)


def test_lookup_times_gives_one_time_per_contender_and_query():
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 6, (N_USERS, N_ITEMS)).astype(np.float32)
    raters = [np.array([1, 2, 3]), np.array([4])]
    for own_process in (False, True):
        times = retriever.lookup_times(rng.standard_normal((N_USERS, 4)), ratings, [0, 5], raters, 2, own_process)
        assert {"graph", "graph, arrays", "cosine on ratings", "most active", "random"} == set(times)
        assert all(spent.shape == (2,) and (spent > 0).all() for spent in times.values())


# --- evidence


@pytest.mark.parametrize("k", [1, 3, 50])
def test_evidence_equals_a_plain_loop(k, monkeypatch):
    monkeypatch.setattr(evidence, "PAIRS_PER_CHUNK", 7)  # many chunks
    interactions, split = toy()
    fast, slow = all_evidence(interactions, split, k), loop_evidence(interactions, split, k)
    assert fast["others"].map(len).min() == 0 and fast["others"].map(len).max() > 0  # both cases occur
    assert same(fast[slow.columns], slow.astype({"n_user": np.int64, "n_item": np.int64}))
    for name in ("others", "own"):
        means = [np.mean(values) if len(values) else np.nan for values in fast[name]]
        np.testing.assert_allclose(fast[f"{name}_mean"], means)


@settings(max_examples=40)
@given(seed=st.integers(0, 30), victim=st.integers(0, 10_000), shift=st.integers(1, 4))
def test_no_rating_at_or_after_the_request_changes_its_evidence(seed, victim, shift):
    interactions, split = toy(seed)
    before = all_evidence(interactions, split)
    row = before["row"].iloc[victim % len(before)]
    asked = split.loc[split["row"] == row, "request_timestamp"].item()
    late = interactions["timestamp"] >= asked
    changed = interactions["rating"].where(~late, (interactions["rating"] + shift - 1) % 5 + 1)
    after = all_evidence(interactions.assign(rating=changed), split)
    assert same(before[before["row"] == row], after[after["row"] == row])
    kept = ~late | (interactions["row"] == row)
    fewer = all_evidence(interactions[kept], split[kept])
    assert same(before[before["row"] == row], fewer[fewer["row"] == row])


@settings(max_examples=10)
@given(seed=st.integers(0, 30), shift=st.integers(1, 4))
def test_no_rating_of_a_later_part_changes_evidence_even_through_the_graph(seed, shift):
    interactions, split = toy(seed)
    for visible, part in ((("graph",), ("label",)), (("graph", "label"), LATER)):
        hidden = ~split["split"].isin(visible)
        rating = interactions["rating"].where(~hidden, (interactions["rating"] + shift - 1) % 5 + 1)
        changed = interactions.assign(rating=rating, label=(rating >= 4).astype(np.int8))
        found = []
        for frame in (interactions, changed):
            edges = retriever.graph_interactions(frame, split, visible, "clicked")
            user, item, _ = retriever.train_lightgcn(edges["user_id"], edges["item_id"], N_USERS, N_ITEMS,
                                                     embedding_dim=4, epochs=1)  # fmt: skip
            similar = retriever.graph_retriever(user, item)
            everything = retriever.split_evidence(frame, split, similar, similar, 3, 3)
            found.append(everything[everything["row"].isin(split.loc[split["split"].isin(part), "row"])])
        assert same(*found)


def test_others_never_holds_the_users_own_rating():
    interactions, split = toy()
    everyone_fives = interactions.assign(rating=5.0)
    for user in range(N_USERS):
        mine = everyone_fives["user_id"] == user
        found = all_evidence(everyone_fives.assign(rating=np.where(mine, 1.0, 5.0)), split)
        rows = found[found["row"].isin(interactions.loc[mine, "row"])]
        assert not any((values == 1).any() for values in rows["others"])
        assert all((values == 1).all() for values in rows["own"])


def test_a_judged_pair_among_the_visible_interactions_is_refused():
    interactions, split = toy()
    rows = interactions.merge(split, on="row").query("split == 'test'")
    with pytest.raises(ValueError, match="earlier parts of the split only"):
        retriever.build_evidence(rows, interactions, random_retriever(), 3, 3)


def test_evidence_without_any_earlier_rating_is_empty_and_not_zero():
    interactions, split = toy()
    found = all_evidence(interactions, split.assign(request_timestamp=0))
    assert found[["user_mean", "item_mean", "others_mean", "own_mean"]].isna().all(axis=None)
    assert (found[["n_user", "n_item"]] == 0).all(axis=None) and found["others"].map(len).eq(0).all()


def test_every_row_after_the_graph_part_gets_one_row_in_order():
    interactions, split = toy()
    found = all_evidence(interactions.sample(frac=1, random_state=0), split)
    assert found["row"].tolist() == split.loc[split["split"] != "graph", "row"].tolist()


# --- rivals


def test_rivals_share_the_signature_and_do_what_they_say():
    interactions, split = toy()
    allowed = interactions[split["split"].isin(["graph", "label"])].drop(index=[0, 1])
    rivals = {rival.name: rival for rival in retriever.rival_retrievers(allowed, N_USERS, N_ITEMS, seed=0)}
    left, right = np.array([0, 0, 4]), np.array([1, 2, 4])
    count = np.bincount(allowed["user_id"], minlength=N_USERS)
    assert rivals["most active"].user_similarity(left, right).tolist() == count[right].tolist()
    ratings = retriever.rating_matrix(allowed, N_USERS, N_ITEMS)
    cosine = [ratings[a] @ ratings[b] / np.linalg.norm(ratings[a]) / np.linalg.norm(ratings[b])
              for a, b in zip(left, right, strict=True)]  # fmt: skip
    np.testing.assert_allclose(rivals["cosine on ratings"].user_similarity(left, right), cosine, atol=1e-6)
    for rival in rivals.values():
        found = retriever.split_evidence(interactions, split, rival, rival, 3, 3)
        assert len(found) == (split["split"] != "graph").sum()
    again = retriever.rival_retrievers(allowed, N_USERS, N_ITEMS, seed=0)[0]
    assert np.array_equal(again.item_similarity(left, right), rivals["random"].item_similarity(left, right))


# --- evidence models


def model_rows(n=600, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, 5, (n, 3))
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-(values.sum(1) - 9)))).astype(int)
    values[rng.uniform(size=n) < 0.1, 1] = np.nan
    return pd.DataFrame(values, columns=list(evidence_models.FEATURES)).assign(row=np.arange(n), label=label)


def test_evidence_models_rank_by_the_evidence_and_repeat_themselves():
    rows = model_rows()
    first = evidence_models.evidence_model_scores(rows[:400], rows[400:], seed=0)
    second = evidence_models.evidence_model_scores(rows[:400], rows[400:], seed=0)
    pd.testing.assert_frame_equal(first, second)
    assert first["row"].tolist() == rows["row"][400:].tolist()
    for name in ("logistic_evidence", "boosted_evidence"):
        assert first[name].between(0, 1, inclusive="neither").all()
        clicked = rows["label"][400:].to_numpy() == 1
        assert first[name][clicked].mean() > first[name][~clicked].mean() + 0.1


def test_evidence_models_read_no_label_of_the_judged_rows():
    rows = model_rows()
    flipped = rows[400:].assign(label=1 - rows["label"][400:])
    pd.testing.assert_frame_equal(
        evidence_models.evidence_model_scores(rows[:400], rows[400:], seed=0),
        evidence_models.evidence_model_scores(rows[:400], flipped, seed=0),
    )


@pytest.mark.parametrize(("change", "message"), [({"label": 1}, "one class only"), ({"own_mean": np.nan}, "own_mean")])
def test_evidence_models_refuse_rows_they_cannot_learn_from(change, message):
    rows = model_rows(50)
    with pytest.raises(ValueError, match=message):
        evidence_models.evidence_model_scores(rows.assign(**change), rows, seed=0)


# --- titles


def test_titles_equal_a_loop_and_nothing_later_counts():
    rng = np.random.default_rng(2)
    titles = [" ".join(rng.choice(["red", "blue", "moon", "sun", "sea", "war"], 3)) for _ in range(12)]
    liked = pd.DataFrame({"user_id": rng.integers(0, 5, 40), "item_id": rng.integers(0, 12, 40), "rating": 5.0,
                          "timestamp": rng.integers(0, 9, 40)})  # fmt: skip
    asked = pd.DataFrame({"row": range(30), "user_id": rng.integers(0, 6, 30), "item_id": rng.integers(0, 12, 30),
                          "request_timestamp": rng.integers(0, 9, 30)})  # fmt: skip
    found = retriever.title_evidence(asked, liked, retriever.title_similarity(titles), 3)
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(titles).toarray()
    for one, row in zip(asked.itertuples(), found.itertuples(), strict=True):
        own = liked[(liked["user_id"] == one.user_id) & (liked["timestamp"] < one.request_timestamp)]["item_id"]
        near = sorted(vectors[own] @ vectors[one.item_id], reverse=True)[:3]
        expected = (near[0], np.mean(near)) if near else (np.nan, np.nan)
        np.testing.assert_allclose((row.title_closest, row.title_mean), expected, atol=1e-9)
    assert found["title_closest"].isna().any() and (found["title_closest"] > 0).any()


def test_titles_without_a_word_are_no_error():
    rows = pd.DataFrame({"row": [0], "user_id": [0], "item_id": [0], "request_timestamp": [5]})
    liked = pd.DataFrame({"user_id": [0], "item_id": [1], "rating": [5.0], "timestamp": [1]})
    assert retriever.title_evidence(rows, liked, retriever.title_similarity(["", "!"]), 2).loc[0, "title_closest"] == 0
