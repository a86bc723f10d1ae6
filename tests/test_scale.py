"""The planted graph is what its docstring says, bounded steps change nothing small, and look-ups find what is there."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts, config, growth, retriever, scale
from eestudy.retriever import graph
from eestudy.retriever.search import (
    _index_ways,
    group_raters,
    index_times,
    nearest_raters,
    normalise,
    recall,
    user_cells,
)
from eestudy.scale import __main__ as command
from eestudy.scale import measure

SETTINGS = {"embedding_dim": 8, "n_layers": 2, "epochs": 3, "lr": 0.05, "seed": 0}


def planted(**changed):
    sizes = {"n_users": 400, "n_items": 500, "n_edges": 6000, "n_groups": 8} | changed
    return scale.planted_graph(**sizes)


def train(made, **changed):
    return retriever.train_lightgcn(made.user_id, made.item_id, *made.shape, **SETTINGS | changed)


@pytest.fixture(scope="module")
def made():
    return planted()


# --- the generator


@settings(max_examples=60)
@given(n=st.integers(1, 300), mean=st.floats(1, 30), exponent=st.floats(0, 1.5), spare=st.integers(0, 500))
def test_power_law_counts_sum_up_and_keep_their_bounds(n, mean, exponent, spare):
    total = int(n * mean)
    largest = -(-total // n) + spare
    counts = scale.power_law_counts(n, total, exponent, largest)
    assert counts.sum() == total and counts.min() >= 1 and counts.max() <= largest
    assert (np.diff(counts) <= 0).all()


def test_power_law_counts_fall_like_the_rank_to_the_exponent():
    counts = scale.power_law_counts(10_000, 1_000_000, 0.5, 10**6)
    rank = np.arange(1, 10_001)
    np.testing.assert_allclose(np.polyfit(np.log(rank), np.log(counts), 1)[0], -0.5, atol=0.01)


def test_counts_that_cannot_be_are_refused():
    for total in (9, 31):
        with pytest.raises(ValueError, match="cannot sum up"):
            scale.power_law_counts(10, total, 0.5, 3)
    with pytest.raises(ValueError, match="at least 80 items"):
        planted(n_items=79)


def test_the_planted_graph_has_the_edges_asked_for_each_once_in_order(made):
    key = made.user_id * 500 + made.item_id
    assert len(key) == 6000 and (np.diff(key) > 0).all()
    assert made.user_id.max() < 400 and made.item_id.max() < 500 and made.item_id.min() >= 0
    counts = np.sort(np.bincount(made.user_id, minlength=400))[::-1]
    assert np.array_equal(counts, scale.power_law_counts(400, 6000, 0.6, 50))


def test_groups_are_alike_in_size_and_hold_the_promised_share_of_edges():
    for within, low, high in ((0.0, 0.10, 0.15), (0.5, 0.5, 0.6), (1.0, 0.9, 1.0)):  # chance: 1 of 8
        drawn = planted(n_users=2000, n_items=2000, n_edges=20_000, within=within)
        for group in (drawn.user_group, drawn.item_group):
            assert np.ptp(np.bincount(group)) <= 1
        same = drawn.user_group[drawn.user_id] == drawn.item_group[drawn.item_id]
        assert low < same.mean() <= high


def test_popularity_falls_like_the_rank_to_the_exponent():
    drawn = planted(n_users=20_000, n_items=2000, n_edges=200_000, item_exponent=0.7)
    popular = np.sort(np.bincount(drawn.item_id, minlength=2000))[::-1]
    rank = np.arange(1, 2001)
    assert np.polyfit(np.log(rank[50:]), np.log(popular[50:]), 1)[0] == pytest.approx(-0.7, abs=0.07)


def test_a_seed_repeats_the_graph_and_another_gives_another(made):
    again, other = planted(), planted(seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(vars(made).values(), vars(again).values(), strict=True))
    assert not np.array_equal(made.item_id, other.item_id) and not np.array_equal(made.user_group, other.user_group)


def test_a_user_who_wants_more_than_its_group_has_spills_over():
    drawn = planted(n_users=40, n_items=160, n_edges=600, n_groups=16, within=1.0)  # 16 items each at most, 10 a group
    assert np.bincount(drawn.user_id).max() <= 16
    assert len(drawn.user_id) < 600  # nothing else is drawn where taste is all


def test_recovered_groups_is_one_for_the_truth_and_chance_for_noise():
    group = np.arange(600) % 6
    truth = np.eye(6)[group] + 0.01 * np.random.default_rng(0).standard_normal((600, 6))
    assert scale.recovered_groups(truth, group) == (1.0, pytest.approx(1 / 6))
    noise = np.random.default_rng(0).standard_normal((600, 6))
    assert scale.recovered_groups(noise, group)[0] == pytest.approx(1 / 6, abs=0.03)
    pairs = np.repeat(np.eye(4), 2, axis=0)  # k larger than there are users
    assert scale.recovered_groups(pairs, np.repeat(np.arange(4), 2), k=20)[0] == pytest.approx(1 / 7)


def test_training_finds_planted_groups_that_it_was_not_told(made):
    user, _, losses = train(made, epochs=20)
    untrained = train(made, epochs=0)[0]
    found, chance = scale.recovered_groups(user, made.user_group)
    assert losses[-1] < losses[0] and found > scale.recovered_groups(untrained, made.user_group)[0] > chance


# --- training with a bounded number of steps


def slow_negatives(user_id, known, n_items, rng, tries=20):
    """`sample_negatives` as plainly as it can be written."""
    item_id = rng.integers(n_items, size=len(user_id))
    for _ in range(tries):
        taken = np.flatnonzero(np.isin(user_id * n_items + item_id, known))
        if len(taken) == 0:
            break
        item_id[taken] = rng.integers(n_items, size=len(taken))
    return item_id


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 1))
def test_negatives_are_those_of_the_plain_loop(seed, share):
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(rng.random(10 * 12) < share)
    known = known if len(known) else np.array([0])
    user = rng.integers(10, size=200)
    fast, slow = (sample(user, known, 12, np.random.default_rng(seed)) for sample in
                  (graph.sample_negatives, slow_negatives))  # fmt: skip
    assert np.array_equal(fast, slow)


def plain_training(made, batch_size):
    """The library's model, its loss and autograd, step by step over the whole graph; nothing of our loop."""
    n_users, n_items = made.shape
    known, edges = made.user_id * n_items + made.item_id, np.stack([made.user_id, made.item_id])
    matrix = graph.propagation_matrix(graph.bipartite_edges(*edges, n_users), n_users + n_items)
    torch.manual_seed(0)
    model, rng = graph.make_model(n_users, n_items, 8, 2), np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        order = rng.permutation(edges.shape[1])
        for start in range(0, len(order), batch_size):
            user, item = edges[:, order[start : start + batch_size]]
            negative = slow_negatives(user, known, n_items, rng)
            nodes = [torch.from_numpy(ids) for ids in (user, item + n_users, negative + n_users)]
            pairs = torch.stack([torch.cat([nodes[0]] * 2), torch.cat(nodes[1:])])
            good, bad = model(matrix, pairs).chunk(2)
            loss = model.recommendation_loss(good, bad, node_id=pairs.unique(), lambda_reg=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.get_embedding(matrix).detach().numpy()[:n_users]


@pytest.mark.parametrize(("batch_size", "effective"), [(1000, 1000), (188, 188), (187, 188), (1, 188)])
def test_training_is_the_plain_loop_bit_by_bit_until_the_bound_takes_hold(made, batch_size, effective):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        expected = plain_training(made, effective)  # 6,000 edges in 32 steps: 188 each
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(n_threads)
    assert np.array_equal(train(made, batch_size=batch_size)[0], expected)


def test_an_epoch_has_at_most_the_steps_allowed_and_tells_of_its_end(made, monkeypatch):
    sizes, told = [], []
    real = graph.sample_negatives
    monkeypatch.setattr(graph, "sample_negatives", lambda user, *rest: sizes.append(len(user)) or real(user, *rest))
    losses = train(made, batch_size=10, max_steps=7, after_epoch=lambda *about: told.append(about))[2]
    assert len(sizes) == 3 * 7 and sum(sizes) == 3 * 6000 and max(sizes) == 858
    assert told == list(enumerate(losses))


@pytest.mark.parametrize("n_threads", [2, 3])
def test_several_threads_give_the_very_same_vectors(n_threads, monkeypatch):
    drawn = planted(n_users=4000, n_items=2000, n_edges=80_000)
    before, seen, real, found = torch.get_num_threads(), [], torch.set_num_threads, []
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n) or real(n))
    try:
        for few_edges, given in ((80_000, n_threads), (0, 1), (0, n_threads)):
            monkeypatch.setattr(graph, "FEW_EDGES", few_edges)
            real(given)
            seen.clear()
            found.append(train(drawn, embedding_dim=64))
            assert torch.get_num_threads() == given
            assert (n_threads in seen[1:-1]) == (few_edges == 0 and given > 1)
    finally:
        real(before)
    small, one, several = found
    assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))
    np.testing.assert_allclose(small[0], one[0], atol=1e-4)  # another kernel sums in another order


# --- look-ups


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)


def cells_of(made, vectors, n_cells=12):
    centroid, cell = user_cells(vectors, n_cells)
    return group_raters(vectors, centroid, cell, made.user_id, made.item_id, 500), centroid, cell


def brute_force(made, vectors, user, target, k):
    unit = normalise(vectors)
    raters = made.user_id[made.item_id == target]
    return raters[np.argsort(-(unit[raters] @ unit[user]))[:k]]


def test_cells_keep_every_user_and_every_rater_in_its_place(made, vectors):
    cells, centroid, cell = cells_of(made, vectors)
    assert np.array_equal(cell, np.argmax(normalise(vectors) @ centroid.T, axis=1))
    assert np.array_equal(np.sort(cells.user_id), np.arange(400))
    np.testing.assert_array_equal(cells.unit, normalise(vectors)[cells.user_id])
    assert (np.diff(cell[cells.user_id]) >= 0).all()
    for item in range(500):
        for c, (low, high) in enumerate(itertools.pairwise(cells.bounds[item])):
            assert (cell[cells.user_id[cells.raters[low:high]]] == c).all()
        places = cells.raters[cells.bounds[item, 0] : cells.bounds[item, -1]]
        assert (np.diff(places) > 0).all()
        assert set(cells.user_id[places]) == set(made.user_id[made.item_id == item])


def test_nearest_raters_are_the_largest_cosines_when_all_are_looked_at(made, vectors):
    cells = cells_of(made, vectors)[0]
    targets = np.flatnonzero(np.bincount(made.item_id, minlength=500))[::7]
    for user in (0, 17):
        found = nearest_raters(cells, vectors[user], targets, 5, budget=400)
        for target, ids in zip(targets, found, strict=True):
            assert list(ids) == list(brute_force(made, vectors, user, target, 5))


@settings(max_examples=40)
@given(user=st.integers(0, 399), budget=st.integers(3, 200), k=st.integers(1, 3))
def test_a_budget_looks_into_the_nearest_cells_until_it_is_spent(made, vectors, user, budget, k):
    cells, centroid, cell = cells_of(made, vectors)
    target = np.bincount(made.item_id).argmax()
    near = np.argsort(-(centroid @ normalise(vectors[[user]])[0]))
    raters = made.user_id[made.item_id == target]
    held = np.cumsum([(cell[raters] == c).sum() for c in near])
    looked_at = near[: 1 + np.argmax(held >= budget)] if len(raters) > budget else near
    seen = raters[np.isin(cell[raters], looked_at)]
    unit = normalise(vectors)
    expected = seen[np.argsort(-(unit[seen] @ unit[user]))[:k]]
    assert list(nearest_raters(cells, vectors[user], [target], k, budget)[0]) == list(expected)


def test_an_item_nobody_rated_has_no_neighbours(vectors):
    cells = group_raters(vectors, *user_cells(vectors, 4), np.array([3]), np.array([0]), 3)
    assert [list(ids) for ids in nearest_raters(cells, vectors[0], [0, 1, 2], 5, 400)] == [[3], [], []]
    assert [list(ids) for ids in nearest_raters(cells, vectors[0], [1, 2], 5, 400)] == [[], []]


def test_recall_counts_the_true_ones_found():
    found = [np.array([1, 2, -1]), np.array([7]), np.array([], int)]
    assert recall(found, [np.array([2, 3]), np.array([7]), np.array([4])]).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("own_process", [False, True])
def test_index_times_measures_every_way_and_finds_what_it_aims_at(made, vectors, own_process):
    users, targets = measure.walk_requests(made, 12, 4, seed=0)
    found = index_times(vectors, made.user_id, made.item_id, 500, users, targets, 5, 0.99, 4, own_process)
    by_way = {"all raters": 1, "2048 raters": 1, "raters by cell": 1, "flat": 1, "IVF": 0.95, "HNSW": 0.9}
    names = [("raters", way) for way in by_way] + [("everyone", way) for way in ("flat", "IVF", "HNSW")]
    assert set(found) == set(names)
    for among, way in names:
        one = found[among, way]
        assert len(one["request"]) == 4 and len(one["one"]) == 4 * (4 if among == "raters" else 1)
        assert len(one["recall"]) == 8 and one["recall"].mean() >= by_way[way]
        assert (one["one"] > 0).all() and one["index_mb"] > vectors.nbytes / 2**20


def test_index_ways_find_everyones_neighbours_without_the_user_itself(made, vectors):
    start = np.zeros(501, dtype=np.int64)
    everyone, _ = _index_ways(normalise(vectors), np.empty(0, np.int64), start, 6)
    unit = normalise(vectors)
    expected = np.argsort(-(unit @ unit[9]))[1:7]
    for way in everyone:  # each at its most thorough
        assert list(way.look_up(way.settings[-1], unit[9], [0])[0]) == list(expected)


# --- the measurement


def test_requests_are_new_items_each_once_and_lean_to_the_users_taste():
    drawn = planted(n_users=2000, n_items=1000, n_edges=30_000, within=0.8)
    users, targets = measure.walk_requests(drawn, 60, 8, seed=3)
    again = measure.walk_requests(drawn, 60, 8, seed=3)
    assert np.array_equal(users, again[0]) and np.array_equal(targets, again[1])
    for user, items in zip(users, targets, strict=True):
        assert len(set(items)) == 8 and not np.isin(items, drawn.item_id[drawn.user_id == user]).any()
    assert (drawn.user_group[users][:, None] == drawn.item_group[targets]).mean() > 2 / 8


def test_a_user_whose_walks_lead_nowhere_gets_any_items():
    alone = scale.PlantedGraph(np.array([0]), np.array([2]), np.zeros(1, int), np.zeros(6, int))
    users, targets = measure.walk_requests(alone, 2, 5, seed=0)
    assert users.tolist() == [0, 0] and [sorted(items) for items in targets] == [[0, 1, 3, 4, 5]] * 2


def test_predicted_work_is_in_proportion_to_the_edges():
    cfg = config.RetrieverConfig()
    one, ten = (measure.epoch_gflop(n, n // 20, 32, cfg) for n in (10**6, 10**7))
    assert ten == pytest.approx(10 * one)


def test_a_measurement_keeps_each_part_and_repeats_what_changed(run, monkeypatch):
    cfg = config.load("ml-100k", "smoke", 0)
    command.measure_all(run, cfg, measure.SMALL)
    graph_table, search_table = (artifacts.read_table(run, f"scale_{name}.csv") for name in ("graph", "search"))
    assert graph_table.groupby("size")["repeat"].count().tolist() == [2, 2]
    assert (graph_table["seconds"] > 0).all() and (graph_table["peak_mb"] > 10).all()
    assert graph_table["recovered"].between(0, 1).all() and (graph_table["by_chance"] < 0.05).all()
    exponent = growth.fit_exponents(graph_table)
    assert list(exponent["dimension"].unique()) == ["edges"] and np.isfinite(exponent["exponent"].astype(float)).any()
    reading_table = artifacts.read_table(run, "scale_reading.csv")
    assert reading_table["size"].is_monotonic_increasing and (reading_table["kept"] == reading_table["size"]).all()
    assert (reading_table["peak_mb"] > 10).all() and (reading_table["seconds"] > 0).all()
    assert len(search_table) == 9 and search_table["recall"].between(0, 1).all()
    assert (search_table.filter(like="_ms_p") > 0).all(axis=None)
    assert search_table["n_users"].unique().tolist() == [200]

    stamps = {path.name: path.stat().st_mtime_ns for path in run.root.glob("scale_*.csv")}
    assert len(stamps) == 8
    run.path("scale_graph_2000.csv").unlink()
    command.measure_all(run, cfg, measure.SMALL)
    changed = {path.name for path in run.root.glob("scale_*.csv") if path.stat().st_mtime_ns != stamps[path.name]}
    assert changed == {"scale_graph_2000.csv"}


def test_other_settings_sizes_or_seeds_make_the_parts_stale():
    cfg = config.load("ml-100k", "smoke", 0)
    prints = {command.fingerprint(*about, name) for name in command.SOURCES for about in (
        (cfg, measure.SMALL), (cfg, measure.FULL), (config.load("ml-100k", "smoke", 1), measure.SMALL),
        (config.load("ml-100k", "laptop", 0), measure.SMALL))}  # fmt: skip
    assert len(prints) == 12 and command.fingerprint(cfg, measure.SMALL, "graph") in prints
    patterns = {pattern for sources in command.SOURCES.values() for pattern in sources}
    assert all(list((artifacts.ROOT / "eestudy").glob(pattern)) for pattern in patterns)


def test_the_command_line_measures_into_the_named_run(run, capsys):
    command.main(["--profile", "smoke", "--small"])
    assert "== scale search" in capsys.readouterr().out
    assert json.loads(run.path("scale_search.csv.meta.json").read_text())["fingerprint"]
    assert isinstance(artifacts.read_table(run, "scale_search.csv"), pd.DataFrame)
    with pytest.raises(SystemExit, match="unknown dataset"):
        command.main(["--dataset", "nowhere"])
