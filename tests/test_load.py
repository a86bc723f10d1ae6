"""Queues equal their loops and the textbook; the controller sees only the past, and real and simulated runs agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import load

seeds = st.integers(0, 10_000)
few = settings(max_examples=40, deadline=None)
TIMES = ["arrival_s", "start_s", "finish_s", "waiting_s", "latency_s"]
MEANS = np.array([0.0513727, 0.1496813, 0.3037191, 0.4978353])  # seconds of four settings; no sum ties with a target


def traffic(seed: int, n: int = 60, rate: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals [n] and service [n, S] whose mean is MEANS."""
    rng = np.random.default_rng(seed)
    return load.poisson_arrivals(rate, n, rng), rng.gamma(4, 0.25, (n, 1)) * MEANS


def by_loop(arrivals, service) -> list[tuple[float, float]]:
    """(start, finish) of each request, the way one would serve by hand."""
    free, times = 0.0, []
    for arrival, seconds in zip(arrivals, service, strict=True):
        start = max(free, arrival)
        free = start + seconds
        times.append((start, free))
    return times


def controlled_by_hand(arrivals, service, controller) -> list[int]:
    """The controller's docstring as plain loops over the queue."""
    free, target, chosen = 0.0, controller.budget_s, []
    for i, arrival in enumerate(arrivals):
        now, best = max(free, arrival), 0
        for setting in range(service.shape[1]):
            ahead, in_time = now, True
            for j in range(i, len(arrivals)):
                if arrivals[j] <= now:
                    ahead += controller.expected_s[setting]
                    in_time = in_time and ahead - arrivals[j] <= target
            best = setting if in_time else best
        chosen.append(best)
        free = now + service[i, best]
        change = controller.risk - 1 if free - arrival > controller.budget_s else controller.risk
        target = min(max(target + controller.step * controller.budget_s * change, 0), controller.budget_s)
    return chosen


@few
@given(seeds, st.floats(0.3, 6))
def test_one_server_equals_the_loop_and_conserves_work(seed, rate):
    arrivals, service = traffic(seed, rate=rate)
    served = load.simulate(arrivals, service[:, 3])
    assert np.allclose(served[["start_s", "finish_s"]], by_loop(arrivals, service[:, 3]), atol=1e-9)
    assert np.allclose(served["latency_s"], served["waiting_s"] + service[:, 3])
    assert (served["waiting_s"] >= 0).all()
    # never idle while somebody waits: whoever waited starts when the one before ends
    waited = np.flatnonzero(served["waiting_s"] > 1e-9)
    assert np.allclose(served["start_s"].to_numpy()[waited], served["finish_s"].to_numpy()[waited - 1])


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_mean_waits_agree_with_the_textbook(utilisation):
    rng, n = np.random.default_rng(7), 400_000
    arrivals = load.poisson_arrivals(utilisation / 0.5, n, rng)
    markov, constant = rng.exponential(0.5, n), np.full(n, 0.5)
    m_m_1 = utilisation / (1 - utilisation) * 0.5
    assert load.simulate(arrivals, markov)["waiting_s"].mean() == pytest.approx(m_m_1, rel=0.06)
    assert load.simulate(arrivals, constant)["waiting_s"].mean() == pytest.approx(m_m_1 / 2, rel=0.04)
    assert load.mean_wait_s(utilisation / 0.5, constant) == pytest.approx(m_m_1 / 2)
    assert load.mean_wait_s(utilisation / 0.5, markov) == pytest.approx(m_m_1, rel=0.02)
    assert load.mean_wait_s(2.0, constant) == np.inf


def test_poisson_counts_have_equal_mean_and_variance_and_rates_step():
    rng = np.random.default_rng(0)
    counts = np.histogram(load.poisson_arrivals(5.0, 50_000, rng), bins=np.arange(0, 9_900))[0]
    assert counts.mean() == pytest.approx(5, rel=0.02) and counts.var() == pytest.approx(5, rel=0.06)
    stepped = load.piecewise_poisson([4.0, 8.0, 1.0], [1000, 500, 2000], rng)
    pieces = np.histogram(stepped, bins=[0, 1000, 1500, 3500])[0]
    assert (np.diff(stepped) >= 0).all() and pieces.sum() == len(stepped)
    assert (np.abs(pieces - [4000, 4000, 2000]) < 4 * np.sqrt([4000, 4000, 2000])).all()
    assert np.var([len(load.piecewise_poisson([3.0], [10], rng)) for _ in range(3000)]) == pytest.approx(30, rel=0.1)


@few
@given(seeds, st.floats(0.5, 12), st.floats(0.3, 3))
def test_the_controller_equals_its_description(seed, rate, budget):
    arrivals, service = traffic(seed, n=40, rate=rate)
    controller = load.Controller(MEANS, budget)
    served = load.simulate_controlled(arrivals, service, controller)
    assert served["setting"].tolist() == controlled_by_hand(arrivals, service, controller)
    used = service[np.arange(len(arrivals)), served["setting"]]
    assert np.allclose(served[TIMES], load.simulate(arrivals, used)[TIMES])


@few
@given(seeds, st.integers(1, 39))
def test_the_controller_sees_only_the_past(seed, i):
    arrivals, service = traffic(seed, n=40, rate=6)
    other_arrivals, other_service = arrivals.copy(), service.copy()
    controller = load.Controller(MEANS, 1.0)
    before = load.simulate_controlled(arrivals, service, controller)
    other_service[i:] *= 7  # of requests not yet served
    future = arrivals > before["start_s"][i]  # of users not yet there
    other_arrivals[future] = before["start_s"][i] + 1e-6 + 3 * (arrivals[future] - before["start_s"][i])
    after = load.simulate_controlled(other_arrivals, other_service, controller)
    assert after["setting"][: i + 1].tolist() == before["setting"][: i + 1].tolist()


@few
@given(seeds, st.integers(1, 30), st.floats(0, 4), st.sampled_from([1.0, 4.0]))
def test_the_choice_equals_a_look_at_the_whole_queue(seed, k, target, longest):
    rng = np.random.default_rng(seed)
    waited = np.sort(rng.random(k) * longest)[::-1]
    expected = rng.gamma(4, 0.25, (k, 4)) * MEANS  # for single requests a deeper setting may be the faster one
    for target_s in (target, waited[0] + expected[0, 0], waited[0] + expected[0].min(), 0.0):  # two of them ties
        in_time = waited[:, None] + np.cumsum(expected, axis=0) <= target_s
        assert load.choose_setting(waited, expected, target_s) == max(np.flatnonzero(in_time.all(0)), default=0)


def test_the_first_in_line_may_be_in_time_at_a_deeper_setting_only():
    assert load.choose_setting(np.array([1.0]), np.array([[2.0, 0.5, 3.0]]), 2.0) == 1


@few
@given(seeds)
def test_a_longer_wait_never_deepens_and_a_larger_target_never_tightens(seed):
    rng = np.random.default_rng(seed)
    waited, expected = np.sort(rng.random(6))[::-1], np.tile(MEANS, (6, 1))
    choose = load.choose_setting
    assert choose(waited + 0.3, expected, 1.5) <= choose(waited, expected, 1.5) <= choose(waited, expected, 2.5)
    assert choose(waited, expected, 0.0) == 0 and choose(waited, expected, 99.0) == 3


@few
@given(st.lists(st.floats(0, 5), min_size=1, max_size=300), st.floats(0.01, 0.3), st.floats(0.01, 0.5))
def test_late_answers_are_bounded_while_the_target_lives(latencies, risk, step):
    controller = load.Controller(MEANS, 1.0, risk, step)
    target, late = controller.budget_s, 0
    for n, latency in enumerate(latencies, 1):
        target, late = load.next_target(controller, target, latency), late + (latency > 1.0)
        assert 0 <= target <= 1.0
        if target <= 0:
            return
        assert late <= n * risk + 1 / step + 1e-9


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0])
def test_p95_is_held_where_full_depth_drowns_though_the_expected_times_are_wrong(wrong):
    arrivals, service = traffic(3, n=4000, rate=4.0)  # full depth would need twice the time there is
    drowned = load.summary(load.simulate(arrivals, service[:, 3]))
    assert drowned["grows"] and drowned["last_over_first_quarter"] > 4 and drowned["utilisation"] > 1.8
    held = load.simulate_controlled(arrivals, service, load.Controller(MEANS * wrong, 2.0))
    assert load.summary(held)["latency_ms_p95"] <= 2000 and not load.summary(held)["grows"]
    assert held["setting"].mean() > 0.5  # not by always taking the fastest
    trusting = load.simulate_controlled(arrivals, service, load.Controller(MEANS * 0.5, 2.0, step=0.0))
    assert load.summary(trusting)["latency_ms_p95"] > 2000  # this is what following the target is for


def test_light_load_gets_the_deepest_setting_and_an_impossible_one_the_fastest():
    arrivals, service = traffic(1, n=500, rate=0.02)
    assert load.simulate_controlled(arrivals, service, load.Controller(MEANS, 2.0))["setting"].mean() > 2.95
    arrivals, service = traffic(1, n=500, rate=40.0)
    served = load.simulate_controlled(arrivals, service, load.Controller(MEANS, 2.0))
    assert (served["setting"][50:] == 0).all() and load.summary(served)["grows"]


def test_what_is_known_of_a_request_beforehand_is_used():
    arrivals, service = traffic(5, n=4000, rate=3.0)
    blind = load.simulate_controlled(arrivals, service, load.Controller(MEANS, 1.0))
    sighted = load.simulate_controlled(arrivals, service, load.Controller(service, 1.0))
    assert (sighted["latency_s"] > 1).mean() < (blind["latency_s"] > 1).mean()


@few
@given(seeds, st.floats(0.5, 12), st.floats(0, 1000))
def test_the_real_loop_on_a_fake_clock_equals_the_simulation(seed, rate, zero):
    arrivals, service = traffic(seed, n=40, rate=rate)
    for controller in (None, load.Controller(MEANS, 1.0)):
        clock, sleep = load.virtual_clock()
        sleep(zero)  # a clock may show anything at the start
        calls = []

        def serve(i, setting, sleep=sleep, calls=calls):
            calls.append((i, setting))
            sleep(service[i, setting])

        real = load.serve_open_loop(arrivals, serve, controller, clock, sleep)
        simulated = (load.simulate(arrivals, service[:, 0]) if controller is None
                     else load.simulate_controlled(arrivals, service, controller))
        assert np.allclose(real[TIMES], simulated[TIMES], atol=1e-6)
        assert calls == list(enumerate(simulated["setting"])) == list(enumerate(real["setting"]))


def test_a_sleep_that_overshoots_counts_as_waiting():
    clock, sleep = load.virtual_clock()
    served = load.serve_open_loop([1.0, 5.0], lambda i, s: sleep(0.5), None, clock, lambda left: sleep(left + 0.2))
    assert np.allclose(served["waiting_s"], 0.2) and np.allclose(served["latency_s"], 0.7)


def test_load_curve_rises_with_the_rate_and_tells_who_drowns():
    rng = np.random.default_rng(0)
    seconds = {"full": rng.gamma(9, 0.5 / 9, 50), "early": rng.gamma(9, 0.1 / 9, 50)}
    contenders = {name: lambda at, request, s=s: load.simulate(at, s[request]) for name, s in seconds.items()}
    table = load.offered_load_curve([0.5, 1.0, 1.8, 4.0], contenders, 50, 3000, 0)
    for name, part in table.groupby("contender"):
        assert (np.diff(part[[f"latency_ms_p{q}" for q in (50, 95, 99)]], axis=0) >= 0).all()
        assert np.allclose(part["utilisation"], part["rate_rps"] * seconds[name].mean(), rtol=0.08)
    drowns = table[table["grows"]]
    assert drowns[["contender", "rate_rps"]].values.tolist() == [["full", 4.0]]
    assert drowns["last_over_first_quarter"].item() == pytest.approx(7, rel=0.25)


def test_a_server_that_is_always_busy_but_keeps_up_does_not_drown():
    served = load.simulate(np.arange(400) * 0.5, np.full(400, 0.5))  # one after the other, without a pause
    told = load.summary(served)
    assert told["utilisation"] >= 1 and told["last_over_first_quarter"] < 1.1 and not told["grows"]


@few
@given(seeds)
def test_rows_under_load_equal_a_loop(seed):
    rng = np.random.default_rng(seed)
    row_request = rng.permutation(np.repeat(np.arange(5), [1, 3, 2, 4, 1]))
    request, setting, p_yes = rng.integers(0, 5, 12), rng.integers(0, 3, 12), rng.random((11, 3))
    row, used = load.served_rows(row_request, request, setting)
    expected = [(r, s) for q, s in zip(request, setting, strict=True) for r in np.flatnonzero(row_request == q)]
    assert list(zip(row, used, strict=True)) == expected
    assert p_yes[row, used].tolist() == [p_yes[r, s] for r, s in expected]


def test_windows_equal_numpy_and_keep_everybody():
    arrivals, service = traffic(2, n=400)
    served = load.simulate_controlled(arrivals, service, load.Controller(MEANS, 1.0))
    table = load.over_time(served, 20.0)
    second = served[(arrivals >= 20) & (arrivals < 40)]
    assert table["n"].sum() == 400 and table["time_s"][1] == 30
    assert table["latency_ms_p95"][1] == pytest.approx(np.quantile(second["latency_s"], 0.95) * 1000)
    assert table["mean_setting"][1] == pytest.approx(second["setting"].mean())


def test_service_times_are_fitted():
    work = np.array([100.0, 200, 400, 800])
    model = load.fit_service(work, 0.02 + 0.001 * work)
    assert np.allclose([model.fixed_s, model.token_layer_s], [0.02, 0.001])
    assert np.allclose(load.service_seconds(model, work), 0.02 + 0.001 * work)
    through_zero = load.fit_service(work, 0.001 * work - 0.05)
    assert through_zero.fixed_s == 0 and through_zero.token_layer_s == pytest.approx(
        work @ (0.001 * work - 0.05) / (work @ work))
    noise = load.fit_service(work, 0.9 - 0.001 * work)  # more work in less time
    assert noise.token_layer_s == 0 and noise.fixed_s == pytest.approx((0.9 - 0.001 * work).mean())


@pytest.mark.parametrize(("call", "message"), [
    (lambda: load.simulate([2.0, 1.0], [1, 1]), "sort"),
    (lambda: load.simulate([1.0, 2.0], [1.0]), "service times"),
    (lambda: load.simulate([1.0], [np.nan]), "non-negative"),
    (lambda: load.simulate([], []), "non-empty"),
    (lambda: load.poisson_arrivals(0, 3, np.random.default_rng(0)), "positive"),
    (lambda: load.simulate_controlled([1.0], [[1, 2]], load.Controller(np.array([2.0, 1.0]), 1.0)), "fastest"),
    (lambda: load.simulate_controlled([1.0], [[1, 2]], load.Controller(np.array([1.0]), 1.0)), "settings"),
    (lambda: load.serve_open_loop([1.0], print, load.Controller(np.ones((2, 2)), 1.0)), "index it by request"),
    (lambda: load.fit_service([5, 5], [1, 2]), "different sizes"),
    (lambda: load.served_rows([0, 1], [2], [0]), "one pool"),
])
def test_impossible_inputs_are_named(call, message):
    with pytest.raises(load.LoadInputError, match=message):
        call()
