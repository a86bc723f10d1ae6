"""The real Makefile on a chain of stand-ins: ten notebooks that write one file each, and take no longer than asked."""

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat

from eestudy import artifacts
from eestudy.chain import STEPS

MAKE = shutil.which("make")
SCRIPT = """
import os, shutil, sys, time
sys.modules["rfc3987_syntax"] = None  # a checker of web addresses that nbformat can do without; 1.5 s each time
from pathlib import Path
from eestudy import artifacts, chain, execution, pipeline
here = Path({here!r})
names = list(chain.STEPS)
steps = {{name: chain.Step(reads=tuple(f"{{n}}.json" for n in names[max(i - 1, 0):i]), writes=(f"{{name}}.json",))
         for i, name in enumerate(names)}}
project = chain.Project(here / "notebooks", here / "package", steps)
if sys.argv[1] == "-c":
    sys.exit()
module, arguments = sys.argv[2], sys.argv[3:]
with open(here / "log.txt", "a") as log:
    log.write(f"{{module}} {{arguments[0]}}\\n")
def papermill(name, run, project, output):
    shutil.copy(project.notebooks / f"{{name}}.ipynb", output)
    if (here / f"fail-{{name}}").exists():
        raise ValueError("row 3 of ratings.csv")
    if (here / f"kill-{{name}}").exists():
        (here / f"kill-{{name}}").unlink()
        os.kill(os.getpid(), 9)
    time.sleep(float(os.environ.get("SECONDS_EACH", 0)))
    for read in project.steps[name].reads:
        artifacts.read_json(run, read)
    artifacts.write_json(run, f"{{name}}.json", (project.notebooks / f"{{name}}.ipynb").read_text())
    import nbformat
    return nbformat.read(output, as_version=4)
execution.run_papermill = papermill
pipeline.PROJECT = execution.PROJECT = project
pipeline.refresh.__defaults__ = pipeline.discard_damaged.__defaults__ = execution.execute.__defaults__ = (project,)
if module == "eestudy.pipeline":
    pipeline.main(arguments)
elif module == "eestudy.execution":
    execution.main(arguments)
elif module == "eestudy.report":
    print("headline")
"""


def write_notebook(folder: Path, name: str, *cells: str) -> None:
    """A notebook with the parameters cell and some code cells."""
    parameters = nbformat.v4.new_code_cell('dataset = "ml-100k"\nprofile = "laptop"\nseed = 0')
    parameters.metadata["tags"] = ["parameters"]
    codes = [nbformat.v4.new_code_cell(cell) for cell in cells]
    for number, cell in enumerate([parameters, *codes]):
        cell["id"] = f"cell-{number}"  # the same text every time
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[parameters, *codes], metadata=kernel)
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def lay(folder: Path) -> list[str]:
    """Lay notebooks, a package of one module, and the script that stands in for python; returns the make command."""
    package = folder / "package"
    package.mkdir(parents=True)
    (package / "exit_policies.py").write_text("x = 1\n")
    for number, name in enumerate(STEPS):
        write_notebook(folder / "notebooks", name, "from eestudy import exit_policies" if number >= 6 else "x = 1")
    script = folder / "python.py"
    script.write_text(SCRIPT.format(here=str(folder)))
    return command(folder / "run", f"PY={sys.executable} {script}")


def command(run_dir: Path, *others: str) -> list[str]:
    """`make reproduce` of the smoke profile into a folder, with the python that runs now."""
    return [MAKE or "make", "reproduce", "USE_CURRENT_ENV=1", "PROFILE=smoke", f"RUN_DIR={run_dir}", *others]


def environment(**more: str) -> dict[str, str]:
    """What a `make` of its own needs to see: nothing of the one that runs the tests."""
    inherited = {name: value for name, value in os.environ.items()
                 if not name.startswith("MAKE") and name not in ("EESTUDY_HOLDER", "SITE_DIR")}
    return {**inherited, "PYTHONPATH": str(artifacts.ROOT), **more}


def run_folder(run_dir: Path) -> Path:
    """Where such a run lies."""
    return run_dir / "ml-100k" / "smoke" / "seed-0"


def results(folder: Path) -> dict[str, str]:
    """Every stand-in's result by name, with the hash its sidecar vouches for."""
    run = artifacts.Run(folder, "ml-100k", "smoke", 0)
    return {name: json.dumps(artifacts.read_json(run, f"{name}.json")) for name in STEPS}
