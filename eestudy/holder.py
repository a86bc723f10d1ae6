"""Who works in a run's folder: one `make` at a time. Whoever comes second is told who it is.

The holder is the outermost make (the Makefile exports its process id as EESTUDY_HOLDER), or this process where there is
none. The record names also the step that works for it: where make alone was killed, its step may still be writing.
A holder that is gone, with its step, holds nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from datetime import datetime
from pathlib import Path

import psutil

from eestudy.artifacts import ArtifactError, Run

RECORD = "holder.json"


class HeldError(RuntimeError):
    """Somebody else works in the run's folder; the message says who, where and since when."""


def hold(run: Run) -> None:
    """Take a run's folder for this make; a folder that it holds already stays its own.

    Args:
        run: the run.

    Raises:
        HeldError: another make that is still there, or one on another machine, holds it.
        ArtifactError: the folder cannot be written to.
    """
    holder = int(os.environ.get("EESTUDY_HOLDER") or os.getpid())
    path, mine = run.path(RECORD), _processes(holder, os.getpid())
    try:
        with open(path, "a+") as record:
            fcntl.flock(record, fcntl.LOCK_EX)  # for this look at it only: two that come at once
            record.seek(0)
            known = _known(record.read())
            if known and str(holder) not in known["processes"] and _is_there(known):
                raise HeldError(_refusal(run, known))
            record.truncate(0)
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            json.dump({"host": socket.gethostname(), "since": since, "holder": holder, "processes": mine}, record)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written ({error.strerror}); name another folder: RUN_DIR=...") from error


def _processes(*pids: int) -> dict[str, float]:
    """Process ids with the time at which each was started: a number may come again, the two together do not."""
    return {str(pid): psutil.Process(pid).create_time() for pid in pids if psutil.pid_exists(pid)}


def _known(text: str) -> dict:
    """What the record says; {} where there is none, or a half-written one: its writer is gone."""
    try:
        known = json.loads(text)
        return known if {"host", "since", "holder", "processes"} <= set(known) else {}
    except (ValueError, TypeError):
        return {}


def _is_there(known: dict) -> bool:
    """Whether one of the processes runs; of another machine that cannot be seen from here."""
    return known["host"] != socket.gethostname() or any(map(_runs, known["processes"], known["processes"].values()))


def _runs(pid: str, started: float) -> bool:
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _refusal(run: Run, known: dict) -> str:
    here = known["host"] == socket.gethostname()
    end = f"kill {known['holder']}" if here else f"delete {run.path(RECORD)}, once nothing runs there"
    return (f"process {known['holder']} on {known['host']} works in {run.root} since {known['since']}. "
            f"Wait for it, or end it ({end}), or name another folder: RUN_DIR=...")  # fmt: skip


def remove_orphans(folder: Path, held: bool = False) -> list[Path]:
    """Delete what killed writers left: temporary files and folders, `.<name>.<pid>.tmp`; returns them.

    Args:
        folder: where to look, and below.
        held: nobody else can be writing there; else what belongs to a running process stays.
    """
    orphans = [path for path in sorted(folder.rglob(".*.tmp")) if (found := re.search(r"\.(\d+)\.tmp$", path.name))
               and (held or not psutil.pid_exists(int(found[1])))]  # fmt: skip
    for path in orphans:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return orphans
