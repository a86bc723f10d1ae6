"""Run the table of ablations, row by row: `make ablations`, after notebook 03 of every seed.

A row that is finished, here or committed, is not run again; one that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import json
import time

import pandas as pd

from eestudy import ablation_results, artifacts, assets, config, pipeline
from eestudy.ablations import analysis, duels, rows
from eestudy.ablations.table import Row, all_rows, each_seed
from eestudy.commands import ends_plainly


def main(arguments: list[str] | None = None) -> None:
    """Run what is not finished, in the table's order, then say what was found."""
    given = _parser().parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError):
        cfg = config.load(given.dataset, given.profile, given.seed)
        if cfg.privacy.least_group:
            raise ValueError("the table is of prompts that show single ratings: leave [privacy] least_group out")
        chosen = choose(all_rows(cfg), given.only)
        sources = {seed: artifacts.open_run(given.dataset, given.profile, seed)
                   for _, seed in each_seed(chosen)}  # fmt: skip
        if given.list:
            print(listing(chosen, cfg, sources))
        else:
            failed = run_all(chosen, cfg, sources, given.budget_minutes, given.keep)
            told = summarise(cfg, artifacts.open_run(given.dataset, given.profile, 0), given.keep)
            print("\n".join(map(ablation_results.sentence, told["comparisons"].to_dict("records"))))
            if failed:
                raise ValueError(f"rows that failed: {'; '.join(failed)}")


def _parser():
    parser = pipeline.parameters("Run the table of ablations.")
    parser.add_argument("--only", action="append", help="a row's name; may be given several times")
    parser.add_argument("--budget-minutes", type=float, help="start no row that would probably end later")
    parser.add_argument("--keep", action="store_true", help="copy each finished row to the committed results at once")
    parser.add_argument("--list", action="store_true", help="list the rows and what is finished; run nothing")
    return parser


def choose(known: tuple[Row, ...], names: list[str] | None) -> tuple[Row, ...]:
    """The rows of these names, in the table's order; None takes all.

    Raises:
        ValueError: a name that no row has.
    """
    if names is None:
        return known
    if unknown := set(names) - {row.name for row in known}:
        raise ValueError(f"unknown ablation {', '.join(sorted(unknown))}; known: {', '.join(r.name for r in known)}")
    return tuple(row for row in known if row.name in names)


def run_all(
    chosen: tuple[Row, ...], cfg: config.StudyConfig, sources: dict[int, artifacts.Run], budget: float | None = None,
    keep: bool = False,
) -> list[str]:  # fmt: skip
    """Every row and seed that is not finished, until the budget would be overrun.

    Args:
        chosen, cfg, sources: rows in the table's order, the study's own settings, its run of each seed.
        budget: minutes; a row is begun only where the longest row so far would still fit. None: no limit.
        keep: copy each finished row to the committed results, those that were finished before, too.

    Returns:
        What failed, a text a row; the others went on.
    """
    began, longest, failed = time.perf_counter(), 0.0, []
    for row, seed in each_seed(chosen):
        found = rows.find_finished(row, cfg, seed, sources[seed])
        if found is not None and found.current:
            if keep:
                _keep_once(row, cfg, seed, sources[seed])
            continue
        if missing := rows.missing_tables(sources[seed]):
            print(f"== ablation {row.name}, seed {seed}, waits for {', '.join(missing)}: {sources[seed].command}")
            continue
        if budget is not None and time.perf_counter() - began + longest > 60 * budget:
            print(f"== the budget of {budget:g} minutes is used; the next row would be {row.name}, seed {seed}")
            break
        start = time.perf_counter()
        try:
            rows.run_row(row, cfg, seed, sources[seed])
        except (ValueError, FloatingPointError) as error:
            failed.append(f"{row.name}, seed {seed}: {error}")
            print(f"== ablation {failed[-1]}: the others go on", flush=True)
            continue
        if keep:
            rows.keep_row(row, seed, sources[seed])
        longest = max(longest, time.perf_counter() - start)
        print(f"== ablation {row.name}, seed {seed}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    return failed


def _keep_once(row: Row, cfg: config.StudyConfig, seed: int, source: artifacts.Run) -> None:
    """Copy a finished row to the committed results, if it was finished here and is not among them."""
    here = artifacts.is_current(rows.open_row(source, row, seed), rows.RESULT,
                                rows.row_fingerprint(rows.settings_of(row, cfg, seed), row, source))  # fmt: skip
    kept = rows.reference_path(source, row, seed)
    if here and not all(kept.with_name(kept.name + ending).exists() for ending in (".json", ".parquet")):
        rows.keep_row(row, seed, source)


def summarise(cfg: config.StudyConfig, run: artifacts.Run, keep: bool) -> dict[str, pd.DataFrame]:
    """Write what the finished rows say into the run, and with `keep` beside the committed rows, for the notebooks.

    Args:
        cfg: the study's own settings.
        run: the study's, of seed 0.
        keep: whether the committed results are written, too.

    Returns:
        The tables of `summary`, by name.
    """
    told = summary(cfg, rows.find_all(cfg, run.dataset, run.profile), *measured_times(cfg, run))
    for name, frame in zip(artifacts.ABLATIONS, told.values(), strict=True):
        artifacts.write_table(run, name, frame)
        if keep:
            artifacts.write_atomic(ablation_results.kept_folder(run) / name, artifacts.read_bytes(run, name))
    return told


def summary(
    cfg: config.StudyConfig, results: analysis.Results, latency: pd.DataFrame, share: float
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The four tables of `ablation_results.Ablations`, by name, in their order.

    Args:
        cfg: the study's own settings.
        results: what was found of every row and seed.
        latency, share: from `measured_times`.
    """
    table = all_rows(cfg)
    return {"comparisons": analysis.compare_all(table, results, cfg), "curves": analysis.curves(table, results, cfg),
            "seeds": analysis.seed_spread(table, results),
            "duels": duels.duel_table(results, cfg, latency, share)}  # fmt: skip


def measured_times(cfg: config.StudyConfig, run: artifacts.Run) -> tuple[pd.DataFrame, float]:
    """What was timed, of the run if it holds all that says on which work, else of its committed reference.

    Both belong together: times of one policy beside the work of another would say nothing.

    Returns:
        `latency.csv`, and `duels.timed_share`; empty and NaN where nothing was timed.
    """
    names = ("latency.csv", "head_scores.parquet", "prompt_tokens.parquet", "selected_policy.json")
    if all(artifacts.artifact_hash(run, name) for name in names):
        *tables, selected = *(artifacts.read_table(run, name) for name in names[:3]), artifacts.read_json(run, names[3])
    else:
        folder = artifacts.committed_dir(run)
        paths = [folder / name for name in (*names[:2], f"rows/{names[2]}", names[3])]
        if not all(path.exists() for path in paths):
            return pd.DataFrame(), float("nan")
        *tables, selected = (artifacts.read_csv(paths[0]), *map(pd.read_parquet, paths[1:3]),
                             json.loads(paths[3].read_text()))  # fmt: skip
    return tables[0], duels.timed_share(*tables, selected, cfg)


def listing(chosen: tuple[Row, ...], cfg: config.StudyConfig, sources: dict[int, artifacts.Run]) -> str:
    """One line a row and seed: its name, whether it is finished, and its question."""
    lines = []
    for row, seed in each_seed(chosen):
        state = analysis.state(rows.find_finished(row, cfg, seed, sources[seed]))
        lines.append(f"{row.name:<22} seed {seed}  {state:<13}  {row.question}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
