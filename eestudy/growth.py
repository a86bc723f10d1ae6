"""How cost grows: what was measured, and exponents fitted to it beside those that arithmetic predicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from eestudy import artifacts


def fit_exponents(frame: pd.DataFrame, n_bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The exponent b of seconds ~ size^b in each dimension, by least squares on the logarithms of the medians.

    A fixed cost makes b smaller than 1 although every further unit costs the same. So each curve is also fitted by
    seconds = a + c size (relative errors, a and c not negative); where `affine_exponent`, the exponent of that line
    over the same sizes, agrees with `exponent`, a fixed cost is the explanation.

    Args:
        frame: from `growth_curves`, at least one positive size a dimension.
        n_bootstrap: resamples of whole repeats.
        seed: of the resampling.

    Returns:
        Two rows a dimension, `sizes` 'all' and 'upper half' (the middle size and those above it): n_sizes (positive
        ones), exponent, exponent_low, exponent_high (95 %; NaN of one repeat), predicted_exponent (of its gflop),
        affine_exponent; of the fit over all sizes fixed_ms (a), per_unit_ms (c), affine_error (largest relative error).
    """
    rng, rows = np.random.default_rng(seed), []
    for dimension, part in frame.groupby("dimension", sort=False):
        table = part.pivot(index="repeat", columns="size", values="seconds")  # [R, S], sizes ascending
        gflop = part.groupby("size")["predicted_gflop"].median().to_numpy()
        size, seconds = table.columns.to_numpy(float), table.to_numpy()
        draws = seconds[rng.integers(0, len(seconds), (n_bootstrap, len(seconds)))]  # [B, R, S]
        median, drawn = np.median(seconds, axis=0), np.median(draws, axis=1)
        fixed, per_unit = _affine(size, median)
        line = fixed + per_unit * size
        for name, start in (("all", 0), ("upper half", len(size) // 2)):
            kept = np.flatnonzero((size > 0) & (np.arange(len(size)) >= start))
            slopes = [_slope(size[kept], y[..., kept]) for y in (median, drawn, gflop, line)]
            low, high = np.quantile(slopes[1], (0.025, 0.975)) if len(seconds) > 1 else (np.nan, np.nan)
            rows.append((dimension, name, len(kept), slopes[0], low, high, slopes[2], slopes[3], 1000 * fixed,
                         1000 * per_unit, np.abs(line / median - 1).max()))  # fmt: skip
    return pd.DataFrame(rows, columns=[
        "dimension", "sizes", "n_sizes", "exponent", "exponent_low", "exponent_high", "predicted_exponent",
        "affine_exponent", "fixed_ms", "per_unit_ms", "affine_error"])  # fmt: skip


def _slope(size: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Least-squares slope of log value on log size: [S] and [..., S] -> [...]; NaN where there is one size only."""
    if len(size) < 2:
        return np.full(value.shape[:-1], np.nan)
    x = np.log(size) - np.log(size).mean()
    return np.log(value) @ x / (x @ x)


def _affine(size: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """(a, c), neither negative, with the least relative error of a + c size: [S] and [S] -> [2]."""
    return nnls(np.stack([1 / seconds, size / seconds], axis=1), np.ones(len(size)))[0]


def scale_tables(run: artifacts.Run) -> tuple[dict[str, pd.DataFrame], bool] | None:
    """The tables of `python -m eestudy.scale` by name: reading, graph, search; and whether they are the run's own.

    They are about made-up graphs, the same for every dataset: where the run has none the committed ones are told, None
    where there are not all of them.
    """
    if all(artifacts.artifact_hash(run, name) for name in artifacts.SCALE):
        return {_part(name): artifacts.read_table(run, name) for name in artifacts.SCALE}, True
    folder = artifacts.reference_dir() / "scale"
    if not all((folder / name).exists() for name in artifacts.SCALE):
        return None
    return {_part(name): artifacts.read_csv(folder / name) for name in artifacts.SCALE}, False


def _part(name: str) -> str:
    return name.removeprefix("scale_").removesuffix(".csv")
