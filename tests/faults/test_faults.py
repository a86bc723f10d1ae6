"""A short form of every fault; `make torture` has the long ones."""

import pytest

from eestudy import metrics
from faults import corruption, inputs, kills, numbers, official, resources, titles, together
from faults.outcome import Outcome, keep

SEED = 7


def test_the_table_keeps_the_larger_attempt_of_a_fault_and_seed(tmp_path):
    for tried, seed in ((5, 7), (9, 8), (3, 7), (9, 8)):
        kept = keep(Outcome("a fault", seed, tried, tried), tmp_path / "faults.csv")
    assert kept[["seed", "tried", "noticed"]].to_numpy().tolist() == [[7, 5, 5], [8, 9, 9]]
    assert kept["recovered"].isna().all()
    assert len((tmp_path / "faults.csv").read_text().splitlines()) == 3
    kept = keep(Outcome("a fault", 8, 2, 1, lost=1), tmp_path / "faults.csv")  # that something was lost always counts
    assert kept.iloc[1]["lost"] == 1


def test_what_does_not_apply_is_not_counted():
    outcome = Outcome("a fault", 7)
    outcome.count(True, None)
    outcome.count([], None)
    outcome.count(None, True)
    assert (outcome.tried, outcome.noticed, outcome.recovered, outcome.lost) == (3, 1, 1, 1) and not outcome.is_clean


def test_an_error_by_accident_is_none_of_ours():
    made: dict = {}
    exec(compile("def number(text):\n    return int(text)", metrics.__file__, "exec"), made)  # noqa: S102
    outcome = Outcome("a value", SEED)
    inputs.attempt(outcome, lambda: made["number"]("q"), "by accident, in a file of the package")
    inputs.attempt(outcome, lambda: metrics.auc([0, 2], [0.1, 0.2]), "on purpose")
    assert (outcome.noticed, outcome.lost) == (1, 1)


def test_a_chain_that_is_killed_goes_on_to_the_same_result(tmp_path):
    made = kills.stand_in_chain(tmp_path, seconds_each=0.1)
    assert kills.chain("kill in the chain", [made], 3, SEED).is_clean


@pytest.mark.parametrize("fault", [kills.atomic_write, kills.checkpoint])
def test_a_killed_writer_leaves_old_or_new(tmp_path, fault):
    assert fault(tmp_path, 20, SEED).is_clean


def test_a_killed_download_is_done_again(tmp_path):
    assert kills.download(tmp_path, 2, 1.5, SEED).is_clean


def test_damaged_artifacts_are_noticed(tmp_path):
    assert corruption.artifact_files(tmp_path, 150, SEED).is_clean


def test_damaged_assets_are_noticed(tmp_path, monkeypatch):
    assert corruption.cached_assets(tmp_path, 40, SEED, monkeypatch).is_clean


def test_a_write_without_room_leaves_what_was_there(tmp_path):
    assert resources.file_limit(tmp_path, 20, SEED).is_clean


def test_a_full_disk_and_a_read_only_one(tmp_path):
    if not resources.can_mount():
        pytest.skip("no small file system may be mounted here")
    assert resources.full_disk(tmp_path, 1, SEED).is_clean
    assert resources.read_only(tmp_path, 2, SEED).is_clean


def test_wrong_downloads_are_refused(tmp_path):
    assert resources.wrong_download(tmp_path, 3, SEED).is_clean


def test_without_a_network_what_is_there_is_used(tmp_path):
    assert resources.no_network(tmp_path, SEED).is_clean


def test_too_little_memory_is_said(tmp_path):
    assert resources.little_memory(2, SEED).is_clean


def test_two_in_one_folder(tmp_path):
    assert together.same_folder(tmp_path, 1, SEED).is_clean


def test_two_folders(tmp_path):
    assert together.other_folders(tmp_path, 1, SEED).is_clean


def test_ctrl_c_says_how_to_go_on(tmp_path):
    assert together.interrupted_notebook(tmp_path / "notebook", 2, SEED).is_clean


def test_ctrl_c_in_the_chain(tmp_path):
    outcome = together.interrupted_chain(kills.stand_in_chain(tmp_path, seconds_each=0.5), 2, 0.4, SEED)
    assert outcome.is_clean and outcome.tried == 2


def test_spoilt_files_are_refused_or_counted(tmp_path):
    assert inputs.files(tmp_path, 40, SEED).is_clean


def test_spoilt_official_files_are_refused_or_counted(tmp_path, monkeypatch):
    rows = official.whole(tmp_path / "whole", monkeypatch)
    assert set(rows.values()) == {official.USERS * official.PER_USER}, rows
    assert official.files(tmp_path / "spoilt", 48, SEED, monkeypatch).is_clean


def test_odd_values_are_refused_or_made_harmless(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "run"))
    assert inputs.values(tmp_path, 600, SEED).is_clean


def test_hostile_titles_stay_text(tmp_path):
    assert titles.chain_of_functions(tmp_path, SEED).is_clean


def test_scoring_does_not_drift():
    assert numbers.long_scoring(400, SEED).is_clean


def test_threads_agree():
    assert numbers.threads(20, SEED).is_clean


def test_odd_numbers_are_named(tmp_path):
    assert numbers.odd_weights(12, SEED).is_clean
    assert numbers.overflowing_layer(6, SEED).is_clean
    assert numbers.odd_values(tmp_path, 24, SEED).is_clean
