"""A command that cannot go on ends with one line."""

import pytest

from eestudy.commands import GO_ON, INTERRUPTED, ends_plainly


def ended(error, *kinds):
    with pytest.raises(SystemExit) as stopped, ends_plainly(*kinds):
        raise error
    return stopped.value.code


def test_errors_that_are_expected_become_one_line():
    assert ended(ValueError("row 3"), ValueError) == "error: row 3"
    assert ended(ValueError("a\x1b[2J"), ValueError) == "error: a [2J"
    assert ended(OSError(28, "No space left on device")) == "error: [Errno 28] No space left on device"
    assert "not enough memory" in ended(MemoryError())


def test_errors_that_are_not_expected_stay_errors():
    with pytest.raises(RuntimeError, match="a mistake"), ends_plainly(ValueError):
        raise RuntimeError("a mistake")


def test_ctrl_c_says_how_to_go_on(capsys):
    assert ended(KeyboardInterrupt()) == INTERRUPTED and capsys.readouterr().err == f"\n{GO_ON}\n"
