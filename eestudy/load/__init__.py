"""What users wait when requests arrive on their own schedule: one server, a queue, and a controller that sheds depth.

Arrivals are *open loop*: nobody waits for an answer before the next request comes, so a slow server gets a queue and
not fewer requests. All times are seconds since the start, and every run, simulated or real, is one frame with a row a
request: arrival_s, start_s, finish_s, setting (0-based), waiting_s = start - arrival, latency_s = finish - arrival.
"""

from eestudy.load.control import (
    Controller,
    choose_setting,
    next_target,
    serve_open_loop,
    simulate_controlled,
    virtual_clock,
)
from eestudy.load.curves import (
    ServiceModel,
    fit_service,
    offered_load_curve,
    over_time,
    served_rows,
    service_seconds,
    summary,
)
from eestudy.load.queues import (
    LoadInputError,
    mean_wait_s,
    piecewise_poisson,
    poisson_arrivals,
    simulate,
)

__all__ = [
    "Controller", "LoadInputError", "ServiceModel", "choose_setting", "fit_service", "mean_wait_s", "next_target",
    "offered_load_curve", "over_time", "piecewise_poisson", "poisson_arrivals", "serve_open_loop", "served_rows",
    "service_seconds", "simulate", "simulate_controlled", "summary", "virtual_clock",
]
