"""Named artifacts of a run: written atomically, verified by sha256 when read, with their provenance beside them.

Every artifact `x.parquet` has a sidecar `x.parquet.meta.json` with its sha256, its size, its columns and who
wrote it. A file without a sidecar, or one that does not match it, is an error that names the file and the
command which repairs it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

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
    """An artifact is missing, incomplete or not what its sidecar says."""


@dataclass(frozen=True)
class Run:
    """One run: its folder and the three parameters that name it."""

    root: Path
    dataset: str
    profile: str
    seed: int

    def path(self, name: str) -> Path:
        """Where the artifact `name` lies."""
        return self.root / name

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
    """
    base = ROOT / (os.environ.get("RUN_DIR") or "results/run")
    root = base / study_name(dataset) / profile / f"seed-{seed}"
    root.mkdir(parents=True, exist_ok=True)
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


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def write_bytes(run: Run, name: str, content: bytes, **meta) -> Path:
    """Write one artifact and its sidecar.

    Args:
        run: the run.
        name: file name inside the run's folder, with its ending.
        content: the bytes.
        meta: anything JSON-serialisable to keep in the sidecar (columns, shapes, fingerprint).

    Returns:
        The artifact's path.
    """
    path = run.path(name)
    record = {"sha256": sha256_bytes(content), "bytes": len(content), **meta}
    _sidecar(path).unlink(missing_ok=True)  # between the two writes the artifact counts as absent
    write_atomic(path, content)
    write_atomic(_sidecar(path), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    return path


def artifact_hash(run: Run, name: str) -> str | None:
    """The sha256 that the sidecar states, or None where the artifact is absent; reads no content."""
    path = run.path(name)
    if not path.exists() or not _sidecar(path).exists():
        return None
    return read_meta(run, name).get("sha256")


def read_meta(run: Run, name: str) -> dict:
    """The sidecar of an artifact; {} where there is none or it is unreadable."""
    try:
        return json.loads(_sidecar(run.path(name)).read_text())
    except (OSError, ValueError):
        return {}


def read_bytes(run: Run, name: str) -> bytes:
    """Read one artifact and hold it to its sidecar.

    Raises:
        ArtifactError: missing, without sidecar, or of another hash; the message says how to repair it.
    """
    path, meta = run.path(name), read_meta(run, name)
    if not path.exists() or "sha256" not in meta:
        raise ArtifactError(f"{path} is missing: an earlier notebook has not finished. Run: {run.command}")
    content = path.read_bytes()
    if sha256_bytes(content) != meta["sha256"]:
        raise ArtifactError(
            f"{path} is damaged: its sha256 is {sha256_bytes(content)}, expected {meta['sha256']}. "
            f"Delete it and run: {run.command}"
        )
    return content


def write_table(run: Run, name: str, frame: pd.DataFrame, **meta) -> Path:
    """Write a frame as `name`.parquet or .csv (chosen by the ending); the index is not kept."""
    columns = {column: str(dtype) for column, dtype in frame.dtypes.items()}
    if name.endswith(".csv"):
        content = frame.to_csv(index=False, lineterminator="\n").encode()
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    return write_bytes(run, name, content, rows=len(frame), columns=columns, **meta)


def read_table(run: Run, name: str) -> pd.DataFrame:
    """Read a frame written by `write_table`."""
    import pandas as pd

    content = io.BytesIO(read_bytes(run, name))
    return pd.read_csv(content) if name.endswith(".csv") else pd.read_parquet(content)


def write_json(run: Run, name: str, value, **meta) -> Path:
    """Write JSON, keys sorted, NaN refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return write_bytes(run, name, text.encode(), **meta)


def read_json(run: Run, name: str):
    """Read JSON written by `write_json`."""
    return json.loads(read_bytes(run, name))


def write_arrays(run: Run, name: str, arrays: Mapping[str, np.ndarray], **meta) -> Path:
    """Write named arrays as safetensors."""
    arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    shapes = {key: list(value.shape) for key, value in arrays.items()}
    return write_bytes(run, name, save_tensors(arrays), shapes=shapes, **meta)


def read_arrays(run: Run, name: str) -> dict[str, np.ndarray]:
    """Read arrays written by `write_arrays`."""
    return load_tensors(read_bytes(run, name))


def is_current(run: Run, name: str, wanted: str) -> bool:
    """Whether `name` is whole and carries the fingerprint `wanted`; what is not is to be made again."""
    try:
        return read_meta(run, name).get("fingerprint") == wanted and bool(read_bytes(run, name))
    except ArtifactError:
        return False


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
