"""Every way to find evidence equals a plain loop, knows nothing later than its request, and is timed doing that."""

import zlib

import numpy as np
import pandas as pd
import pytest
import torch
import toys

from eestudy import artifacts, backbone, metrics, retriever, retrievers
from eestudy.backbone import encoding
from eestudy.report.retrieval import retrieval_sentences
from eestudy.retriever import roster, told
from eestudy.retrievers import __main__ as step
from eestudy.retrievers import lookups, material, reading, table, users, vectors

TOKENIZER = toys.byte_tokenizer()
TEXTS = ["Alien 5; Heat 3.", "", "Up", "A much longer history; of many titles; that goes on and on 4.", "Fargo 2"]


def sentences(texts):
    """Stands for the sentence model: numbers drawn by the text."""
    drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in texts]
    return np.array(drawn, dtype=np.float32)


def study(stars=True):
    cfg = toys.study()
    rule = {} if stars else {"label_rule": "sampled-negatives"}
    return cfg.model_copy(update={
        "data": cfg.data.model_copy(update=rule),
        "retriever": cfg.retriever.model_copy(update={"n_similar_users": 3, "n_similar_items": 3}),
        "retrievers": cfg.retrievers.model_copy(update={"n_llm_rows": 9}),
        "latency": cfg.latency.model_copy(update={"n_threads": 1}),
    })


@pytest.fixture(scope="module", params=[True, False], ids=["stars", "no stars"])
def measured(request, tmp_path_factory):
    """(material, table) of a run after `make retrievers`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "load_tokenizer", lambda cfg: TOKENIZER)
        run = toys.trained_run(study(request.param), tmp_path_factory.mktemp("retrievers") / "run")
        found = material.load_material(*run)
        step.measure_all(found, sentences)
    return found, artifacts.read_table(found.run, artifacts.RETRIEVERS).set_index("way")


@pytest.fixture(scope="module")
def model():
    return backbone.load_model(study().backbone, 0)


@pytest.fixture(scope="module")
def made(measured, model):
    """Vectors of the measured run, read from what was kept, with the LLM at hand."""
    found, _ = measured
    wanted = step.fingerprint(found, step.VECTOR_SOURCES)
    return vectors.all_vectors(found, model, TOKENIZER, wanted, sentences)


# --- texts as vectors


def test_a_text_is_the_mean_of_its_last_states_and_padding_changes_nothing(model, monkeypatch):
    together = backbone.text_vectors(model, TOKENIZER, TEXTS, 100)
    assert together.shape == (5, 32) and together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        alone = backbone.text_vectors(model, TOKENIZER, [text], 100)[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
        if text:
            states = toys.decoder_states(model, torch.tensor(TOKENIZER.encode(text, add_special_tokens=False)))[-1]
            expected = backbone.decoder(model).norm(states).mean(0)
            np.testing.assert_allclose(vector, expected.detach().numpy(), atol=1e-5)
    assert not together[1].any() and together[0].any()
    monkeypatch.setattr(encoding, "TOKENS_AT_ONCE", 1)  # every text a batch of its own
    np.testing.assert_allclose(backbone.text_vectors(model, TOKENIZER, TEXTS, 100), together, atol=1e-5)


def test_of_a_long_text_the_newest_tokens_are_read(model):
    cut = backbone.text_vectors(model, TOKENIZER, ["abcdef"], 3)
    np.testing.assert_allclose(cut, backbone.text_vectors(model, TOKENIZER, ["def"], 3), atol=1e-6)
    assert backbone.text_vectors(model, TOKENIZER, [], 3).shape == (0, 32)


def test_encoding_goes_on_where_it_was_killed(run, monkeypatch):
    monkeypatch.setattr(vectors, "TEXTS_PER_PART", 2)
    seen = []

    def encode(texts):
        if len(seen) == 4 and not seen.count("killed"):
            seen.append("killed")
            raise KeyboardInterrupt
        seen.extend(texts)
        return sentences(texts)

    with pytest.raises(KeyboardInterrupt):
        vectors.encode_in_parts(run, "x", TEXTS, encode, "print")
    found, seconds = vectors.encode_in_parts(run, "x", TEXTS, encode, "print")
    assert [text for text in seen if text != "killed"] == TEXTS and seconds > 0
    assert np.array_equal(found, sentences(TEXTS))
    vectors.encode_in_parts(run, "x", TEXTS, encode, "another")
    assert len(seen) == 2 * len(TEXTS) + 1


def test_centring_takes_the_common_part_from_all_that_is_known():
    given = np.array([[3.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    found, mean = users.centred(given)
    assert mean.tolist() == [2, 1] and found.tolist() == [[1, 0], [0, 0], [-1, 0]]


# --- the graph's side


def dense_step(user, item, n_users, n_items):
    lines = np.zeros((n_users + n_items,) * 2)
    lines[user, item + n_users] = lines[item + n_users, user] = 1
    degree = lines.sum(1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    return scale[:, None] * lines * scale


def test_folding_in_is_the_row_of_one_propagation_step_with_the_new_line_drawn():
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((6, 9)) < 0.4)
    new_user, new_item = 2, next(i for i in range(9) if i not in item[user == 2])
    user, item = np.append(user, new_user), np.append(item, new_item)
    emb = rng.standard_normal((6 + 9, 5)).astype(np.float32)
    degree = np.bincount(item, minlength=9)
    found = retriever.fold_in(emb[6:], degree, item[user == new_user])
    np.testing.assert_allclose(found, (dense_step(user, item, 6, 9) @ emb)[new_user], atol=1e-6)
    matrix = retriever.propagation_matrix(retriever.bipartite_edges(user, item, 6), 15)
    np.testing.assert_allclose(found, (matrix @ torch.from_numpy(emb)).numpy()[new_user], atol=1e-6)
    without = retriever.fold_in(emb[6:], degree, item[user == new_user][:-1])
    assert not np.allclose(found, without)
    assert retriever.fold_in(emb[6:], degree, np.zeros(0, int)).tolist() == [0] * 5


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_the_last_layer_is_the_last_power_of_the_step(n_layers):
    user, item = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    model = retriever.make_model(3, 4, 5, n_layers, last_layer_only=True)
    matrix = retriever.propagation_matrix(retriever.bipartite_edges(user, item, 3), 7)
    expected = np.linalg.matrix_power(dense_step(user, item, 3, 4), n_layers) @ model.embedding.weight.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(model.get_embedding(matrix).numpy(), expected, atol=1e-6)
    given = {"embedding_dim": 4, "n_layers": 2, "epochs": 2}
    last = retriever.train_lightgcn(user, item, 3, 4, last_layer_only=True, **given)
    mean = retriever.train_lightgcn(user, item, 3, 4, **given)
    assert not np.allclose(last[0], mean[0]) and not last[1][3].any() and mean[1][3].any()  # nobody has item 3


# --- what each way shows


def allowed_of(found, row):
    """The interactions that may be evidence of a row asked, in the plainest way."""
    split = found.split.set_index("row")
    known = found.interactions[found.interactions["row"].map(split["split"]).isin(["graph", "label"])]
    return known[known["timestamp"] < row.request_timestamp]


def by_loop(found, made, way, row):
    """Ratings that a way shows for one row, with stars."""
    seen, k = allowed_of(found, row), 3
    sides = []
    for source, side, mine, theirs, asked in ((way.users, "users", "item_id", "user_id", row.user_id),
                                              (way.items, "items", "user_id", "item_id", row.item_id)):  # fmt: skip
        if source is None:
            sides.append([])
            continue
        part = getattr(made[source], side).astype(float)
        group, scored = seen[seen[mine] == getattr(row, mine)], []
        for other in group.itertuples():
            a, b = part[asked], part[getattr(other, theirs)]
            length = np.linalg.norm(a) * np.linalg.norm(b)
            near = b[0] if source == "most active" else a @ b / length if length else 0.0
            scored.append((round(-near, 5), getattr(other, theirs), int(other.rating)))
        sides.append([rating for *_, rating in sorted(scored)[:k]])
    return sides


def evidence_of(found, made):
    ways = retriever.ways_of(found.cfg.data.has_stars)
    evidence = reading.evidence_of(found, vectors.make_retrievers(found, made), ways)
    return ways, evidence, {way.name: retriever.combine(way, evidence) for way in ways}


def test_every_way_shows_what_a_plain_loop_finds(measured, made):
    found, _ = measured
    if not found.cfg.data.has_stars:
        pytest.skip("similarities, below")
    ways, _, shown = evidence_of(found, made[0])
    for way in ways:
        for place, row in enumerate(found.asked.itertuples()):
            others, own = by_loop(found, made[0], way, row)
            assert list(shown[way.name]["others"][place]) == others, way.name
            assert list(shown[way.name]["own"][place]) == own, way.name
    assert shown["none"][["others_mean", "own_mean"]].isna().all(axis=None)


def test_without_stars_the_same_similarities_are_shown_as_digits(measured, made):
    found, _ = measured
    if found.cfg.data.has_stars:
        pytest.skip("ratings, above")
    ways, evidence, shown = evidence_of(found, made[0])
    assert "cosine" not in {way.name for way in ways}
    unit = made[0]["llm"].users / np.linalg.norm(made[0]["llm"].users, axis=1, keepdims=True).clip(1e-9)
    for place, row in enumerate(found.asked.itertuples()):
        seen = allowed_of(found, row)
        near = sorted((unit[seen.loc[seen["item_id"] == row.item_id, "user_id"]] @ unit[row.user_id]).tolist())[-3:]
        said = evidence["llm"]["others_mean"][place]
        assert np.isclose(said, np.mean(near), atol=1e-5) if near else np.isnan(said)
    assert all(len(digits) in (0, 1) for digits in shown["llm"]["others"])
    assert all(len(digits) in (0, 2) for digits in shown["own_llm"]["own"])
    assert {len(digits) for digits in shown["own_llm"]["others"]} == {0}
    graph = made[0]["graph"].users / np.linalg.norm(made[0]["graph"].users, axis=1, keepdims=True).clip(1e-9)
    for name in ("random", "most active"):  # they choose, and the graph says how alike the chosen are to who asks
        score = {"random": made[0][name].users @ made[0][name].users.T, "most active": made[0][name].users.T}[name]
        for place, row in enumerate(found.asked.itertuples()):
            seen = allowed_of(found, row)
            buyers = np.sort(seen.loc[seen["item_id"] == row.item_id, "user_id"].to_numpy())
            length = np.linalg.norm(made[0][name].users[buyers], axis=1) if name == "random" else 1
            of = score[row.user_id if name == "random" else 0][buyers] / length
            chosen = buyers[np.argsort(-of, kind="stable")[:3]]
            said = evidence[name]["others_mean"][place]
            assert np.isclose(said, (graph[chosen] @ graph[row.user_id]).mean(), atol=1e-5) if len(chosen) \
                else np.isnan(said)
    both = shown["gcn_own_sentence"]
    assert both["match"].equals(shown["own_sentence"]["match"]) and both["others_mean"].equals(
        shown["gcn"]["others_mean"])  # fmt: skip


def test_random_raters_are_as_many_as_the_graphs(measured, made):
    found, _ = measured
    _, _, shown = evidence_of(found, made[0])
    counts = {name: [len(digits) for digits in part["others"]] for name, part in shown.items()}
    same = [name for name, counted in counts.items() if counted == counts["gcn"]]
    assert {"random", "most_active", "llm", "sentence", "gcn_last_layer", "gcn_folded_in"} <= set(same)
    assert max(counts["gcn"]) > 0 and set(counts["own_gcn"]) == {0}


def test_nothing_of_a_later_part_changes_what_is_known(measured, made, tmp_path):
    found, _ = measured
    names = ("interactions", "split", "items", "users")
    frames = {name: artifacts.read_table(found.run, f"{name}.parquet") for name in names}
    late = ~frames["split"]["split"].isin(["graph", "label"])
    rating = frames["interactions"]["rating"].where(~late, 6 - frames["interactions"]["rating"])
    frames["interactions"] = frames["interactions"].assign(rating=rating, label=(rating >= 4).astype(np.int64))
    other = material.load_material(found.cfg, toys.run_with(frames, tmp_path / "run"))
    assert not other.asked["label"].equals(found.asked["label"])
    for known in ("allowed", "before", "lines"):
        pd.testing.assert_frame_equal(getattr(found, known), getattr(other, known))
    asking = np.sort(found.asked["user_id"].unique())
    texts = [vectors.history_texts(one, asking, one.titles) for one in (found, other)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 5
    for name, similar in vectors.make_retrievers(found, made[0]).items():
        both = [roster.look_up(one.asked, one.reference, one.allowed, similar, (3, 3), one.cfg.data.has_stars)
                for one in (found, other)]
        pd.testing.assert_frame_equal(*both, obj=name)


def test_a_tie_with_the_request_is_not_before_it():
    allowed = pd.DataFrame({"user_id": [0, 0, 0, 1], "timestamp": [1, 5, 6, 9]})
    asked = pd.DataFrame({"user_id": [0, 0], "request_timestamp": [5, 8]})
    assert material.before_requests(allowed, asked).index.tolist() == [0, 3]  # user 1 asks nothing


def test_averaged_users_are_the_mean_of_their_items_directions():
    items = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    found = users.averaged(pd.DataFrame({"user_id": [0, 0, 2], "item_id": [0, 1, 2]}), items, 3)
    np.testing.assert_allclose(found, [[0.3, 0.9], [0, 0], [0, 0]], atol=1e-6)


def test_the_signal_keeps_one_sides_order_and_weighs_two_alike():
    way = {one.name: one for one in retriever.WAYS}
    shown = pd.DataFrame({"others_mean": [1.0, np.nan, 3.0, 5.0], "own_mean": [100.0, 300.0, 200.0, np.nan],
                          "match": [0.1, 0.2, 0.3, 0.4]})  # fmt: skip
    assert retriever.signal(way["none"], shown, True) is None
    alone = retriever.signal(way["gcn"], shown, True)
    assert np.argsort(alone).tolist() == [0, 1, 2, 3] and alone[1] == alone[2]  # the gap lies at the mean
    both = retriever.signal(way["gcn_own_gcn"], shown, True)
    own = retriever.signal(way["own_gcn"], shown, True)
    np.testing.assert_allclose(both, (alone + own) / 2)
    assert retriever.signal(way["own_gcn"], shown, False).tolist() != own.tolist()  # `match` has its say


# --- reading


def test_whole_requests_are_drawn_until_there_are_enough():
    asked = pd.DataFrame({"request_id": np.repeat([4, 7, 9], [3, 1, 2])})
    for n in (1, 2, 4, 6):
        ids = material.drawn_requests(asked, n, 0)
        sizes = asked["request_id"].value_counts()[ids]
        assert sizes.sum() >= n > sizes.sum() - sizes.iloc[-1] and len(set(ids)) == len(ids)
        assert ids.tolist() == material.drawn_requests(asked, n, 0).tolist()
    assert set(material.drawn_requests(asked, None, 0)) == {4, 7, 9}


def test_the_graphs_prompts_read_anew_get_the_scores_of_notebook_05(measured):
    found, line = measured
    read = artifacts.read_table(found.run, "retriever_reading.parquet")
    head = artifacts.read_table(found.run, "head_scores.parquet").set_index(["mode", "row"])["p_yes_6"]
    for way, mode in (("none", "none"), ("gcn", "similar_users"), ("gcn_own_gcn", "both")):
        part = read[read["way"] == way].set_index("row")["p_yes"]
        assert len(part) == line.loc[way, "n_llm"] >= 9
        np.testing.assert_allclose(part, head[mode][part.index], atol=1e-5)
    other = read[read["way"] == "random"].set_index("row")["p_yes"]
    assert not np.allclose(other, head["similar_users"][other.index], atol=1e-5)


def test_a_prefix_and_a_prompt_that_several_ways_share_are_read_once(measured, made):
    found, _ = measured
    ways, _, shown = evidence_of(found, made[0])
    suffixes = reading.suffix_table(found, shown, ways, found.titles)
    different = suffixes.drop_duplicates(["row", "suffix"])
    requests = reading.make_requests(different, pd.Series("Who", index=suffixes["request_id"].unique()), TOKENIZER)
    assert len(requests) == suffixes["request_id"].nunique() and len(different) < len(suffixes)
    assert sum(len(request.suffixes) for request in requests) == len(different)
    assert all(TOKENIZER.decode(request.prefix) == "Who" for request in requests)
    texts = [TOKENIZER.decode(suffix) for request in requests for suffix in request.suffixes]
    assert texts == different["suffix"].tolist()


# --- look-ups


def test_a_vector_made_anew_is_the_one_that_lies_ready(measured, made, model):
    found, _ = measured
    anew = lookups.updates(found, made[0], model, TOKENIZER, found.titles)
    asked = lookups.asked_requests(found, 5)
    assert len(asked) == 5
    for name in sorted(set(anew) - {"graph", "graph, last layer"}):  # trained, not folded in
        for one in asked:
            ready, fresh = made[0][name].users[one.user], anew[name](one)
            near = ready @ fresh / max(np.linalg.norm(ready) * np.linalg.norm(fresh), 1e-9)
            assert near == pytest.approx(1, abs=1e-4) or (not ready.any() and not fresh.any()), name


def race(found, vectors, model):
    return lookups.contenders(
        retriever.ways_of(found.cfg.data.has_stars), vectors,
        lambda own: lookups.updates(found, own, model, TOKENIZER, found.titles), (3, 3), found.cfg.data.has_stars)


def test_what_is_timed_finds_the_neighbours_that_the_evidence_shows(measured, made, model):
    found, _ = measured
    ways, evidence, _ = evidence_of(found, made[0])
    racing = race(found, made[0], model)
    assert len(racing) == 3 * (len(ways) - 1) and not any(name.startswith("none/") for name in racing)
    ratings = found.allowed.set_index(["user_id", "item_id"])["rating"]
    for one in lookups.asked_requests(found, 6):
        place = np.flatnonzero((found.asked["user_id"] == one.user) & (found.asked["item_id"] == one.targets[0]))[0]
        both = [racing[f"gcn_own_gcn/{row}"](one) for row in (lookups.READY, lookups.AFTER)]
        if found.cfg.data.has_stars:
            users, items = both[0]
            assert [ratings[user, one.targets[0]] for user in users] == list(evidence["graph"]["others"][place])
            assert [ratings[one.user, item] for item in items] == list(evidence["graph"]["own"][place])
        else:
            for name in ("graph", "llm", "sentence"):  # what each way's digit of the user's own side is cut from
                way = {"graph": "own_gcn", "llm": "own_llm", "sentence": "own_sentence"}[name]
                match = racing[f"{way}/{lookups.READY}"](one)[-1]
                assert match == pytest.approx(evidence[name]["match"][place], abs=1e-5)
            for way, name in (("random", "random"), ("most_active", "most active")):
                _, near = racing[f"{way}/{lookups.READY}"](one)
                assert near.mean() == pytest.approx(evidence[name]["others_mean"][place], abs=1e-5)
        assert np.array_equal(both[0][1], both[1][1]) and len(both[0][0]) == len(both[1][0])
        everything = racing[f"gcn/{lookups.REQUEST}"](one)
        assert len(everything) == len(one.targets) and np.array_equal(everything[0][0], both[1][0])


def test_only_the_llm_reads_when_an_interaction_comes_in(measured, made, model, monkeypatch):
    found, _ = measured
    calls = []
    monkeypatch.setattr(backbone, "text_vectors", lambda *given: calls.append(given) or np.ones((1, 32)))
    (one,) = lookups.asked_requests(found, 1)
    racing, stars = race(found, made[0], model), found.cfg.data.has_stars
    for name, ask in racing.items():
        ask(one)
        way, row = name.split("/")
        assert bool(calls) == (row != lookups.READY and (way == "llm" or way == "own_llm" and not stars)), name
        calls.clear()


# --- the table


def metrics_on_the_rows_read(found, made):
    """AUC of the LLM less AUC of the signal alone, way by way, on the rows that the LLM reads."""
    read = artifacts.read_table(found.run, "retriever_reading.parquet")
    ways, _, shown = evidence_of(found, made)
    less = {}
    for way in ways[1:]:
        alone = pd.Series(retriever.signal(way, shown[way.name], found.cfg.data.has_stars), index=found.asked["row"])
        part = read[read["way"] == way.name]
        label = found.asked.set_index("row").loc[part["row"], "label"]
        less[way.name] = metrics.auc(label, part["p_yes"]) - metrics.auc(label, alone[part["row"]])
    return less


def test_every_way_has_one_whole_line(measured, made):
    found, line = measured
    ways = retriever.ways_of(found.cfg.data.has_stars)
    assert line.index.tolist() == [way.name for way in ways]
    rest = line.drop(index="none")
    always = ["auc_alone", "auc_llm", "log_loss_llm", "build_s", "index_mb", "after_ms_p50", "ready_ms_p99", "ratio"]
    assert np.isfinite(rest[always].to_numpy(float)).all() and (rest["auc_alone_lo"] <= rest["auc_alone_hi"]).all()
    assert np.isnan(line.loc["none", "auc_alone"]) and line.loc["none", "tokens_added"] == 0
    assert (rest["tokens_added"] > 0).all() and line.loc["gcn", "ratio"] == 1
    assert line.loc["gcn_own_gcn", "tokens_added"] > line.loc["gcn", "tokens_added"]
    reads = {"llm"} if found.cfg.data.has_stars else {"llm", "own_llm"}
    assert (line["model_mb"] > 0).tolist() == [way.name in reads for way in ways]
    assert line["words"].str.contains("rat(?:ers|ings)").any() == found.cfg.data.has_stars
    compared = line["auc_alone_minus"].notna()
    assert compared.tolist() == [bool(way.against) for way in ways]
    both = metrics_on_the_rows_read(found, made[0])
    beyond = line["auc_llm_minus_alone"].drop(index="none")
    assert np.isfinite(beyond).all() and np.isnan(line.loc["none", "auc_llm_minus_alone"])
    assert beyond.to_dict() == pytest.approx(both)


def test_the_neighbours_alone_are_judged_on_all_rows(measured):
    found, line = measured
    stored = artifacts.read_table(found.run, "evidence.parquet").set_index("row").loc[found.asked["row"]]
    number = stored["others_mean"].fillna(stored["others_mean"].mean())
    assert line.loc["gcn", "auc_alone"] == pytest.approx(metrics.auc(found.asked["label"], number))
    assert line.loc["gcn", "n_alone"] == len(found.asked) > line.loc["gcn", "n_llm"]


def test_differences_are_paired_and_against_the_graph_with_the_same_sides():
    rng = np.random.default_rng(0)
    label, user = rng.integers(0, 2, 300), np.repeat(np.arange(30), 10)
    scores = {way.name: rng.random(300) + label * (way.name == "gcn") for way in retriever.WAYS if way.name != "none"}
    scores["llm"] = scores["gcn"].copy()
    found = table.quality(label, scores, user, retriever.WAYS, "auc", "auc", 50, 0)
    assert found.loc["llm", ["auc_minus", "auc_minus_lo", "auc_minus_hi"]].tolist() == [0, 0, 0]
    assert found.loc["random", "auc_minus_hi"] < 0 and found.loc["none"].isna().all()
    expected = metrics.difference(label, scores["own_llm"], scores["own_gcn"], user, 50, 0)
    assert found.loc["own_llm", "auc_minus"] == pytest.approx(expected["value"])
    assert tuple(found.loc["own_llm", ["auc_minus_lo", "auc_minus_hi"]]) == pytest.approx(expected["ci95"])
    beyond = table.beyond_alone(label, scores, {"own_gcn": scores["own_gcn"], "gcn": scores["random"]}, user, 50, 0)
    expected = metrics.difference(label, scores["gcn"], scores["random"], user, 50, 0)
    assert beyond.loc["own_gcn"].tolist() == [0, 0, 0] and expected["ci95"][0] > 0
    assert beyond.loc["gcn"].tolist() == pytest.approx([expected["value"], *expected["ci95"]])


def test_the_ratio_of_medians_is_paired_by_request():
    fast = np.random.default_rng(0).lognormal(size=40)
    found = table.median_ratio(1000 * fast, fast, "ratio", 200, 0)
    assert list(found.values()) == pytest.approx([1000] * 3)
    noisy = table.median_ratio(1000 * fast[::-1], fast, "ratio", 200, 0)
    assert noisy["ratio"] == pytest.approx(1000) and noisy["ratio_lo"] < 950 < 1050 < noisy["ratio_hi"]


def test_what_two_sides_share_is_paid_once():
    some = vectors.Vectors(np.zeros((2**18, 2), np.float32), np.zeros((2**18, 1), np.float32), "graph", "graph")
    ways = [way for way in retriever.WAYS if way.name in ("none", "gcn", "own_gcn", "gcn_own_gcn")]
    found = table.cost_table({"graph": some}, {"": 0.0, "graph": 7.0}, ways, 2**20, True)
    assert found["build_s"].to_dict() == {"none": 0, "gcn": 7, "own_gcn": 7, "gcn_own_gcn": 7}
    assert found["index_mb"].to_dict() == {"none": 0, "gcn": 2, "own_gcn": 1, "gcn_own_gcn": 3}
    found = table.cost_table({"graph": some}, {"": 0.0, "graph": 7.0}, ways, 2**20, False)  # match needs the user, too
    assert found["index_mb"].to_dict() == {"none": 0, "gcn": 2, "own_gcn": 3, "gcn_own_gcn": 3}


def test_it_repeats_itself_and_what_is_measured_is_kept(measured, monkeypatch):
    found, line = measured
    monkeypatch.setattr(backbone, "load_tokenizer", lambda cfg: TOKENIZER)
    before = artifacts.artifact_hash(found.run, artifacts.RETRIEVERS)
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "load_model", lambda *_: pytest.fail("it was measured already"))
        step.measure_all(found, sentences)
    assert artifacts.artifact_hash(found.run, artifacts.RETRIEVERS) == before
    found.run.path(artifacts.RETRIEVERS).unlink()
    step.measure_all(found, sentences)
    again = artifacts.read_table(found.run, artifacts.RETRIEVERS).set_index("way")
    timed = [column for column in line if "_ms_" in column or "ratio" in column]
    pd.testing.assert_frame_equal(again.drop(columns=timed), line.drop(columns=timed))


# --- told in notebook 03


def test_entries_hold_both_sides_of_the_comparison(measured):
    _, line = measured
    found = {item["name"]: item for item in told.retriever_entries(line)}
    assert len(found) == len(told.retriever_entries(line))
    gap = found["auc_llm_reading_gcn_minus_llm_retriever"]
    assert gap["value"] == pytest.approx(line.loc["gcn", "auc_llm"] - line.loc["llm", "auc_llm"], abs=1e-5)
    assert gap["ci95"][0] <= gap["value"] <= gap["ci95"][1]
    ratio = found["retriever_lookup_ratio_llm_vs_gcn"]
    assert (ratio["kind"], ratio["unit"]) == ("time", "ratio") and ratio["value"] > 1
    assert ratio["value"] == pytest.approx(line.loc["llm", "after_ms_p50"] / line.loc["gcn", "after_ms_p50"], rel=1e-4)
    assert "auc_alone_retriever_none" not in found and "auc_llm_reading_retriever_none" in found


@pytest.mark.parametrize(("ends", "word"), [((0.01, 0.03), "better"), ((-0.03, -0.01), "worse"),
                                            ((-0.01, 0.02), "no difference shown")])  # fmt: skip
def test_the_report_says_who_wins_only_where_the_interval_does(ends, word):
    def entry(value, ci95):
        return {"value": value, "ci95": list(ci95) if ci95 else None}

    values = {"auc_alone_gcn_minus_llm_retriever": entry(0.02, (0.01, 0.03)),
              "auc_llm_reading_gcn_minus_llm_retriever": entry(sum(ends) / 2, ends),
              "retriever_lookup_ratio_llm_vs_gcn": entry(4321.4, (4000.0, 4600.0))}  # fmt: skip
    (said,) = retrieval_sentences(values)
    assert f"of the LLM reading it {sum(ends) / 2:+.3f} [" in said and f"({word});" in said
    assert "what they say alone +0.020 [+0.010, +0.030] (better), " in said and "4,321 [4,000, 4,600] times" in said
    assert retrieval_sentences({**values, "retriever_lookup_ratio_llm_vs_gcn": entry(4321.4, None)}) == []
    for name in values:
        assert retrieval_sentences({key: value for key, value in values.items() if key != name}) == []


def test_the_finding_names_whom_to_ask_with_every_interval(measured):
    _, line = measured
    said = retriever.ways_sentence(line)
    assert said.count("[") == 15 and line.loc[line["auc_llm"].idxmax(), "words"] in said and "nan" not in said


def test_the_table_is_told_where_it_is_of_this_run(measured, monkeypatch, tmp_path):
    found, line = measured
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path)
    mine = retriever.told_retrievers(found.run)
    assert mine.own and mine.table.equals(artifacts.read_table(found.run, artifacts.RETRIEVERS).set_index("way"))
    assert retriever.shown_table(mine.table).shape[0] == len(line)
    with monkeypatch.context() as patch:
        patch.setattr(told, "NEWEST", "a column that did not exist when this table was made")
        assert retriever.told_retrievers(found.run) is None
    stored = artifacts.read_json(found.run, "calibration.json")
    artifacts.write_json(found.run, "calibration.json", {**stored, "trained": "anew"})
    try:
        assert retriever.told_retrievers(found.run) is None
        folder = tmp_path / "ml-100k" / "smoke"
        folder.mkdir(parents=True)
        line.reset_index().to_csv(folder / artifacts.RETRIEVERS, index=False)
        told_one = retriever.told_retrievers(found.run)
        assert not told_one.own and told_one.table.index.tolist() == line.index.tolist()
        artifacts.write_json(found.run, "calibration.json", stored)
        monkeypatch.setattr(artifacts, "read_table", lambda *_: line.reset_index().drop(columns=told.NEWEST))
        assert not retriever.told_retrievers(found.run).own  # its own is of an older version, the committed one is not
        monkeypatch.undo()
    finally:
        artifacts.write_json(found.run, "calibration.json", stored)


def test_a_run_that_has_not_come_so_far_is_refused_with_the_remedy(run, capsys):
    with pytest.raises(SystemExit, match="missing.*make reproduce"):
        step.main(["--dataset", "ml-100k", "--profile", "smoke"])
    with pytest.raises(SystemExit, match="unknown dataset"):
        step.main(["--dataset", "nowhere"])


def test_the_ways_are_what_the_study_names():
    ways = {way.name: way for way in retriever.WAYS}
    graph_of = {True: "graph", False: None}
    for way in filter(lambda one: one.against, ways.values()):
        same = ways[way.against]
        sides = graph_of[bool(way.users) and way.name != "gcn_own_gcn"], graph_of[bool(way.items)]
        assert (same.users, same.items) == sides  # of both sides, the user's own
    assert [ways[name].mode for name in ("none", "llm", "own_llm", "gcn_own_gcn")] == [
        "none", "similar_users", "both", "both"]  # fmt: skip
    assert roster.SIDES.keys() == {"others", "own"} and retrievers.__doc__
