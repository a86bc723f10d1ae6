"""Times are interleaved, complete and summarised as they should be; no test looks at the clock."""

import numpy as np
import pandas as pd
import pytest

from eestudy import latency


def test_everyone_runs_on_every_request_in_an_order_drawn_anew():
    calls = []
    contenders = {name: (lambda request, name=name: calls.append((name, request))) for name in "abc"}
    table = latency.interleave(contenders, [10, 20, 30], warmup=1, repeats=2)
    assert calls[:3] == [("a", 10), ("b", 10), ("c", 10)]  # warm-up, not in the table
    assert len(table) == 3 * 3 * 2
    assert (table.groupby(["contender", "repeat"])["request"].nunique() == 3).all()
    firsts = [calls[i][0] for i in range(3, len(calls), 3)]
    assert set(firsts) == set("abc")  # nobody is always first
    assert (table["seconds"] >= 0).all()


def test_summaries_equal_numpy():
    rng = np.random.default_rng(0)
    times = pd.DataFrame({"contender": ["a", "b"] * 50, "seconds": rng.random(100)})
    table = latency.summarise(times).set_index("contender")
    a = times.loc[times["contender"] == "a", "seconds"]
    assert table.loc["a", "latency_ms_p95"] == pytest.approx(np.quantile(a, 0.95) * 1000)
    assert table.loc["a", "throughput_rps"] == pytest.approx(len(a) / a.sum())


def test_the_ratio_of_a_program_twice_as_fast_is_two():
    speeds = {"slow": 2.0, "fast": 1.0}
    records = [(name, repeat, request, scale * (1 + request))
               for name, scale in speeds.items() for repeat in range(2) for request in range(5)]
    times = pd.DataFrame(records, columns=["contender", "repeat", "request", "seconds"])
    found = latency.throughput_ratio(times, "fast", "slow", 200, 0)
    assert found["value"] == pytest.approx(2) and found["n"] == 5
    assert found["ci95"] == pytest.approx((2, 2))


def test_the_environment_names_what_times_depend_on():
    record = latency.environment()
    assert record["cores"] >= 1 and record["versions"]["numpy"] == np.__version__
