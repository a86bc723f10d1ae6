"""What teachers need: Binder and Dev Container at the same pins, the change log, and the page for instructors."""

import json
import re
import shutil
import subprocess
import tomllib

import pytest
from test_notebooks import prose_numbers

import eestudy
from eestudy import teaching
from eestudy.artifacts import ROOT
from eestudy.chain import BESIDE, STEPS
from eestudy.chain import PROJECT as PROJECT_PATHS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "transformers", "peft", "accelerate"}


def test_binder_installs_what_the_quickstart_needs_by_its_hashes():
    folder = ROOT / ".binder"
    commands = [line for line in (folder / "postBuild").read_text().splitlines() if line and line[0] != "#"]
    lock = "python3 -m pip install -q --no-deps --require-hashes -r requirements-quickstart.lock"
    assert commands == ["set -eu", lock, "python3 -m pip install -q --no-deps --no-build-isolation -e ."]
    assert (folder / "postBuild").stat().st_mode & 0o100 and not (folder / "requirements.txt").exists()
    assert (folder / "apt.txt").read_text().split() == ["make"]
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements-quickstart.lock").read_text(), re.MULTILINE))
    assert "setuptools" in pinned and not pinned & HEAVY


def test_binder_makes_no_venv_and_its_python_is_supported():
    start = ROOT / ".binder" / "start"
    assert start.stat().st_mode & 0o100 and 'export USE_CURRENT_ENV=1 QUICK_DIR=results/run\nexec "$@"' in (
        start.read_text())
    assert (ROOT / ".binder" / "runtime.txt").read_text().strip() == "python-3.12"
    assert PROJECT["requires-python"] == ">=3.11.5,<3.14"


def test_the_dev_container_installs_as_binder_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["image"].endswith("/python:3.12") and container["containerEnv"] == {
        "USE_CURRENT_ENV": "1", "QUICK_DIR": "results/run"}
    assert container["postCreateCommand"] == "sh .binder/postBuild"


def test_the_quickstart_extra_needs_no_torch():
    names = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["quickstart"]}
    assert not names & HEAVY


@pytest.mark.parametrize("target", ["quickstart", "quicklab", "exercises", "report"])
def test_what_a_class_calls_needs_only_the_small_environment(target, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    asked = ["make", "-n", "-C", str(tmp_path), target, "RUN_DIR=runs", "USE_CURRENT_ENV="]
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout  # noqa: S603
    assert "VENV=.venv-quickstart LOCK=requirements-quickstart.lock" in told
    assert ".venv-quickstart/bin/python" in told and " .venv/bin/python" not in told
    assert ("RUN_DIR=runs/quickstart" in told) == target.startswith("quick")


def test_the_change_log_ends_at_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[([\w.]+)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert headings[0] == ("Unreleased", "") and headings[1][0] == PROJECT["version"]
    versions = [tuple(map(int, name.split("."))) for name, _ in headings[1:]]
    assert versions == sorted(versions, reverse=True) and all(date for _, date in headings[1:])
    assert eestudy.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    kinds = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# The page for instructors

PAGE = (ROOT / "INSTRUCTORS.md").read_text()
REFERENCE = ROOT / "results" / "reference" / "ml-100k" / "laptop"
DURATIONS, METRICS = (json.loads((REFERENCE / name).read_text()) for name in ("durations.json", "metrics.json"))


def notebook_sections() -> dict[str, str]:
    """Name of a notebook -> what the page says of it, between headings."""
    found = re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    return dict(found)


def headings(name: str) -> set[str]:
    cells = json.loads((PROJECT_PATHS.notebooks / f"{name}.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return set(re.findall(r"^##+ (.+)$", text, re.MULTILINE))


def test_the_tables_for_instructors_are_rendered_from_the_reference():
    assert teaching.render(PAGE, DURATIONS, METRICS) == PAGE, "run: python -m eestudy.teaching"
    minutes = round(DURATIONS["07_latency"] / 60)
    assert f"| `07_latency` | 35 | 40 | {minutes} |" in PAGE and "| less than 1 |" in PAGE


def test_every_notebook_has_minutes_and_misconceptions():
    assert [*STEPS, *BESIDE] == list(teaching.READING) and set(teaching.QUICKSTART) <= set(STEPS)
    assert list(notebook_sections()) == list(teaching.READING)


@pytest.mark.parametrize("name", [*STEPS, *BESIDE])
def test_sections_that_the_page_names_are_there(name):
    plans = "\n".join(line for line in PAGE.splitlines() if f"`{name}`" in line and re.match(r"\| \d", line)
                      and line.count("`") == 2)  # fmt: skip
    places = [row.split(" | ")[1] for row in notebook_sections()[name].splitlines() if row.startswith("| ")][1:]
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", "\n".join([*places, plans]))
    assert named and not {text for text in named if text not in headings(name)}


def test_entries_that_the_page_names_are_measured():
    bare = PAGE.partition("## The figures that this page names")[0]
    named = re.findall(r"`((?:g?auc|throughput|risk|token|layer|recall|base_rate|unseen)_[a-z0-9_]+)`", bare)
    assert len(set(named)) > 15 and set(named) <= set(teaching.named_entries(bare, METRICS))
    repeated = [item["name"] for item in METRICS["metrics"]]
    assert all(repeated.count(name) <= 1 for name in named), "one entry, one figure"


def test_no_other_number_is_typed():
    text = re.sub(r"<!-- (plan|minutes|figures):start -->.*?<!-- \1:end -->", "", PAGE, flags=re.DOTALL)
    text = re.sub(r"notebooks? \d\d(, \d\d and \d\d)?", "", text)
    assert prose_numbers(text) == []


@pytest.mark.parametrize(("place", "end"), [(0, 90), (1, 240)])
def test_a_path_fills_its_time(place, end):
    plan = re.findall(r"<!-- plan:start -->(.*?)<!-- plan:end -->", PAGE, re.DOTALL)[place]
    times = [tuple(map(int, pair)) for pair in re.findall(r"^\| (\d+)–(\d+) \|", plan, re.MULTILINE)]
    assert times[0][0] == 0 and times[-1][1] == end
    assert all(now[1] == later[0] and now[0] < now[1] for now, later in zip(times, times[1:], strict=False))
