"""Under load, measured: what a request costs at each setting of the ladder, and the server on the real clock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from eestudy import latency, load, scorer
from eestudy.bench.setup import Setup
from eestudy.contest import ladder


def time_service(engine: scorer.Engine, requests: Sequence, rules: Sequence[scorer.ExitRule]) -> pd.DataFrame:
    """Measured service of requests at every setting: columns setting, request, seconds, n_candidates, token_layers."""
    work: dict[tuple[int, int], int] = {}

    def serve(i: int, setting: int) -> None:
        work[i, setting] = scorer.score(engine, [requests[i]], rules[setting])[0].token_layers

    calls = {setting: partial(serve, setting=setting) for setting in range(len(rules))}
    times = latency.interleave(calls, range(len(requests)), 1, 1).rename(columns={"contender": "setting"})
    times["n_candidates"] = [len(requests[i].suffixes) for i in times["request"]]
    times["token_layers"] = [work[i, s] for i, s in zip(times["request"], times["setting"], strict=True)]
    return times.drop(columns="repeat")


def real_runs(
    engine: scorer.Engine, requests: Sequence, rules: Sequence[scorer.ExitRule], service: pd.DataFrame,
    times_capacity: float, budget_of_service: float, duration_s: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """One server on the real clock, three ways, the same arrivals; beside each the simulation of the same minute.

    Args:
        engine, requests, rules: what is served.
        service: from `time_service` on the same requests: what the controller expects and the simulation adds up.
        times_capacity, budget_of_service, duration_s: arrival rate, p95 budget, length; see `config.BenchConfig`.
        seed: of the arrivals.

    Returns:
        `load`'s frames, with columns run (full depth, early exit, load-aware), clock (real, simulated), request.
    """
    seconds, work = (service.pivot(index="request", columns="setting", values=values).to_numpy()
                     for values in ("seconds", "token_layers"))  # [R, S]
    full, budget_s = seconds[:, -1], budget_of_service * float(np.median(seconds[:, -1]))
    rng = np.random.default_rng(seed)
    n = max(int(duration_s * times_capacity / full.mean()), 4)
    at, who = load.poisson_arrivals(times_capacity / full.mean(), n, rng), rng.integers(0, len(requests), n)
    model = load.fit_service(service["token_layers"], service["seconds"])
    expected = load.service_seconds(model, work[:, -1:] * work.sum(0) / work[:, -1].sum())  # its tokens are known
    controller = load.Controller(expected[who], budget_s)
    frames = []
    for run, only in (("full depth", len(rules) - 1), ("early exit", 0), ("load-aware", None)):
        def serve(i, setting, only=only):
            scorer.score(engine, [requests[who[i]]], rules[setting if only is None else only])

        if only is None:
            clocks = load.serve_open_loop(at, serve, controller), load.simulate_controlled(at, seconds[who], controller)
        else:
            clocks = load.serve_open_loop(at, serve), load.simulate(at, seconds[who, only])
            clocks = [frame.assign(setting=only) for frame in clocks]
        frames += [frame.assign(run=run, clock=clock, request=who)
                   for clock, frame in zip(("real", "simulated"), clocks, strict=True)]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def measure(setup: Setup, engine: scorer.Engine, requests: Sequence, policies: pd.DataFrame, policy: str, part) -> None:
    """The two measured tables, `service` and `real`; `part` keeps them."""
    bench, rule = setup.cfg.bench, setup.rule
    rules = [scorer.ExitRule(rule.should_exit, t, rule.min_exit) for t in ladder(policies, policy, rule.threshold)]
    rules[-1] = scorer.static_rule(len(setup.heads.exit_layers) - 1)  # the same answers, one head instead of all
    service = part("service", lambda: time_service(engine, requests, rules))
    part("real", lambda: real_runs(engine, requests, rules, service, bench.real_load, bench.budget_of_service,
                                   bench.real_run_s, setup.cfg.seed))  # fmt: skip
