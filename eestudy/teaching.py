"""`python -m eestudy.teaching`: what INSTRUCTORS.md shows of the reference, minutes and figures, rendered anew."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from eestudy import artifacts
from eestudy.report.readme import fill
from eestudy.verdicts import with_interval

PAGE = artifacts.ROOT / "INSTRUCTORS.md"
REFERENCE = artifacts.reference_dir() / "ml-100k" / "laptop"
# Minutes to read a notebook with its questions, and to do its three exercises: plans, not measurements.
READING = {
    "00_start_here": (15, 25), "01_data": (25, 35), "02_baselines": (20, 35), "03_graph_retriever": (45, 40),
    "04_prompts": (15, 30), "05_exit_heads": (20, 35), "06_exit_policies": (40, 40), "07_latency": (35, 40),
    "08_tradeoff": (25, 35), "09_report": (10, 25), "10_your_own_data": (15, 45),
}  # fmt: skip
QUICKSTART = ("06_exit_policies", "08_tradeoff", "09_report")


def entries(metrics: Mapping) -> dict[str, dict]:
    """Every measured entry of a `metrics.json` by name."""
    found = {item["name"]: item for item in metrics["metrics"]} | dict(metrics["headline"])
    return {name: item for name, item in found.items() if item and item["value"] is not None}


def minutes(seconds: float) -> str:
    """Seconds as minutes for a table; below one: 'less than 1'."""
    return "less than 1" if seconds < 60 else f"{seconds / 60:.0f}"


def minutes_table(durations: Mapping[str, float]) -> str:
    """Minutes of every notebook: to read, for its exercises, and to run, from `durations.json` (seconds)."""
    lines = ["| notebook | to read, questions included | exercises a to c | to run |", "|---|---|---|---|"]
    for name, (read, practise) in READING.items():
        run = minutes(durations[name]) if name in durations else "not measured in the reference"
        lines.append(f"| `{name}` | {read} | {practise} | {run} |")
    quick = sum(durations[name] for name in QUICKSTART)
    total = [sum(both) for both in zip(*READING.values(), strict=True)]
    lines += [f"| the three of `make quickstart` | | | {minutes(quick)} |",
              f"| all | {total[0]} | {total[1]} | {minutes(sum(durations.values()))} |"]  # fmt: skip
    return "\n".join(lines) + "\n"


def named_entries(text: str, metrics: Mapping) -> list[str]:
    """Entries of `metrics.json` that a page names as `code`, in order, each once."""
    known = entries(metrics)
    return [name for name in dict.fromkeys(re.findall(r"`([a-z0-9_]+)`", text)) if name in known]


def figures_table(text: str, metrics: Mapping) -> str:
    """What a page names, with value and interval."""
    known, lines = entries(metrics), ["| entry | value [95 % interval] | unit |", "|---|---|---|"]
    for name in named_entries(text, metrics):
        item = known[name]
        lines.append(f"| `{name}` | {with_interval(item)} | {item['unit']} |")
    return "\n".join(lines) + "\n"


def render(text: str, durations: Mapping[str, float], metrics: Mapping) -> str:
    """The page with its two tables rendered anew."""
    bare = fill(text, {"minutes": "", "figures": ""})
    return fill(text, {"minutes": "\n" + minutes_table(durations), "figures": "\n" + figures_table(bare, metrics)})


def main(page: Path = PAGE) -> None:
    """Render INSTRUCTORS.md from the committed reference."""
    durations, metrics = (json.loads((REFERENCE / name).read_text()) for name in ("durations.json", "metrics.json"))
    artifacts.write_atomic(page, render(page.read_text(), durations, metrics).encode())


if __name__ == "__main__":
    main()
