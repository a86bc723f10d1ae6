"""What runs again, and what does not: on a small chain of our own, then under the real Makefile."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
import stand_in
from stand_in import write_notebook

from eestudy import artifacts, chain, config, execution, holder, pipeline
from eestudy.chain import PROJECT, STEPS, Project, Step


@pytest.fixture
def project(tmp_path) -> Project:
    """Three notebooks: a -> b -> c; b imports `heads`, c imports `policies`, which imports `heads`."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "heads.py").write_text("import numpy\n")
    (package / "policies.py").write_text("def late():\n    from eestudy.heads import x\n")
    (package / "config.py").write_text("")
    notebooks = tmp_path / "notebooks"
    write_notebook(notebooks, "a", "from eestudy import config")
    write_notebook(notebooks, "b", "import json\nfrom eestudy.heads import x")
    write_notebook(notebooks, "c", "import eestudy.policies")
    steps = {
        "a": Step(writes=("a.json",), settings=("data",)),
        "b": Step(reads=("a.json",), writes=("b.json",), settings=("heads",)),
        "c": Step(reads=("b.json", "environment.json"), writes=("c.json",), files=("published.csv",)),
    }
    return Project(notebooks, package, steps)


@pytest.fixture
def papermill(monkeypatch):
    """Stands in for papermill: writes each notebook's outputs (`values`), keeps who ran (`ran`)."""

    class Fake:
        ran: list = []
        values: dict = {}
        error: Exception | None = None

    def fake(name, run, project, output):
        Fake.ran.append(name)
        shutil.copy(project.notebooks / f"{name}.ipynb", output)
        if Fake.error:
            raise Fake.error
        for artifact in project.steps[name].writes:
            artifacts.write_json(run, artifact, Fake.values.get(artifact, artifact))
        return nbformat.read(output, as_version=4)

    Fake.ran, Fake.values, Fake.error = [], {}, None
    monkeypatch.setattr(execution, "run_papermill", fake)
    return Fake


def reproduce(run, project) -> list[str]:
    """What make does: refresh, then each stale notebook in turn, looking anew after each."""
    ran = []
    for name in project.steps:
        if name in pipeline.refresh(run, project):
            execution.execute(name, run, project)
            ran.append(name)
    return ran


def newer(run, name) -> bool:
    """What make sees: the fingerprint is newer than the copy, or there is no copy."""
    copy = pipeline.copy_path(run, name)
    return not copy.exists() or pipeline.fingerprint_path(run, name).stat().st_mtime > copy.stat().st_mtime


def test_imports_are_found_wherever_they_stand():
    source = chain.read_source(
        "from eestudy import a, b\nimport eestudy.c as z\nimport json, numpy.linalg\n"
        "def f():\n    from eestudy.d import y\n    from sklearn.metrics import auc\n"
        "command = ['accelerate', '-m', 'eestudy.e']\nnote = 'see eestudy.f for more'\n"
    )
    assert source.modules == {"a", "b", "c", "d", "e"}
    assert source.libraries == {"numpy", "sklearn"}


def test_modules_are_followed_transitively(project):
    package = chain.scan_package(project.package)
    used = {name: chain.used_modules(chain.scan_notebook(project.notebooks / f"{name}.ipynb"), package)
            for name in project.steps}
    assert used == {"a": [], "b": ["heads"], "c": ["heads", "policies"]}


def test_a_sub_package_counts_as_one_module(project):
    folder = project.package / "report"
    folder.mkdir()
    (folder / "__init__.py").write_text("from eestudy.report.tables import t\n")
    (folder / "tables.py").write_text("from eestudy.heads import x\nimport pandas\n")
    source = chain.scan_package(project.package)["report"]
    assert source.modules - {"report"} == {"heads"} and source.libraries == {"pandas"}


def test_a_cell_that_is_not_python_is_named(project):
    write_notebook(project.notebooks, "b", "x = 1", "!pip list")
    with pytest.raises(ValueError, match=r"b\.ipynb, cell 2: not Python"):
        chain.scan_notebook(project.notebooks / "b.ipynb")


def test_everything_runs_once_and_then_nothing(run, project, papermill):
    assert reproduce(run, project) == ["a", "b", "c"]
    assert reproduce(run, project) == []
    assert not any(newer(run, name) for name in project.steps)


def touch_module(name):
    def change(run, project):
        path = project.package / f"{name}.py"
        path.write_text(path.read_text() + "# changed\n")
    return change


def edit_notebook(name):
    return lambda run, project: write_notebook(project.notebooks, name, "from eestudy.heads import x", "y = 2")


def delete(*names):
    return lambda run, project: [run.path(name).unlink() for name in names]


def swap(run, project):
    other = artifacts.Run(run.root.with_name("seed-1"), run.dataset, run.profile, 1)
    for name in (artifacts.write_json(other, "a.json", "another").name, "a.json.meta.json"):
        shutil.copy(other.path(name), run.path(name))


def same_run_elsewhere(run, project):
    artifacts.write_json(run, "a.json", "another")  # the sidecar vouches for it, but notebook a did not write it


def cut(run, project):
    run.path("a.json").write_bytes(b"")


def publish(run, project):
    (project.package.parent / "published.csv").write_text("auc,0.8\n")


def add_dataset(run, project):
    config.DATASETS["other"] = {"name": "other"}


def new_machine(run, project):
    artifacts.write_json(run, "environment.json", {"cores": 64})


def scramble_times(run, project):
    for number, path in enumerate(sorted(run.root.rglob("*"))):
        os.utime(path, (1e9 + number, 1e9 + number))


@pytest.mark.parametrize(("change", "expected"), [
    (touch_module("policies"), ["c"]),
    (touch_module("heads"), ["b", "c"]),
    (touch_module("config"), []),
    (edit_notebook("b"), ["b"]),  # b writes what it wrote before, so c stays
    (delete("a.json"), ["a"]),
    (delete("b.json.meta.json"), ["b"]),
    (delete("notebooks/c.ipynb"), ["c"]),
    (delete("fingerprints/b.json"), []),
    (cut, ["a"]),
    (swap, ["a"]),
    (same_run_elsewhere, ["a"]),
    (publish, ["c"]),
    (add_dataset, []),
    (new_machine, []),
    (scramble_times, []),
])
def test_a_change_runs_what_depends_on_it(run, project, papermill, monkeypatch, change, expected):
    monkeypatch.setattr(config, "DATASETS", dict(config.DATASETS))
    reproduce(run, project)
    change(run, project)
    stale = pipeline.refresh(run, project)
    assert [name for name in project.steps if newer(run, name)] == list(stale)
    assert reproduce(run, project) == expected
    assert reproduce(run, project) == []


def test_a_setting_reruns_the_notebooks_of_its_section(run, project, papermill, monkeypatch):
    reproduce(run, project)
    smoke = config.PROFILES["smoke"]
    monkeypatch.setitem(config.PROFILES, "smoke", {**smoke, "heads": {**smoke["heads"], "lora_rank": 3}})
    assert reproduce(run, project) == ["b"]


def test_other_weights_in_the_same_folder_run_their_readers(run, project, papermill, monkeypatch, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    settings = config.load("ml-100k", "smoke")
    local = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"source": str(model)})})
    monkeypatch.setattr(config, "load", lambda *_: local)
    steps = project.steps | {"b": replace(project.steps["b"], settings=("heads", "backbone"))}
    project = replace(project, steps=steps)
    reproduce(run, project)
    assert reproduce(run, project) == []
    (model / "model.safetensors").write_bytes(b"two!")
    assert reproduce(run, project) == ["b"]


def test_a_changed_artifact_runs_its_readers(run, project, papermill):
    reproduce(run, project)
    papermill.values["a.json"] = "new"
    edit_notebook("a")(run, project)
    assert reproduce(run, project) == ["a", "b"]


def test_reasons_name_what_changed(run, project, papermill):
    reproduce(run, project)
    touch_module("policies")(run, project)
    delete("a.json")(run, project)
    assert pipeline.refresh(run, project) == {
        "a": ["a.json is missing"], "b": ["artifact a.json"], "c": ["module policies"],
    }


def test_a_failing_notebook_fails_each_time(run, project, papermill):
    execution.execute("a", run, project)
    papermill.error = RuntimeError("no luck")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no luck"):
            reproduce(run, project)
        assert not pipeline.copy_path(run, "b").exists() and run.path("failed/b.ipynb").exists()
    papermill.error = None
    assert reproduce(run, project) == ["b", "c"]
    assert not run.path("failed/b.ipynb").exists()


def test_a_notebook_that_fails_after_success_is_run_again_when_mended(run, project, papermill):
    reproduce(run, project)
    whole = (project.notebooks / "b.ipynb").read_text()
    edit_notebook("b")(run, project)
    papermill.error = RuntimeError("no luck")
    with pytest.raises(RuntimeError):
        reproduce(run, project)
    papermill.error = None
    (project.notebooks / "b.ipynb").write_text(whole)  # its outputs may be half of the failed attempt's
    assert reproduce(run, project) == ["b"]


@pytest.mark.parametrize("moment", ["papermill", "copy", "refresh"])
def test_a_kill_at_any_moment_leaves_a_state_to_go_on_from(run, project, papermill, monkeypatch, moment):
    execution.execute("a", run, project)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "papermill":
            patch.setattr(papermill, "error", KeyboardInterrupt())
        elif moment == "copy":
            patch.setattr(execution, "tidy", killed)
        else:
            patch.setattr(pipeline, "refresh", killed)
        with pytest.raises(KeyboardInterrupt):
            execution.execute("b", run, project)
    assert reproduce(run, project) == (["c"] if moment == "refresh" else ["b", "c"])
    assert reproduce(run, project) == []


def test_an_output_that_was_not_written_is_an_error(run, project, papermill, monkeypatch):
    monkeypatch.setitem(project.steps, "a", Step(writes=("a.json",)))
    original = execution.run_papermill

    def forgetful(name, *rest):
        notebook = original(name, *rest)
        run.path("a.json").unlink()
        return notebook

    monkeypatch.setattr(execution, "run_papermill", forgetful)
    with pytest.raises(artifacts.ArtifactError, match=r"a ended without writing a\.json"):
        execution.execute("a", run, project)
    assert not pipeline.copy_path(run, "a").exists()


def test_durations_count_every_attempt_with_the_same_fingerprint(run, project, papermill, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(execution.time, "perf_counter", lambda: next(clock))
    papermill.error = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        execution.execute("a", run, project)
    lost = json.loads(run.path("failed/a.seconds.json").read_text())["seconds"]
    papermill.error = None
    execution.execute("a", run, project)
    assert artifacts.read_json(run, "durations.json") == {"a": lost + 10}
    assert execution._recorded_seconds(run.path("failed/a.seconds.json"), "x") == 0


def test_orphans_of_dead_writers_are_removed(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = run.path(f".x.parquet.{os.getpid()}.tmp")
    orphan = run.path("figures") / f".y.png.{dead.pid}.tmp"
    folder = run.path(f".model.{dead.pid}.tmp")
    for path in (mine, orphan, run.path(".other.tmp"), folder / "weights"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    assert set(holder.remove_orphans(run.root)) == {orphan, folder}
    assert mine.exists() and not orphan.exists() and not folder.exists()
    assert holder.remove_orphans(run.root, held=True) == [mine]  # numbers come again: who holds the run knows


def test_tidy_removes_progress_and_machine_paths(run):
    stream = nbformat.v4.new_output("stream", text=f"one\n[progress] x: 1/2\n{artifacts.ROOT}/eestudy/x.py: two\n")
    only_progress = nbformat.v4.new_output("stream", text="[progress] x: 1/2\n[progress] x: 2/2\n")
    result = nbformat.v4.new_output("display_data", data={"text/plain": f"PosixPath('{run.path('x.csv')}')"})
    cell = nbformat.v4.new_code_cell("x", outputs=[stream, only_progress, result])
    kept = {"papermill": {"input_path": "/a/b", "duration": 1.0}}
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("y")], metadata=kept)
    tidied = execution.tidy(notebook, run, {"seed": 0})
    text, path = tidied.cells[0].outputs
    assert text.text == "one\neestudy/x.py: two\n" and path.data["text/plain"] == "PosixPath('run/x.csv')"
    assert tidied.metadata["papermill"] == {"duration": 1.0} and tidied.metadata["eestudy"] == {"seed": 0}


def test_papermill_for_real(run, project, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(artifacts.ROOT))  # also where the package is not installed
    monkeypatch.setattr(execution, "PROJECT", project)
    monkeypatch.setattr(execution.execute, "__defaults__", (project,))
    write_notebook(project.notebooks, "a", (
        "import os\nfrom eestudy import artifacts\n"
        "run = artifacts.open_run(dataset, profile, seed)\n"
        "print('[progress] x: 1/2')\nprint(profile, os.environ['PYTHONHASHSEED'])\n"
        "artifacts.write_json(run, 'a.json', 1)"
    ))
    write_notebook(project.notebooks, "b", "print('so far')\nraise ValueError('row 3 of ratings.csv')")
    arguments = ["--dataset", "ml-100k", "--profile", "smoke", "--seed", "0"]
    execution.main(["a", *arguments])
    assert "smoke 0" in capfd.readouterr().out
    copy = pipeline.copy_path(run, "a").read_text()
    assert "smoke 0" in copy and "[progress] x" not in json.dumps(
        [cell.get("outputs") for cell in json.loads(copy)["cells"]]
    )
    with pytest.raises(SystemExit) as stopped:
        execution.main(["b", *arguments])
    assert str(stopped.value).splitlines()[-1] == "cell 2: ValueError: row 3 of ratings.csv"
    assert "so far" in run.path("failed/b.ipynb").read_text() and not pipeline.copy_path(run, "b").exists()


@pytest.mark.parametrize("needed", [False, True])
def test_an_exercise_that_does_not_fit_the_data_stops_no_study(run, project, monkeypatch, capfd, needed):
    monkeypatch.setenv("PYTHONPATH", str(artifacts.ROOT))
    monkeypatch.setenv("EESTUDY_NEEDS_EXERCISES", "1" if needed else "")
    writes = ("from eestudy import artifacts\nrun = artifacts.open_run(dataset, profile, seed)\n"
              "artifacts.write_json(run, 'a.json', 1)")
    write_notebook(project.notebooks, "a", writes, "assert seed, 'too even'", "print('never')")
    path = project.notebooks / "a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["tags"] = ["check"]
    nbformat.write(notebook, path)
    if needed:
        with pytest.raises(Exception, match="too even"):
            execution.execute("a", run, project)
        return
    copy = nbformat.read(execution.execute("a", run, project), as_version=4)
    assert "a: an exercise does not fit this dataset" in (said := capfd.readouterr().out) and "too even" in said
    assert [cell.source for cell in copy.cells if cell.cell_type == "markdown"] == [] and len(copy.cells) == 5


def test_refresh_says_nothing_to_do(run, project, papermill, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "PROJECT", project)
    monkeypatch.setattr(pipeline.refresh, "__defaults__", (project,))
    arguments = ["--profile", "smoke"]
    pipeline.main(arguments)
    assert "3 of 3 notebooks to run" in capsys.readouterr().out
    reproduce(run, project)
    pipeline.main(arguments)
    assert capsys.readouterr().out.startswith("Nothing to do: all 3 notebooks of ml-100k/smoke/seed-0")
    with pytest.raises(SystemExit, match="error: unknown profile 'labtop'"):
        pipeline.main(["--profile", "labtop"])


# The committed chain.

def committed(name: str) -> chain.Source:
    path = PROJECT.notebooks / f"{name}.ipynb"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    return chain.scan_notebook(path)


def test_every_artifact_is_written_once_and_before_it_is_read():
    written: list[str] = []
    for name, step in STEPS.items():
        assert set(step.reads) <= set(written), name
        written += step.writes
    assert len(written) == len(set(written))


def test_makefile_names_the_same_notebooks():
    text = (artifacts.ROOT / "Makefile").read_text().replace("\\\n", " ")
    names = next(line for line in text.splitlines() if line.startswith("NAMES ="))
    assert names.split("=")[1].split() == list(STEPS)
    for before, after in zip(list(STEPS), list(STEPS)[1:], strict=False):
        assert f"$(RUN)/fingerprints/{after}.json: $(RUN)/notebooks/{before}.ipynb" in text


@pytest.mark.parametrize("name", STEPS)
def test_the_table_names_what_notebook_and_modules_name(name):
    notebook, package, step = committed(name), chain.scan_package(PROJECT.package), STEPS[name]
    modules = set(chain.used_modules(notebook, package)) - {"report"}  # it names what `make reference` copies
    text = notebook.text + "".join(package[module].text for module in modules)
    earlier = [artifact for other in list(STEPS)[:list(STEPS).index(name) + 1] for artifact in STEPS[other].writes]
    named = {artifact for artifact in earlier if f'"{artifact}"' in text}
    assert named <= {*step.reads, *step.writes}, "add them to eestudy/chain.py"


@pytest.mark.parametrize("name", STEPS)
def test_the_table_names_the_settings_that_are_used(name):
    notebook, package = committed(name), chain.scan_package(PROJECT.package)
    modules = [package[module].text for module in chain.used_modules(notebook, package)]
    sections = "|".join(set(config.StudyConfig.model_fields) - {"profile", "seed"})
    used = {match for text in (notebook.text, *modules)
            for match in re.findall(rf"\b(?:cfg|settings)\.((?:{sections})\b(?:\.[a-z]\w*)?)", text)}
    table = STEPS[name].settings
    unknown = {setting for setting in used if setting not in table and setting.split(".")[0] not in table}
    assert not unknown, "add them to eestudy/chain.py"


def test_policies_rerun_06_to_09_and_never_the_llm():
    package = chain.scan_package(PROJECT.package)
    users = [name for name in STEPS if "exit_policies" in chain.used_modules(committed(name), package)]
    assert "06_exit_policies" in users
    assert not set(users) & set(list(STEPS)[:6])


def test_a_notebook_says_which_must_come_first(run):
    assert chain.unfinished(run, "01_data") == {} and chain.require(run, "01_data") is None
    with pytest.raises(artifacts.ArtifactError) as stopped:
        chain.require(run, "04_prompts")
    said = str(stopped.value).splitlines()
    assert [line.split()[0] for line in said if line.startswith("  ")] == [
        "01_data.ipynb", "02_baselines.ipynb", "03_graph_retriever.ipynb"]
    assert said[-1].endswith("make reproduce DATASET=ml-100k PROFILE=smoke SEED=0")
    for name in STEPS["04_prompts"].reads:
        artifacts.write_bytes(run, name, b"x")
    assert chain.require(run, "04_prompts") is None
    run.path("evidence.parquet").unlink()
    assert chain.unfinished(run, "04_prompts") == {"02_baselines": ["baseline_scores.parquet"],
                                                   "03_graph_retriever": ["evidence.parquet"]}


def test_in_a_notebook_an_error_of_ours_is_its_message_alone(run, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    result = InteractiveShell().run_cell("from eestudy import artifacts\nraise artifacts.ArtifactError('do this')")
    assert isinstance(result.error_in_exec, artifacts.ArtifactError)
    assert capsys.readouterr().out.strip() == "do this"


# The real Makefile, on a chain of stand-ins.

@pytest.fixture
def make(tmp_path):
    """Call the real Makefile's `reproduce` with stand-ins; returns (status, output, notebooks that ran)."""
    if stand_in.MAKE is None:
        pytest.skip("make is not installed")
    command, log = stand_in.lay(tmp_path), tmp_path / "log.txt"

    def call():
        log.unlink(missing_ok=True)
        done = subprocess.run(command, cwd=artifacts.ROOT, env=stand_in.environment(), text=True,  # noqa: S603
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        ran = [line.split()[1][:2] for line in log.read_text().splitlines() if line.startswith("eestudy.execution")]
        return done.returncode, done.stdout, ran

    return call


ALL = [name[:2] for name in STEPS]


def test_make_runs_all_then_nothing_then_only_what_changed(make, tmp_path):
    status, output, ran = make()
    assert (status, ran) == (0, ALL), output
    assert "headline" in output
    status, output, ran = make()
    assert (status, ran) == (0, []) and "Nothing to do" in output, output
    (tmp_path / "package" / "exit_policies.py").write_text("x = 2\n")
    assert make()[::2] == (0, ["06", "07", "08", "09"])
    (tmp_path / "run/ml-100k/smoke/seed-0/02_baselines.json").unlink()
    assert make()[::2] == (0, ["02"])
    write_notebook(tmp_path / "notebooks", "07_latency", "from eestudy import exit_policies", "y = 1")
    assert make()[::2] == (0, ["07", "08"])
    assert make()[::2] == (0, [])


def test_make_fails_each_time_with_the_error_last_and_goes_on_after_a_kill(make, tmp_path):
    (tmp_path / "fail-01_data").touch()
    for expected in (["00", "01"], ["01"]):
        status, output, ran = make()
        assert status != 0 and ran == expected
        error, make_line = output.strip().splitlines()[-2:]
        assert error == "ValueError: row 3 of ratings.csv" and make_line.startswith("make: ***")
    (tmp_path / "fail-01_data").unlink()
    for name in ("02_baselines", "05_exit_heads", "08_tradeoff"):
        (tmp_path / f"kill-{name}").touch()
    assert make()[2] == ["01", "02"]
    assert make()[2] == ["02", "03", "04", "05"]
    assert make()[2] == ["05", "06", "07", "08"]
    assert make()[::2] == (0, ["08", "09"])
    assert make()[::2] == (0, [])
