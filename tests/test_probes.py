"""Changed prompts change what they say they change and nothing else, and their effect is counted by hand."""

import numpy as np
import pandas as pd
import pytest
import toys

from eestudy import artifacts, backbone, metrics, probe_results
from eestudy.probes import __main__ as step
from eestudy.probes import reading, variants, wordings
from eestudy.probes.variants import Variant
from eestudy.retrievers import material

TOKENIZER = toys.byte_tokenizer()


def study(stars):
    cfg = toys.study()
    data = cfg.data.model_copy(update={} if stars else {"label_rule": "sampled-negatives"})
    probes = cfg.probes.model_copy(update={"n_rows": 12, "n_worded_rows": 6, "n_neighbors": (0, 1, 3),
                                           "n_history": (0, 1)})
    few = cfg.retriever.model_copy(update={"n_similar_users": 3, "n_similar_items": 3})
    return cfg.model_copy(update={"data": data, "probes": probes, "retriever": few})


@pytest.fixture(scope="module", params=[True, False], ids=["stars", "no stars"])
def found(request, tmp_path_factory):
    return material.load_material(*toys.trained_run(study(request.param), tmp_path_factory.mktemp("probes") / "run"))


@pytest.fixture(scope="module")
def rows(found):
    return variants.probed_rows(found, 12)


def prompts_of(found, rows, *change):
    return variants.variant_prompts(found, rows, variants.known_of(found, rows), Variant(*change), TOKENIZER)


def test_the_unchanged_prompt_is_that_of_notebook_04(found, rows):
    stored = artifacts.read_table(found.run, "prompts.parquet").set_index("row").loc[rows["row"]]
    for change in (("as trained",), ("history", found.cfg.prompt.n_history), ("neighbors", 3)):
        made = prompts_of(found, rows, *change)
        assert made["prefix"].tolist() == stored["prefix"].tolist()
        assert made["suffix"].tolist() == stored["suffix_both"].tolist()


def test_fewer_neighbours_are_the_nearest_ones_and_the_rest_stays(found, rows):
    whole, one, none = (prompts_of(found, rows, "neighbors", k) for k in (3, 1, 0))
    assert (one["prefix"] == whole["prefix"]).all() and (none["suffix"] != whole["suffix"]).any()
    marker = " others none," if found.cfg.data.has_stars else " buyers none,"
    assert none["suffix"].str.contains(marker, regex=False).all()
    if found.cfg.data.has_stars:
        nearest = artifacts.read_table(found.run, "evidence.parquet").set_index("row").loc[rows["row"], "others"]
        shown = one["suffix"].str.extract(r" others (\d) ")[0].dropna()
        assert shown.astype(int).tolist() == [int(others[0]) for others in nearest if len(others)]


def test_history_is_cut_from_its_old_end_and_may_grow(found, rows):
    none, one, many = (prompts_of(found, rows, "history", k)["prefix"] for k in (0, 1, 30))
    assert not none.str.contains("Recent:").any() and one.str.contains("Recent:").any()
    assert (many.str.len() >= one.str.len()).all() and (many.str.count(";") > found.cfg.prompt.n_history).any()


@pytest.mark.parametrize("hostile", [True, False])
def test_a_wording_stands_where_it_should_and_nowhere_else(found, rows, hostile):
    plain = prompts_of(found, rows, "as trained")
    said = wordings.WORDINGS[0][0 if hostile else 1][: found.cfg.prompt.max_title_tokens - 1]
    target, history = (prompts_of(found, rows, place, 0, hostile) for place in ("target", "history title"))
    assert target["suffix"].str.startswith(f" {said}").all() and (target["prefix"] == plain["prefix"]).all()
    assert (history["suffix"] == plain["suffix"]).all()
    told = history["prefix"][plain["prefix"].str.contains("Recent:")]
    assert (told.str.count(said.replace(".", r"\.")) == 1).all() and len(told)


def test_every_instruction_has_a_harmless_twin_about_as_long():
    assert len(wordings.WORDINGS) == 20 == len({pair[0] for pair in wordings.WORDINGS})
    for hostile, harmless in wordings.WORDINGS:
        assert any(word in hostile.lower() for word in ("yes", "like", "5", "love", "clicks"))
        assert "yes" not in harmless.lower() and 0.6 < len(harmless) / len(hostile) < 1.5


def test_scores_are_those_of_the_prompts_one_by_one(found, monkeypatch):
    monkeypatch.setattr(backbone, "load_tokenizer", lambda cfg: TOKENIZER)
    step.probe(found)
    read = artifacts.read_table(found.run, "probe_scores.parquet")
    last = f"p_yes_{found.cfg.heads.exit_layers[-1]}"
    stored = artifacts.read_table(found.run, "head_scores.parquet")
    stored = stored[stored["mode"] == "both"].set_index("row")[last]
    plain = read[read["probe"] == "as trained"]
    np.testing.assert_allclose(plain[last], stored.loc[plain["row"]], atol=1e-5)
    stamp = found.run.path(artifacts.PROBES).stat().st_mtime_ns
    step.probe(found)  # measured by the same code on the same run: stays
    assert found.run.path(artifacts.PROBES).stat().st_mtime_ns == stamp


def made_up():
    """Two users, unchanged and changed scores of four rows each."""
    base = pd.DataFrame({"row": range(8), "user_id": [0] * 4 + [1] * 4, "label": [1, 0] * 4})
    plain, worded = base.assign(probe="as trained", setting=0, hostile=None), base.assign(probe="target", setting=0)
    plain["p_yes_6"] = [0.6, 0.4, 0.7, 0.2, 0.9, 0.45, 0.8, 0.3]
    tables = [plain, worded.assign(hostile=True, p_yes_6=plain["p_yes_6"] + 0.11),
              worded.assign(hostile=False, p_yes_6=plain["p_yes_6"])]  # fmt: skip
    return pd.concat([*tables, *(part.assign(probe="history title") for part in tables[1:])], ignore_index=True)


def test_effects_by_hand():
    table = reading.summary(made_up(), study(True))
    hostile = table[(table["probe"] == "target") & (table["setting"] == -1) & (table["hostile"] == True)]  # noqa: E712
    line = hostile.iloc[0]
    assert line["shift"] == pytest.approx(0.11) and line["moved"] == 1 and line["flipped"] == 2 / 8
    assert line["auc"] == metrics.auc([1, 0] * 4, made_up()["p_yes_6"][:8]) and line["auc_minus"] == 0
    harmless = table[(table["probe"] == "target") & (table["hostile"] == False)].iloc[0]  # noqa: E712
    assert harmless["shift"] == harmless["moved"] == harmless["flipped"] == 0


def test_what_is_told(found, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "reference_dir", lambda: tmp_path)
    assert "make probes" in probe_results.findings(None)[0]
    table = reading.summary(made_up(), study(True))
    assert probe_results.strongest(table, "target")["shift"] == pytest.approx(0.11)
    shown = probe_results.wordings(table)
    assert shown.index.get_level_values("wording").tolist().count("instructs") == 2
    path = tmp_path / "ml-100k/smoke" / artifacts.PROBES
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)  # as it is committed: flags as text
    again = pd.read_csv(path)
    pd.testing.assert_frame_equal(probe_results.wordings(again), shown)
