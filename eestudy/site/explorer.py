"""The explorer's numbers: every policy at every threshold, judged on the test rows by `exit_policies`.

Nothing is computed in the page. It looks up what stands here, so that it shows what the artifacts say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, config, exit_policies, metrics, report
from eestudy.report.narrative import examples

# candidates in a request: lowest and highest number of a band
BANDS = {"any number": (1, np.inf), "one": (1, 1), "2 to 4": (2, 4), "5 to 8": (5, 8), "9 or more": (9, np.inf)}
LEAST_ROWS = 100  # of a band that is offered
PROCEDURE, LOSS = "ltt_hoeffding_bentkus", "disagreement"  # of the promise
MEASURES = ("auc", "log_loss", "mean_exit_layer", "token_layer_fraction", "latency_ms_mean")


def table_or_none(run: artifacts.Run, name: str) -> pd.DataFrame | None:
    """An artifact's table, or None where the run has none of that name."""
    return artifacts.read_table(run, name) if artifacts.artifact_hash(run, name) else None


def plain(values) -> list:
    """Numbers ready for JSON: NaN becomes None, everything else keeps all its digits."""
    return [None if value is None or not np.isfinite(value) else float(value) for value in values]


def rows_of(head: pd.DataFrame, tokens: pd.DataFrame | None, split: str, half: str | None = None) -> pd.DataFrame:
    """Head scores of one split with all evidence, ordered by row; with token counts where there are any."""
    if tokens is not None:
        return exit_policies.judged_rows(head, tokens, split, "both", half)
    kept = head[(head["split"] == split) & (head["mode"] == "both")]
    return (kept if half is None else kept[kept["half"] == half]).sort_values("row", ignore_index=True)


def bands_of(test: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which test rows are asked in requests of how many candidates: band -> [n] bool.

    Bands with few rows, with one class, or of the same rows as `any number` are left out.
    """
    size = test.groupby("request_id")["row"].transform("size").to_numpy()
    found = {name: (size >= low) & (size <= high) for name, (low, high) in BANDS.items()}
    return {name: rows for name, rows in found.items() if name == "any number" or (
        LEAST_ROWS <= rows.sum() < len(test) and test.loc[rows, "label"].nunique() == 2)}  # fmt: skip


def judged_settings(test: pd.DataFrame, exits: np.ndarray, timed: np.ndarray) -> pd.DataFrame:
    """What each threshold comes to on some rows.

    Args:
        test: n rows, with token counts or without.
        exits: [n, m] 0-based exits at m thresholds.
        timed: [n] whether the row is of a request that was timed.

    Returns:
        m rows: auc, log_loss, mean_exit_layer, token_layer_fraction (without token counts NaN where exits differ), and
        token_layer_fraction_timed, of the rows that were timed, where any were.
    """
    layers, p_yes = exit_policies.head_matrix(test)
    label, lines = test["label"].to_numpy(), []
    for index in exits.T:
        score = exit_policies.exit_scores(p_yes, index)
        lines.append({"auc": metrics.auc(label, score), "log_loss": metrics.log_loss(label, score),
                      "mean_exit_layer": float(layers[index].mean())})  # fmt: skip
    alike = np.where((exits == exits[0]).all(0), layers[exits[0]] / layers[-1], np.nan)  # one exit needs no counts
    counts = "n_suffix_tokens" in test
    work = exit_policies.costs_at(test, exits) if counts else alike
    of_timed = exit_policies.costs_at(test[timed], exits[timed]) if counts and timed.any() else work
    return pd.DataFrame(lines).assign(token_layer_fraction=work, token_layer_fraction_timed=of_timed)


def timed_rows(test: pd.DataFrame, latency: pd.DataFrame | None, low: float, high: float) -> np.ndarray:
    """Which rows [n] are of requests that were timed, among requests of `low` to `high` candidates."""
    kept = _of_size(latency, low, high)
    return test["request_id"].isin(kept["request_id"] if len(kept) else []).to_numpy()


def _of_size(latency: pd.DataFrame | None, low: float, high: float) -> pd.DataFrame:
    return pd.DataFrame() if latency is None else \
        report.as_they_come(latency[latency["n_candidates"].between(low, high)])  # fmt: skip


def timed(settings: pd.DataFrame, latency: pd.DataFrame | None, low: float, high: float) -> pd.DataFrame:
    """Add latency_ms_mean and latency_source, as notebook 08 does, from requests of `low` to `high` candidates."""
    return report.mark_latency(settings, _of_size(latency, low, high))


def promised(
    exits: dict[str, np.ndarray], frames: dict[str, pd.DataFrame], base_rate: float, cfg: config.PolicyConfig
) -> dict[str, int | None]:
    """Which threshold carries the promise on users' disagreement with full depth, at each bound.

    Args:
        exits, frames: by part (select, risk, test): [n, m] exits, of which the last are full depth, and rows with
            token counts.
        base_rate, cfg: as in notebook 06.

    Returns:
        Bound (as text) -> place in the grid, -1 where none qualifies; None where there are no risk users or tokens.
    """
    bounds = [str(epsilon) for epsilon in cfg.risk_epsilons]
    if any("n_suffix_tokens" not in frame or frame.empty for frame in frames.values()):
        return dict.fromkeys(bounds)
    losses, costs = {}, {}
    for part, frame in frames.items():
        index = exits[part][:, :-1]
        costs[part] = exit_policies.costs_at(frame, index)
        losses[part] = exit_policies.user_losses(LOSS, frame, index, base_rate, cfg.excess_log_loss_cap)
    line = exit_policies.safest_first(losses["select"], costs["select"])
    shared = line, losses["risk"][:, line], costs["select"][line]
    chosen = [exit_policies.controlled_threshold(*shared, epsilon, cfg.risk_delta, PROCEDURE)
              for epsilon in cfg.risk_epsilons]  # fmt: skip
    return {bound: -1 if place is None else int(place) for bound, place in zip(bounds, chosen, strict=True)}


def chosen_places(run: artifacts.Run, grids: dict[str, np.ndarray]) -> dict[str, int | None]:
    """The place of each policy's threshold that validation chose, from `policies.csv`; None where it is not there."""
    table = table_or_none(run, "policies.csv")
    kept = {} if table is None else table[(table["split"] == "test") & table["selected"].astype(bool)].drop_duplicates(
        "policy").set_index("policy")["threshold"].to_dict()  # fmt: skip
    places = {}
    for name, grid in grids.items():
        hits = np.flatnonzero(np.isclose(grid, kept.get(name, np.nan), rtol=1e-9, atol=0))
        places[name] = int(hits[0]) if len(hits) else None
    return places


def described(run: artifacts.Run, test: pd.DataFrame, n: int) -> tuple[list[dict], np.ndarray]:
    """At most n examples with the scores of all heads at full precision, and their places among the test rows."""
    layers, p_yes = exit_policies.head_matrix(test)
    place = {row: i for i, row in enumerate(test["row"])}
    known = [one for one in examples(run, n) if one["row"] in place]
    places = np.array([place[one["row"]] for one in known], dtype=int)
    return [{**one, "p_yes": plain(p_yes[at])} for one, at in zip(known, places, strict=True)], places


@dataclass(frozen=True)
class Scored:
    """The scores of a run and the rules as notebook 06 sets them up."""

    frames: dict[str, pd.DataFrame]  # rows by part: select, risk, test
    base_rate: float
    rules: dict[str, exit_policies.Policy]
    grids: dict[str, np.ndarray]  # thresholds, from the select half of validation
    best: str  # the policy that validation chose


def scored(run: artifacts.Run, cfg: config.PolicyConfig) -> Scored:
    """Read the scores of a run.

    Raises:
        artifacts.ArtifactError: it has none.
    """
    head, tokens = artifacts.read_table(run, "head_scores.parquet"), table_or_none(run, "prompt_tokens.parquet")
    frames = {"select": rows_of(head, tokens, "validation", "select"), "test": rows_of(head, tokens, "test")}
    risk = (head["split"] == "validation") & (head["half"] == "risk") & (head["mode"] == "both")
    frames["risk"] = rows_of(head, tokens, "validation", "risk") if risk.any() else head[risk]
    base_rate, p_select = float(frames["select"]["label"].mean()), exit_policies.head_matrix(frames["select"])[1]
    rules = exit_policies.policies(base_rate, cfg)
    grids = {name: exit_policies.threshold_grid(rule, p_select, cfg.n_thresholds) for name, rule in rules.items()}
    chosen = artifacts.artifact_hash(run, "selected_policy.json")
    best = artifacts.read_json(run, "selected_policy.json")["policy"] if chosen else "confidence"
    return Scored(frames, base_rate, rules, grids, best)


def policy_block(
    name: str, known: Scored, cfg: config.PolicyConfig, chosen: int | None, bands: dict[str, np.ndarray],
    timed: dict[str, np.ndarray], places: np.ndarray,
) -> dict:  # fmt: skip
    """One policy of the explorer: thresholds, and per band the numbers at each of them, not yet timed.

    Args:
        name: of the rule.
        known: from `scored`.
        cfg: the section `policy`.
        chosen: place of the threshold that validation chose, or None.
        bands: from `bands_of`.
        timed: from `timed_rows`, by band.
        places: of the examples among the test rows.
    """
    rule, grid, test = known.rules[name], known.grids[name], known.frames["test"]
    exits = {part: exit_policies.exits_at(rule, exit_policies.head_matrix(frame)[1], grid, cfg.min_exit)
             for part, frame in known.frames.items()}  # fmt: skip
    contender = np.full(len(grid), "", dtype=object)  # as `latency.csv` calls it
    if name == "static":
        contender[:] = [f"packed_static_{layer}" for layer in exit_policies.head_matrix(test)[0]]
    elif name == known.best and chosen is not None:
        contender[chosen] = "packed_early_exit"
    lost = exit_policies.user_losses(LOSS, test, exits["test"], known.base_rate, cfg.excess_log_loss_cap)
    return {
        "name": name, "description": rule.description, "thresholds": plain(grid), "chosen": chosen,
        "promised": promised(exits, known.frames, known.base_rate, cfg), "disagreement": plain(lost.mean(0)),
        "exits": exits["test"][places].tolist(), "contender": contender,
        "settings": {band: judged_settings(test[rows], exits["test"][rows], timed[band][rows])
                     for band, rows in bands.items()},
    }  # fmt: skip


def add_latency(blocks: list[dict], latency: pd.DataFrame | None, bands) -> None:
    """Time the settings of all policies together, band by band, since some are read off between others."""
    for name in bands:
        table = pd.concat([block["settings"][name].assign(kind="dynamic", contender=block["contender"])
                           for block in blocks], ignore_index=True)  # fmt: skip
        table = timed(table, latency, *BANDS[name])
        start = 0
        for block in blocks:
            part = table.iloc[start:start + len(block["thresholds"])]
            start += len(part)
            block["settings"][name] = {measure: plain(part[measure]) for measure in MEASURES} | {
                "latency_source": part["latency_source"].tolist()}  # fmt: skip
    for block in blocks:
        del block["contender"]


def band_facts(
    test: pd.DataFrame, rows: np.ndarray, latency: pd.DataFrame | None, low: float, high: float,
    resampled: tuple[int, int],
) -> dict:  # fmt: skip
    """How many rows and requests a band has, the interval of full depth's AUC, how many requests were timed, and what
    the plain way takes there. `resampled`: resamples and seed of the interval.
    """
    part, p_full = test[rows], exit_policies.head_matrix(test)[1][rows, -1]
    interval = metrics.estimate(part["label"], p_full, part["user_id"], *resampled)["ci95"]
    facts = {"rows": len(part), "requests": int(part["request_id"].nunique()), "timed": 0, "plain_ms": None,
             "auc_ci95": plain(interval) if interval else None}  # fmt: skip
    if latency is None:
        return facts
    drawn = _of_size(latency, low, high)
    plain_way = drawn[drawn["contender"] == "plain"]
    mean = 1000 * plain_way["seconds"].mean() if len(plain_way) else None
    return facts | {"timed": int(drawn["request_id"].nunique()), "plain_ms": plain([mean])[0]}


def study(run: artifacts.Run, source: str) -> dict:
    """All that the explorer shows of one run, ready for JSON.

    Args:
        run: a finished one, or one made from a reference.
        source: where it comes from, in words.

    Raises:
        artifacts.ArtifactError: the run has no head scores.
    """
    cfg = config.load(run.dataset, run.profile, run.seed)
    known, latency = scored(run, cfg.policy), table_or_none(run, "latency.csv")
    test = known.frames["test"]
    shown, places = described(run, test, cfg.report.n_examples)
    bands, chosen = bands_of(test), chosen_places(run, known.grids)
    resampled = cfg.policy.n_bootstrap, cfg.seed
    asked = {name: timed_rows(test, latency, *BANDS[name]) for name in bands}
    blocks = [policy_block(name, known, cfg.policy, chosen[name], bands, asked, places) for name in known.rules]
    add_latency(blocks, latency, bands)
    return {
        "dataset": artifacts.study_name(run.dataset), "profile": run.profile, "seed": run.seed, "source": source,
        "layers": exit_policies.head_matrix(test)[0].tolist(), "base_rate": known.base_rate, "best": known.best,
        "delta": cfg.policy.risk_delta, "policies": blocks, "examples": shown,
        "bands": {name: band_facts(test, rows, latency, *BANDS[name], resampled) for name, rows in bands.items()},
    }  # fmt: skip
