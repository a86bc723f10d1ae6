"""Notebooks are for reading: one shape for all, short cells, no outputs, no typed numbers."""

import ast
import json
import re

import pytest

from eestudy.chain import BESIDE, PROJECT, STEPS, Step

PATHS = [PROJECT.notebooks / f"{name}.ipynb" for name in (*STEPS, *BESIDE)]
PARAMETERS = """\
import os

dataset = os.environ.get("DATASET", "ml-100k")
profile = os.environ.get("PROFILE", "laptop")
seed = int(os.environ.get("SEED", "0"))"""
OWN_DATA = 'dataset = "examples/study.toml"\nprofile = "laptop"\nseed = 0'  # whatever else is looked at
OPENING = """\
from eestudy import artifacts, config
cfg = config.load(dataset, profile, seed)
run = artifacts.open_run(dataset, profile, seed)"""
STRIP = ("graph retriever", "prompts", "LLM with exit heads", "exit policies", "trade-off", "report")
MAX_LINES = 15
# What may stand in prose without being a result: code, mathematics, links, names with letters in them (SmolLM2-135M,
# 0-based), notebook numbers, years of papers, the ends and the middle of a probability, the level of all intervals.
NOT_A_RESULT = (r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$\n]*\$", r"\]\([^)]*\)", r"<[^>]*>", r"https?://\S+",
                r"arXiv:? ?\d{4}\.\d{5}", r"\b(?:19|20)\d\d\b", r"\b0\d(?:_\w+)?\b", r"\b95 %",
                r"(?<![\d.])(?:0|1|0\.5)(?![\d.]*\d)", r"[\w-]*[A-Za-z_][\w-]*")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request) -> dict:
    assert request.param.exists(), f"{request.param.name} is missing"
    return json.loads(request.param.read_text())


def text(cell) -> str:
    return "".join(cell["source"])


def of_kind(notebook, kind) -> list[str]:
    return [text(cell) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_no_other_notebooks():
    assert sorted(PROJECT.notebooks.glob("*.ipynb")) == PATHS


def test_opening_says_what_why_and_how_long(notebook, request):
    first, number = text(notebook["cells"][0]), request.node.callspec.id[:2]
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert re.match(rf"# {number} · .+\?\n", first), "the title is `# NN · question?`"
    for needed in ("You will learn", "Reads", "Writes", "Minutes"):
        assert needed in first
    strip = [line for line in first.splitlines() if "→" in line or "─►" in line or "->" in line]
    assert len(strip) == 1 and all(f"{box}<" in strip[0] for box in STRIP)
    assert strip[0].count("<kbd>") == 1 + strip[0].count("→") and strip[0].count("<kbd><mark>") == 1  # one is filled


def test_opening_names_what_is_written(notebook, request):
    first, step = text(notebook["cells"][0]), STEPS.get(request.node.callspec.id, Step())
    missing = {name for name in step.writes if not name.startswith("figures/") and name not in first
               and f"`{name.split('.')[0]}`" not in first}
    assert not missing


def test_parameters_and_opening_cells_are_the_same_in_all(notebook, request):
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    name, opening = request.node.callspec.id, OPENING
    assert codes[0]["metadata"]["tags"] == ["parameters"]
    assert text(codes[0]) == (OWN_DATA if name in BESIDE else PARAMETERS)
    if STEPS.get(name, Step()).reads:  # it asks for them by its own name
        opening = opening.replace("artifacts, config", "artifacts, chain, config") + f'\nchain.require(run, "{name}")'
    assert [line for line in text(codes[1]).splitlines() if line] == opening.splitlines()
    assert not any("parameters" in cell["metadata"].get("tags", []) for cell in codes[1:])


def test_it_ends_with_what_we_found_rendered_from_artifacts(notebook):
    headings = [index for index, cell in enumerate(notebook["cells"])
                if cell["cell_type"] == "markdown" and re.match(r"#+ What we found", text(cell))]
    assert headings, "no heading `What we found`"
    ending = "\n".join(text(cell) for cell in notebook["cells"][headings[-1]:] if cell["cell_type"] == "code")
    assert "Markdown(" in ending
    later = [text(cell) for cell in notebook["cells"][headings[-1] + 1:] if cell["cell_type"] == "markdown"]
    sections = [cell for cell in later if re.match(r"##? ", cell)]
    assert all(cell.startswith("## Exercises\n") for cell in sections), "only `Exercises` follow `What we found`"


def section_of_exercises(notebook) -> list[dict]:
    """The cells after the heading `## Exercises`."""
    heads = [index for index, cell in enumerate(notebook["cells"]) if text(cell).startswith("## Exercises\n")]
    assert len(heads) == 1, "one heading `## Exercises`"
    return notebook["cells"][heads[0] + 1:]


def tags(cell) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_three_exercises_come_last(notebook):
    cells = section_of_exercises(notebook)
    assert len(cells) == 12, "three exercises of four cells: task, blank, solution, check"
    for letter, start in zip("abc", (0, 4, 8), strict=True):
        task, *codes = cells[start:start + 4]
        assert task["cell_type"] == "markdown" and text(task).startswith(f"### Exercise {letter} · ")
        assert [tags(cell) for cell in codes] == [["exercise"], ["solution"], ["check"]]
        assert "..." in text(codes[0]), "a blank to fill in"
        assert "assert " in text(codes[2])
    outside = [cell for cell in notebook["cells"] if cell not in cells and cell["cell_type"] == "code"]
    assert not any(set(tags(cell)) & {"exercise", "solution", "check"} for cell in outside)


def names_bound(source: str) -> set[str]:
    """Names that a cell binds at its top level, functions among them, loops' variables not."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        found |= {part.id for target in targets for part in ast.walk(target)
                  if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return found


def test_no_cell_takes_the_name_of_an_earlier_function(notebook):
    """Whoever calls it further down, an exercise perhaps, would call something else."""
    functions = set()
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        body = ast.parse(text(cell)).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        imported = {alias.asname or alias.name for node in body if isinstance(node, (ast.Import, ast.ImportFrom))
                    for alias in node.names}  # fmt: skip
        taken = {part.id for node in body if not isinstance(node, ast.FunctionDef) for part in ast.walk(node)
                 if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}  # fmt: skip
        assert not taken & functions, f"{cell['id']}: another name for {taken & functions}"
        functions |= defined | imported


def test_exercises_set_what_the_check_reads_and_say_what_is_wrong(notebook):
    cells = section_of_exercises(notebook)
    for blank, solution, check in (map(text, cells[start + 1:start + 4]) for start in (0, 4, 8)):
        asserts = [node for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Assert)]
        assert all(node.msg is not None for node in asserts), f"an assert without a message: {check}"
        shared = names_bound(blank) & names_bound(solution)
        assert shared and any(name in check for name in shared), "the solution sets the blank, the check reads it"


def test_exercises_write_nothing(notebook):
    for source in (text(cell) for cell in section_of_exercises(notebook) if cell["cell_type"] == "code"):
        assert not re.search(r"\bwrite_\w+\(|\bsavefig\(|\.to_(csv|parquet|json)\(|\bopen\(", source), source


def test_it_asks_before_it_shows(notebook):
    cells, asked = notebook["cells"], 0
    for index, cell in enumerate(cells):
        if not text(cell).startswith("**Predict before you run.** "):
            continue
        asked += 1
        folded = r"[^<]*\?[^<]*\n\n<details><summary>Answer</summary>\n\n.+\n\n</details>"
        assert re.fullmatch(folded, text(cell).strip(), re.DOTALL), "a question, and its answer folded"
        assert cells[index + 1]["cell_type"] == "code", "the cell that answers comes next"
    assert 2 <= asked <= 3


def test_outputs_are_stripped(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"].get("language_info", {})) <= {"name"}, "no version of this machine's Python"


def test_cell_ids_are_short_and_unique(notebook):
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z0-9-]{1,12}", name) for name in ids)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)


def test_cells_are_short_and_plain_python(notebook):
    for source in of_kind(notebook, "code"):
        assert source.strip() and len(source.splitlines()) <= MAX_LINES, source
        tree = ast.parse(source)  # no magics, no shell
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), source
        assert not re.search(r"\bpip\b|[\"'](/\w|~/|[A-Z]:\\)|\.\./", source), f"pip or a path: {source}"
        assert not re.search(r"trust_remote_code|\bpickle\b|\b(eval|exec)\(", source), source


def prose_numbers(markdown: str) -> list[str]:
    """Numbers in prose that are neither code, mathematics, a name, nor a place in the study."""
    in_words = re.findall(r"\b(?:tens|dozens|hundreds|thousands) of times\b|\bfew per ?cent\b", markdown, re.IGNORECASE)
    for pattern in NOT_A_RESULT:
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL)
    markdown = re.sub(r"^\s*\d+\. ", "", markdown, flags=re.MULTILINE)  # a numbered list
    return re.findall(r"\d[\d.,]*", markdown) + in_words


def test_prose_numbers_are_seen():
    assert prose_numbers("The AUC is 0.81, or 78 % of `0.9` ($0.7$, LightGCN 2020, SmolLM2-135M, see 05).") == [
        "0.81,", "78"]
    assert prose_numbers("It is thousands of times faster, a few per cent apart.") == [
        "thousands of times", "few per cent"]
    assert prose_numbers("1. between 0 and 1, a 2-layer graph, `05_exit_heads`, arXiv 2501.02173") == []


def test_no_number_is_typed_into_prose(notebook):
    for cell in of_kind(notebook, "markdown")[1:]:  # the opening states its minutes
        assert prose_numbers(cell) == [], cell
