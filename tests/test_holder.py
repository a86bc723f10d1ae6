"""One make at a time works in a run's folder; the dead hold nothing."""

import json
import os
import subprocess
import sys

import pytest

from eestudy import holder
from eestudy.holder import HeldError, hold


@pytest.fixture
def other():
    """A process that runs until the test ends."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_whoever_holds_it_is_named_and_its_own_steps_go_on(run, other, monkeypatch):
    monkeypatch.setenv("EESTUDY_HOLDER", str(other.pid))
    hold(run)
    hold(run)
    monkeypatch.setenv("EESTUDY_HOLDER", str(os.getppid()))
    record = json.loads(run.path(holder.RECORD).read_text())
    record["processes"].pop(str(os.getpid()))  # the step has ended, its make goes on
    run.path(holder.RECORD).write_text(json.dumps(record))
    with pytest.raises(HeldError, match=rf"process {other.pid} on .* works in .* since 20.*kill {other.pid}"):
        hold(run)
    other.kill()
    other.wait()
    hold(run)
    assert json.loads(run.path(holder.RECORD).read_text())["holder"] == os.getppid()


def test_a_step_that_outlives_its_make_still_holds(run, other, monkeypatch):
    monkeypatch.setenv("EESTUDY_HOLDER", "999999999")
    hold(run)
    record = json.loads(run.path(holder.RECORD).read_text())
    assert list(record["processes"]) == [str(os.getpid())]
    monkeypatch.setenv("EESTUDY_HOLDER", str(other.pid))
    with pytest.raises(HeldError, match="process 999999999"):
        hold(run)


def test_a_number_that_came_again_is_another_process(run, other, monkeypatch):
    monkeypatch.setenv("EESTUDY_HOLDER", str(other.pid))
    hold(run)
    record = json.loads(run.path(holder.RECORD).read_text())
    record["processes"] = {pid: started - 60 for pid, started in record["processes"].items()}
    run.path(holder.RECORD).write_text(json.dumps(record))
    monkeypatch.setenv("EESTUDY_HOLDER", str(os.getppid()))
    hold(run)


def test_another_machine_is_believed_and_a_torn_record_is_not(run):
    elsewhere = {"host": "elsewhere", "since": "2026-01-01", "holder": 1, "processes": {"1": 0.0}}
    run.path(holder.RECORD).write_text(json.dumps(elsewhere))
    with pytest.raises(HeldError, match=r"process 1 on elsewhere .*delete .*holder\.json, once nothing runs there"):
        hold(run)
    for torn in ("", "{", "3", '{"host": 1}'):
        run.path(holder.RECORD).write_text(torn)
        hold(run)
