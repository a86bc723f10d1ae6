"""JupyterLab as `make lab` starts it, driven in a real Chromium; and the notebooks that students get."""

import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from eestudy import artifacts, execution, lab, pipeline, replay
from eestudy.chain import PROJECT, STEPS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
THERE = BROWSER and importlib.util.find_spec("jupyterlab") and importlib.util.find_spec("playwright")
SMOKE = artifacts.ROOT / ".smoke/smoke-ml-100k/ml-100k/smoke/seed-0"  # of `make test`
FIRST = list(STEPS)[:4]  # 00 to 03
BARS = ("02_baselines", "03_graph_retriever")  # there is something to wait for
# Written without floating-point sums, whose order depends on the number of threads: the same bytes by whomever
EXACT = ("interactions.parquet", "users.parquet", "items.parquet", "split.parquet")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(url: str, server: subprocess.Popen) -> bool:
    assert server.poll() is None, "JupyterLab has ended"
    try:
        return urllib.request.urlopen(f"{url}/api", timeout=60).status == 200  # noqa: S310
    except URLError:
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, which it saves, and a run of its own: address, token, folder, run."""
    if not THERE and not os.environ.get("EESTUDY_NEEDS_BROWSER"):
        pytest.skip("no Chromium, playwright or JupyterLab here: the notebooks are tried in a browser where there are")
    folder, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex(8)
    shutil.copytree(PROJECT.notebooks, folder / "notebooks")
    own = {name: str(folder / "jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR",
                                                      "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}
    # Absolute: `make test` names these folders from the root, and JupyterLab runs elsewhere
    own |= {"ASSET_DIR": str(artifacts.asset_dir()), "DATA_DIR": str(artifacts.data_dir())}
    environment = {**os.environ, **own, "RUN_DIR": str(folder / "run"), "PYTHONPATH": str(artifacts.ROOT)}
    command = [sys.executable, "-m", "eestudy.lab", "--profile", "smoke", "--no-browser", "--allow-root",
               f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--expose-app-in-browser"]
    with open(folder / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)  # noqa: S603
    try:
        while not answers(f"http://127.0.0.1:{port}", server):
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", token, folder, artifacts.Run(folder / "run/ml-100k/smoke/seed-0", "ml-100k",
                                                                        "smoke", 0)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def tab(served):
    """A page of the browser that has opened the address which JupyterLab opens; it asks nobody else for anything."""
    from playwright.sync_api import sync_playwright

    address, token, _, _ = served
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        page, asked = browser.new_page(viewport={"width": 1200, "height": 900}), []
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/?token={token}")
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def ready(tab, name: str):
    """Wait for a notebook to be in front, and for its kernel."""
    tab.wait_for_function("""name => {
      const shown = window.jupyterapp?.shell.currentWidget, kernel = shown?.sessionContext?.session?.kernel;
      return shown?.context?.path === name && kernel?.connectionStatus === "connected" && kernel.status === "idle";
    }""", arg=f"notebooks/{name}.ipynb")


def opened(tab, served, name: str):
    """Open a notebook alone, by its address, its kernel ready."""
    tab.goto(f"{served[0]}/lab/tree/notebooks/{name}.ipynb?reset")
    ready(tab, name)


def finished(tab):
    """Save the notebook and end its kernel, and what others left."""
    tab.evaluate("""async () => {
      await jupyterapp.commands.execute("docmanager:save");
      await jupyterapp.serviceManager.sessions.shutdownAll();
    }""")


def run_all(tab, folder, name: str) -> list[dict]:
    """Run All Cells, to the end or to an error; save; the code cells as saved."""
    tab.evaluate("async () => { await jupyterapp.commands.execute('notebook:run-all-cells') }")
    finished(tab)
    saved = json.loads((folder / f"notebooks/{name}.ipynb").read_text())
    return [cell for cell in saved["cells"] if cell["cell_type"] == "code"]


def opens_on_the_first_notebook_and_asks_nothing(tab):
    """What the address that JupyterLab opens leads to."""
    ready(tab, FIRST[0])
    assert tab.locator(".jp-Notebook h1").first.inner_text().startswith("00 ·")
    asking = tab.locator(".jp-Dialog, .Toastify__toast")
    assert asking.all_inner_texts() == []


def says_which_come_first(tab, served):
    """A notebook whose turn has not come, in an empty run."""
    opened(tab, served, FIRST[-1])
    tab.get_by_text("Run", exact=True).first.click()
    tab.get_by_text("Run All Cells", exact=True).click()
    # the first: on a slow machine JupyterLab may send later cells after the kernel has thrown away those that waited;
    # with text: an output is there before what it says; its content, since a cell that is being laid out shows none
    told = tab.locator("[data-mime-type*=error], [data-mime-type*=stderr]").filter(has_text="goes on from")
    lines = told.first.text_content().strip().splitlines()
    finished(tab)
    assert lines[0].startswith("03_graph_retriever goes on from what earlier notebooks write. For ml-100k/smoke/seed-0")
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["01_data.ipynb", "02_baselines.ipynb"]
    assert len(lines) <= 5 and "PROFILE=smoke" in lines[-1]


def is_current(run: artifacts.Run, name: str) -> bool:
    """Whether papermill's copy of a notebook is there and stands for the present sources."""
    copy = pipeline.copy_path(run, name)
    parts = pipeline.fingerprint_parts(name, run)
    return copy.exists() and json.loads(copy.read_text())["metadata"]["eestudy"] == parts


def runs_as_by_make(tab, served, name: str):
    """Run a notebook in the browser; it does what papermill does, and shows bars."""
    *_, folder, run = served
    opened(tab, served, name)
    cells = run_all(tab, folder, name)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output["evalue"] for output in outputs if output["output_type"] == "error"] == []
    assert all(cell["execution_count"] for cell in cells if cell["source"]), f"{name}: every cell was run"
    assert pipeline.missing_outputs(run, STEPS[name]) == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    printed = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
    assert ("100%|" in printed) == (name in BARS)
    assert "[progress]" not in printed
    made = artifacts.Run(SMOKE, "ml-100k", "smoke", 0)
    if is_current(made, name):  # `make test` has just made it
        exact = [file for file in STEPS[name].writes if file in EXACT]
        assert [artifacts.artifact_hash(run, file) for file in exact] == [
            artifacts.artifact_hash(made, file) for file in exact]


def test_from_an_empty_run_to_notebook_03_in_a_browser(tab, served):
    """One test, since each step goes on from the one before: processes that share the tests would part them."""
    opens_on_the_first_notebook_and_asks_nothing(tab)
    says_which_come_first(tab, served)
    for name in FIRST:
        runs_as_by_make(tab, served, name)


def test_the_kernels_inherit_what_make_gives_but_for_the_bars(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"RUN_DIR": str(tmp_path)})
    options = lab.prepare(["--dataset", "ml-1m", "--profile", "smoke", "--seed", "2", "--no-browser"])
    assert options == [*lab.OPTIONS, "--no-browser"]
    chosen = {name: os.environ[name] for name in ("DATASET", "PROFILE", "SEED", "EESTUDY_PLAIN_PROGRESS")}
    assert chosen == {"DATASET": "ml-1m", "PROFILE": "smoke", "SEED": "2", "EESTUDY_PLAIN_PROGRESS": ""}
    assert os.environ["TQDM_DISABLE"] == os.environ["HF_HUB_OFFLINE"] == "1"


def test_an_unknown_profile_is_refused_before_anything_is_served(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(SystemExit, match="error: unknown profile 'labtop'"):
        lab.main(["--profile", "labtop"])


# The notebooks that students get: some on a committed reference, which need no data and no weights; the others on the
# run of `make test`.

ON_A_REFERENCE = ("00_start_here", "06_exit_policies", "08_tradeoff", "09_report", "10_your_own_data")


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """The folder of `make exercises`, in a run that was made from a reference."""
    folder = tmp_path_factory.mktemp("students")
    replay.rebuild(artifacts.Run(folder / "ml-100k/laptop/seed-0", "ml-100k", "laptop", 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["make", "-s", "exercises", "USE_CURRENT_ENV=1", f"RUN_DIR={folder}"], check=True,  # noqa: S603, S607
                   cwd=artifacts.ROOT, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL)
    return folder / "exercises"


def comes_to_the_first_blank(students: Path, name: str, **environment: str) -> None:
    """Run a student's notebook: it stops at the first check, which says what to do."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {**execution.ENVIRONMENT, "RUN_DIR": str(students.parent), "SEED": "0",
                                "PYTHONPATH": str(artifacts.ROOT), **environment}.items():
            patch.setenv(variable, value)
        notebook = nbformat.read(students / f"{name}.ipynb", 4)
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        assert ["solution"] not in tags
        with pytest.raises(CellExecutionError) as stopped:
            NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(students)}}).execute()
    assert stopped.value.ename == "AssertionError" and "fill" in stopped.value.evalue
    ended = [place for place, cell in enumerate(notebook.cells) if cell.get("execution_count")]
    assert ended[-1] == tags.index(["check"])


@pytest.mark.parametrize("name", ON_A_REFERENCE)
def test_a_student_comes_to_the_first_blank_and_is_told_to_fill_it(students, name):
    dataset = "examples/study.toml" if name.startswith("10") else "ml-100k"
    comes_to_the_first_blank(students, name, DATASET=dataset, PROFILE="laptop")


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ON_A_REFERENCE])
def test_a_student_of_a_whole_run_comes_to_the_first_blank(students, name):
    made = artifacts.Run(SMOKE, "ml-100k", "smoke", 0)
    if not is_current(made, name):
        pytest.skip("`make test` makes the run that this notebook needs")
    run = students.parent / "ml-100k" / "smoke" / "seed-0"
    if not run.exists():
        shutil.copytree(SMOKE, run)
    comes_to_the_first_blank(students, name, DATASET="ml-100k", PROFILE="smoke")
