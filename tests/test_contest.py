"""What the benchmark's tables say: known values on made-up tables, and nothing read that must not be."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts, config, contest, exit_policies, load, metrics
from eestudy.contest import results

CFG = config.load("ml-100k", "smoke", 0)
LAYERS = (1, 2, 3, 4)
OURS = (contest.FULL_DEPTH, contest.EARLY_EXIT, contest.OURS_TRUNCATED)
WARM = [name + contest.WARM for name in OURS[:2]]
RIVALS = [contest.PLAIN, contest.PREFIX_REUSE, contest.PREFIX_REUSE + contest.TRUNCATED]
WITH_LLAMA = [contest.LLAMA, contest.LLAMA + contest.TRUNCATED]
EVERYBODY = [*RIVALS, *WITH_LLAMA, *OURS, *WARM, contest.PEAK]
# seconds of one request, so that every rate and ratio is known
SECONDS = dict(zip(EVERYBODY, (12.0, 4.0, 2.0, 8.0, 2.5, 3.0, 1.0, 1.5, 2.0, 0.8, 2.4), strict=True))


def made_race(seconds=SECONDS, size=16, n_requests=2, repeats=3, jitter=0.0, seed=0, gflop=6.0):
    """Every contender's time of every request, `n_requests` times as long all at once."""
    rng, rows = np.random.default_rng(seed), []
    for name, taken in seconds.items():
        work = math.nan if name.startswith(contest.LLAMA) else gflop
        for repeat, i in itertools.product(range(repeats), [*range(n_requests), contest.ALL_AT_ONCE]):
            n = n_requests if i == contest.ALL_AT_ONCE else 1
            rows.append((name, repeat, i, n * taken * np.exp(jitter * rng.normal()), n * size, n * work, size))
    return pd.DataFrame(rows, columns=["contender", "repeat", "request", "seconds", "n_candidates", "gflop", "size"])


def made_scores(n=400, seed=0, names=OURS, spoilt=()):
    """(p_yes of our contenders, head scores): full depth knows something, `spoilt` know nothing; 3 of 4 rows test."""
    rng = np.random.default_rng(seed)
    part = np.where(np.arange(n) < n // 4, "select", "test")
    label = rng.integers(0, 2, n)
    table = pd.DataFrame({"row": rng.permutation(n), "user_id": rng.integers(0, 20, n), "label": label})
    known = 1 / (1 + np.exp(-(2 * label - 1 + rng.normal(0, 1, n))))
    noise = rng.uniform(0.01, 0.99, n)
    ours = [pd.DataFrame({"contender": name, "part": part, "row": table["row"],
                          "p_yes": noise if name in spoilt else known}) for name in names]
    return pd.concat(ours, ignore_index=True), table


# names

names_of_all = st.sampled_from([*RIVALS, *WITH_LLAMA, *OURS, *WARM, contest.PEAK])


@given(names_of_all, st.sampled_from(["", *contest.REDUCED]))
def test_a_precision_goes_into_a_name_and_comes_out_again(name, precision):
    full = name + contest.suffix(precision)
    assert contest.precision_of(full) == precision
    assert contest.exact_name(full) == name


def test_words_tell_all_contenders_apart():
    every = [name + contest.suffix(p) for name in EVERYBODY for p in ("", *contest.REDUCED)]
    words = [contest.in_words(name) for name in every]
    assert len(set(words)) == len(every)
    assert contest.in_words("ours_truncated_int8") == "ours: one static exit, int8"
    assert contest.in_words("llama_cpp_truncated") == "llama.cpp, truncated"
    assert contest.in_words("ours_early_exit_warm_prefix") == "ours: early exit, prefix known"


# rates and ratios

def test_the_table_of_a_small_race_by_hand():
    race = pd.DataFrame(
        [("a", repeat, i, s, n, 3.0 * n) for repeat, times in enumerate([(1, 3, 2), (2, 3, 9), (1, 5, 3)])
         for i, s, n in zip((0, 1, contest.ALL_AT_ONCE), times, (4, 8, 12), strict=True)],
        columns=["contender", "repeat", "request", "seconds", "n_candidates", "gflop"])
    found = contest.contender_table(race).iloc[0]
    assert found["latency_ms_p50"] == 2500 and found["latency_ms_p95"] == pytest.approx(4500)  # of 1 1 2 3 3 5
    assert found["throughput_rps"] == pytest.approx(2 / 3)  # all at once 2 9 3, one by one 4 5 6
    assert found["candidates_per_s"] == pytest.approx(12 / 3)
    assert found["gflop_per_s"] == pytest.approx((12 + 24) / (1 + 3))


def test_waiting_together_counts_only_where_it_is_faster():
    race = made_race({"a": 1.0})
    race.loc[race["request"] == contest.ALL_AT_ONCE, "seconds"] = 5.0
    assert contest.contender_table(race)["throughput_rps"].iloc[0] == pytest.approx(2 / 2)
    race.loc[race["request"] == contest.ALL_AT_ONCE, "seconds"] = 0.5
    assert contest.contender_table(race)["throughput_rps"].iloc[0] == pytest.approx(2 / 0.5)


def test_what_was_not_counted_is_no_zero():
    table = contest.contender_table(made_race()).set_index("contender")
    assert np.isnan(table.loc[contest.LLAMA, "gflop_per_s"])
    assert table.loc[contest.FULL_DEPTH, "gflop_per_s"] == pytest.approx(6 / 3)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0, 1))
def test_a_ratio_swaps_to_its_reciprocal_and_lies_in_its_interval(seed, repeats, jitter):
    race = made_race({"a": 1.0, "b": 3.0}, repeats=repeats, jitter=jitter, seed=seed)
    one, two = contest.ratio(race, "a", "b"), contest.ratio(race, "b", "a")
    assert one["value"] * two["value"] == pytest.approx(1)
    np.testing.assert_allclose(one["ci95"], [1 / x for x in two["ci95"][::-1]])
    assert one["ci95"][0] <= one["value"] * (1 + 1e-12) and one["value"] <= one["ci95"][1] * (1 + 1e-12)
    assert one["n"] == repeats
    if not jitter:
        assert one["value"] == pytest.approx(3)


def test_a_ratio_is_of_single_requests_alone():
    race = made_race({"a": 1.0, "b": 3.0})
    race.loc[(race["request"] == contest.ALL_AT_ONCE) & (race["contender"] == "b"), "seconds"] = 1e-3
    assert contest.ratio(race, "a", "b")["value"] == pytest.approx(3)


def test_ratios_compare_the_same_repeat():
    """Both contenders twice as slow in one repeat: the machine was busy, the ratio is the same."""
    race = made_race({"a": 1.0, "b": 3.0})
    race.loc[race["repeat"] == 1, "seconds"] *= 2
    shuffled = race.sample(frac=1, random_state=0)
    assert contest.ratio(shuffled, "a", "b")["ci95"] == pytest.approx((3, 3))


def test_the_fraction_of_the_peak_by_hand():
    race = made_race({contest.FULL_DEPTH: 2.0, contest.PEAK: 1.0})
    race.loc[race["contender"] == contest.PEAK, "gflop"] *= 1.5  # 1.5 times the work in half the time
    race.loc[(race["repeat"] == 2) & (race["contender"] == contest.PEAK), "seconds"] *= 2
    found = contest.peak_fraction(race)
    assert found["value"] == pytest.approx(1 / 3)
    assert found["ci95"] == pytest.approx((1 / 3, 2 / 3)) and found["n"] == 3
    race.loc[race["request"] == contest.ALL_AT_ONCE, "seconds"] = 1e9  # only single requests count
    assert contest.peak_fraction(race) == found


# the best of ours

@pytest.mark.parametrize("spoilt", [(), (contest.EARLY_EXIT,), OURS[1:]])
def test_the_fastest_whose_auc_holds_is_best(spoilt):
    ours, scores = made_scores(spoilt=spoilt)
    found = contest.auc_against_full_depth(ours, scores, CFG, "select")
    wanted = min(set(OURS) - set(spoilt), key=SECONDS.get)
    assert contest.best_of_ours(made_race(), found, 0.002) == wanted
    assert contest.best_of_ours(made_race(), found, 1.0) == min(OURS, key=SECONDS.get)


def test_auc_against_full_depth_is_that_of_the_rows_of_one_part():
    ours, scores = made_scores(spoilt=(contest.EARLY_EXIT,))
    found = contest.auc_against_full_depth(ours, scores, CFG, "test").set_index("contender")
    both = ours[ours["part"] == "test"].merge(scores, on="row")
    for name, part in both.groupby("contender"):
        assert found.loc[name, "auc"] == pytest.approx(metrics.auc(part["label"], part["p_yes"]))
        assert found.loc[name, "n"] == len(scores) * 3 // 4
    assert found.loc[contest.FULL_DEPTH, ["auc_minus_full_depth", "lo", "hi"]].tolist() == [0, 0, 0]
    lost = found.loc[contest.EARLY_EXIT]
    assert lost["auc_minus_full_depth"] == pytest.approx(lost["auc"] - found.loc[contest.FULL_DEPTH, "auc"])
    assert lost["lo"] < lost["auc_minus_full_depth"] < lost["hi"] < 0


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_choice_reads_no_test_row(seed):
    ours, scores = made_scores(n=120, spoilt=(contest.EARLY_EXIT,))
    cfg = CFG.model_copy(update={"policy": CFG.policy.model_copy(update={"n_bootstrap": 10})})
    wanted = contest.auc_against_full_depth(ours, scores, cfg, "select")
    rng, hidden = np.random.default_rng(seed), ours["part"] == "test"
    ours.loc[hidden, "p_yes"] = rng.uniform(0.01, 0.99, hidden.sum())
    rows = ours.loc[hidden, "row"].unique()
    scores.loc[scores["row"].isin(rows), "label"] = rng.integers(0, 2, len(rows))
    pd.testing.assert_frame_equal(contest.auc_against_full_depth(ours, scores, cfg, "select"), wanted)


def test_rows_are_matched_by_number_not_by_position():
    ours, scores = made_scores(spoilt=(contest.EARLY_EXIT,))
    wanted = contest.auc_against_full_depth(ours, scores, CFG, "test").set_index("contender")
    found = contest.auc_against_full_depth(ours.sample(frac=1, random_state=1), scores.sample(frac=1, random_state=2),
                                           CFG, "test").set_index("contender")
    pd.testing.assert_frame_equal(found.loc[wanted.index], wanted)


def test_quality_is_told_on_the_rows_that_were_scored():
    ours, scores = made_scores(spoilt=(contest.EARLY_EXIT,))
    asked = ours[ours["row"] % 3 == 0].sample(frac=1, random_state=0)
    found = contest.quality_table(asked, scores).set_index("contender")
    wide = asked.pivot(index="row", columns="contender", values="p_yes")
    label = scores.set_index("row").loc[wide.index, "label"]
    for name in OURS:
        assert found.loc[name, "auc"] == pytest.approx(metrics.auc(label, wide[name]))
        assert found.loc[name, "log_loss"] == pytest.approx(metrics.log_loss(label, wide[name]))
        assert found.loc[name, "n"] == len(wide)
        gap = (wide[name] - wide[contest.FULL_DEPTH]).abs().max()
        assert found.loc[name, "largest_difference"] == pytest.approx(gap)
    assert found.loc[contest.FULL_DEPTH, "largest_difference"] == 0


# the headline

NAMES_AT_16 = {
    "throughput_ratio_best_vs_plain": 12 / 1.0, "throughput_ratio_full_depth_vs_hf_prefix_reuse": 4 / 3,
    "throughput_ratio_early_exit_vs_packed_full_depth_16_candidates": 3 / 1,
    "throughput_ratio_best_vs_llama_cpp": 8 / 1,
    "throughput_ratio_best_vs_best_truncated_rival": 1.5 / 1, "throughput_ratio_early_exit_vs_own_truncation": 1.5 / 1,
    "throughput_ratio_best_vs_best_truncated_program": 2 / 1,
    "matmul_peak_fraction_full_depth": 2.4 / 3, "throughput_ratio_prefix_cache_16_candidates": 3 / 2,
}  # fmt: skip


def test_the_headline_has_the_names_it_was_asked_for_and_known_values():
    ours, scores = made_scores()
    race = pd.concat([made_race(size=size) for size in (1, 16, 50)])
    found = {entry["name"]: entry for entry in contest.entries(race, ours, scores, CFG)}
    elsewhere = {name.removesuffix("_16_candidates") + ending for name in NAMES_AT_16
                 for ending in ("_1_candidate", "_50_candidates")}  # fmt: skip
    assert set(found) == {*NAMES_AT_16, *elsewhere, "auc_best_scorer_minus_full_depth"}
    for name, value in NAMES_AT_16.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-6), name
        assert found[name]["kind"] == "time" and found[name]["n"] == 3
    lost = found["auc_best_scorer_minus_full_depth"]
    assert lost["kind"] == "time" and lost["split"] == "test" and lost["value"] == 0 and lost["n"] == 300


def test_the_steps_of_the_waterfall_multiply_to_the_whole():
    race = made_race(jitter=0.3)
    best = contest.EARLY_EXIT
    found = contest.waterfall(race, best)
    alone = contest.contender_table(race).set_index("contender")["alone_rps"]
    assert found["times"].iloc[1:].prod() == pytest.approx(alone[best] / alone[contest.PLAIN])
    assert found["contender"].iloc[[0, -1]].tolist() == [contest.PLAIN, best] and np.isnan(found["times"].iloc[0])


def test_within_users_the_difference_is_that_of_the_metric():
    ours, scores = made_scores()
    found = contest.gauc_against_full_depth(ours, scores, CFG, contest.FULL_DEPTH)
    assert found["value"] == 0 and found["ci95"] == (0, 0)


def test_without_llama_its_ratio_is_absent():
    ours, scores = made_scores()
    race = made_race({name: s for name, s in SECONDS.items() if name not in WITH_LLAMA})
    found = {entry["name"] for entry in contest.entries(race, ours, scores, CFG)}
    assert found == {*NAMES_AT_16, "auc_best_scorer_minus_full_depth"} - {"throughput_ratio_best_vs_llama_cpp"}


@pytest.mark.parametrize("fastest", [contest.PREFIX_REUSE + contest.TRUNCATED, contest.LLAMA + contest.TRUNCATED,
                                     contest.PREFIX_REUSE + contest.TRUNCATED + "_bfloat16", contest.OURS_TRUNCATED])
def test_the_strongest_truncated_rival_is_the_one_to_beat(fastest):
    race = made_race(SECONDS | {fastest: 0.5})
    found = contest.headline_ratios(race, contest.EARLY_EXIT)
    assert found["throughput_ratio_best_vs_best_truncated_rival"]["value"] == pytest.approx(0.5)


def test_the_best_quantisation_of_llama_that_races_counts_and_only_at_full_depth():
    assert results.fastest_llama(made_race()) == contest.LLAMA


@pytest.mark.parametrize(("sizes", "wanted"), [((1, 16, 50), 16), ((1, 4), 4), ((8, 50), 8)])
def test_the_deciding_size(sizes, wanted):
    assert contest.deciding_size(pd.concat([made_race(size=size) for size in sizes])) == wanted


# whose tables are read

def fill_reference(folder, mark):
    folder.mkdir(parents=True)
    for name in artifacts.BENCH:
        pd.DataFrame({"mark": [mark]}).to_csv(folder / name, index=False)
    (folder / "provenance.json").write_text(json.dumps({"cpu": "a reference processor"}))
    made_head_scores(mark).to_parquet(folder / "head_scores.parquet")


def made_head_scores(mark):
    return pd.DataFrame({"row": [mark, mark], "mode": ["both", "none"]})


def measure(run, names=artifacts.BENCH, mark=2, fingerprint="print"):
    """Tables as `make bench` leaves them in a run."""
    for name in names:
        artifacts.write_table(run, name, pd.DataFrame({"mark": [mark]}), fingerprint=fingerprint,
                              measured_on=contest.subject(run), processor="our processor")


@pytest.fixture
def beside_reference(run, tmp_path, monkeypatch):
    """A run with scores of its own, and a committed reference of the same kind."""
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path / "reference")
    fill_reference(tmp_path / "reference" / "ml-100k" / "smoke", 1)
    artifacts.write_table(run, "head_scores.parquet", made_head_scores(2))
    return run


def test_the_own_run_is_read_first_then_the_reference(beside_reference):
    measure(beside_reference, artifacts.BENCH[:-1])
    found = contest.read(beside_reference)  # a benchmark that has not finished yet is nobody's result
    assert not found.own and found.processor == "a reference processor"
    measure(beside_reference, artifacts.BENCH[-1:])
    own = contest.read(beside_reference)
    assert own.own and own.processor == "our processor"
    for bench, mark in ((found, 1), (own, 2)):
        assert bench.head_scores.to_dict("list") == {"row": [mark], "mode": ["both"]}
        assert {name: table["mark"].tolist() for name, table in bench.tables.items()} == {
            name.removeprefix("bench_").removesuffix(".csv"): [mark] for name in artifacts.BENCH}


def test_without_own_tables_and_reference_there_is_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path / "reference")
    assert contest.read(run) is None


@pytest.mark.parametrize("name", ["adapter.safetensors", "exit_heads.safetensors", "head_scores.parquet",
                                  "selected_policy.json"])
def test_a_benchmark_of_other_weights_or_another_policy_is_not_this_runs(beside_reference, name):
    measure(beside_reference)
    assert contest.read(beside_reference).own
    artifacts.write_bytes(beside_reference, name, b"changed since")
    assert not contest.read(beside_reference).own


def test_parts_that_were_measured_by_different_code_are_no_benchmark(beside_reference):
    measure(beside_reference)
    measure(beside_reference, artifacts.BENCH[3:4], fingerprint="another print")
    assert not contest.read(beside_reference).own


def test_a_damaged_own_table_is_an_error_even_beside_a_reference(beside_reference):
    measure(beside_reference)
    beside_reference.path(artifacts.BENCH[3]).write_bytes(b"mark\n3\n")
    with pytest.raises(artifacts.ArtifactError, match="damaged"):
        contest.read(beside_reference)


# under load

POLICY = exit_policies.policies(0.5, CFG.policy)["confidence"]


def judged(n_requests, seed, prefix=20):
    """Rows as `exit_policies.judged_rows` gives them, in an order that is not that of the requests."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, n_requests)
    request = rng.permutation(np.repeat(10 * np.arange(n_requests) + 7, sizes))
    n = len(request)
    table = pd.DataFrame({"row": np.arange(n), "request_id": request, "user_id": request % 5,
                          "label": rng.integers(0, 2, n), "n_prefix_tokens": prefix + request % 3,
                          "n_suffix_tokens": rng.integers(2, 9, n)})
    return table.assign(**{f"p_yes_{layer}": rng.uniform(0.05, 0.95, n) for layer in LAYERS})


def swept(seed, name="confidence"):
    table = exit_policies.sweep(judged(40, seed), [exit_policies.policies(0.5, CFG.policy)[name]], CFG.policy)
    return table.assign(split="validation", selected=False)


@settings(max_examples=25)
@given(st.integers(0, 10**4), st.floats(0, 1), st.sampled_from(["confidence", "static", "patience"]))
def test_a_ladder_ascends_from_the_chosen_threshold_to_full_depth(seed, where, name):
    policies = swept(seed, name)
    threshold = policies["threshold"].iloc[int(where * (len(policies) - 2))]
    found = contest.ladder(policies, name, threshold)
    assert found[0] == threshold and found[-1] == exit_policies.LAST_EXIT
    assert 2 <= len(found) <= 6
    work = policies.set_index("threshold")["token_layer_fraction"].reindex(found[:-1])
    assert (np.diff(found) > 0).all()
    assert (work.iloc[1:] < 1).all()  # nobody needs full depth twice


def test_a_ladder_takes_the_thresholds_nearest_to_even_steps_of_work():
    policies = pd.DataFrame({"split": "validation", "policy": "confidence", "threshold": np.arange(11.0),
                             "token_layer_fraction": np.arange(11) / 10})
    policies.loc[10, "threshold"] = exit_policies.LAST_EXIT
    other = [policies.assign(policy="ratio", threshold=policies["threshold"] - 0.2),
             policies.assign(split="test", threshold=policies["threshold"] - 0.4)]
    found = contest.ladder(pd.concat([policies, *other]), "confidence", 5.0)
    assert found == [5, 6, 7, 8, 9, exit_policies.LAST_EXIT]


@settings(max_examples=30)
@given(st.integers(0, 10**4), st.floats(0.1, 2), st.integers(0, 2))
def test_a_pool_holds_the_exits_of_every_setting(seed, threshold, min_exit):
    test, validation = judged(12, seed), judged(15, seed + 1)
    thresholds = [threshold, threshold + 0.7, exit_policies.LAST_EXIT]
    model = load.ServiceModel(0.01, 1e-4)
    pool = contest.make_pool(test, validation, POLICY, thresholds, min_exit, model)
    p = test[[f"p_yes_{layer}" for layer in LAYERS]].to_numpy()
    exits = [exit_policies.exit_index(POLICY, p, t, min_exit) for t in thresholds]
    np.testing.assert_array_equal(pool.p_yes[:, -1], p[:, -1])
    for s, index in enumerate(exits):
        np.testing.assert_array_equal(pool.p_yes[:, s], p[np.arange(len(p)), index])
    names = np.sort(test["request_id"].unique())
    assert (names[pool.row_request] == test["request_id"]).all()
    for r, name in enumerate(names):  # the prefix as deep as its deepest candidate, each suffix as deep as its own
        mine = (test["request_id"] == name).to_numpy()
        for s, index in enumerate(exits):
            layer = np.array(LAYERS)[index[mine]]
            work = test.loc[mine, "n_prefix_tokens"].iloc[0] * layer.max() + test.loc[mine, "n_suffix_tokens"] @ layer
            assert pool.seconds[r, s] == pytest.approx(0.01 + 1e-4 * work)


@settings(max_examples=30)
@given(st.integers(0, 10**4), st.integers(0, 10**4))
def test_what_a_server_expects_does_not_depend_on_the_answers(seed, other):
    test, validation, model = judged(12, seed), judged(15, seed + 1), load.ServiceModel(0.01, 1e-4)
    thresholds = [0.5, exit_policies.LAST_EXIT]
    rng = np.random.default_rng(other)
    changed = test.assign(label=1 - test["label"],
                          **{f"p_yes_{layer}": rng.uniform(0.05, 0.95, len(test)) for layer in LAYERS})
    pools = [contest.make_pool(t, validation, POLICY, thresholds, 0, model) for t in (test, changed)]
    np.testing.assert_array_equal(pools[0].expected, pools[1].expected)
    np.testing.assert_allclose(pools[0].expected[:, -1], pools[0].seconds[:, -1])  # full depth is known exactly


@pytest.fixture(scope="module")
def pool():
    thresholds = [0.3, 1.0, exit_policies.LAST_EXIT]
    return contest.make_pool(judged(60, 0), judged(60, 1), POLICY, thresholds, 0, load.ServiceModel(0.0, 1e-4))


def test_the_three_servers_say_at_which_setting_they_served(pool):
    at, who = np.arange(1.0, 101.0), np.arange(100) % 60
    served = {name: serve(at, who) for name, serve in contest.servers(pool, 1.0).items()}
    for name, setting in (("full depth", 2), ("early exit", 0), ("load-aware", 2)):  # nobody waits: all the depth
        assert (served[name]["setting"] == setting).all()
        np.testing.assert_allclose(served[name]["latency_s"], pool.seconds[who, setting])


def test_accuracy_is_lost_only_under_load(pool):
    budget_s = 4 * float(np.median(pool.seconds[:, -1]))
    idle, busy = (contest.cost_under_load(pool, budget_s, times, 800, 50, seed=0) for times in (0.05, 1.5))
    assert idle["value"] == 0 and idle["ci95"] == (0, 0)
    assert busy["value"] != 0 and busy["utilisation"] > idle["utilisation"]
