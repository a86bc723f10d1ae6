"""Who may import whom, read from the sources; an unlisted module fails."""

import ast
import re

import pytest

from eestudy.artifacts import ROOT

LAYERS = {
    0: {"config", "artifacts", "drawing", "metrics", "progress", "assets", "chain", "untrusted", "commands", "holder",
        "licences", "probe_results", "wordings", "defences", "verdicts"},
    1: {"data", "baselines", "retriever", "prompts", "backbone", "exit_heads", "exit_policies", "latency", "load",
        "growth", "ablation_results", "report", "pipeline", "click_models"},
    2: {"scorer", "rivals", "contest", "execution", "replay", "teaching", "preflight", "model_facts"},
    3: {"training"},
    4: {"bench", "scale", "ablations", "retrievers", "site"},
    5: {"probes", "quickstart", "lab"},
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
NO_TORCH = LAYERS[0] | {"exit_policies", "data", "prompts", "report", "ablation_results", "pipeline",
                        "load", "execution", "replay", "site", "quickstart", "lab"}
LIGHT = {"chain": set(), "assets": set(), "progress": {"tqdm"}, "config": {"pydantic"}, "pipeline": set()}
PACKAGE = ROOT / "eestudy"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path) -> set[str]:
    """Dotted names that a file imports, in functions too; relative ones begin with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "eestudy":
            names.update(f"eestudy.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path):
    here = module_of(path)
    if here == "__init__":
        assert imported(path) == {"sys", "eestudy.commands"}
        return
    assert here in LAYER, f"{here} is not in the table: choose its layer"
    names = imported(path)
    assert not [name for name in names if name.startswith(".")], "absolute imports only"
    ours = {name.split(".")[1] for name in names if name.startswith("eestudy.")} - {here}
    against = {name for name in ours if LAYER[name] >= max(LAYER[here], 1)}
    assert not against, f"{here} (layer {LAYER[here]}) imports {against}"


def test_layer_0_has_no_cycle():
    uses = {module: {name.split(".")[1] for path in FILES if module_of(path) == module for name in imported(path)
                     if name.startswith("eestudy.")} - {module} for module in LAYERS[0]}
    while uses:
        free = {module for module, needs in uses.items() if not needs & set(uses)}
        assert free, f"a cycle among {sorted(uses)}"
        uses = {module: needs for module, needs in uses.items() if module not in free}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_where_arrays_suffice(path):
    if module_of(path) in NO_TORCH:
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "peft", "accelerate"}


def test_modules_that_make_calls_each_time_stay_light():
    import sys

    for module, allowed in LIGHT.items():
        files = [path for path in FILES if module_of(path) == module]
        outside = {name.split(".")[0] for path in files for name in imported(path)}
        assert outside - sys.stdlib_module_names - {"eestudy"} <= allowed, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_house_rules(path):
    text = path.read_text()
    forbidden = r"\b(TODO|FIXME|XXX|HACK)\b|\bpickle\b|trust_remote_code=True|weights_only=False|allow_pickle=True"
    assert not re.search(forbidden, text)
    for keyword in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword)):
        if keyword.arg in ("trust_remote_code", "allow_pickle"):
            assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False, keyword.arg
    # Profiles differ in their values alone: nobody asks which one is running.
    assert module_of(path) == "config" or not re.search(r"\bprofile\s*(==|!=|in\b)\s*[\"'(\[]", text)


def functions():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield pytest.param(node, id=f"{path.relative_to(PACKAGE)}:{node.name}")


@pytest.mark.parametrize("function", list(functions()))
def test_functions_are_short_and_documented(function):
    assert function.end_lineno - function.lineno < 40
    assert function.name.startswith("_") or ast.get_docstring(function), "a public function needs a docstring"


def test_every_module_has_its_tests():
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    together = {"chain": "pipeline", "execution": "pipeline", "ablation_results": "ablations",
                "probe_results": "probes", "wordings": "probes", "defences": "probes",
                "replay": "site", "quickstart": "site", "model_facts": "preflight"}
    assert {together.get(module, module) for module in LAYER} <= tested
