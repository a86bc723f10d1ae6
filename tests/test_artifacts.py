"""Artifacts are written whole, and read only when they are what their sidecar says."""

import json

import numpy as np
import pandas as pd
import pytest

from eestudy import artifacts
from eestudy.artifacts import ArtifactError


def test_run_folder_follows_run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    run = artifacts.open_run("ml-100k", "smoke", 3)
    assert run.root == tmp_path / "ml-100k" / "smoke" / "seed-3" and run.root.is_dir()
    assert run.command == "make reproduce DATASET=ml-100k PROFILE=smoke SEED=3"


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_tables_round_trip(run, name):
    frame = pd.DataFrame({"row": [0, 1, 2], "p": [0.25, np.nan, 1.0], "title": ["a", "b,\"c\"", "é"]})
    artifacts.write_table(run, name, frame)
    pd.testing.assert_frame_equal(artifacts.read_table(run, name), frame, check_dtype=False)
    assert artifacts.read_meta(run, name)["rows"] == len(frame)


def test_arrays_and_json_round_trip(run):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    artifacts.write_arrays(run, "x.safetensors", {"x": array})
    np.testing.assert_array_equal(artifacts.read_arrays(run, "x.safetensors")["x"], array)
    artifacts.write_json(run, "x.json", {"b": [1, None], "a": "ä"})
    assert artifacts.read_json(run, "x.json") == {"b": [1, None], "a": "ä"}


def test_json_refuses_nan(run):
    with pytest.raises(ValueError):
        artifacts.write_json(run, "x.json", {"value": float("nan")})


def test_missing_artifact_names_file_and_command(run):
    with pytest.raises(ArtifactError, match=r"split\.parquet is missing.*make reproduce DATASET=ml-100k"):
        artifacts.read_table(run, "split.parquet")


def test_file_without_sidecar_counts_as_missing(run):
    artifacts.write_json(run, "x.json", 1)
    run.path("x.json.meta.json").unlink()
    assert artifacts.artifact_hash(run, "x.json") is None
    with pytest.raises(ArtifactError, match="missing"):
        artifacts.read_json(run, "x.json")


def test_damaged_artifact_is_refused(run):
    path = artifacts.write_json(run, "x.json", {"value": 1}, fingerprint="abc")
    assert artifacts.is_current(run, "x.json", "abc") and not artifacts.is_current(run, "x.json", "abd")
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(ArtifactError, match="damaged.*Delete it and run: make reproduce"):
        artifacts.read_json(run, "x.json")
    assert not artifacts.is_current(run, "x.json", "abc")


def test_failed_write_leaves_the_old_file_and_no_temporary_one(run, monkeypatch):
    path = run.path("x.bin")
    artifacts.write_atomic(path, b"old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        artifacts.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [file.name for file in run.root.iterdir()] == ["x.bin"]


def test_write_interrupted_between_file_and_sidecar_counts_as_absent(run, monkeypatch):
    artifacts.write_json(run, "x.json", 1)
    original = artifacts.write_atomic

    def die_at_sidecar(path, content):
        if path.name.endswith(".meta.json"):
            raise KeyboardInterrupt
        original(path, content)

    monkeypatch.setattr(artifacts, "write_atomic", die_at_sidecar)
    with pytest.raises(KeyboardInterrupt):
        artifacts.write_json(run, "x.json", 2)
    assert artifacts.artifact_hash(run, "x.json") is None


def test_fingerprint_ignores_key_order_only():
    assert artifacts.fingerprint({"a": 1, "b": 2}) == artifacts.fingerprint({"b": 2, "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


def test_metric_that_was_not_measured_is_null():
    assert artifacts.metric("auc", None, "AUC", ci95=(0, 1))["value"] is None
    assert artifacts.metric("auc", float("nan"), "AUC")["value"] is None
    entry = artifacts.metric("auc", 0.8123456789, "AUC", ci95=(0.8, 0.9), n=10)
    assert entry == {"name": "auc", "value": 0.812346, "ci95": [0.8, 0.9], "n": 10, "unit": "AUC",
                     "kind": "quality", "split": "test"}
    json.dumps(entry, allow_nan=False)


def test_seed_everything_repeats():
    first = (artifacts.seed_everything(3).random(), np.random.rand())
    assert first == (artifacts.seed_everything(3).random(), np.random.rand())
