"""The tour for a reader's own data: drafts say what the study would say, prompts know no future, notebook 10 runs."""

import json
import re
import shutil
import tomllib
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import toys

from eestudy import backbone, chain, config, data, execution, model_facts, preflight
from eestudy.artifacts import ROOT
from eestudy.data.__main__ import look

NOTEBOOK = chain.PROJECT.notebooks / "10_your_own_data.ipynb"
EXAMPLES = ["examples/study.toml", "examples/no_stars.toml"]


@pytest.fixture(scope="module", params=EXAMPLES)
def draft(request) -> preflight.Draft:
    return preflight.read_draft(request.param, config.load(request.param))


@pytest.fixture(scope="module")
def stars() -> preflight.Draft:
    return preflight.read_draft(EXAMPLES[0], config.load(EXAMPLES[0]))


def stopped(findings) -> str:
    return "\n".join(f"{one.what}. {one.remedy}" for one in findings if one.stops)


# Drafts


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_draft_is_the_study_that_it_was_read_from(example, tmp_path):
    cfg = config.load(example)
    draft = preflight.read_draft(example, cfg)
    told = preflight.says(draft, tmp_path)
    assert [vars(one) for one in told] == look(cfg)["findings"]
    again = config.load(str(tmp_path / draft.name))
    whole, original = (data.prepare(some) for some in (again, cfg))
    assert all(whole[name].equals(original[name]) for name in ("interactions", "items", "split"))
    assert {name: getattr(again, name) for name in draft.sections if name != "data"} == {
        name: getattr(cfg, name) for name in draft.sections if name != "data"}  # fmt: skip


def test_nothing_of_a_draft_is_kept(stars, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    preflight.says(stars)
    preflight.encoder_error()
    assert not list(tmp_path.iterdir())


def test_a_draft_holds_the_first_rows_of_a_large_file(monkeypatch):
    monkeypatch.setattr(preflight, "MOST_ROWS", 100)
    draft = preflight.read_draft(EXAMPLES[0], config.load(EXAMPLES[0]))
    first = pd.read_csv(ROOT / "examples" / "ratings.csv", dtype=str).head(100)
    assert draft.tables["ratings"].to_numpy().tolist() == first.to_numpy().tolist()
    assert len(draft.tables["items"]) == 80


@pytest.mark.parametrize("value", [3, 0.5, True, "a \"b\" \\ c\n\té", [1, 5], ["x", "y"], {"a b": "c", "d": "e"},
                                   {"own median": {"label_rule": "own-median"}}])
def test_toml_text_reads_as_what_was_written(value):
    sections = {"data": {"field": value}, "report": {"time_split": False}}
    assert tomllib.loads(preflight.toml_text(sections)) == sections


def test_files_without_a_header_get_our_names(tmp_path):
    for name in ("ratings.csv", "items.csv"):
        lines = (ROOT / "examples" / name).read_text().splitlines(keepends=True)
        (tmp_path / name).write_text("".join(lines[1:]).replace(",", ";"))
    text = (ROOT / "examples" / "study.toml").read_text()
    places = {name: str(place) for place, name in enumerate(("user", "item", "stars", "when"))} | {"name": "1"}
    for name, place in places.items():
        text = text.replace(f'= "{name}"', f'= "{place}"')
    text = text.replace('item_id = "1", title', 'item_id = "0", title').replace(', genres = "kind"', "")
    text = text.replace(".csv\"", ".csv\"\nheader = false\ndelimiter = \";\"")
    (tmp_path / "shop.toml").write_text(text)
    cfg = config.load(str(tmp_path / "shop.toml"))
    draft = preflight.read_draft(str(tmp_path / "shop.toml"), cfg)
    assert list(draft.tables["ratings"]) == ["user_id", "item_id", "rating", "timestamp"]
    assert [vars(one) for one in preflight.says(draft)] == look(cfg)["findings"]


@pytest.mark.parametrize("dataset", ["ml-100k", "examples/other_llm.toml"])
def test_a_study_without_files_of_its_own_is_told_where_to_begin(dataset):
    with pytest.raises(data.DataError, match="brings no files of its own.*examples/study.toml"):
        preflight.own_files(config.load(dataset))


def test_a_toml_is_found_from_where_a_notebook_stands(tmp_path, monkeypatch):
    here = config.load(EXAMPLES[0])
    monkeypatch.chdir(chain.PROJECT.notebooks)
    assert config.load(EXAMPLES[0]) == here
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / EXAMPLES[1], tmp_path / EXAMPLES[0])
    assert config.load(EXAMPLES[0]).data.folder == str((tmp_path / "examples").resolve()), "what lies here comes first"


# Broken on purpose

WITH_STARS = {
    "too few clicks": r"label: [0-4] clicks and \d+ others.*min_click_rating",
    "no timestamps": 'study.toml, \\[data.ratings\\]: no timestamp column. Name one, or say clock = "none"',
    "all at one moment": 'every timestamp is 1700229420. Say clock = "none"',
    "half of the rows by one user": r"one user has 5\d% of the rows. Cap it",
}
WITHOUT = WITH_STARS | {"too few clicks": r"label: \d clicks and \d others", "no timestamps": "no timestamp column"}


@pytest.mark.parametrize("name", preflight.BROKEN)
def test_broken_data_is_stopped_with_a_remedy(draft, name):
    expected = WITH_STARS if draft.name == "study.toml" else WITHOUT
    told = stopped(preflight.says(preflight.BROKEN[name](draft)))
    assert re.search(expected[name], told, re.DOTALL), told


def test_the_remedies_work(stars):
    moment = preflight.with_data(preflight.one_moment(stars), clock="none")
    heavy = preflight.with_data(preflight.half_by_one(stars), max_user_rows=50)
    assert not stopped(preflight.says(moment)) and not stopped(preflight.says(heavy))


def test_mistakes_are_named_without_a_path(stars):
    wrong = {
        "column 'custmer' is missing": preflight.with_columns(stars, user_id="custmer"),
        "study.toml: [data] min_click_ratng: there is no such setting; perhaps min_click_rating is meant":
            preflight.with_data(stars, min_click_ratng=6),
        "0 clicks": preflight.with_data(stars, min_click_rating=6),
        "must say which column is user_id": preflight.with_columns(stars, user_id=None),
    }
    for message, made in wrong.items():
        told = preflight.says(made)
        assert message in stopped(told) and "eestudy-" not in stopped(told)
        assert set(preflight.table_of({"x": told}).reset_index()["the package"]) >= {"stops"}


def test_a_draft_that_is_fine_goes_on():
    assert preflight.table_of({"mine": []}).reset_index().to_numpy().tolist() == [["mine", "goes on", ""]]


def test_drafts_are_made_anew_and_not_changed(stars):
    before = json.dumps(stars.sections), stars.tables["ratings"].copy(), stars.tables["items"].copy()
    for spoil in preflight.BROKEN.values():
        spoil(stars)
    preflight.first_users(stars, 3)
    preflight.with_columns(stars, user_id="x")
    assert json.dumps(stars.sections) == before[0]
    assert stars.tables["ratings"].equals(before[1]) and stars.tables["items"].equals(before[2])


# What stands


def test_parts_are_counted_by_hand():
    frames = toys.frames()
    rows = frames["interactions"].merge(frames["split"], on="row")
    found = preflight.parts_table(frames)
    assert list(found.index) == ["label", "validation: select", "validation: risk", "test"]
    tests = rows[(rows["split"] == "test") & rows["judged"]]
    counted = Counter(tests["label"])
    assert found.loc["test"].to_dict() == {"rows": len(tests), "clicks": counted[1], "others": counted[0],
                                           "users": tests["user_id"].nunique(), "rarer": min(counted[0], counted[1])}


@pytest.mark.parametrize("clock", ["time", "order", "none"])
def test_the_figure_is_drawn_for_every_clock(clock):
    settings = config.load(EXAMPLES[0]).data.model_copy(update={"clock": clock})
    drawn = preflight.figure(toys.frames(), settings)
    left, middle, right = drawn.axes
    shares = left.lines[0].get_ydata()
    assert shares[0] == 0 and shares[-1] == pytest.approx(1) and (np.diff(shares) > 0).all()
    assert all(axis.get_xlabel() or clock == "none" or axis is middle for axis in drawn.axes)
    assert right.axison == (clock != "none")
    plt.close(drawn)


# The language model


def test_facts_are_those_of_the_model_that_is_loaded():
    cfg = config.load(EXAMPLES[0], "smoke")
    facts, model = model_facts.backbone_facts(cfg), backbone.load_model(cfg.backbone)
    assert facts["layers"] == backbone.n_layers(model)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    with pytest.raises(ValueError, match="must ascend from 1 on and end with 6"):
        model_facts.backbone_facts(cfg.model_copy(update={"heads": config.HeadsConfig(exit_layers=(1, 2))}))


def test_facts_are_told_on_the_command_line(capsys):
    model_facts.main([str(EXAMPLES[0]), "--profile", "smoke"])
    assert json.loads(capsys.readouterr().out)["language model"]["layers"] == 6
    with pytest.raises(SystemExit, match="error: unknown profile"):
        model_facts.main(["ml-100k", "--profile", "labtop"])


def test_an_encoder_is_no_backbone():
    assert preflight.encoder_error().startswith("my-encoder: family 'bert' is not among llama, ")


# Prompts without a graph


@pytest.mark.parametrize("stars", [True, False])
def test_untrained_evidence_knows_no_later_rating(stars):
    cfg = config.load(EXAMPLES[0] if stars else EXAMPLES[1])
    frames = data.prepare(cfg)
    plain = preflight.untrained_evidence(cfg, frames)
    changed = frames["interactions"].copy()
    late = frames["split"]["split"].isin(["validation", "test"]).to_numpy()
    changed.loc[late, "rating"] = 6 - changed.loc[late, "rating"]
    again = preflight.untrained_evidence(cfg, frames | {"interactions": changed})
    for column in ("others", "own"):
        assert [list(some) for some in again[column]] == [list(some) for some in plain[column]]
    assert any(len(some) for some in plain["others"])


def test_work_counts_a_prefix_once():
    tokens = pd.DataFrame({"request_id": [7, 7, 9], "n_prefix_tokens": [10, 10, 20], "n_suffix_both": [1, 2, 3]})
    assert preflight.work(tokens) == {"prompts": 3, "requests": 2, "tokens": 36}


def test_the_reference_is_told_as_it_was_measured():
    listed = json.loads((preflight.REFERENCE / "metrics.json").read_text())["metrics"]
    entry = {one["name"]: one for one in listed}
    found, prefix = preflight.reference_work(), entry["prefix_tokens_mean"]
    assert found["requests"] == prefix["n"] and found["prompts"] == entry["suffix_tokens_mean"]["n"]
    apart = found["tokens"] - prefix["value"] * prefix["n"]
    assert apart / found["prompts"] == pytest.approx(entry["suffix_tokens_mean"]["value"], rel=1e-4)


# The notebook itself


def run_cells(dataset: str, profile: str) -> dict:
    """Notebook 10's cells one after another, exercises solved, on a dataset; no kernel is started."""
    names = {"display": lambda *some: None}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "exercise" in tags:
            continue
        exec(compile(source, cell["id"], "exec"), names)  # noqa: S102 our own notebook
        if "parameters" in tags:
            names |= {"dataset": dataset, "profile": profile}
    plt.close("all")
    return names


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_notebook_runs_on_the_examples_and_solves_its_exercises(example, tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    names = run_cells(example, "smoke")
    assert names["n_stopped"] == len(preflight.BROKEN) and names["my_told"]
    assert len(names["request"]) and names["mine"]["tokens"] > 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "it writes nothing"


@pytest.mark.parametrize("name", preflight.BROKEN)
def test_the_notebook_stops_at_broken_data_and_says_why(name, stars, tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "run"))
    preflight.says(preflight.BROKEN[name](stars), tmp_path)
    with pytest.raises(ValueError, match=f"(?s){WITH_STARS[name]}"):
        run_cells(str(tmp_path / "study.toml"), "laptop")


def test_a_failed_tour_leaves_its_last_line_and_no_copy(stars, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "run"))
    preflight.says(preflight.one_moment(stars), tmp_path)

    def papermill(name, run, project, output):
        shutil.copy(project.notebooks / f"{name}.ipynb", output)
        raise data.DataError("this data cannot support the study:\n- every timestamp is 7")

    monkeypatch.setattr(execution, "run_papermill", papermill)
    with pytest.raises(SystemExit, match="10_your_own_data failed.*\n.*cannot support the study"):
        execution.main(["10_your_own_data", "--dataset", str(tmp_path / "study.toml"), "--profile", "smoke"])
    folder = tmp_path / "run" / "study" / "smoke" / "seed-0"
    assert (folder / "failed" / "10_your_own_data.ipynb").exists()
    assert not (folder / "notebooks" / "10_your_own_data.ipynb").exists()
