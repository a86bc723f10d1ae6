"""Read and prepare a dataset and say what stands, without notebooks: `python -m eestudy.data examples/study.toml`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from eestudy import config, data
from eestudy.commands import ends_plainly
from eestudy.config import StudyConfig
from eestudy.progress import most_held_mb


def main(arguments: list[str] | None = None) -> None:
    """Print as JSON what `look` returns; status 1 where the data cannot support the study."""
    parser = argparse.ArgumentParser(description="Read and prepare a dataset and say what stands.")
    parser.add_argument("dataset", help="a dataset's name, or the toml of a study on own data")
    parser.add_argument("--profile", default="laptop")
    given = parser.parse_args(arguments)
    with ends_plainly(ValueError):  # data.DataError is one
        found = look(config.load(given.dataset, given.profile))
    print(json.dumps(found, indent=1, ensure_ascii=False))
    sys.exit(any(finding["stops"] for finding in found["findings"]))


def look(cfg: StudyConfig) -> dict:
    """What notebook 01 finds before it draws anything.

    Args:
        cfg: the study's settings.

    Returns:
        n_read, n_interactions, n_users, n_items, share_of_clicks, left_out (rule, n_rows), quarantine (by file and
        reason), findings (stops, what, remedy), seconds (read, prepare, check), peak_mb (2^20 bytes).

    Raises:
        DataError: a file that cannot be used.
    """
    stamps = [time.perf_counter()]
    raw = data.read(cfg.data)
    stamps.append(time.perf_counter())
    n_read, n_checked, left_out = len(raw["interactions"]), raw["n_checked"], raw["left_out"].to_dict("records")
    held = [raw]
    del raw  # handed over: nobody else holds the source's rows
    frames = data.prepare(cfg, held.pop())
    stamps.append(time.perf_counter())
    findings = data.check_support(frames, cfg.data, n_checked)
    stamps.append(time.perf_counter())
    return {
        "n_read": n_read, "n_interactions": len(frames["interactions"]), "n_users": len(frames["users"]),
        "n_items": len(frames["items"]), "share_of_clicks": float(frames["interactions"]["label"].mean()),
        "left_out": left_out, "quarantine": data.quarantine_summary(frames["quarantine"]),
        "findings": [vars(finding) for finding in findings],
        "seconds": {name: end - start for name, start, end in
                    zip(("read", "prepare", "check"), stamps, stamps[1:], strict=False)},
        "peak_mb": most_held_mb(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
