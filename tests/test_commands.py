"""A command that cannot go on ends with one line."""

import os
import signal
import subprocess
import sys

import duckdb
import pytest
from papermill.exceptions import PapermillExecutionError

from eestudy import execution
from eestudy.artifacts import ROOT
from eestudy.commands import GO_ON, INTERRUPTED, MORE_MEMORY, ends_plainly, hear_ctrl_c_from_the_start

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    pass
"""


def ended(error, *kinds):
    with pytest.raises(SystemExit) as stopped, ends_plainly(*kinds):
        raise error
    return stopped.value.code


def test_errors_that_are_expected_become_one_line():
    assert ended(ValueError("row 3"), ValueError) == "error: row 3"
    assert ended(ValueError("a\x1b[2J"), ValueError) == "error: a [2J"
    assert ended(OSError(28, "No space left on device")) == "error: [Errno 28] No space left on device"


@pytest.mark.parametrize("error", [MemoryError(), duckdb.OutOfMemoryException("Failed to allocate block of 2048 bytes"),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
                                   OSError(12, "Cannot allocate memory")])  # fmt: skip
def test_a_lack_of_memory_is_told_whoever_ran_out_of_it(error):
    assert ended(error, ValueError) == f"error: {MORE_MEMORY}"


def test_errors_that_are_not_expected_stay_errors():
    with pytest.raises(RuntimeError, match="a mistake"), ends_plainly(ValueError):
        raise RuntimeError("a mistake")


def test_ctrl_c_says_how_to_go_on(capsys):
    assert ended(KeyboardInterrupt()) == INTERRUPTED and capsys.readouterr().err == f"\n{GO_ON}\n"


@pytest.mark.parametrize(("module", "arguments"), [
    ("pandas", ["eestudy.report", "summary"]), ("papermill", ["eestudy.execution", "00_start_here"])])
def test_ctrl_c_is_heard_while_a_library_is_imported_that_swallows_it(module, arguments, tmp_path):
    (tmp_path / f"{module}.py").write_text(SWALLOWS)
    ended = subprocess.run([sys.executable, "-m", *arguments, "--dataset", "ml-100k", "--profile", "smoke"], cwd=ROOT,  # noqa: S603
                           capture_output=True, text=True, check=False, timeout=60,
                           env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "RUN_DIR": str(tmp_path / "run")},
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert (ended.returncode, ended.stderr.strip()) == (INTERRUPTED, GO_ON)


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        hear_ctrl_c_from_the_start()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        hear_ctrl_c_from_the_start()
        assert signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.default_int_handler)
        with ends_plainly():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("said", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
                                  "Out of Memory Error: Allocation failure", "std::bad_alloc",
                                  "unable to mmap 9086 bytes from file <m.safetensors>: Cannot allocate memory (12)",
                                  "libtorch_cpu.so: failed to map segment from shared object"])  # fmt: skip
def test_a_notebook_that_lacks_memory_says_what_to_do(said):
    lines = execution._describe(PapermillExecutionError(3, 1, "", "SomeError", said, ["in the cell"])).splitlines()
    assert lines[-2:] == [f"cell 3: SomeError: {said}", f"There is {MORE_MEMORY}."]


def test_a_notebook_that_had_no_room_for_its_own_error_says_what_to_do():
    lines = execution._describe(PapermillExecutionError(3, 1, "", "CellExecutionError", "", [])).splitlines()
    assert lines[-2].startswith("cell 3: CellExecutionError") and lines[-1].endswith(f"{MORE_MEMORY}.")


def test_what_a_notebook_raises_otherwise_is_the_last_line():
    error = PapermillExecutionError(3, 1, "", "ValueError", "row 3 is wrong", ["in the cell"])
    lines = execution._describe(error).splitlines()
    assert lines[-1] == "cell 3: ValueError: row 3 is wrong"
