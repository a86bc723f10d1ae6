"""Every kind of artifact with a byte flipped, cut, emptied, or swapped with another run's: noticed before use."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from eestudy import artifacts, assets, pipeline
from eestudy.artifacts import ArtifactError, Run
from eestudy.chain import STEPS
from faults.kills import make_download
from faults.outcome import Outcome

# what is expected may be what is damaged: where that is a file's name, no file is found
HASHES = re.compile(r"sha256 (is )?([0-9a-f]{64}|that of no file).*expected \S+", re.DOTALL)
REPAIR = re.compile(r"Run: (make|rm)|run: make")


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One byte is another one."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def emptied(content: bytes, rng: random.Random) -> bytes:
    """Nothing is left."""
    return b""


DAMAGES = {"flipped": flipped, "cut": cut, "emptied": emptied}


def is_told(message: str, path: Path) -> bool:
    """Whether a message names the file (or its sidecar), the hash that was found, the one expected, and a command."""
    return str(path) in message and bool(HASHES.search(message)) and bool(REPAIR.search(message))


def _write_all(run: Run, rng: np.random.Generator) -> dict[str, Callable[[Run, str], object]]:
    """One artifact of every kind; returns how each is read."""
    frame = pd.DataFrame({"row": range(50), "p_yes_6": rng.random(50), "title": [f"Film {k}" for k in range(50)]})
    artifacts.write_table(run, "split.parquet", frame)
    artifacts.write_table(run, "head_scores.parquet", frame, fingerprint="x")
    artifacts.write_table(run, "policies.csv", frame)
    artifacts.write_json(run, "metrics.json", {"value": float(rng.random())})
    for name in ("embeddings.safetensors", "checkpoint.safetensors"):
        artifacts.write_arrays(run, name, {"x": rng.random((20, 8))}, fingerprint="x", step=3, lines="[]")
    artifacts.write_bytes(run, "report.html", b"<p>" + rng.bytes(300).hex().encode())
    artifacts.write_bytes(run, "notebooks/01_data.ipynb", json.dumps({"metadata": {"eestudy": {}}}).encode())
    return {"split.parquet": artifacts.read_table, "head_scores.parquet": artifacts.read_table,
            "policies.csv": artifacts.read_table, "metrics.json": artifacts.read_json,
            "embeddings.safetensors": artifacts.read_arrays, "checkpoint.safetensors": _read_checkpoint,
            "report.html": artifacts.read_bytes, "notebooks/01_data.ipynb": artifacts.read_bytes}  # fmt: skip


def _read_checkpoint(run: Run, name: str) -> dict:
    """As training looks for it: one that is damaged is told of and not gone on from."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        if artifacts.is_current(run, name, "x"):
            return {**artifacts.read_arrays(run, name), **artifacts.read_meta(run, name)}
    raise ArtifactError(told.getvalue())


def artifact_files(folder: Path, n_cases: int, seed: int) -> Outcome:
    """Damage artifacts and sidecars, or put another run's in their place."""
    outcome, rng = Outcome("damaged artifact", seed), random.Random(seed)  # noqa: S311
    run, other = (Run(folder / str(k), "ml-100k", "smoke", k) for k in (0, 1))
    readers = _write_all(run, np.random.default_rng(seed))
    _write_all(other, np.random.default_rng(seed + 1))
    names = list(readers)
    for case in range(n_cases):
        name = names[case % len(names)]
        pair = [run.path(name), run.path(f"{name}.meta.json")]
        before, whole = [path.read_bytes() for path in pair], repr(readers[name](run, name))
        kind = rng.choice([*DAMAGES, "swapped", "swapped with its sidecar"])
        if kind in DAMAGES:
            place = int(rng.random() < 0.3)
            pair[place].write_bytes(DAMAGES[kind](before[place], rng))
        else:
            shutil.copy(other.path(name), pair[0])
            if kind != "swapped":
                shutil.copy(other.path(f"{name}.meta.json"), pair[1])
        try:
            found, message = repr(readers[name](run, name)), ""
        except ArtifactError as error:
            found, message = None, str(error)
        is_harmless = found == whole  # as a blank that became a tab in a sidecar
        for path, content in zip(pair, before, strict=True):
            path.write_bytes(content)
        assert repr(readers[name](run, name)) == whole  # it was put back from outside
        outcome.count(is_harmless or is_told(message, pair[0]), None, (kind, name, message))
    return outcome


def finished_run(run: Run, n_cases: int, seed: int) -> Outcome:
    """Damage the outputs of a whole run, and look what the next `make` would say of them; the run is left as it was."""
    outcome, rng = Outcome("damaged run", seed), random.Random(seed)  # noqa: S311
    names = [name for step in STEPS.values() for name in step.writes]
    for case in range(n_cases):
        name = names[case % len(names)]
        path, sidecar = run.path(name), run.path(f"{name}.meta.json")
        before, record = path.read_bytes(), sidecar.read_bytes()
        kind = rng.choice(list(DAMAGES))
        path.write_bytes(DAMAGES[kind](before, rng))
        told = pipeline.discard_damaged(run)
        stale = pipeline.refresh(run)
        maker = next(step for step in STEPS if name in STEPS[step].writes)
        path.write_bytes(before)
        sidecar.write_bytes(record)
        assert not pipeline.discard_damaged(run)  # it was put back from outside
        outcome.count(len(told) == 1 and is_told(told[0], path) and f"{name} is missing" in stale.get(maker, []), None,
                      (kind, name, told))  # fmt: skip
    pipeline.refresh(run)
    return outcome


def cached_assets(folder: Path, n_cases: int, seed: int, monkeypatch) -> Outcome:
    """Damage wheels, files unpacked from them, and the converted language model."""
    from eestudy import backbone

    outcome, rng, made = Outcome("damaged asset", seed), random.Random(seed), make_download(folder, 3000)  # noqa: S311
    assert made.fetch().returncode == 0
    monkeypatch.setenv("ASSET_DIR", str(folder / "assets"))
    monkeypatch.setattr(assets, "ASSETS_FILE", folder / "assets.txt")
    unpacked = assets.extract_member("tiny-data", "tiny/data.bin")
    model = folder / "assets" / "SmolLM2-135M-Instruct"
    model.mkdir()
    weights, record = model / "model.safetensors", model / "sha256.json"
    weights.write_bytes(rng.randbytes(3000))
    record.write_text(json.dumps({weights.name: artifacts.sha256_file(weights)}))
    readers = {made.target: lambda: assets.find_wheel("tiny-data"), weights: backbone.converted_asset,
               record: backbone.converted_asset, unpacked: None}  # fmt: skip
    for case in range(n_cases):
        path = list(readers)[case % len(readers)]
        before, kind = path.read_bytes(), rng.choice(list(DAMAGES))
        path.write_bytes(DAMAGES[kind](before, rng))
        if path == unpacked:  # nobody need be told: the wheel beside it is whole
            assets.extract_member("tiny-data", "tiny/data.bin")
            outcome.count(None, path.read_bytes() == before, (kind, path))
            continue
        try:
            readers[path]()
            message = ""
        except (assets.AssetError, backbone.BackboneError) as error:
            message = str(error)
        is_mended = None
        if path == made.target:
            is_mended = made.fetch().returncode == 0 and path.read_bytes() == before
        path.write_bytes(before)
        assert readers[path]() is not None
        outcome.count(is_told(message, path if path != record else model), is_mended, (kind, path, message))
    return outcome
