"""A promise about risk: p-values against closed forms, draws against loops, and a check that can fail."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from test_exit_policies import BASE_RATE, LAYERS, RULES, judged

from eestudy import exit_policies as ep
from eestudy.config import PolicyConfig

PROMISING = ("ltt_hoeffding_bentkus", "ltt_betting", "conformal")
LTT = PROMISING[:2]
P_VALUES = {"ltt_hoeffding_bentkus": ep.hoeffding_bentkus, "ltt_betting": ep.betting}
# (mean loss, users, epsilon) -> p, computed by MAPIE 1.6.0's compute_hoeffding_bentkus_p_value
MAPIE = [
    ((0.0, 48, 0.05), 0.08525759033430862), ((0.0, 300, 0.01), 0.049040894071284896),
    ((0.004, 300, 0.02), 0.05460408086160123), ((0.03, 300, 0.05), 0.1766059028928207),
    ((0.02, 471, 0.05), 0.0031320032164384457), ((0.2, 50, 0.1), 1.0),
    ((0.05, 100, 0.2), 5.077768477858185e-05), ((0.013, 250, 0.03), 0.2082074148069752),
]  # fmt: skip

seeds = st.integers(0, 10_000)
levels = st.floats(0.005, 0.6)
procedures = st.sampled_from(PROMISING)
few = settings(max_examples=40, deadline=None)


def made_up(seed: int, n_users: int = 60, m: int = 7, scale: float = 0.08) -> np.ndarray:
    """[U, m] losses that rise, on the whole, from the first threshold to the last."""
    rng = np.random.default_rng(seed)
    hit = rng.random((n_users, m)) < np.linspace(0.02, 0.6, m)
    return np.clip(hit * rng.exponential(scale, (n_users, m)) * np.linspace(1, 4, m), 0, 1)


def costs_of(losses: np.ndarray) -> np.ndarray:
    return np.linspace(0.9, 0.2, losses.shape[1])


def once(losses: np.ndarray) -> np.ndarray:
    return np.ones((1, len(losses)))


def answer(losses, epsilon, delta, procedure):
    thresholds = -np.arange(losses.shape[1], dtype=float)
    return ep.controlled_threshold(thresholds, losses, costs_of(losses), epsilon, delta, procedure)


# --- losses of a user


def loop_losses(kind, frame, index, cap):
    """The losses spelt out for one threshold: {user: loss}."""
    layers, p_yes = ep.head_matrix(frame)
    score, full, found = p_yes[np.arange(len(frame)), index], p_yes[:, -1], {}
    for user in sorted(frame["user_id"].unique()):
        mine = np.flatnonzero(frame["user_id"] == user)
        if kind == "disagreement":
            found[user] = np.mean([(score[i] > BASE_RATE) != (full[i] > BASE_RATE) for i in mine])
        elif kind == "excess_log_loss":
            label = frame["label"].to_numpy()
            chance = [(s[i] if label[i] else 1 - s[i]) for s in (score, full) for i in mine]
            worse = np.mean(-np.log(chance[: len(mine)])) - np.mean(-np.log(chance[len(mine):]))
            found[user] = min(max(worse, 0), cap) / cap
        elif len(mine) > 1:
            pairs = list(itertools.combinations(mine, 2))
            found[user] = np.mean([abs(np.sign(score[i] - score[j]) - np.sign(full[i] - full[j])) / 2
                                   for i, j in pairs])  # fmt: skip
    return found


@given(seeds, st.sampled_from(sorted(ep.LOSSES)), st.floats(0.05, 2))
@few
def test_user_losses_equal_their_loops(seed, kind, cap):
    frame = judged(seed, 33).sample(frac=1, random_state=seed)  # users of 8 rows, one of a single row, in any order
    exits = np.random.default_rng(seed).integers(0, len(LAYERS), (len(frame), 3))
    losses = ep.user_losses(kind, frame, exits, BASE_RATE, cap)
    for column, index in zip(losses.T, exits.T, strict=True):
        assert column == pytest.approx(list(loop_losses(kind, frame, index, cap).values()))
    assert losses.shape == (4 if kind == "ranking" else 5, 3), "one row makes no pair"
    assert (losses >= 0).all() and (losses <= 1).all()


@pytest.mark.parametrize("kind", sorted(ep.LOSSES))
def test_full_depth_loses_nothing_and_other_losses_are_refused(kind):
    frame = judged()
    last = np.full((len(frame), 1), len(LAYERS) - 1)
    assert not ep.user_losses(kind, frame, last, BASE_RATE, 1.0).any()
    with pytest.raises(ep.PolicyInputError, match="known are"):
        ep.user_losses("regret", frame, last, BASE_RATE, 1.0)
    with pytest.raises(ep.PolicyInputError, match="cap is positive"):
        ep.user_losses(kind, frame, last, BASE_RATE, 0.0)


def test_every_pair_of_a_user_is_there_once():
    user_id = np.array([3, 1, 3, 3, 2, 1])
    pairs = {tuple(sorted(pair)) for pair in zip(*ep.user_pairs(user_id), strict=True)}
    assert pairs == {(0, 2), (0, 3), (2, 3), (1, 5)} and len(ep.user_pairs(user_id)[0]) == 4
    assert all(len(side) == 0 for side in ep.user_pairs(np.arange(5)))


def test_a_reversed_order_loses_all_and_a_new_tie_half():
    full, user_id = np.array([0.1, 0.2, 0.3]), np.zeros(3)
    scores = np.array([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]).T
    assert ep.changed_pairs(scores, full, user_id)[1].tolist() == [[1.0, 0.0, 0.5]]


def test_a_user_counts_once_however_many_rows():
    frame = judged(1, 40)
    exits = np.random.default_rng(1).integers(0, 5, (40, 2))
    losses = ep.user_losses("disagreement", frame, exits, BASE_RATE, 1.0)
    twice = np.concatenate([np.arange(40), np.flatnonzero(frame["user_id"] == 0)])
    again = ep.user_losses("disagreement", frame.iloc[twice], exits[twice], BASE_RATE, 1.0)
    assert again == pytest.approx(losses)


# --- p-values


@pytest.mark.parametrize(("given_", "wanted"), MAPIE)
def test_hoeffding_bentkus_equals_mapie(given_, wanted):
    mean, n, epsilon = given_
    losses = np.full((n, 1), mean)
    assert ep.hoeffding_bentkus(losses, once(losses), epsilon)[0, 0] == pytest.approx(wanted, rel=1e-9)


@given(st.integers(1, 400), st.floats(0.01, 0.5))
@few
def test_without_any_loss_p_is_a_power(n, epsilon):
    losses = np.zeros((n, 1))
    assert ep.hoeffding_bentkus(losses, once(losses), epsilon)[0, 0] == pytest.approx((1 - epsilon) ** n)
    stakes = np.arange(1, 9) / 8 / (1 - epsilon)
    assert ep.betting(losses, once(losses), epsilon)[0, 0] == pytest.approx(1 / np.mean((1 + stakes * epsilon) ** n))


@given(seeds, st.floats(0.02, 0.4), st.sampled_from(LTT))
@few
def test_p_values_are_probabilities_that_fall_with_epsilon_and_rise_with_the_losses(seed, epsilon, procedure):
    losses, p_value = made_up(seed), P_VALUES[procedure]
    p = p_value(losses, once(losses), epsilon)
    assert (p >= 0).all() and (p <= 1).all()
    assert (p_value(losses, once(losses), epsilon + 0.05) <= p + 1e-12).all()
    assert (p_value(np.minimum(losses + 0.01, 1), once(losses), epsilon) >= p - 1e-12).all()


@pytest.mark.parametrize("procedure", LTT)
@pytest.mark.parametrize(("n", "epsilon"), [(20, 0.3), (60, 0.05), (150, 0.1)])
def test_p_values_are_valid_for_coins_exactly(procedure, n, epsilon):
    """Where the risk is epsilon, P(p <= delta) <= delta: every number of losing users, with its exact probability."""
    lost = np.arange(n + 1)
    losses = np.array([[0.0], [1.0]])
    p = P_VALUES[procedure](losses, np.column_stack([n - lost, lost]).astype(float), epsilon)[:, 0]
    chance = binom.pmf(lost, n, epsilon)
    for delta in (0.01, 0.05, 0.1, 0.3):
        assert chance[p <= delta].sum() <= delta
    assert chance[p <= 0.3].sum() > 0, "a p-value that is always large would pass for nothing"


def test_bets_beat_the_mean_alone_where_losses_vary_little():
    losses = np.full((300, 1), 0.03)
    assert ep.betting(losses, once(losses), 0.05) < ep.hoeffding_bentkus(losses, once(losses), 0.05) / 2


# --- the procedures


def loop_allowed(losses, epsilon, delta, procedure):
    """How many candidates pass, one after the other."""
    n, passed, highest = len(losses), 0, np.zeros(len(losses))
    for column in losses.T:
        highest = np.maximum(highest, column)
        if procedure == "conformal":
            fine = (highest.sum() + 1) / (n + 1) <= epsilon
        else:
            fine = P_VALUES[procedure](column[:, None], np.ones((1, n)), epsilon)[0, 0] <= delta
        if not fine:
            break
        passed += 1
    return passed


@given(seeds, levels, st.floats(0.01, 0.5), procedures)
@few
def test_all_samples_at_once_equal_a_loop_over_samples(seed, epsilon, delta, procedure):
    losses = made_up(seed)
    counts = np.random.default_rng(seed).multinomial(40, np.full(60, 1 / 60), size=8)
    passed = ep.allowed(losses, counts, epsilon, delta, procedure)
    chosen = ep.cheapest(passed, costs_of(losses))
    for drawn, mine, place in zip(counts, passed, chosen, strict=True):
        wanted = loop_allowed(np.repeat(losses, drawn, axis=0), epsilon, delta, procedure)
        assert mine.tolist() == [j < wanted for j in range(losses.shape[1])]
        assert place == wanted - 1  # costs fall along the list; -1: none


@given(seeds, procedures, st.floats(0.01, 0.99))
@few
def test_at_epsilon_1_the_fastest_and_at_epsilon_0_none(seed, procedure, delta):
    losses = made_up(seed, scale=1.0)
    assert answer(losses, 1.0, delta, procedure) == -(losses.shape[1] - 1)
    assert answer(losses, 0.0, delta, procedure) is None
    assert answer(np.ones_like(losses), 1.0, delta, procedure) == -(losses.shape[1] - 1)
    assert answer(np.zeros_like(losses), 0.0, delta, procedure) is None


@given(seeds, procedures, st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.floats(0.01, 0.5), st.floats(0.01, 0.4))
@few
def test_who_bears_more_gets_no_less(seed, procedure, epsilon, more, delta, oftener):
    losses = made_up(seed)
    passed = ep.allowed(losses, once(losses), epsilon, delta, procedure)
    assert (ep.allowed(losses, once(losses), epsilon + more, delta, procedure) >= passed).all()
    assert (ep.allowed(losses, once(losses), epsilon, min(delta + oftener, 0.99), procedure) >= passed).all()


@given(seeds, levels, procedures)
@few
def test_the_order_of_users_does_not_matter(seed, epsilon, procedure):
    losses = made_up(seed)
    mixed = np.random.default_rng(seed).permutation(losses)
    assert answer(losses, epsilon, 0.1, procedure) == answer(mixed, epsilon, 0.1, procedure)


def test_a_failure_ends_the_sequence():
    losses = np.zeros((100, 3))
    losses[:, 1] = 1
    for procedure in PROMISING:
        assert ep.allowed(losses, once(losses), 0.1, 0.1, procedure)[0].tolist() == [True, False, False]
    assert ep.allowed(losses, once(losses), 0.1, 0.1, "plug_in")[0].tolist() == [True, False, True]


def test_nobody_to_calibrate_on_means_full_depth():
    for procedure in ep.PROCEDURES:
        assert answer(np.empty((0, 4)), 0.5, 0.1, procedure) is None
    with pytest.raises(ep.PolicyInputError, match="unknown procedure"):
        answer(np.zeros((5, 2)), 0.5, 0.1, "luck")


@pytest.mark.parametrize(("epsilon", "delta", "wanted"), [(0.01, 0.1, 230), (0.02, 0.1, 114), (0.05, 0.1, 45)])
def test_least_users_is_where_the_first_threshold_can_pass(epsilon, delta, wanted):
    assert ep.least_users(epsilon, delta) == wanted
    assert answer(np.zeros((wanted, 2)), epsilon, delta, "ltt_hoeffding_bentkus") == -1
    assert answer(np.zeros((wanted - 1, 2)), epsilon, delta, "ltt_hoeffding_bentkus") is None


# --- is the promise kept?

EPSILONS = (0.02, 0.05, 0.1)


@pytest.fixture(scope="module")
def population() -> np.ndarray:
    """[U, m]: users of whom some lose much and most nothing; risks close to one another around every epsilon."""
    rng = np.random.default_rng(7)
    risk = np.linspace(0.005, 0.15, 30)
    return (rng.random((400, 1)) < risk / 0.5) * rng.choice([0.25, 0.5, 0.75], (400, 30))


@pytest.fixture(scope="module")
def drawn(population) -> pd.DataFrame:
    return ep.violation_rates(population, costs_of(population), 250, EPSILONS, 0.1, 1000, 0)


def test_the_promise_is_kept_and_not_by_asking_for_nothing(drawn):
    promised = drawn[drawn["procedure"].isin(LTT)]
    assert (promised["violation_lo"] <= 0.1).all(), promised
    assert (promised.loc[promised["epsilon"] > 0.02, "token_layers_saved"] > 0.1).all()
    conformal = drawn[drawn["procedure"] == "conformal"]
    assert (conformal["mean_risk"] <= conformal["epsilon"]).all()


def test_a_procedure_without_correction_fails_the_same_check(drawn):
    broken = drawn[drawn["procedure"] == "plug_in"]
    assert (broken["violation_lo"] > 0.1).all(), broken


def test_a_broken_p_value_fails_the_same_check(population, monkeypatch):
    """Not asking for evidence at all, but only for a small mean: p = mean / epsilon x delta."""
    from eestudy.exit_policies import guarantees

    monkeypatch.setattr(guarantees, "hoeffding_bentkus", lambda losses, counts, epsilon:
                        counts @ losses / counts.sum(1, keepdims=True) / epsilon * 0.1)  # fmt: skip
    rates = ep.violation_rates(population, costs_of(population), 250, EPSILONS, 0.1, 1000, 0)
    assert (rates.loc[rates["procedure"] == "ltt_hoeffding_bentkus", "violation_lo"] > 0.1).all()


def test_violation_rates_equal_a_loop_over_draws(population):
    n, draws, costs = 60, 25, costs_of(population)
    rates = ep.violation_rates(population, costs, n, (0.05,), 0.1, draws, 3).set_index("procedure")
    counts = np.random.default_rng(3).multinomial(n, np.full(400, 1 / 400), size=draws)
    for procedure in PROMISING:
        risks, saved = [], []
        for drawn_users in counts:
            wanted = loop_allowed(np.repeat(population, drawn_users, axis=0), 0.05, 0.1, procedure)
            risks.append(population[:, wanted - 1].mean() if wanted else 0.0)
            saved.append(1 - costs[wanted - 1] if wanted else 0.0)
        row = rates.loc[procedure]
        assert row["violation_rate"] == pytest.approx(np.mean(np.array(risks) > 0.05))
        assert row["mean_risk"] == pytest.approx(np.mean(risks))
        assert row["token_layers_saved"] == pytest.approx(np.mean(saved))
        assert row["violation_lo"] <= row["violation_rate"] <= row["violation_hi"]


def test_with_few_users_none_qualifies_and_nothing_is_saved(population):
    rates = ep.violation_rates(population, costs_of(population), 20, (0.05,), 0.1, 50, 0).set_index("procedure")
    for procedure in LTT:
        assert tuple(rates.loc[procedure, ["none_share", "violation_rate", "token_layers_saved"]]) == (1, 0, 0)
    nobody = ep.violation_rates(population[:0], costs_of(population), 20, (0.05,), 0.1, 50, 0)
    assert nobody.empty and list(nobody.columns) == list(rates.reset_index().columns)


# --- no leak


def pieces(seed: int):
    """Losses of the select and the risk half of made-up head scores, the list of thresholds and its order."""
    cfg, rule = PolicyConfig(n_thresholds=12), RULES["confidence"]
    select, risk = judged(seed, 80), judged(seed + 1, 80)
    grid = ep.threshold_grid(rule, ep.head_matrix(select)[1], cfg.n_thresholds)[:-1]
    exits = {name: ep.exits_at(rule, ep.head_matrix(part)[1], grid) for name, part in
             (("select", select), ("risk", risk))}  # fmt: skip
    return select, risk, exits, grid


@pytest.mark.parametrize("kind", sorted(ep.LOSSES))
def test_the_order_reads_nothing_of_the_risk_half(kind):
    """The notebook's order: from the select half's losses. Other labels and scores in the risk half: the same order."""
    select, risk, exits, grid = pieces(0)
    losses = ep.user_losses(kind, select, exits["select"], BASE_RATE, 1.0)
    order = ep.safest_first(losses, ep.costs_at(select, exits["select"]))
    assert (np.diff(losses.mean(0)[order]) >= -1e-9).all() and sorted(order) == list(range(len(grid)))
    flipped = ep.user_losses(kind, risk.assign(label=1 - risk["label"]), exits["risk"], BASE_RATE, 1.0)
    own = ep.user_losses(kind, risk, exits["risk"], BASE_RATE, 1.0)
    assert (kind == "excess_log_loss") != np.array_equal(flipped, own), "only log loss reads labels"


def test_the_notebook_orders_on_the_select_half_and_tests_on_the_risk_half():
    import json

    from eestudy.chain import PROJECT

    cells = json.loads((PROJECT.notebooks / "06_exit_policies.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    ordering = [line for line in code.splitlines() if "safest_first" in line]
    assert len(ordering) == 1 and '"select"' in ordering[0]
    assert not any(f'"{name}"' in ordering[0] for name in ("risk", "everybody", "test"))
    call = code[code.index("exit_policies.real_risk("):]
    arguments = " ".join(call[: call.index("cfg.policy.risk_epsilons")].split())
    assert 'losses[kind, "risk"][:, line]' in arguments
    assert 'costs["select"][line], costs["test"][line]' in arguments, "chosen by costs of validation, told by test's"


def test_ordering_on_the_calibration_itself_breaks_the_promise():
    """Why the halves are kept apart: many useless thresholds, tested in the order of their luck."""
    rng = np.random.default_rng(0)
    everybody = (rng.random((3000, 300)) < 0.062).astype(float)  # all risks above epsilon
    assert everybody.mean(0).min() > 0.045
    broken = {"apart": 0, "same": 0}
    for _ in range(60):
        calibration, others = everybody[rng.integers(0, 3000, 100)], everybody[rng.integers(0, 3000, 100)]
        for name, source in (("apart", others), ("same", calibration)):
            order = ep.safest_first(source, np.ones(300))
            threshold = ep.controlled_threshold(order.astype(float), calibration[:, order], np.arange(300), 0.045,
                                                0.1, "ltt_hoeffding_bentkus")  # fmt: skip
            broken[name] += threshold is not None
    assert broken["apart"] <= 15 < broken["same"], broken  # of 60, where 6 are allowed; 15 have a chance of 1 in 2,000


# --- the real, later risk


def test_real_risk_stands_beside_the_calibration():
    losses, later = made_up(0, 300), made_up(1, 500, scale=0.16)  # twice the loss: time has passed
    costs = costs_of(losses)
    table = ep.real_risk(-np.arange(7.0), losses, later, costs, costs / 2, (0.001, 0.2), 0.1, 200, 0)
    table = table.set_index(["procedure", "epsilon"])
    none, some = table.loc[("ltt_hoeffding_bentkus", 0.001)], table.loc[("ltt_hoeffding_bentkus", 0.2)]
    assert np.isnan(none["threshold"]) and none["risk_later"] == none["token_layers_saved"] == 0
    assert none[["risk_lo", "risk_hi"]].isna().all()  # full depth loses nothing by definition: nothing was estimated
    place = int(-some["threshold"])
    assert some["risk_calibration"] == pytest.approx(losses[:, place].mean())
    assert some["risk_later"] == pytest.approx(later[:, place].mean()) and some["risk_later"] > 0
    assert some["risk_lo"] < some["risk_later"] < some["risk_hi"]
    assert some["token_layers_saved"] == pytest.approx(1 - costs[place] / 2)
    upside_down = ep.real_risk(-np.arange(7.0), losses, later, costs, costs[::-1], (0.2,), 0.1, 200, 0)
    assert upside_down.set_index("procedure").loc["ltt_hoeffding_bentkus", "threshold"] == some["threshold"]


def test_where_nobody_lost_anything_the_risk_is_not_shown_to_be_none():
    quiet = ep.mean_loss_over_users(np.zeros(300), 200, 0)
    assert quiet["value"] == 0 and quiet["ci95"] == pytest.approx((0, 3 / 300), rel=0.01)  # the rule of three
    assert (1 - quiet["ci95"][1]) ** 300 == pytest.approx(0.05)
    some = np.r_[np.zeros(299), 0.02]  # one small loss is no better evidence than none
    assert ep.mean_loss_over_users(some, 200, 0)["ci95"][1] == quiet["ci95"][1]
    many = np.r_[np.zeros(200), np.ones(100)]
    assert ep.mean_loss_over_users(many, 200, 0) == ep.mean_over_users(many, 200, 0)


def test_without_later_users_their_risk_is_not_told_as_none():
    losses = made_up(0, 300)
    table = ep.real_risk(-np.arange(7.0), losses, losses[:0], costs_of(losses), costs_of(losses), (0.2,), 0.1, 200, 0)
    some = table.set_index("procedure").loc["ltt_hoeffding_bentkus"]
    assert np.isfinite(some["threshold"]) and some["risk_calibration"] > 0 and some["n_later"] == 0
    assert some[["risk_later", "risk_lo", "risk_hi", "token_layers_saved"]].isna().all()
