"""Artifacts are written whole, and read only when they are what their sidecar says."""

import json
import os

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


def test_a_folder_is_replaced_whole_and_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    fresh, target = tmp_path / "fresh", tmp_path / "pages"
    for folder, text in ((fresh, "new"), (target, "old")):
        folder.mkdir()
        (folder / "page").write_text(text)
    rename, calls = os.replace, []

    def killed(source, goal):
        calls.append(goal)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, goal)

    monkeypatch.setattr(artifacts.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        artifacts.replace_folder(fresh, target)
    monkeypatch.setattr(artifacts.os, "replace", rename)
    assert not target.exists()
    artifacts.put_back(target)
    assert (target / "page").read_text() == "old"
    artifacts.replace_folder(fresh, target)
    assert (target / "page").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_write_interrupted_between_file_and_sidecar_counts_as_absent(run, monkeypatch):
    artifacts.write_json(run, "x.json", 1)
    original = os.replace

    def die_at_sidecar(new, path):
        if path.name.endswith(".meta.json"):
            raise KeyboardInterrupt
        original(new, path)

    monkeypatch.setattr(artifacts.os, "replace", die_at_sidecar)
    with pytest.raises(KeyboardInterrupt):
        artifacts.write_json(run, "x.json", 2)
    assert artifacts.artifact_hash(run, "x.json") is None


def test_a_sidecar_vouches_for_itself_and_for_the_run(run):
    path = artifacts.write_json(run, "x.json", 1)
    sidecar = run.path("x.json.meta.json")
    whole = sidecar.read_bytes()
    for damaged in (whole.replace(b'"bytes": 2', b'"bytes": 3'), whole[:30], b"", b"[]", b"3"):
        sidecar.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"x\.json\.meta\.json is damaged: its sha256 is .* expected"):
            artifacts.read_json(run, "x.json")
        assert artifacts.artifact_hash(run, "x.json") is None
    sidecar.write_bytes(whole)
    other = artifacts.Run(run.root, run.dataset, run.profile, 1)
    with pytest.raises(ArtifactError, match=r"is another one: it is ml-100k/smoke/seed-0/x\.json \(sha256 .* expected"):
        artifacts.read_json(other, "x.json")
    old = {key: value for key, value in json.loads(whole).items() if key not in ("of", "record_sha256")}
    sidecar.write_text(json.dumps(old))  # of a run of before
    assert artifacts.read_json(run, "x.json") == 1 and path.exists()


def test_names_stay_inside_the_run(run):
    for name in ("../x.json", "a/../../x", "/etc/x"):
        with pytest.raises(ArtifactError, match="no name inside"):
            artifacts.write_json(run, name, 1)
    for names in (("..", "smoke"), ("ml-100k", "a/b"), ("", "smoke"), ("x\0", "smoke")):
        with pytest.raises(ArtifactError, match="cannot name folders"):
            artifacts.open_run(*names, 0)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "file" / "run"))
    with pytest.raises(ArtifactError, match="cannot be made .*RUN_DIR="):
        artifacts.open_run("ml-100k", "smoke", 0)


def test_arrays_that_are_not_finite_are_not_written(run):
    array = np.zeros((3, 2))
    array[1, 1] = np.nan
    with pytest.raises(ArtifactError, match="user: row 1 holds a value that is not finite"):
        artifacts.write_arrays(run, "embeddings.safetensors", {"item": np.arange(3), "user": array})
    assert not run.path("embeddings.safetensors").exists()


def test_csv_that_a_spreadsheet_opens_computes_nothing(run):
    frame = pd.DataFrame({"n": [-1, 2, 3], "title": ["=1+1", "'=1", "fine"], "mixed": [1, None, "@x"]})
    path = artifacts.write_table(run, "x.csv", frame)
    assert path.read_text() == "n,title,mixed\n-1,'=1+1,1\n2,''=1,\n3,fine,'@x\n"
    assert artifacts.read_table(run, "x.csv")["title"].tolist() == frame["title"].tolist()


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


def test_a_committed_table_reads_as_the_runs_own(run, monkeypatch, tmp_path):
    table = pd.DataFrame({"title": ["=1+1", "plain", "-x"], "n": [1.5, 2.0, 3.0]})
    artifacts.write_table(run, "t.csv", table)
    monkeypatch.setattr(artifacts, "committed_dir", lambda _: tmp_path)
    (tmp_path / "t.csv").write_bytes(artifacts.read_bytes(run, "t.csv"))
    own = artifacts.measured_or_committed(run, "t.csv")
    run.path("t.csv").unlink()
    pd.testing.assert_frame_equal(artifacts.measured_or_committed(run, "t.csv"), table)
    pd.testing.assert_frame_equal(own, table)
