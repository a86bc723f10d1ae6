"""The pages: all links lead somewhere, nothing is fetched, titles stay text, and the explorer's numbers are right."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from eestudy import artifacts, config, exit_policies, metrics, quickstart, replay, report
from eestudy.chain import BESIDE
from eestudy.report import answers, narrative
from eestudy.report.reference import OPTIONAL
from eestudy.site import build, explorer, notebooks, walks
from eestudy.site.build import Site, clean_examples, data_url, script

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ("ml-100k", "amazon-video-games")
HOSTILE = "<img src=x onerror=alert(1)></script><script>document.title='taken'</script>"


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """Two committed references, so that the pages are built in seconds."""
    base = tmp_path_factory.mktemp("references")
    for name in NAMES:
        shutil.copytree(artifacts.reference_dir() / name / "laptop", base / name / "laptop")
    return base


@pytest.fixture(scope="session")
def pages(references, tmp_path_factory) -> Path:
    run = artifacts.Run(tmp_path_factory.mktemp("no-run") / "run", "ml-100k", "laptop", 0)
    return build(run, tmp_path_factory.mktemp("site") / "pages", references).parent


@pytest.fixture(scope="session")
def replayed(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replayed")
    return {name: replay.rebuild(artifacts.Run(folder / name, name, "laptop", 0), references) for name in NAMES}


def embedded(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_every_link_leads_to_a_page_and_nothing_is_fetched(pages):
    for page in pages.rglob("*.html"):
        text = page.read_text()
        assert "default-src 'none'" in text
        without_code = re.sub(r"<script.*?</script>|<pre.*?</pre>", "", text, flags=re.DOTALL)
        for link in re.findall(r'(?:href|src)="([^"]*)"', without_code):
            if not link.startswith(("#", "data:", "https://")):
                assert (page.parent / link.split("#")[0]).exists(), f"{page.name}: {link}"
        assert not re.search(r'<(?:img|script|link|iframe)[^>]+(?:src|href)="https?:', text), page.name


def test_every_notebook_of_the_reference_and_every_example_has_a_page(pages, references):
    notebooks = {path.stem for path in (references / "ml-100k/laptop/notebooks").glob("*.ipynb")}
    assert {path.stem for path in (pages / "notebooks").glob("*.html")} == notebooks | set(BESIDE)
    known = [one for study in embedded(pages / "explorer.html")["studies"] for one in study["examples"]]
    assert known and all((pages / one["link"]).exists() for one in known)


def test_the_front_page_says_what_size_of_run_it_tells(pages):
    assert "from the committed reference, profile laptop." in (pages / "index.html").read_text()


def test_what_is_absent_in_a_table_does_not_read_as_an_error(pages, references):
    executed = [path.read_text() for path in (references / "ml-100k/laptop/notebooks").glob("*.ipynb")]
    assert any("<td>NaN</td>" in text for text in executed)
    assert not any("<td>NaN</td>" in path.read_text() for path in (pages / "notebooks").glob("*.html"))


def test_a_formula_is_an_image_that_says_its_source_and_is_the_same_each_time():
    source = r"Where $p > \tau$; `$code$` stays, and $\nosuchthing$ is no formula."
    page = notebooks.with_formulas(source)
    assert page == notebooks.with_formulas(source) and page.count("<img") == 1 and 'alt="p &gt; \\tau"' in page
    assert "`$code$`" in page and r"<code>\nosuchthing</code>" in page


def test_solutions_are_folded_in_a_page_and_nothing_else_is(tmp_path):
    cells = [nbformat.v4.new_code_cell(f"{name} = 1", metadata={"tags": [name]}) for name in ("exercise", "solution")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "made.ipynb")
    before, folded = notebooks.render(tmp_path / "made.ipynb")[1].split("<details><summary>Solution</summary>")
    assert "celltag_exercise" in before and "celltag_solution" in folded and folded.rstrip().endswith("</details>")


def test_a_heading_in_an_output_shows_no_link_as_text(tmp_path):
    output = nbformat.v4.new_output("display_data", {"text/markdown": "### All datasets"})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    page = notebooks.render(tmp_path / "a.ipynb")[1]
    assert re.search("<h3[^>]*>All datasets</h3>", page) and "anchor-link" not in page


def test_a_folder_of_something_else_is_left_alone(references, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    run = artifacts.Run(tmp_path / "run", "ml-100k", "laptop", 0)
    with pytest.raises(artifacts.ArtifactError, match="SITE_DIR"):
        build(run, tmp_path, references)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_dataset_without_reference_says_which_have_one(references, tmp_path):
    with pytest.raises(artifacts.ArtifactError, match="amazon-video-games, ml-100k"):
        replay.rebuild(artifacts.Run(tmp_path, "ml-1m", "laptop", 0), references)


def test_what_a_notebook_says_anew_counts_and_not_what_the_reference_says(references, tmp_path):
    run = replay.rebuild(artifacts.Run(tmp_path, "ml-100k", "laptop", 0), references)
    cfg = config.load("ml-100k", "laptop", 0)
    reference = json.loads((references / "ml-100k/laptop/metrics.json").read_text())
    told = report.build_metrics(run, cfg)
    assert told["headline"] == reference["headline"] and told["metrics"] == reference["metrics"]
    artifacts.write_json(run, "metrics_06.json", [artifacts.metric("auc_early_exit", 0.3, "AUC", ci95=(0.2, 0.4))])
    told = report.build_metrics(run, cfg)
    names = [(item["name"], item["split"]) for item in told["metrics"]]
    assert told["headline"]["auc_early_exit"]["value"] == 0.3 and len(names) == len(set(names))
    states = report.compare(reference, told, {}).set_index("name")["state"]
    assert states["auc_early_exit"] == "fail"


def test_a_report_told_from_a_reference_still_counts_the_rows_not_used(references, tmp_path):
    shutil.copytree(references / "ml-100k", tmp_path / "references" / "ml-100k")
    kept = {"quarantine.json": [{"reason": "no such user", "n_rows": 7, "file": "ratings.csv"}], "left_out.json": []}
    assert set(kept) < set(OPTIONAL)
    for name, value in kept.items():
        (tmp_path / "references/ml-100k/laptop" / name).write_text(json.dumps(value))
    run = replay.rebuild(artifacts.Run(tmp_path / "run", "ml-100k", "laptop", 0), tmp_path / "references")
    heading, (kind, table) = narrative.unused_blocks(run)
    assert "not used" in heading[2] and kind == "table" and table["rows"].tolist() == [7]


def test_a_reference_of_an_older_version_is_refused_kindly(references, tmp_path):
    shutil.copytree(references / "ml-100k", tmp_path / "references" / "ml-100k")
    run = artifacts.Run(tmp_path / "run", "ml-100k", "laptop", 0)
    assert quickstart.complete(replay.rebuild(run, tmp_path / "references"))
    shutil.rmtree(run.root)
    (tmp_path / "references/ml-100k/laptop/click_models.csv").unlink()
    with pytest.raises(artifacts.ArtifactError, match="older version.* lacks click_models.csv.*make reference DATASET"):
        quickstart.complete(replay.rebuild(run, tmp_path / "references"))


@pytest.mark.parametrize(("value", "ci95", "said"), [
    (0.01, [0.002, 0.02], "No, it gains"), (-0.01, [-0.02, -0.001], "Yes"), (-0.01, [-0.02, 0.001], "No loss shown"),
    (None, None, "Not measured")])
def test_an_answer_follows_from_its_interval(value, ci95, said):
    item = artifacts.metric("auc_early_exit_minus_full_depth", value, "AUC", ci95=ci95, n=9)
    shown = {row["question"]: row["answer"] for row in answers.answers({"metrics": [item]})}
    assert shown["Does stopping early cost accuracy?"] == said


def test_no_loss_shown_says_which_loss_is_not_excluded_and_a_faster_rival_is_named():
    loss = artifacts.metric("auc_early_exit_minus_full_depth", -0.01, "AUC", ci95=[-0.0224, 0.001], n=9)
    rival = artifacts.metric("throughput_ratio_early_exit_vs_static_selected", 0.8, "ratio", ci95=[0.7, 0.9], n=9)
    said = answers.answer({"metrics": [loss, rival]})
    assert "one of 0.022 in AUC is not excluded" in said and "faster still" in said
    assert "faster still" not in answers.answer({"metrics": [loss, rival | {"ci95": [0.7, 1.1]}]})
    typical = rival | {"name": f"{rival['name']}_as_they_come"}
    assert answers.answer({"metrics": [loss, rival, typical]}).count("faster still") == 1
    order = artifacts.metric("gauc_early_exit_minus_full_depth", -0.01, "GAUC", ci95=[-0.0381, 0.0], n=9)
    assert "one of 0.022 in AUC or 0.038 in GAUC is not excluded" in answers.answer({"metrics": [loss, order]})
    worse = answers.answer({"metrics": [loss, order | {"ci95": [-0.0381, -0.001]}]})
    assert "0.022 in AUC is not excluded" in worse and "the order gets worse" in worse


@pytest.mark.parametrize(("name", "said"), [
    ("auc_early_exit_minus_full_depth_similar_users_only", "similar users only in the prompt, leaving early costs"),
    ("auc_early_exit_minus_full_depth_no_retrieval", "Without any evidence in the prompt, leaving early costs"),
    ("auc_llm_minus_item_plus_user_mean", "Item mean plus user mean is more accurate"),
    ("auc_llm_minus_evidence_model", "But the simple model on the prompt's own numbers is more accurate"),
    ("auc_llm_minus_best_without_llm", "The best model that may learn from all labels is more accurate")])
def test_a_loss_to_something_simpler_or_with_less_evidence_is_in_the_short_answer(name, said):
    item = artifacts.metric(name, -0.03, "AUC", ci95=[-0.05, -0.01], n=9)
    assert said in answers.answer({"metrics": [item]})
    assert said not in answers.answer({"metrics": [item | {"ci95": [-0.05, 0.01]}]})
    lost = artifacts.metric("auc_llm_minus_best_classic_same_labels", -0.03, "AUC", ci95=[-0.05, -0.01], n=9)
    told = answers.answer({"metrics": [item, lost]})
    again = any(said in answers.CLAUSES[one][1] for one in ("numbers", "all_labels"))
    assert "And a model without any LLM" in told and (said in told) != again  # lost once, it is not said twice


@pytest.mark.parametrize(("ci95", "said"), [
    ([6.9, 8.1], "(7.5 times by stopping early, the"), ([0.9, 8.1], "(not shown to come from stopping early, the")])
def test_a_gain_in_speed_is_told_with_what_leaving_is_worth_in_the_same_workload(ci95, said):
    names = {"throughput_ratio_early_exit_vs_plain": [20, 30],
             "throughput_ratio_early_exit_vs_packed_full_depth_as_they_come": [3, 4],
             "throughput_ratio_early_exit_vs_packed_full_depth": ci95}  # fmt: skip
    items = [artifacts.metric(name, np.mean(ends), "ratio", ci95=ends, n=9) for name, ends in names.items()]
    assert "25.0 times as fast " + said in answers.answer({"metrics": items})


@pytest.mark.parametrize(("ci95", "said"), [
    ([0.001, 0.02], "choice of whom to ask pays"), ([-0.02, -0.001], "asking everybody tells more"),
    ([-0.01, 0.01], "no advantage of the graph's choice"), (None, "")])
def test_asking_everybody_is_answered_by_its_interval(ci95, said):
    name, value = "auc_evidence_logistic_graph_minus_everybody", None if ci95 is None else 0.0
    told = answers.answer({"metrics": [artifacts.metric(name, value, "AUC", ci95=ci95, n=9)]})
    assert said in told and ("By the numbers alone" in told) == bool(said)


@pytest.mark.parametrize(("p", "said"), [(0.01, "No, less"), (0.2, "Not shown"), (None, "Not shown")])
def test_a_declared_comparison_counts_once_all_others_do(p, said):
    name = "dynamic_minus_static_same_latency"
    items = [artifacts.metric(f"auc_{name}", -0.02, "AUC", ci95=[-0.03, -0.01], n=9),
             artifacts.metric(f"p_adjusted_{name}", p, "p-value", n=3)]  # fmt: skip
    shown = {row["question"]: row["answer"] for row in answers.answers({"metrics": items})}
    assert shown[answers.QUESTIONS["duel"].text] == said
    assert ("one cut to fewer layers is more accurate" in answers.answer({"metrics": items})) == (said == "No, less")


def test_of_two_gains_by_evidence_the_smaller_one_is_quoted():
    items = [artifacts.metric(name, value, "AUC", ci95=[value - 0.01, value + 0.01], n=9) for name, value in (
        ("auc_retrieval_gain", 0.16), ("auc_retrieval_minus_own_no_retrieval_model", 0.09))]  # fmt: skip
    row = next(row for row in answers.answers({"metrics": items})
               if row["question"] == answers.QUESTIONS["evidence"].text)  # fmt: skip
    assert row["answer"] == "Yes" and row["number"].startswith("+0.090")


def test_predictions_are_listed_under_their_dataset(pages):
    listed = (pages / "examples.html").read_text().split("<h2>")[1:]
    assert [part.split("</h2>")[0] for part in listed] == sorted(NAMES)
    for part in listed:
        name = part.split("</h2>")[0]
        assert f'href="examples/{name}-' in part and part.count("<li>") == part.count(f"examples/{name}-")


DIGITS = {"mean_exit_layer": 1, "latency_ms_mean": 0}  # of the explorer's numbers; the others have three


def independent(run, policy, threshold, low, high) -> tuple:
    """AUC, log loss, mean depth and work of one setting, from the stored tables with numpy and the walk alone."""
    cfg = config.load(run.dataset, run.profile, run.seed)
    head = artifacts.read_table(run, "head_scores.parquet")
    head = head[head["mode"] == "both"]
    select = head[(head["split"] == "validation") & (head["half"] == "select")]
    rule = exit_policies.policies(float(select["label"].mean()), cfg.policy)[policy]
    test = head[head["split"] == "test"]
    size = test.groupby("request_id")["row"].transform("size")
    test = test[(size >= low) & (size <= high)]
    layers, p_yes = exit_policies.head_matrix(test)
    index = exit_policies.exit_index(rule, p_yes, threshold, cfg.policy.min_exit)
    score = p_yes[np.arange(len(test)), index]
    tokens = artifacts.read_table(run, "prompt_tokens.parquet")
    test = test.assign(layer=layers[index]).merge(tokens[["row", "n_prefix_tokens", "n_suffix_both"]], on="row")
    done = whole = 0
    for _, one in test.groupby("request_id"):  # the prefix runs as deep as its deepest candidate
        done += one["n_prefix_tokens"].iloc[0] * one["layer"].max() + (one["n_suffix_both"] * one["layer"]).sum()
        whole += (one["n_prefix_tokens"].iloc[0] + one["n_suffix_both"].sum()) * layers[-1]
    return (metrics.auc(test["label"], score), metrics.log_loss(test["label"], score), layers[index].mean(),
            done / whole)  # fmt: skip


def drawn_settings(data: dict, n: int):
    """n random settings: study, policy, place of the threshold, band."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        study = data["studies"][rng.integers(len(data["studies"]))]
        policy = study["policies"][rng.integers(len(study["policies"]))]
        band = list(study["bands"])[rng.integers(len(study["bands"]))]
        yield study, policy, int(rng.integers(len(policy["thresholds"]))), band


def test_the_page_holds_what_the_scores_say(pages, replayed):
    for study, policy, place, band in drawn_settings(embedded(pages / "explorer.html"), 100):
        expected = independent(replayed[study["dataset"]], policy["name"], policy["thresholds"][place],
                               *explorer.BANDS[band])
        numbers = policy["settings"][band]
        found = [numbers[name][place] for name in ("auc", "log_loss", "mean_exit_layer", "token_layer_fraction")]
        assert found == pytest.approx(expected, abs=1e-9), (study["dataset"], policy["name"], place, band)


def test_a_promise_is_the_one_that_notebook_06_made(pages, replayed):
    for study in embedded(pages / "explorer.html")["studies"]:
        made = artifacts.read_table(replayed[study["dataset"]], "risk.csv")
        made = made[(made["kind"] == "test") & (made["loss"] == explorer.LOSS)
                    & (made["procedure"] == explorer.PROCEDURE)].set_index("epsilon")["threshold"]  # fmt: skip
        block = next(one for one in study["policies"] if one["name"] == study["best"])
        found = [block["thresholds"][place] if (place := block["promised"][str(epsilon)]) >= 0 else None
                 for epsilon in made.index]  # fmt: skip
        assert found == [None if np.isnan(one) else pytest.approx(one, rel=1e-9) for one in made]


def test_disagreement_and_time_of_fixed_exits_equal_a_loop(pages, replayed):
    for study in embedded(pages / "explorer.html")["studies"]:
        run, block = replayed[study["dataset"]], next(p for p in study["policies"] if p["name"] == "static")
        head = artifacts.read_table(run, "head_scores.parquet").query("split == 'test' and mode == 'both'")
        layers, p_yes = exit_policies.head_matrix(head)
        times = artifacts.read_table(run, "latency.csv")
        times = times if times["n_candidates"].nunique() == 1 else times.query("workload == 'drawn'")
        yes = p_yes > study["base_rate"]
        for place, layer in enumerate(layers):
            differs = pd.Series(yes[:, place] != yes[:, -1]).groupby(head["user_id"].to_numpy()).mean().mean()
            assert block["disagreement"][place] == pytest.approx(differs, abs=1e-9)
            ms = 1000 * times.query(f"contender == 'packed_static_{layer}'").groupby("request_id")["seconds"].sum()
            found = block["settings"]["any number"]
            assert found["latency_source"][place] == "measured"
            assert found["latency_ms_mean"][place] == pytest.approx(ms.mean(), rel=1e-6)


def test_where_nobody_rates_no_evidence_is_called_a_rating():
    found = {"n_user": 3, "n_item": 2, "others": [3], "others_mean": 0.22, "match": 0.5, "own": [5, 5], "own_mean": 0.4}
    told = dict(walks.evidence({"evidence": found}))
    assert told["digits shown as match and closest"] == "5 5" and len(told) == len(found)
    assert not any("rating" in name for name in told)
    assert "ratings of the item by similar users" in dict(walks.evidence({"evidence": {"others": [4, 5]}}))


def test_an_example_stops_where_its_policy_says(pages):
    study = embedded(pages / "explorer.html")["studies"][0]
    for stop in walks.stops(study, 0):
        policy = next(one for one in study["policies"] if one["name"] == stop["policy"])
        assert stop["layer"] == study["layers"][policy["exits"][0][policy["chosen"]]]
    page = (pages / "examples" / f"{study['dataset']}-{study['examples'][0]['row']}.html").read_text()
    layer = next(stop["layer"] for stop in walks.stops(study, 0) if stop["policy"] == "static")
    assert f"everybody leaves at one exit</span></th><td>layer {layer}</td><td>{layer}</td>" in page  # no exit's place


def test_titles_stay_text(pages, tmp_path):
    data = embedded(pages / "explorer.html")
    first = data["studies"][0]
    first["examples"][0] |= {"title": HOSTILE, "prompt": HOSTILE, "evidence": {HOSTILE: HOSTILE}}
    for example in first["examples"][1:]:
        example["evidence"] = {}
    clean_examples(first)
    site = Site(tmp_path)
    page = site.page("explorer.html", "explorer.html", HOSTILE, data={"studies": [first], "first": first["dataset"]},
                     **script("explorer.js"))
    assert "<img src=x" not in page.read_text() and page.read_text().count("</script>") == 2


def test_a_picture_that_is_not_there_is_left_out(replayed):
    assert data_url(replayed["ml-100k"], "figures/none.png") is None


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None and not os.environ.get("EESTUDY_NEEDS_BROWSER"):
        pytest.skip("no Chromium here: the pages are tried in a browser where there is one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser):
    """A page of the browser without network; what it complains about is an error."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert said == []


def test_all_pages_open_without_a_complaint(pages, tab):
    for page in sorted(pages.rglob("*.html")):
        tab.goto(page.as_uri())
        assert tab.locator("h1").first.is_visible()


def test_the_explorer_shows_the_numbers_of_the_artifacts(pages, tab):
    tab.goto((pages / "explorer.html").as_uri())
    for study, policy, place, band in drawn_settings(embedded(pages / "explorer.html"), 100):
        tab.select_option("#dataset", study["dataset"])
        tab.select_option("#policy", policy["name"])
        tab.select_option("#band", band)
        tab.locator("#threshold").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", place)
        wanted = {name: policy["settings"][band][name][place] for name in explorer.MEASURES}
        wanted["disagreement"] = policy["disagreement"][place] if band == "any number" else None
        for name, value in wanted.items():
            shown, digits = tab.locator(f"[data-measure={name}]").inner_text(), DIGITS.get(name, 3)
            assert (shown in "–—-" or not shown) if value is None else (
                float(shown.replace(",", "")) == pytest.approx(value, abs=0.51 * 10**-digits)), (name, shown, value)
        stop = study["layers"][policy["exits"][0][place]]
        assert f"Stops after layer {stop} of" in tab.locator("#outcome").inner_text()


def test_a_promise_sets_the_threshold(pages, tab):
    tab.goto((pages / "explorer.html").as_uri())
    for study in embedded(pages / "explorer.html")["studies"]:
        tab.select_option("#dataset", study["dataset"])
        for policy in study["policies"]:
            tab.select_option("#policy", policy["name"])
            for bound, place in policy["promised"].items():
                tab.select_option("#risk", bound)
                last = len(policy["thresholds"]) - 1  # full depth, where no threshold can be promised
                assert int(tab.locator("#threshold").input_value()) == (last if place is None or place < 0 else place)
                assert tab.locator("#risk-note").inner_text()


def test_the_gallery_of_hostile_titles_does_nothing_on_any_page(tab, references, tmp_path):
    from faults.titles import GALLERY, UNSAFE_HTML, without_own_script

    shutil.copytree(references / "ml-100k", tmp_path / "references" / "ml-100k")
    kept = tmp_path / "references/ml-100k/laptop/examples.json"
    examples = json.loads(kept.read_text())
    for k, title in enumerate(GALLERY):
        shown = examples[k % len(examples)]
        shown["title"] = (shown["title"] if k >= len(examples) else "") + title
        shown["prompt"] += title
    kept.write_text(json.dumps(examples))
    run = artifacts.Run(tmp_path / "run", "ml-100k", "laptop", 0)
    asked = []
    tab.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    for page in sorted(build(run, tmp_path / "pages", tmp_path / "references").parent.rglob("*.html")):
        if page.parent.name == "notebooks":
            continue  # they show nothing of the examples
        assert not UNSAFE_HTML.search(without_own_script(page.read_text())), page
        tab.goto(page.as_uri())
        assert tab.evaluate("document.querySelectorAll('iframe, svg[onload], img[src=x]').length") == 0, page
    assert asked == []


def test_the_explorer_is_worked_by_keyboard_and_fits_a_phone(pages, tab):
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.goto((pages / "explorer.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    before = tab.locator("#threshold-note").inner_text()
    tab.focus("#threshold")
    tab.keyboard.press("End")
    assert tab.locator("#threshold-note").inner_text() != before
    assert tab.locator("#threshold").get_attribute("aria-valuetext").startswith("highest")
    unnamed = "[...document.querySelectorAll('select, input, button')].filter(e => !e.labels?.length && !e.innerText)"
    assert tab.evaluate(f"{unnamed}.length") == 0


def test_hostile_titles_do_nothing_in_a_browser(tab, pages, tmp_path):
    test_titles_stay_text(pages, tmp_path)
    tab.goto((tmp_path / "explorer.html").as_uri())
    assert tab.title() != "taken" and HOSTILE in tab.locator("#prompt").inner_text()
