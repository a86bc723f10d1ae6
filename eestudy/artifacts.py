"""Named artifacts of a run: written atomically, verified by sha256 when read, with their provenance beside them.

Every artifact `x.parquet` has a sidecar `x.parquet.meta.json` with its sha256, its size, its columns, the run it
belongs to, and a hash of the sidecar itself. A file without a sidecar, or one that does not match it, is an error that
names the file and the command which repairs it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from eestudy.untrusted import as_cell, from_cell

if TYPE_CHECKING:  # imported where it is used: half of a second, and make asks for nothing but hashes
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
# the tables of `make bench`
BENCH = tuple(f"bench_{part}.csv" for part in (
    "choices", "race", "quality", "ours", "startup", "growth", "stages", "service", "real",
))  # fmt: skip
# the table of `make retrievers`
RETRIEVERS = "retrievers.csv"
PROBES = "probes.csv"  # `make probes`
ABLATIONS = tuple(f"ablation_{name}.csv" for name in ("comparisons", "curves", "seeds", "duels"))  # `make ablations`
# the tables of `make scale`
SCALE = tuple(f"scale_{part}.csv" for part in ("reading", "graph", "search"))


class ArtifactError(RuntimeError):
    """An artifact is missing, incomplete or not what its sidecar says; the message says what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, by IPython's protocol: the message. Where it was raised would only hide it."""
        return [str(self)]


@dataclass(frozen=True)
class Run:
    """One run: its folder and the three parameters that name it."""

    root: Path
    dataset: str
    profile: str
    seed: int

    def path(self, name: str) -> Path:
        """Where the artifact `name` lies.

        Raises:
            ArtifactError: the name leads out of the run's folder.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{name!r} is no name inside a run's folder")
        return self.root / name

    @property
    def name(self) -> str:
        """Which run it is, wherever its folder lies: dataset, profile, seed."""
        return f"{study_name(self.dataset)}/{self.profile}/seed-{self.seed}"

    @property
    def command(self) -> str:
        """The command that makes or repairs this run."""
        return f"make reproduce DATASET={self.dataset} PROFILE={self.profile} SEED={self.seed}"


def study_name(dataset: str) -> str:
    """What a dataset's folders are called: its name; a study on own data is named by its toml."""
    return Path(dataset).stem if dataset.endswith(".toml") else dataset


def open_run(dataset: str, profile: str, seed: int) -> Run:
    """The run's record; its folder is made when missing.

    RUN_DIR (environment) replaces `results/run`; like that, a relative one starts at the project's root, since a
    notebook's kernel may stand anywhere.

    Raises:
        ArtifactError: names that cannot be folders, or a folder that cannot be made.
    """
    if not all(re.fullmatch(r"\w[\w.-]*", name) for name in (study_name(dataset), profile)):
        raise ArtifactError(f"dataset {dataset!r} and profile {profile!r} cannot name folders")
    base = ROOT / (os.environ.get("RUN_DIR") or "results/run")
    root = base / study_name(dataset) / profile / f"seed-{seed}"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{root} cannot be made ({error.strerror}); name another folder: RUN_DIR=...") from error
    return Run(root, dataset, profile, seed)


def asset_dir() -> Path:
    """Where fetched and converted assets are kept: ASSET_DIR (environment) or `results/assets`, from the root."""
    return ROOT / (os.environ.get("ASSET_DIR") or "results/assets")


def data_dir() -> Path:
    """Where files that the reader brings lie, one folder a dataset: DATA_DIR (environment) or `results/data`."""
    return ROOT / (os.environ.get("DATA_DIR") or "results/data")


def reference_dir() -> Path:
    """Where committed results lie, `<dataset>/<profile>` below it."""
    return ROOT / "results" / "reference"


def sha256_bytes(content: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(parts: Mapping) -> str:
    """Hex sha256 of a JSON-serialisable mapping, independent of key order."""
    return sha256_bytes(json.dumps(parts, sort_keys=True, default=str).encode())


def _damaged(run: Run, path: Path, found: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: its sha256 is {found}, expected {expected}. Delete it and run: {run.command}"
    )


def refuse_nonfinite(values: np.ndarray, what: str, error: type[Exception] = ArtifactError) -> None:
    """Stop at a NaN or an infinity, before it becomes a score.

    Args:
        values: an array of any shape and type.
        what: what it is, for the message.
        error: which exception is raised.

    Raises:
        error: names the first row (along the first axis, from 0) that holds one.
    """
    values = np.atleast_1d(values)
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return
    row = int(np.argwhere(~np.isfinite(values))[0, 0])
    raise error(f"{what}: row {row} holds a value that is not finite (NaN or infinity)")


@contextmanager
def _staged(path: Path, content: bytes) -> Iterator[Path]:
    """The content beside `path`, as a temporary file that is on the disk inside the block and gone after it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        yield temporary
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written ({error.strerror or error}); what was there before still is. Free space, or "
            "name a folder that can be written (RUN_DIR=... ASSET_DIR=...), and give the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes so that a reader sees the old file or the whole new one, never a part.

    Raises:
        ArtifactError: no space, no permission; the old file stays as it was.
    """
    with _staged(path, content) as temporary:
        os.replace(temporary, path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def write_bytes(run: Run, name: str, content: bytes, **meta) -> Path:
    """Write one artifact and its sidecar: both are on the disk before the old ones are touched.

    Args:
        run: the run.
        name: file name inside the run's folder, with its ending.
        content: the bytes.
        meta: anything JSON-serialisable to keep in the sidecar (columns, shapes, fingerprint).

    Returns:
        The artifact's path.

    Raises:
        ArtifactError: as `write_atomic`.
    """
    path, record = run.path(name), {"sha256": sha256_bytes(content), "bytes": len(content), "of": f"{run.name}/{name}"}
    record = json.loads(json.dumps({**record, **meta}))  # as it will be read
    record["record_sha256"] = fingerprint(record)
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    with _staged(path, content) as new, _staged(_sidecar(path), text.encode()) as new_sidecar:
        _sidecar(path).unlink(missing_ok=True)  # in between the artifact counts as absent
        os.replace(new, path)
        os.replace(new_sidecar, _sidecar(path))
    return path


def artifact_hash(run: Run, name: str) -> str | None:
    """The sha256 that the sidecar states, or None where the artifact is absent; reads no content."""
    path = run.path(name)
    if not path.exists() or not _sidecar(path).exists():
        return None
    return read_meta(run, name).get("sha256")


def _read_record(run: Run, name: str) -> dict:
    """The sidecar, held to the hash of itself that it carries, and to the artifact's name.

    Raises:
        ArtifactError: it is missing, damaged, or another run's or artifact's.
    """
    path = _sidecar(run.path(name))
    if not path.exists() or not run.path(name).exists():
        raise ArtifactError(f"{run.path(name)} is missing: an earlier notebook has not finished. Run: {run.command}")
    content, whole = path.read_bytes(), "that of a whole record"
    try:
        record = json.loads(content)
        wanted = record.pop("record_sha256", None)  # older sidecars have none
    except (ValueError, AttributeError, TypeError) as error:
        raise _damaged(run, path, sha256_bytes(content), whole) from error
    if "sha256" not in record or wanted not in (None, fingerprint(record)):
        raise _damaged(run, path, fingerprint(record), wanted or whole)
    if record.get("of", f"{run.name}/{name}") != f"{run.name}/{name}":
        raise ArtifactError(
            f"{run.path(name)} is another one: it is {record['of']} (sha256 {record['sha256']}), expected "
            f"{run.name}/{name}. Delete it and run: {run.command}"
        )
    return record


def read_meta(run: Run, name: str) -> dict:
    """The sidecar of an artifact; {} where there is none that can be trusted."""
    try:
        return _read_record(run, name)
    except ArtifactError:
        return {}


def read_bytes(run: Run, name: str) -> bytes:
    """Read one artifact and hold it to its sidecar.

    Raises:
        ArtifactError: missing, damaged, or another run's; the message says how to repair it.
    """
    path, record = run.path(name), _read_record(run, name)
    content = path.read_bytes()
    if (found := sha256_bytes(content)) != record["sha256"]:
        raise _damaged(run, path, found, record["sha256"])
    return content


def write_table(run: Run, name: str, frame: pd.DataFrame, **meta) -> Path:
    """Write a frame as `name`.parquet or .csv (chosen by the ending); the index is not kept.

    In CSV, text that a spreadsheet would take for a formula gets a quotation mark in front; `read_table` takes it off.
    """
    columns = {column: str(dtype) for column, dtype in frame.dtypes.items()}
    if name.endswith(".csv"):
        content = _turn_cells(frame, as_cell).to_csv(index=False, lineterminator="\n").encode()
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    return write_bytes(run, name, content, rows=len(frame), columns=columns, **meta)


def read_table(run: Run, name: str) -> pd.DataFrame:
    """Read a frame written by `write_table`."""
    import pandas as pd

    content = io.BytesIO(read_bytes(run, name))
    return read_csv(content) if name.endswith(".csv") else pd.read_parquet(content)


def read_csv(source: Path | io.BytesIO) -> pd.DataFrame:
    """A CSV that `write_table` wrote, wherever it was copied: its cells of text are again what they were."""
    import pandas as pd

    return _turn_cells(pd.read_csv(source), from_cell)


def committed_dir(run: Run) -> Path:
    """Where the committed reference of a run's dataset and profile lies."""
    return reference_dir() / study_name(run.dataset) / run.profile


def measured_or_committed(run: Run, name: str) -> pd.DataFrame:
    """A table of the run, else of its committed reference, else an empty frame.

    Args:
        run: the study's.
        name: with its ending, .csv.
    """
    import pandas as pd

    if artifact_hash(run, name):
        return read_table(run, name)
    path = committed_dir(run) / name
    return read_csv(path) if path.exists() else pd.DataFrame()


def _turn_cells(frame: pd.DataFrame, turn) -> pd.DataFrame:
    """The frame with `turn` applied to its cells of text; a column in which nothing changes stays what it is."""
    changed = {}
    for column in frame.select_dtypes(exclude=["number", "bool", "datetime"]):
        values = frame[column].tolist()
        turned = [turn(value) for value in values]
        if any(new is not old for new, old in zip(turned, values, strict=True)):
            changed[column] = turned
    return frame.assign(**changed)


def write_json(run: Run, name: str, value, **meta) -> Path:
    """Write JSON, keys sorted, NaN refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return write_bytes(run, name, text.encode(), **meta)


def read_json(run: Run, name: str):
    """Read JSON written by `write_json`."""
    return json.loads(read_bytes(run, name))


def write_arrays(run: Run, name: str, arrays: Mapping[str, np.ndarray], **meta) -> Path:
    """Write named arrays as safetensors.

    Raises:
        ArtifactError: a value that is not finite; the message names array and row.
    """
    arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    for key, value in arrays.items():
        refuse_nonfinite(value, f"{name} is not written: {key}")
    shapes = {key: list(value.shape) for key, value in arrays.items()}
    return write_bytes(run, name, save_tensors(arrays), shapes=shapes, **meta)


def read_arrays(run: Run, name: str) -> dict[str, np.ndarray]:
    """Read arrays written by `write_arrays`."""
    return load_tensors(read_bytes(run, name))


def is_current(run: Run, name: str, wanted: str) -> bool:
    """Whether `name` is whole and carries the fingerprint `wanted`; what is not is to be made again.

    Damage is told on standard error, with both hashes: what is made anew says why.
    """
    path = run.path(name)
    if not path.exists() or not _sidecar(path).exists():
        return False
    try:
        return _read_record(run, name).get("fingerprint") == wanted and bool(read_bytes(run, name))
    except ArtifactError as error:
        print(f"note: {error}. Here it is made anew.", file=sys.stderr, flush=True)
        return False


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a whole folder where another was; between two renames nobody sees half of one.

    A kill between them leaves the old one beside it; the next call finds it there and takes it for what was there.

    Args:
        fresh: in the same file system, best beside `target`; gone afterwards.
        target: where it goes, whether there is a folder or not.
    """
    old = put_back(target)
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)


def put_back(target: Path) -> Path:
    """Undo what a killed `replace_folder` left half done; returns where it moves the old folder meanwhile."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)
    return old


def metric(name: str, value, unit: str, kind: str = "quality", split: str = "test", ci95=None, n=None) -> dict:
    """One entry of `metrics.json`; a value that was not measured is None, never 0."""
    number = None if value is None or not np.isfinite(value) else round(float(value), 6)
    interval = None if ci95 is None or number is None else [round(float(bound), 6) for bound in ci95]
    return {"name": name, "value": number, "ci95": interval, "n": None if n is None else int(n),
            "unit": unit, "kind": kind, "split": split}


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, numpy and (when loaded) torch; returns a numpy generator of its own."""
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    return np.random.default_rng(seed)


@contextmanager
def stopwatch(record: dict, name: str):
    """Add the seconds spent inside the block to `record[name]`."""
    start = time.perf_counter()
    yield
    record[name] = record.get(name, 0.0) + time.perf_counter() - start
