"""Policies are causal, row-wise and monotone; costs and controls equal their loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import exit_policies as ep
from eestudy import metrics
from eestudy.config import PolicyConfig
from eestudy.data import movielens

BASE_RATE = 0.6
CFG = PolicyConfig(n_thresholds=9)
RULES = ep.policies(BASE_RATE, CFG)
DYNAMIC = [name for name, rule in RULES.items() if rule.dynamic]
LAYERS = (2, 4, 8, 12, 20)

seeds = st.integers(0, 10_000)
names = st.sampled_from(sorted(RULES))
few = settings(max_examples=40, deadline=None)


def scores(seed: int, n: int = 30, n_exits: int = 5) -> np.ndarray:
    """[n, E] heads that correlate, as real ones do."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(0.4, 1, (n, 1)) + np.cumsum(rng.normal(0, 0.6, (n, n_exits)), axis=1)
    return 1 / (1 + np.exp(-walk))


def judged(seed: int = 0, n: int = 40) -> pd.DataFrame:
    """A frame as from `judged_rows`: requests of 4 candidates, 2 requests per user."""
    rng, row = np.random.default_rng(seed), np.arange(n)
    p_yes = scores(seed, n)
    frame = pd.DataFrame({f"p_yes_{layer}": p_yes[:, e] for e, layer in enumerate(LAYERS)})
    label = (rng.random(n) < p_yes[:, -1]).astype(int)
    frame = frame.assign(row=row, request_id=row // 4, user_id=row // 8, label=label)
    return frame.assign(n_prefix_tokens=50 + frame["request_id"], n_suffix_tokens=rng.integers(10, 30, n))


def threshold_of(rule: ep.Policy, p_yes: np.ndarray, seed: int) -> float:
    return float(np.random.default_rng(seed).choice(ep.threshold_grid(rule, p_yes, 9)))


@given(seeds, names)
@few
def test_extremes_of_the_grid_are_the_first_and_the_last_exit(seed, name):
    p_yes, rule = scores(seed), RULES[name]
    grid = ep.threshold_grid(rule, p_yes, 9)
    assert (np.diff(grid) > 0).all() and np.isfinite(grid).all()
    for low, high in ((grid[0], grid[-1]), (-np.inf, np.inf)):
        assert (ep.exit_index(rule, p_yes, low) == 0).all()
        assert (ep.exit_index(rule, p_yes, high) == p_yes.shape[1] - 1).all()


@given(seeds, names)
@few
def test_later_heads_never_change_an_earlier_decision(seed, name):
    p_yes, rule = scores(seed), RULES[name]
    threshold = threshold_of(rule, p_yes, seed)
    index = ep.exit_index(rule, p_yes, threshold)
    for e in range(p_yes.shape[1] - 1):
        changed = np.hstack([p_yes[:, : e + 1], scores(seed + 1)[:, e + 1 :]])
        other = ep.exit_index(rule, changed, threshold)
        assert np.array_equal(index[index <= e], other[index <= e]) and (other[index > e] > e).all()


@given(seeds, names)
@few
def test_exits_deepen_with_the_threshold(seed, name):
    p_yes, rule = scores(seed), RULES[name]
    depths = [ep.exit_index(rule, p_yes, threshold) for threshold in ep.threshold_grid(rule, p_yes, 9)]
    assert (np.diff(depths, axis=0) >= 0).all()


@given(seeds, names, st.integers(0, 4))
@few
def test_walking_equals_a_loop_over_rows(seed, name, min_exit):
    p_yes, rule = scores(seed), RULES[name]
    threshold = threshold_of(rule, p_yes, seed)
    expected = []
    for row in p_yes:  # also shows that no row sees another
        exits = [e for e in range(min_exit, 5) if e == 4 or rule.should_exit(row[None, : e + 1], threshold)[0]]
        expected.append(exits[0])
    assert np.array_equal(ep.exit_index(rule, p_yes, threshold, min_exit), expected)


def loop_ratio(row, threshold, patience):
    """The ratio rule, spelt out for one row."""
    ratio = np.log(row / (1 - row))[-patience:]
    same_side = all(r > 0 for r in ratio) or all(r < 0 for r in ratio)
    return len(ratio) == patience and same_side and all(abs(r) >= threshold for r in ratio)


def loop_patience(row, threshold):
    """PABEE for one row, with its counter of agreements."""
    counter = 0
    for before, now in zip(row, row[1:], strict=False):
        counter = counter + 1 if (before > BASE_RATE) == (now > BASE_RATE) else 0
    return counter >= threshold - 1


def loop_patient_confidence(row, threshold, patience):
    """PCEE for one row, with its counter of confident heads."""
    counter = 0
    for p in row:
        confident = abs(np.log(p / (1 - p)) - np.log(BASE_RATE / (1 - BASE_RATE))) >= threshold
        counter = counter + 1 if confident else 0
    return counter >= patience


@given(seeds, st.floats(0.05, 2), st.integers(1, 4))
@few
def test_consistency_rules_equal_their_loops(seed, threshold, patience):
    p_yes = scores(seed)
    rules = ep.policies(BASE_RATE, PolicyConfig(patience=patience))
    for e in range(5):
        seen = p_yes[:, : e + 1]
        ratio = [loop_ratio(row, threshold, patience) for row in seen]
        assert np.array_equal(rules["ratio"].should_exit(seen, threshold), ratio)
        agree = [loop_patience(row, patience) for row in seen]
        assert np.array_equal(rules["patience"].should_exit(seen, patience), agree)
        both = [loop_patient_confidence(row, threshold, patience) for row in seen]
        assert np.array_equal(rules["patience_confidence"].should_exit(seen, threshold), both)


@given(seeds, st.floats(0.501, 0.999))
@few
def test_max_probability_margin_entropy_and_ratio_decide_alike(seed, q):
    p_yes = scores(seed)
    entropy = q * np.log(q) + (1 - q) * np.log(1 - q)
    equivalent = {"max_probability": q, "margin": 2 * q - 1, "entropy": entropy}
    indices = [ep.exit_index(RULES[name], p_yes, threshold) for name, threshold in equivalent.items()]
    half = ep.policies(0.5, PolicyConfig(patience=1))
    indices += [ep.exit_index(half[name], p_yes, np.log(q / (1 - q))) for name in ("ratio", "confidence")]
    assert all(np.array_equal(indices[0], other) for other in indices)


def test_an_uninformative_head_exits_at_once_only_where_confidence_is_not_centred():
    p_yes = np.full((10, 5), 0.75)  # calibrated on 75 % clicks, knows nothing
    rules = ep.policies(0.75, CFG)
    assert (ep.exit_index(rules["max_probability"], p_yes, 0.7) == 0).all()
    for name in ("confidence", "patience_confidence"):
        assert (ep.exit_index(rules[name], p_yes, 0.1) == 4).all()


def test_one_sided_ratio_keeps_sure_refusals():
    p_yes = np.array([[0.01, 0.01, 0.01], [0.99, 0.99, 0.99]])
    assert ep.exit_index(RULES["one_sided_ratio"], p_yes, 1.0).tolist() == [2, 0]
    assert ep.exit_index(RULES["confidence"], p_yes, 1.0).tolist() == [0, 0]


def test_certain_scores_stay_finite():
    p_yes = np.array([[0.0, 1.0, 0.5]])
    for rule in RULES.values():
        assert np.isfinite(rule.confidence(p_yes)).all()


@given(seeds)
@few
def test_shuffling_keeps_the_histogram_and_the_groups(seed):
    rng = np.random.default_rng(seed)
    index, group = rng.integers(0, 5, 40), rng.integers(0, 6, 40)
    assert np.array_equal(np.sort(ep.shuffled_exit_index(index, rng)), np.sort(index))
    within = ep.shuffled_exit_index(index, rng, group)
    assert all(np.array_equal(np.sort(within[group == g]), np.sort(index[group == g])) for g in range(6))


def test_shuffling_moves_exits():
    index = np.arange(100) % 5
    assert (ep.shuffled_exit_index(index, np.random.default_rng(0)) != index).mean() > 0.5


@given(seeds)
@few
def test_oracle_is_the_earliest_exit_that_agrees_from_there_on(seed):
    p_yes = scores(seed)
    side = p_yes > BASE_RATE
    expected = [min(e for e in range(5) if (row[e:] == row[-1]).all()) for row in side]
    oracle = ep.oracle_exit_index(p_yes, BASE_RATE)
    assert np.array_equal(oracle, expected) and (oracle <= 4).all()
    decided = ep.exit_scores(p_yes, oracle) > BASE_RATE
    assert np.array_equal(decided, side[:, -1])


def test_exit_scores_pick_the_head_of_the_exit():
    assert ep.exit_scores(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([1, 0])).tolist() == [0.2, 0.3]


def test_token_layers_by_hand():
    # request 7: prefix 10 tokens as deep as its deepest candidate (6), suffixes 3 x 2 and 4 x 6; request 9: all at 1
    spent = ep.token_layers([2, 6, 1], [7, 7, 9], [10, 10, 20], [3, 4, 5])
    assert spent.tolist() == [10 * 6 / 2 + 3 * 2, 10 * 6 / 2 + 4 * 6, 20 * 1 + 5 * 1]


@given(seeds)
@few
def test_work_equals_a_loop_over_requests(seed):
    frame = judged(seed)
    index = np.random.default_rng(seed).integers(0, 5, len(frame))
    total = 0
    for request in frame["request_id"].unique():
        mine = (frame["request_id"] == request).to_numpy()
        depth = np.array(LAYERS)[index[mine]]
        total += frame["n_prefix_tokens"][mine].iloc[0] * depth.max() + depth @ frame["n_suffix_tokens"][mine]
    assert ep.work(frame, index).sum() == pytest.approx(total)


@given(seeds)
@few
def test_work_and_costs_of_many_settings_equal_those_of_one_after_the_other(seed):
    frame = judged(seed).sample(frac=1, random_state=seed)  # the rows of a request need not stand together
    exits = np.random.default_rng(seed).integers(0, 5, (len(frame), 7))
    assert np.array_equal(ep.work(frame, exits).T, [ep.work(frame, index) for index in exits.T])
    fractions = [ep.cost(frame, index)["token_layer_fraction"] for index in exits.T]
    assert ep.costs_at(frame, exits).tolist() == fractions
    assert ep.work(frame.head(0), exits[:0]).shape == (0, 7)


@given(seeds, st.integers(0, 4))
@few
def test_static_costs_exactly_its_share_of_layers(seed, e):
    cost = ep.cost(judged(seed), np.full(40, e))
    assert cost["token_layer_fraction"] == pytest.approx(LAYERS[e] / LAYERS[-1])
    assert cost["mean_exit_fraction"] == pytest.approx(LAYERS[e] / LAYERS[-1])


@given(seeds)
@few
def test_token_layers_never_cost_less_than_layers_per_candidate(seed):
    frame = judged(seed).assign(n_suffix_tokens=20)
    cost = ep.cost(frame, np.random.default_rng(seed).integers(0, 5, len(frame)))
    assert cost["token_layer_fraction"] >= cost["mean_exit_fraction"] - 1e-12  # the prefix goes as deep as the deepest


def test_sweep_starts_at_the_first_exit_and_ends_at_full_depth():
    swept = ep.sweep(judged(), RULES.values(), CFG)
    for _, table in swept.groupby("policy"):
        assert table["token_layer_fraction"].iloc[0] == pytest.approx(LAYERS[0] / LAYERS[-1])
        assert table["token_layer_fraction"].iloc[-1] == 1 and table["auc_loss"].iloc[-1] == 0
        assert table["token_layer_fraction"].is_monotonic_increasing


def test_select_takes_the_cheapest_within_the_loss():
    columns = ["policy", "threshold", "token_layer_fraction", "auc_loss"]
    swept = pd.DataFrame(
        [("a", 0, 0.2, 0.01), ("a", 1, 0.4, 0.002), ("b", 0, 0.4, 0.001), ("b", 1, 1.0, 0.0)], columns=columns
    )
    chosen = ep.select(swept, 0.002)
    assert (chosen["policy"], chosen["threshold"]) == ("b", 0)
    assert ep.select(swept, -0.5)["token_layer_fraction"] == 1.0  # nothing qualifies: full depth
    assert ep.select(swept.assign(auc_loss=np.nan), 0.002)["token_layer_fraction"] == 1.0


def test_static_at_cost_interpolates_every_resample():
    fraction, rng = np.array([0.1, 0.4, 1.0]), np.random.default_rng(0)
    samples = rng.random((6, 3))
    for cost in (0.05, 0.1, 0.3, 0.7, 1.0):
        expected = [np.interp(cost, fraction, row) for row in samples]
        assert np.allclose(ep.static_at_cost(fraction, samples, cost), expected)
        assert np.allclose(ep.static_at_cost(fraction, samples[0], cost), expected[0])


def test_head_matrix_orders_by_layer_and_judged_rows_joins_tokens():
    head_scores = pd.DataFrame(
        {"row": [5, 3, 3], "mode": ["both", "both", "none"], "split": "test", "half": "", "p_yes_10": [0.1, 0.2, 0.3],
         "p_yes_4": [0.4, 0.5, 0.6]}
    )  # fmt: skip
    tokens = pd.DataFrame({"row": [3, 5], "n_prefix_tokens": [9, 8], "n_suffix_both": [2, 1], "n_suffix_none": [1, 1]})
    frame = ep.judged_rows(head_scores, tokens, "test")
    assert frame["row"].tolist() == [3, 5] and frame["n_suffix_tokens"].tolist() == [2, 1]
    layers, p_yes = ep.head_matrix(frame)
    assert layers.tolist() == [4, 10] and p_yes.tolist() == [[0.5, 0.2], [0.4, 0.1]]
    with pytest.raises(ep.PolicyInputError, match="row 5 has no token count"):
        ep.judged_rows(head_scores, tokens[:1], "test")
    with pytest.raises(ep.PolicyInputError, match="there are no rows"):
        ep.judged_rows(head_scores, tokens, "validation")
    with pytest.raises(ep.PolicyInputError, match="no p_yes_"):
        ep.head_matrix(tokens)


@pytest.mark.parametrize("base_rate", [0.0, 1.0])
def test_a_base_rate_of_one_class_is_refused(base_rate):
    with pytest.raises(ep.PolicyInputError, match="base rate"):
        ep.policies(base_rate, CFG)


def test_a_setting_that_sends_nearly_all_out_at_one_exit_is_not_dynamic():
    swept = pd.DataFrame({"policy": ["static", "a", "a", "b"], "dynamic": [False, True, True, True],
                          "modal_exit_share": [1.0, 0.97, 0.6, 1.0]})  # fmt: skip
    assert ep.really_dynamic(swept, 0.05).index.tolist() == [2]
    assert ep.really_dynamic(swept, 0.5).index.tolist() == [1, 2, 3]  # none qualifies: all are returned


def test_modal_share_counts_the_commonest_exit():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.uniform(0.05, 0.95, (60, 3)), columns=["p_yes_1", "p_yes_2", "p_yes_3"]).assign(
        label=rng.integers(0, 2, 60), user_id=0, request_id=np.arange(60) // 6, n_prefix_tokens=9, n_suffix_tokens=3)
    rule = ep.policies(0.5, PolicyConfig())["confidence"]
    swept = ep.sweep(frame, [rule], PolicyConfig(n_thresholds=5))
    p_yes = ep.head_matrix(frame)[1]
    for _, row in swept.iterrows():
        _, counts = np.unique(ep.exit_index(rule, p_yes, row["threshold"]), return_counts=True)
        assert row["modal_exit_share"] == counts.max() / 60


# --- groups ---


def grouped(n_users=40, per_user=6):
    """Judged rows of two exits, and the tables that say who they are of."""
    rng, n = np.random.default_rng(0), n_users * per_user
    rows = pd.DataFrame({"row": range(n), "user_id": np.repeat(range(n_users), per_user),
                         "label": rng.integers(0, 2, n)})
    for layer, skill in ((1, 0.5), (2, 2.0)):
        rows[f"p_yes_{layer}"] = 1 / (1 + np.exp(-skill * (rows["label"] - 0.5) - rng.normal(size=n)))
    evidence = pd.DataFrame({"row": range(n), "n_user": rng.integers(0, 90, n), "n_item": 5,
                             "others": [[5] * k for k in rng.integers(0, 12, n)]})
    users = pd.DataFrame({"user_id": range(n_users), "gender": ["M", "F", "", "F"] * 10,
                          "age": ["7", "30", "", "61"] * 10})
    return rows, evidence, users


def test_groups_by_hand():
    rows, evidence, users = grouped()
    kinds = ep.kinds(rows, evidence, users)
    assert set(kinds) == {"the user's ratings before", "similar users found", "gender", "age"}  # all items are alike
    index = (np.arange(len(rows)) % 2).astype(int)
    table = ep.by_group(rows, index, kinds, 50, 0).set_index(["kind", "group"])
    women = (rows["user_id"] % 2 == 1).to_numpy()
    line, early = table.loc[("gender", "female")], np.where(index == 0, rows["p_yes_1"], rows["p_yes_2"])
    assert line["n"] == women.sum() and line["n_users"] == 20
    assert line["auc_full"] == metrics.auc(rows["label"][women], rows["p_yes_2"][women])
    assert line["minus"] == pytest.approx(metrics.auc(rows["label"][women], early[women]) - line["auc_full"])
    assert line["depth"] == pytest.approx((1 + index[women]).mean() / 2)
    assert [group for kind, group in table.index if kind == "age"] == ["from 0", "from 25", "from 50"]
    found = evidence["others"].map(len)
    assert table.loc[("similar users found", "4 to 7"), "n"] == found.between(4, 7).sum()
    quarters = [group for kind, group in table.index if kind == "the user's ratings before"]
    assert quarters == ["lowest quarter", "second", "third", "highest quarter"]


def test_spans_of_ages_in_words_are_groups_by_their_lower_end():
    rows, evidence, users = grouped()
    users["age"] = list(movielens.AGES.values())[:5] * 7 + ["56 or more", "", "under 18", "30", "17.0"]
    age = dict(zip(rows["user_id"], ep.kinds(rows, evidence, users)["age"], strict=True))
    assert [age[n] for n in range(5)] == ["from 0", "from 18", "from 25", "from 35", "from 35"]
    assert [age[n] for n in (35, 37, 38, 39)] == ["from 50", "from 0", "from 25", "from 0"] and pd.isna(age[36])


def test_without_stars_how_many_took_an_item_is_not_how_many_were_found():
    rows, evidence, users = grouped()
    evidence["others"] = [[k] if k > 3 else [] for k in evidence["others"].map(len)]  # one number: how many took it
    kinds = ep.kinds(rows, evidence, users, stars=False)
    assert set(kinds["similar users found"]) == {"none", "some"}
    assert "the user's clicks before" in kinds and not any("ratings" in kind for kind in kinds)  # nobody rated
    assert ep.by_group(rows, np.zeros(len(rows), int), kinds, 50, 0)["group"].isin(["none", "some"]).any()


def test_a_group_of_nearly_all_rows_is_not_told_again():
    rows, _, _ = grouped()
    for most, told in ((0.95, []), (0.85, ["many"])):
        kinds = {"which": pd.Series(np.where(rows.index < most * len(rows), "many", "few")).replace("few", np.nan)}
        found = ep.by_group(rows, np.zeros(len(rows), int), kinds, 20, 0)
        assert (found["group"].tolist() if len(found) else []) == told


def test_a_group_too_small_or_of_one_class_is_not_told():
    rows, evidence, users = grouped()
    rows.loc[rows["user_id"] % 4 == 1, "label"] = 1
    kinds = {"which": pd.Series(np.where(rows["user_id"] % 4 == 1, "one class", "rest")).mask(rows["row"] < 5, "few")}
    assert ep.by_group(rows, np.zeros(len(rows), int), kinds, 20, 0)["group"].tolist() == ["rest"]
