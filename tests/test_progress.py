"""Progress hands on every item, and under make prints plain lines that can be removed again."""

import subprocess
import sys

import pytest

from eestudy import progress as module
from eestudy.progress import progress


@pytest.mark.parametrize("plain", ["", "1"])
def test_every_item_in_order(monkeypatch, plain):
    monkeypatch.setenv("EESTUDY_PLAIN_PROGRESS", plain)
    assert list(progress([3, 1, 2], "reading")) == [3, 1, 2]
    assert list(progress(iter("ab"), "reading", total=2)) == ["a", "b"]


def test_a_bar_is_for_whoever_looks_on_and_is_no_error(monkeypatch, capsys):
    monkeypatch.setenv("EESTUDY_PLAIN_PROGRESS", "")
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the libraries' bars are
    list(progress(range(3), "scoring"))
    out, err = capsys.readouterr()
    assert "scoring: 100%|" in out and "3/3" in out and err == ""


def test_plain_lines_say_what_is_left(monkeypatch, capsys):
    monkeypatch.setenv("EESTUDY_PLAIN_PROGRESS", "1")
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    list(progress(range(4), "scoring", unit="request", initial=6))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("[progress] scoring: ") for line in lines)
    assert lines[0].startswith("[progress] scoring: 7/10 requests") and "min left" in lines[0]
    assert lines[-1].startswith("[progress] scoring: 10/10 requests")


def test_quick_work_prints_nothing(monkeypatch, capsys):
    monkeypatch.setenv("EESTUDY_PLAIN_PROGRESS", "1")
    list(progress(range(100), "scoring"))
    assert capsys.readouterr().out == ""


def test_memory_is_that_of_the_process_alone():
    here = bytearray(300 * 2**20)  # held while the other process starts
    here[:: 2**12] = b"x" * len(here[:: 2**12])
    code = "from eestudy.progress import most_held_mb; print(most_held_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    held = float(done.stdout)
    assert module.most_held_mb() > 300 > held > 5
