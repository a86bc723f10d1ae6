"""Execute one notebook of the chain; its copy appears only when it is whole.

papermill writes its output even when a cell fails, so it writes to `failed/` of the run's folder, and the copy
is moved into place at the end. A notebook that fails leaves the unfinished copy there and its error as the
last thing printed. A notebook that is killed leaves nothing that counts: the next call goes on from what its
own long steps have kept.

    python -m eestudy.execution 05_exit_heads --dataset ml-100k --profile laptop --seed 0
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from eestudy import artifacts, assets, pipeline
from eestudy.chain import BESIDE, PROJECT, Project
from eestudy.commands import LACKS_MEMORY, MORE_MEMORY, end_at_once, ends_plainly
from eestudy.holder import HeldError, hold
from eestudy.untrusted import Terminal, terminal_text

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYTHONHASHSEED": "0",
    # about the libraries' bars, and about transformers' own calls
    "PYTHONWARNINGS": "ignore:IProgress not found,ignore:`is_gradient_checkpointing` is deprecated",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the libraries' bars; our own progress is plain lines, or a bar in JupyterLab
}
SECONDS_BETWEEN_RECORDS = 10
TRACEBACK_LINES = 25
PAPERMILL_ERROR = "papermill-error-cell-tag"  # of the two cells that papermill puts beside a failure
EXERCISE_TAGS = {"exercise", "solution", "check"}


def set_environment(bars: bool = False) -> None:
    """What the kernels inherit; a variable that is set already stays. Folders become absolute.

    Args:
        bars: somebody looks on, so our own progress is a bar.
    """
    for name, value in {**ENVIRONMENT, "EESTUDY_PLAIN_PROGRESS": "" if bars else "1"}.items():
        os.environ.setdefault(name, value)
    for name in ("RUN_DIR", "ASSET_DIR"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())


def _recorded_seconds(record: Path, fingerprint: str) -> float:
    try:
        kept = json.loads(record.read_text())
    except (OSError, ValueError):
        return 0.0
    return kept["seconds"] if kept["fingerprint"] == fingerprint else 0.0


@contextmanager
def active_seconds(record: Path, fingerprint: str) -> Iterator[Callable[[], float]]:
    """Count the seconds a notebook works, those of killed and failed attempts included.

    Args:
        record: a small file, rewritten every 10 s, so that a kill loses no more than that.
        fingerprint: attempts with another fingerprint do not count; their work was thrown away.

    Yields:
        A function that returns the seconds so far.
    """
    before, start, stop = _recorded_seconds(record, fingerprint), time.perf_counter(), threading.Event()

    def seconds() -> float:
        return before + time.perf_counter() - start

    def keep() -> None:
        artifacts.write_atomic(record, json.dumps({"fingerprint": fingerprint, "seconds": seconds()}).encode())

    def beat() -> None:
        while not stop.wait(SECONDS_BETWEEN_RECORDS):
            keep()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()
        keep()


def _clean(text: str, run: artifacts.Run) -> str:
    """Text without progress lines, and with paths that mean something elsewhere, too."""
    text = re.sub(r"^\[progress\].*\n?", "", text, flags=re.MULTILINE)
    for path, short in ((str(run.root), "run"), (f"{artifacts.ROOT}/", ""), (f"{sys.prefix}/", "")):
        text = text.replace(path, short)
    return text


def tidy(notebook, run: artifacts.Run, parts: dict):
    """The executed copy without progress lines and machine paths, and with the fingerprint it was made with.

    Args:
        notebook: an nbformat notebook; changed in place.
        run: the run it belongs to.
        parts: `pipeline.fingerprint_parts` of the moment it was started.

    Returns:
        The notebook.
    """
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _clean(output.text, run)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = _clean(content, run)
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream" or output.text]
    for private in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(private, None)
    notebook.metadata["eestudy"] = parts
    return notebook


def _describe(error: Exception) -> str:
    """Traceback's end, then the error itself, where the reader looks, then what to do where memory lacks."""
    if type(error).__name__ == "DeadKernelError":
        return f"the notebook's process was ended from outside, as the system does where there is {MORE_MEMORY}"
    if not hasattr(error, "ename"):
        return f"{type(error).__name__}: {error}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    last = f"cell {error.cell_index}: {error.ename}: {error.evalue}".strip()
    remedy = ""
    if LACKS_MEMORY.search("\n".join([*plain, last])):
        remedy = f"There is {MORE_MEMORY}."
    elif not plain:  # the kernel had no room left to write down its own error
        remedy = f"It could not say why, as happens where there is {MORE_MEMORY}."
    return "\n".join([*plain[-TRACEBACK_LINES:], "", last, remedy]).rstrip()


def run_papermill(name: str, run: artifacts.Run, project: Project, output: Path | None):
    """Run one notebook with the run's parameters; returns it executed, kept in `output` all along."""
    import papermill

    # In a thread of its own: in the main one it would take Ctrl-C for itself, and wait for the kernel.
    return ThreadPoolExecutor(1).submit(
        papermill.execute_notebook, project.notebooks / f"{name}.ipynb",
        output,
        parameters={"dataset": run.dataset, "profile": run.profile, "seed": run.seed},
        kernel_name="python3",
        progress_bar=False,
        stdout_file=Terminal(sys.stdout),
        stderr_file=Terminal(sys.stderr),
        # What it logs is about the kernel, not the study: papermill ends every kernel with an interrupt, too, and where
        # it still works that is an error to it. What a cell raises comes as its output.
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        cwd=project.package.parent,
    ).result()


def run_notebook(name: str, run: artifacts.Run, project: Project, output: Path):
    """`run_papermill`; where only an exercise fails on this data, the study goes on, and a line says so.

    The exercises come last and write nothing, so nothing is missing but the cells after the failing one.
    `EESTUDY_NEEDS_EXERCISES` in the environment makes their failure a failure: their own test sets it.
    """
    import nbformat
    from papermill.exceptions import PapermillExecutionError

    try:
        return run_papermill(name, run, project, output)
    except PapermillExecutionError as error:
        notebook = nbformat.read(output, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if PAPERMILL_ERROR not in cell.metadata.get("tags", [])]
        tags = set(notebook.cells[error.cell_index].metadata.get("tags", []))
        if os.environ.get("EESTUDY_NEEDS_EXERCISES") or not tags & EXERCISE_TAGS:
            raise
        print(f"{name}: an exercise does not fit this dataset, and the study does not need it: "
              f"{terminal_text(f'{error.ename}: {error.evalue}')}", flush=True)  # fmt: skip
        return notebook


def _record_duration(run: artifacts.Run, name: str, seconds: float) -> None:
    """Keep a notebook's duration in `durations.json`; times are in no fingerprint."""
    try:
        durations = artifacts.read_json(run, "durations.json")
    except artifacts.ArtifactError:
        durations = {}
    artifacts.write_json(run, "durations.json", {**durations, name: round(seconds, 1)})


def _begin(name: str, run: artifacts.Run) -> tuple[Path, Path]:
    """Where a notebook's unfinished copy lies, and where the finished one goes, of which none is left."""
    unfinished, copy = run.path("failed") / f"{name}.ipynb", pipeline.copy_path(run, name)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)  # its outputs are about to be overwritten: it stands for nothing any more
    return unfinished, copy


def execute(name: str, run: artifacts.Run, project: Project = PROJECT) -> Path:
    """Execute a notebook; on success move its copy into place and refresh the fingerprints after it.

    Args:
        name: a notebook of the chain.
        run: the run.
        project: notebooks, package and chain.

    Returns:
        The executed copy's path.

    Raises:
        Exception: whatever the notebook raised; the unfinished copy lies in `failed/` of the run's folder.
        artifacts.ArtifactError: the notebook ended without one of the outputs that the chain's table names.
    """
    import nbformat

    set_environment()
    parts = pipeline.fingerprint_parts(name, run, project)
    unfinished, copy = _begin(name, run)
    record = unfinished.with_suffix(".seconds.json")
    with active_seconds(record, artifacts.fingerprint(parts)) as seconds:
        notebook = run_notebook(name, run, project, unfinished)
        if missing := pipeline.missing_outputs(run, project.steps[name]):
            raise artifacts.ArtifactError(f"{name} ended without writing {', '.join(missing)} (see eestudy/chain.py)")
        total = seconds()
    _record_duration(run, name, total)
    tidy(notebook, run, parts).metadata["eestudy_outputs"] = {
        output: artifacts.artifact_hash(run, output) for output in project.steps[name].writes
    }
    artifacts.write_bytes(run, pipeline.copy_name(name), nbformat.writes(notebook).encode())
    unfinished.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    pipeline.refresh(run, project)
    return copy


def execute_beside(name: str, run: artifacts.Run, made_from: str, project: Project = PROJECT) -> Path:
    """Execute a notebook outside the order of the chain: always anew, and nothing is asked to be up to date.

    Args:
        name: of the notebook.
        run: whose tables it reads, where it reads any; its copy goes there.
        made_from: 'reference' or 'own files', kept in the copy in place of a fingerprint.
        project: where the notebooks lie.

    Returns:
        The executed copy's path.

    Raises:
        Exception: whatever the notebook raised; the unfinished copy lies in `failed/` of the run's folder.
    """
    import nbformat

    set_environment()
    unfinished, copy = _begin(name, run)
    notebook = run_notebook(name, run, project, unfinished)
    text = nbformat.writes(tidy(notebook, run, {"made_from": made_from}))
    artifacts.write_bytes(run, pipeline.copy_name(name), text.encode())
    unfinished.unlink(missing_ok=True)
    return copy


def _end_now(*_) -> None:
    """The answer to Ctrl-C: end what was started here, too. papermill's thread would hold up an ordinary end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    with suppress(RuntimeError):  # it came in the middle of a write
        sys.stdout.flush()
    end_at_once()


@contextmanager
def _ctrl_c_ends_now() -> Iterator[None]:
    """No exception: a library that is being imported may swallow it. Ignored stays ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.default_int_handler, end_at_once):
        signal.signal(signal.SIGINT, _end_now)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> None:
    """Execute one notebook for make; a failure ends with status 1 and the error as the last line."""
    parser = pipeline.parameters("Execute one notebook.")
    parser.add_argument("notebook", choices=[*PROJECT.steps, *BESIDE])
    given = parser.parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError, HeldError):
        name, run = given.notebook, artifacts.open_run(given.dataset, given.profile, given.seed)
        hold(run)
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    try:
        with _ctrl_c_ends_now():
            execute_beside(name, run, "own files") if name in BESIDE else execute(name, run)
    except Exception as error:
        sys.stdout.flush()
        sys.exit(
            f"\n{name} failed. The notebook as far as it got: {run.path('failed') / name}.ipynb\n"
            f"{terminal_text(_describe(error))}"
        )
    print(f"== {name} done in {(time.perf_counter() - start) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    with _ctrl_c_ends_now():
        main()
        sys.stdout.flush()
        os._exit(0)  # an ordinary end takes a while, in which Ctrl-C would find nobody who says how to go on
