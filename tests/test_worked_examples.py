"""The worked examples of CONTRIBUTING.md, applied to a copy of the package, pass the tests that they show."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eestudy.artifacts import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# heading -> tests to run in the copy: the example's own, and those of the study that take it in
EXAMPLES = {
    "A dataset": ["tests/test_club.py"],
    "A retriever": ["tests/test_shared_items.py", "tests/test_retrievers.py", "-k",
                    "shares_more or plain_loop or anew"],
    "An exit policy": ["tests/test_settled.py", "tests/test_exit_policies.py", "-k",
                       "two_heads or later_heads or grid"],
    "A family of language models": ["tests/test_seed_oss.py", "tests/test_backbone.py", "-k",
                                    "seed_oss or tiny_model"],
}  # fmt: skip


def blocks(heading: str) -> list[tuple[str, str, str]]:
    """(file, place, code) of every block below a heading."""
    section = re.split(r"^##+ ", PAGE.partition(f"\n### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^```python\n# (\S+): ([^\n]+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found and len(found) == section.count("```python"), f"a block of {heading!r} does not say where it goes"
    return found


def in_table(text: str, name: str, code: str) -> str:
    """The text with an entry before the closing bracket of what is assigned to `name`."""
    assigned = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assign | ast.AnnAssign)]
    value, = (node.value for node in assigned
              if any(isinstance(t, ast.Name) and t.id == name for t in getattr(node, "targets", [])) or
              isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name)  # fmt: skip
    lines = text.splitlines(keepends=True)
    at, column = value.end_lineno - 1, value.end_col_offset - 1
    before, bracket = lines[at][:column], lines[at][column:]
    comma = "" if not before.strip() else ", "
    lines[at] = f"{before}{comma}{code.strip() if comma else code.rstrip()}\n{bracket}"
    return "".join(lines)


def before_last_return(text: str, name: str, code: str) -> str:
    """The text with lines before the last return of a function, indented."""
    function, = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert isinstance(function.body[-1], ast.Return)
    lines = text.splitlines(keepends=True)
    lines.insert(function.body[-1].lineno - 1, "".join(f"    {line}\n" for line in code.splitlines()))
    return "".join(lines)


def placed(text: str, place: str, code: str) -> str:
    """A file's text with a block where its first line says."""
    for pattern, put in ((r"in the table (\w+)", in_table), (r"in (\w+), before its last return", before_last_return)):
        if match := re.fullmatch(pattern, place):
            return put(text, match[1], code)
    if match := re.fullmatch(r"before (\w+)", place):
        return re.sub(rf"^def {match[1]}\(", lambda it: f"{code}\n\n{it[0]}", text, count=1, flags=re.MULTILINE)
    module, name = re.fullmatch(r"after the import of ([\w.]+)\.(\w+)", place).groups()
    line = rf"^from {re.escape(module)}(?:\.{name} import .+| import {name}\b.*)\n"
    return re.sub(line, lambda it: it[0] + code, text, count=1, flags=re.MULTILINE)


def apply(folder: Path, heading: str) -> list[str]:
    """Edit a copy of the repository; returns the files touched."""
    for file, place, code in blocks(heading):
        path = folder / file
        if place == "a new file":
            assert not path.exists()
            path.write_text(code)
        else:
            text = path.read_text()
            path.write_text(placed(text, place, code))
            assert path.read_text() != text, f"{file}: no place {place!r}"
    return [file for file, _, _ in blocks(heading)]


@pytest.fixture
def copy(tmp_path) -> Path:
    """Package and tests, to be edited."""
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("eestudy", "tests"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=skipped)
    for name in ("pyproject.toml", "assets.txt"):
        shutil.copy(ROOT / name, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("heading", EXAMPLES)
def test_a_worked_example_works(copy, heading):
    touched = apply(copy, heading)
    assert len(set(touched)) < 6 and sum(file.startswith("tests/") for file in touched) >= 1
    # make passes the folder relative to the repository; the copy runs elsewhere
    assets = (ROOT / os.environ.get("ASSET_DIR", "results/assets")).resolve()
    env = os.environ | {"PYTHONPATH": str(copy), "ASSET_DIR": str(assets)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *EXAMPLES[heading]]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_examples_are_linted_as_the_package_is(copy):
    for heading in EXAMPLES:
        apply(copy, heading)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--ignore", "I001", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stdout


def test_every_example_is_on_the_page_and_no_other():
    page = PAGE.partition("## Four worked examples\n")[2]
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == list(EXAMPLES)
