"""Exponents are those of the law that the times follow; a measurement of the run's own is told where it is whole."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts
from eestudy.growth import fit_exponents, scale_tables


def curve(law, sizes=(1, 2, 4, 8, 16, 32), repeats=5, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame([("x", n, r, float(n) if n else 0.5, law(n) * np.exp(noise * rng.standard_normal()))
                         for n in sizes for r in range(repeats)],
                        columns=["dimension", "size", "repeat", "predicted_gflop", "seconds"])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 2.5), st.floats(1e-3, 10))
def test_the_exponent_of_a_power_is_found(b, scale):
    fit = fit_exponents(curve(lambda n: scale * n**b), 50)
    np.testing.assert_allclose(fit[["exponent", "exponent_low", "exponent_high"]], b, atol=1e-6)
    np.testing.assert_allclose(fit["predicted_exponent"], 1)


@settings(max_examples=30, deadline=None)
@given(st.just(0.0) | st.floats(0.001, 5), st.floats(0.01, 5))
def test_a_fixed_cost_explains_an_exponent_below_one(fixed, per_unit):
    sizes = (0, 1, 2, 4, 8, 16) if fixed else (1, 2, 4, 8)
    fit = fit_exponents(curve(lambda n: fixed + per_unit * n, sizes), 20)
    np.testing.assert_allclose(fit["fixed_ms"], 1000 * fixed, atol=1e-6)
    np.testing.assert_allclose(fit["per_unit_ms"], 1000 * per_unit, rtol=1e-6)
    np.testing.assert_allclose(fit["affine_exponent"], fit["exponent"], atol=1e-6)
    assert (fit["affine_error"] < 1e-6).all() and (fit["exponent"] <= 1 + 1e-9).all()
    whole, upper = fit["exponent"]
    assert upper >= whole - 1e-9  # the fixed cost fades


def test_a_power_above_one_is_not_explained_by_a_fixed_cost():
    fit = fit_exponents(curve(lambda n: n**1.8), 20).set_index("sizes").loc["all"]
    assert fit["fixed_ms"] == 0 and fit["affine_exponent"] == pytest.approx(1) and fit["affine_error"] > 0.3


def test_one_size_has_no_exponent():
    fit = fit_exponents(curve(lambda n: n, sizes=(1, 4)), 20)
    assert fit.loc[0, "exponent"] == pytest.approx(1) and np.isnan(fit.loc[1, "exponent"])


def test_one_repeat_has_no_interval():
    fit = fit_exponents(curve(lambda n: n, repeats=1), 20)
    assert fit[["exponent_low", "exponent_high"]].isna().all(axis=None) and fit["exponent"].notna().all()


def test_the_interval_holds_the_truth_and_widens_with_the_noise():
    calm, wild = (fit_exponents(curve(lambda n: n**0.8, noise=s, repeats=9), 500) for s in (0.02, 0.2))
    for fit in (calm, wild):
        assert ((fit["exponent_low"] < 0.8) & (fit["exponent_high"] > 0.8)).all()
    assert ((wild["exponent_high"] - wild["exponent_low"]) > 3 * (calm["exponent_high"] - calm["exponent_low"])).all()


def test_the_runs_own_measurement_is_told_where_it_is_whole(tmp_path, monkeypatch):
    run = artifacts.Run(tmp_path / "run", "shop", "laptop", 0)
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path / "reference")
    assert scale_tables(run) is None
    (tmp_path / "reference" / "scale").mkdir(parents=True)
    for name in artifacts.SCALE:
        (tmp_path / "reference" / "scale" / name).write_text("size\n1\n")
    tables, own = scale_tables(run)
    assert set(tables) == {"reading", "graph", "search"} and not own
    for name in artifacts.SCALE:
        assert scale_tables(run)[1] is False
        artifacts.write_table(run, name, pd.DataFrame({"size": [2]}))
    tables, own = scale_tables(run)
    assert own and tables["graph"]["size"].tolist() == [2]
