"""Sentences, tables and the page of the report, all rendered from numbers."""

from __future__ import annotations

import json
import re

import pandas as pd

from eestudy import artifacts
from eestudy.report.comparison import CLASSES, published
from eestudy.report.headline import HEADLINE
from eestudy.report.judged import exit_layers
from eestudy.report.page import escape_markdown, number, percent, plain_text
from eestudy.report.retrieval import retrieval_sentences
from eestudy.report.titles import title_blocks
from eestudy.report.words import word_blocks
from eestudy.verdicts import BARE, digits_of, shown, with_interval, word

FIGURES = {  # file name: caption
    "08_tradeoff_token_layers": "Accuracy against token-layers, with the models that need no LLM on the frontier.",
    "08_depth_curves": "Accuracy by exit depth on the same test rows, with and without evidence.",
    "08_tradeoff_latency": "Accuracy against the time of a request (hollow: between measured settings, interpolated).",
    "08_exit_losses": "Log loss and calibration error of every exit.",
}

INTERVALS = ("Rendered from metrics.json; intervals are 95 % percentiles of a paired bootstrap over users, of speed "
             "over requests (of what make bench timed, n its few repeats: the least and the greatest of them). Each "
             "stands alone: of many such intervals some leave out 0 by chance.")  # fmt: skip


def verdict(item: dict | None, first: str, second: str, unit: str = "AUC") -> str:
    """Who wins, from a difference first - second and its interval, in a sentence."""
    start = f"{first[0].upper()}{first[1:]} less {second}"
    if item is None or item["value"] is None:
        return f"{start}: not measured."
    text = f"{start}: {with_interval(item, signed=True)} {unit}"
    if item["ci95"] is None:
        return f"{text}; without an interval nothing is claimed."
    if item["ci95"][0] <= 0 <= item["ci95"][1]:
        return f"{text}; inconclusive, the interval contains 0."
    return f"{text}; {first if item['value'] > 0 else second} wins."


def _depth_sentence(values: dict) -> str:
    names = ("with_evidence", "without_evidence", "with_minus_without_evidence")
    with_it, without, gap = (values.get(f"layer_of_95_percent_of_gain_{name}") for name in names)
    if with_it is None or without is None:
        return "The layer that reaches 95 % of the gain over chance: not measured."
    text = (f"95 % of the best exit's gain over chance is reached at or before layer {with_interval(with_it, 0)} with "
            f"evidence and {with_interval(without, 0)} without (one model, which saw most prompts with evidence)")
    if gap is None or gap["ci95"] is None:
        return f"{text}."
    said = word(gap, "with evidence it sits deeper", "with evidence the answer sits at shallower layers",
                "inconclusive, the interval contains 0")  # fmt: skip
    return f"{text}; difference {with_interval(gap, 0, signed=True)} layers: {said}."


def _saving_sentence(values: dict) -> str:
    exits, tokens = values.get("mean_exit_fraction"), values.get("token_layer_fraction")
    if exits is None or tokens is None:
        return "What early exit saves: not measured."
    share, layer = values.get("modal_exit_share"), values.get("modal_exit_layer")
    where = ("" if share is None or layer is None else
             f" {percent(share)} of the candidates leave after layer {number(layer['value'], 0)}.")  # fmt: skip
    return (f"The selected policy runs {percent(exits, 1)} of the layers per candidate and "
            f"{percent(tokens, 1)} of the token-layers, prefix included.{where}")  # fmt: skip


def _speed_sentence(values: dict) -> str:
    names = {"early_exit_vs_plain": "early exit against the plain way",
             "early_exit_vs_packed_full_depth": "early exit against our own packed full depth",
             "full_depth_vs_plain": "packed full depth against the plain way",
             "early_exit_vs_static_selected": "early exit against everybody at the layer that validation chose"}
    texts = [f"{label}: {with_interval(values.get(f'throughput_ratio_{name}'), 2)}" for name, label in names.items()]
    drawn = with_interval(values.get("throughput_ratio_early_exit_vs_plain_as_they_come"), 2)
    return ("Requests per second as a ratio, on requests with the most candidates: " + "; ".join(texts)
            + f". On requests as they come, early exit against the plain way: {drawn}.")


def _risk_sentence(values: dict) -> str:
    """Whether the promise on users' disagreement with full depth held, and what each bound would save."""
    worst = values.get("risk_violation_rate_max")
    if worst is None:
        return "A promise on a user's disagreement with full depth: not measured."
    pattern = re.compile(r"risk_none_qualifies_at_([\d.]+)_percent")  # of calibrations as large as the risk half
    bounds = sorted((found.group(1) for name in values if (found := pattern.fullmatch(name))), key=float)
    texts = []
    for bound in bounds:
        none, saved, later = (values.get(f"risk_{what}_at_{bound}_percent") for what in
                              ("none_qualifies", "token_layers_saved", "real"))  # fmt: skip
        real = "none qualifies" if later and later["ci95"] is None else f"risk on test rows {with_interval(later, 4)}"
        texts.append(f"{bound} %: none qualifies in {with_interval(none)} of them, {with_interval(saved)} of the "
                     f"token-layers saved on average; in the one real calibration: {real}")
    kept, delta, auc = [values.get(name) for name in (
        "risk_disagreement_early_exit", "risk_delta", "auc_early_exit_minus_full_depth")]  # fmt: skip
    allowed = "" if delta is None else f" ({percent(delta)} would be allowed)"
    plain = "" if kept is None else (" The setting selected above promises nothing: of a user's answers "
                                     f"{with_interval(kept)} differ from full depth's.")  # fmt: skip
    if kept and auc and auc["ci95"] and auc["ci95"][1] < 0:
        plain += f" Answers that agree are not an order that agrees: AUC changes by {with_interval(auc, signed=True)}."
    return ("A promise on a user's disagreement with full depth (Learn-then-Test) was broken in at most "
            f"{with_interval(worst)} of the calibrations drawn{allowed}; where none qualifies all runs to full depth, "
            f"and there is nothing to break. By bound: {'; '.join(texts) or 'not measured'}."
            f"{_other_promises(values, bounds)}{plain}")


def _other_promises(values: dict, bounds: list[str]) -> str:
    """What the same promise on the other losses would save: disagreement is the one that is kept most easily."""
    told = []
    for loss, what in (("excess_log_loss", "excess log loss"), ("ranking", "pairs of a user that change order")):
        saved = [f"{number(item['value'])} at {bound} %" for bound in bounds
                 if (item := values.get(f"risk_{loss}_token_layers_saved_at_{bound}_percent"))]  # fmt: skip
        told += [f"on {what} {', '.join(saved)}"] if saved else []
    return f" The same promise {'; '.join(told)} of the token-layers saved on average." if told else ""


def classic_sentences(values: dict, choices: dict) -> list[str]:
    """The LLM against the best classic click models; [] where none was fitted."""
    llm, names = "the LLM at full depth", {}
    for key, what in (("same_labels", "the same labels"), ("all_labels", "all training data")):
        model = choices.get(f"best_classic_{key}", "").removesuffix(f"_{key}").replace("_", " ")
        names[key] = f"the best classic model on {what} ({model})"
    found = [(f"llm_minus_best_classic_{key}", llm, name) for key, name in names.items()]
    found.append(("stacked_minus_best_classic_all_labels", "LLM and classic model stacked", names["all_labels"]))
    return [verdict(values[f"auc_{key}"], *pair).removesuffix(".") + f"; log loss, where less is better, "
            f"{with_interval(values.get(f'log_loss_{key}'), signed=True)} nats."
            for key, *pair in found if f"auc_{key}" in values]  # fmt: skip


def _trained_apart(values: dict) -> list[str]:
    """Comparisons of models that were trained apart (`make ablations`); [] where none was.

    Of the two gains of retrieval the smaller one is to be quoted: a model that sees evidence in part of its steps only
    is a weak one without it, and models of a small budget are weak ones altogether.
    """
    own, item = "retrieval_minus_own_no_retrieval_model", "one with the item's own number alone"
    names = {own: ("a model with all evidence", "one without"),
             "retrieval_minus_item_mean_prompt": ("a model with all evidence", item),
             "similar_users_minus_item_mean_prompt": ("a model with similar users", item),
             "dynamic_minus_static_same_latency": ("dynamic exit", "a truncated model, in its time")}  # fmt: skip
    found = [_apart(values, key, *pair) for key, pair in names.items() if f"auc_{key}" in values]
    gains = [values[name] for name in ("auc_retrieval_gain", f"auc_{own}") if name in values]
    if len(gains) == 2:
        smaller = min(gains, key=lambda gain: gain["value"])
        found.append(f"Of both gains of retrieval the one to quote is the smaller one: "
                     f"{with_interval(smaller, signed=True)}.")
    return found


SPOILT = {"random_backbone": "random weights in place of the language model's", "shuffled_titles": "titles shuffled",
          "ids": "ids in place of titles", "shuffled_evidence": "evidence shuffled among candidates"}  # fmt: skip


def _control_sentences(values: dict) -> list[str]:
    """What a model reads that was trained with one part of its input, or its start, spoilt; [] where none was."""
    found = (_spoilt(values, "", "What the model reads"),
             _spoilt(values, BARE, "What it reads where the prompt shows no evidence"))  # fmt: skip
    return [text for text in found if text]


def _spoilt(values: dict, ending: str, what: str) -> str:
    found = {key: item for key in SPOILT if (item := values.get(f"auc_{key}_minus_main{ending}"))}
    if not found:
        return ""
    base = number(values[f"auc_{next(iter(found))}_minus_main{ending}_compared"]["value"])
    adjusted = {key: values.get(f"p_adjusted_{key}_minus_main{ending}") for key in found}
    each = [f"{SPOILT[key]} {with_interval(item, signed=True)}{_adjusted(adjusted[key])}, "
            f"{_shown(item, adjusted[key], 'higher', 'lower')}" for key, item in found.items()]  # fmt: skip
    return (f"{what}: trained apart{_labels(values)} with one part spoilt, less the same training unspoilt "
            f"(AUC {base}): {'; '.join(each)}.")


def _labels(values: dict) -> str:
    labels = values.get("n_ablation_labels")
    return "" if labels is None else f", on about {labels['value']:,.0f} labels each"


def _shown(item: dict, p: dict | None, higher: str, lower: str) -> str:
    return shown(item["value"], item["ci95"], None if p is None else p["value"], higher, lower)


def _adjusted(p: dict | None) -> str:
    return "" if p is None else f" (p {p['value']:.3f} adjusted for all comparisons, trainings {p['n']})"


def _apart(values: dict, key: str, first: str, second: str) -> str:
    """Two models that were trained apart: their difference, and what is left of it once all comparisons count."""
    item, p, base = (values.get(name) for name in (f"auc_{key}", f"p_adjusted_{key}", f"auc_{key}_compared"))
    said = _shown(item, p, f"{first} wins", f"{second} wins")
    against = "" if base is None else f" (AUC {base['value']:.3f})"
    return (f"Trained apart{_labels(values)}: {first} less {second}{against}: {with_interval(item, signed=True)} AUC"
            f"{_adjusted(p)}; {said}.")  # fmt: skip


def _gauc_text(values: dict) -> str:
    """Full depth's GAUC, of how many users, and whether it is above chance for sure."""
    gauc, users, of = (values.get(name) for name in
                       ("gauc_full_depth_retrieval", "n_users_of_gauc", "n_judged_test_users"))  # fmt: skip
    counted = "" if None in (users, of) else f"; {users['value']:,.0f} of {of['value']:,.0f} users count"
    chance = "; not shown to be above chance" if gauc and gauc["ci95"] and gauc["ci95"][0] <= 0.5 else ""
    return f"GAUC (within users{counted}) {with_interval(gauc)}{chance}"


def _training_sentence(values: dict) -> list[str]:
    """Said only where the last look of the training was the best: then more of it might change what is found."""
    last, before = (values.get(f"auc_select_{name}") for name in ("last_look", "best_look_before"))
    if last is None or before is None or last["value"] < before["value"]:
        return []
    return ["The training is not shown to have converged: full depth's AUC on selection rows was "
            f"{number(last['value'])} at its last look, {number(before['value'])} at the best before. More labels or "
            "passes could change what the deep heads know."]  # fmt: skip


WHOSE = "auc_early_exit_minus_full_depth_"  # then a group of users or items, or a mode


def _harmed_sentence(values: dict) -> list[str]:
    """Groups of users and items whose AUC leaving early lowers, each by its own interval; [] where none was judged."""
    groups = {name.removeprefix(WHOSE): item for name, item in values.items() if name.startswith(WHOSE)
              and not name.endswith(("similar_users_only", "no_retrieval")) and item["ci95"]}  # fmt: skip
    harmed = [f"{group.replace('the_users', 'the user’s').replace('the_items', 'the item’s').replace('_', ' ')} "
              f"({with_interval(item, signed=True)})"
              for group, item in groups.items() if item["ci95"][1] < 0]  # fmt: skip
    return [f"Of {len(groups)} groups of users and items leaving early lowers the AUC, each by its own interval, of: "
            f"{', '.join(harmed) or 'none'}."] if groups else []


def findings(metrics: dict) -> list[str]:
    """What was found, one sentence each, from `metrics.json`; whoever wins is named, 0 inside an interval too."""
    values = {item["name"]: item for item in metrics["metrics"] if item["value"] is not None}
    values = {name: item for name, item in metrics["headline"].items() if item} | values
    model = metrics.get("choices", {}).get("evidence_model", "evidence model").replace("_", " ")
    evidence = f"the simple model on the prompt's own numbers ({model})"
    llm, early, static = "the LLM at full depth", "early exit", "the static exit at the same cost"
    base = values.get("auc_item_plus_user_mean")
    drawn = ", by design near chance: opposites are drawn as popular" if "auc_match" in values else ""
    means = "item mean + user mean" + (f" (AUC {number(base['value'])}{drawn})" if base else "")
    return [
        f"The LLM at full depth with evidence: AUC {with_interval(values.get('auc_full_depth_retrieval'))}, "
        f"{_gauc_text(values)}.", *_training_sentence(values),
        verdict(values.get("auc_retrieval_gain"), "full depth with evidence", "full depth without"),
        *_trained_apart(values), *_control_sentences(values),
        verdict(values.get("auc_llm_minus_item_plus_user_mean"), llm, means),
        verdict(values.get("gauc_llm_minus_item_plus_user_mean"), llm, means, "GAUC"),
        verdict(values.get("auc_llm_minus_evidence_model"), llm, evidence),
        verdict(values.get("gauc_llm_minus_evidence_model"), llm, evidence, "GAUC"),
        verdict(values.get("auc_stacked_minus_evidence_model"), "LLM and simple model stacked", evidence),
        verdict(values.get("auc_early_exit_minus_evidence_model"), early, evidence),
        verdict(values.get("auc_early_exit_minus_full_depth"), early, "full depth"),
        verdict(values.get("gauc_early_exit_minus_full_depth"), early, "full depth", "GAUC"),
        verdict(values.get("auc_early_exit_minus_full_depth_similar_users_only"), f"{early} with similar users only in "
                "the prompt", "full depth with them"),
        verdict(values.get("auc_early_exit_minus_full_depth_no_retrieval"), f"{early} without evidence in the prompt",
                "full depth without"),
        *_harmed_sentence(values),
        verdict(values.get("auc_static_selected_minus_full_depth"), "everybody out at the layer that validation "
                "chooses", "full depth"),
        verdict(values.get("auc_dynamic_minus_static_same_cost"), early, static),
        verdict(values.get("auc_dynamic_minus_static_selected"), early, "the static exit that validation chooses"),
        *classic_sentences(values, metrics.get("choices", {})),
        *retrieval_sentences(values),
        _saving_sentence(values), _speed_sentence(values), _depth_sentence(values), _risk_sentence(values),
    ]  # fmt: skip


def headline_table(headline: dict) -> pd.DataFrame:
    """name, value, 95 % interval, n, unit; "not measured" for null."""
    rows = []
    for name in HEADLINE:
        item = headline.get(name) or {"value": None, "ci95": None, "n": "", "unit": ""}
        digits = 0 if item["unit"] == "layer" else digits_of(item["ci95"] or (), 3)
        bounds = "" if item["ci95"] is None else " to ".join(number(bound, digits) for bound in item["ci95"])
        rows.append((name, number(item["value"], digits), bounds, item["n"] or "", item["unit"]))
    return pd.DataFrame(rows, columns=["name", "value", "95 % interval", "n", "unit"])


def examples(run: artifacts.Run, n: int) -> list[dict]:
    """At most `n` judged test rows with their prompts: half where depth changes the answer most, half spread evenly.

    Returns:
        Dicts: row, title, label, p_yes (layer -> probability), prompt, evidence (its entry in that table without the
        items; None for what is not known). A run made from a reference shows the examples kept there.
    """
    if not artifacts.artifact_hash(run, "prompts.parquet"):
        return artifacts.read_json(run, "examples.json")[:n] if artifacts.artifact_hash(run, "examples.json") else []
    head = artifacts.read_table(run, "head_scores.parquet")
    head = head[(head["split"] == "test") & (head["mode"] == "both")].sort_values("row").reset_index(drop=True)
    columns = [f"p_yes_{layer}" for layer in exit_layers(head)]
    changed = (head[columns[-1]] - head[columns[0]]).abs().nlargest(n // 2).index
    spread = head.index[:: max(1, len(head) // max(1, n - n // 2))]
    kept = head.loc[list(dict.fromkeys([*changed, *spread]))[:n]]
    prompts = artifacts.read_table(run, "prompts.parquet").set_index("row")
    items = artifacts.read_table(run, "items.parquet").set_index("item_id")["title"]
    item_of = artifacts.read_table(run, "interactions.parquet").set_index("row")["item_id"]
    found = _found(run, kept["row"])
    return [
        {"row": int(row["row"]), "title": str(items[item_of[row["row"]]]), "label": int(row["label"]),
         "p_yes": {name.removeprefix("p_yes_"): round(float(row[name]), 4) for name in columns},
         "prompt": prompts.loc[row["row"], "prefix"] + prompts.loc[row["row"], "suffix_both"],
         "evidence": found.get(int(row["row"]), {})}
        for _, row in kept.iterrows()
    ]  # fmt: skip


def _found(run: artifacts.Run, rows: pd.Series) -> dict[int, dict]:
    """What the retriever found for each row, ready for JSON; {} for a run without evidence."""
    if not artifacts.artifact_hash(run, "evidence.parquet"):
        return {}
    table = artifacts.read_table(run, "evidence.parquet").drop(columns="own_items", errors="ignore").set_index("row")
    return {int(row): json.loads(pd.Series(table.loc[row].to_dict()).to_json(double_precision=4)) for row in rows}


def example_blocks(rows: list[dict]) -> list[tuple]:
    """One line and the prompt of each example."""
    blocks = [("heading", 2, "Examples")] if rows else []
    for row in rows:
        path = ", ".join(f"{layer}: {p:.2f}" for layer, p in row["p_yes"].items())
        blocks.append(("text", f"{row['title']} (row {row['row']}; {'click' if row['label'] else 'no click'}). "
                               f"P(yes) after layer {path}."))  # fmt: skip
        blocks.append(("quote", row["prompt"]))
    return blocks


def published_table(metrics: dict) -> pd.DataFrame:
    """The published numbers with evidence class, and our nearest number."""
    columns = ["metric", "dataset", "value", "unit", "evidence_class", "source", "note", "ours", "our_value"]
    return published(metrics)[columns].sort_values("source", kind="stable", key=lambda s: ~s.str.startswith("arXiv"))


def unused_blocks(run: artifacts.Run) -> list[tuple]:
    """Which rows of the dataset's files were not used, and why; [] where the run does not hold notebook 01's counts."""
    if not all(artifacts.artifact_hash(run, name) for name in ("quarantine.json", "left_out.json")):
        return []
    bad, left = (artifacts.read_json(run, name) for name in ("quarantine.json", "left_out.json"))
    rows = [{"why": group["reason"], "rows": group["n_rows"], "what became of them": f"set aside ({group['file']})"}
            for group in bad]  # fmt: skip
    rows += [{"why": rule["rule"], "rows": rule["n_rows"], "what became of them": "left out by a setting"}
             for rule in left]  # fmt: skip
    table = pd.DataFrame(rows, columns=["why", "rows", "what became of them"])
    return [("heading", 2, "Rows of the files that were not used"),
            ("table", table) if rows else ("text", "None: every row was used.")]  # fmt: skip


def report_blocks(run: artifacts.Run, metrics: dict, n_examples: int) -> list[tuple]:
    """The whole report as blocks for `page.to_markdown` and `page.to_html`.

    Args:
        run: reads tradeoff.csv, the figures, head scores and prompts, and what `make probes` found.
        metrics: content of `metrics.json`.
        n_examples: example rows shown.
    """
    tradeoff = artifacts.read_table(run, "tradeoff.csv")
    columns = ["setting", "kind", "auc", "auc_lo", "auc_hi", "gauc", "token_layer_fraction", "latency_ms_mean",
               "latency_source", "dominated_by"]  # fmt: skip
    settings = tradeoff.loc[tradeoff["kind"] != "sweep", columns]
    blocks = [
        ("heading", 1, "How much computation does early exit save, at what cost in accuracy?"),
        ("text", f"Dataset {artifacts.study_name(run.dataset)}, profile {run.profile}, seed {run.seed}, "
                 f"backbone {metrics['backbone']}, source {metrics['source_hash'][:12]}. {INTERVALS}"),
        ("heading", 2, "Findings"), ("list", findings(metrics)),
    ]  # fmt: skip
    if metrics["not_measured"]:
        blocks.append(("text", f"Not run: notebooks {', '.join(metrics['not_measured'])}."))
    for name, caption in FIGURES.items():
        if artifacts.artifact_hash(run, f"figures/{name}.png"):
            blocks.append(("figure", artifacts.read_bytes(run, f"figures/{name}.png"), f"{name}.png", caption))
    classes = "; ".join(f"{key}: {text}" for key, text in CLASSES.items())
    return [
        *blocks,
        ("heading", 2, "Headline"), ("table", headline_table(metrics["headline"])),
        ("heading", 2, "Every setting"),
        ("text", "Dominated: some rule, fixed depth or model without LLM costs no more and is no worse."),
        ("table", settings),
        ("heading", 2, "Published numbers beside ours"),
        ("text", f"Other data, models and machines: no row is the same measurement. Evidence classes: {classes}."),
        ("table", published_table(metrics)),
        *unused_blocks(run),
        *title_blocks(run),
        *example_blocks(examples(run, n_examples)),
        *word_blocks(),
    ]  # fmt: skip


def summary(metrics: dict) -> str:
    """One screen for the terminal: the findings and the headline."""
    lines = [f"{metrics['dataset']} / {metrics['profile']} / seed {metrics['seed']} / {metrics['backbone']}", ""]
    for name in HEADLINE:
        item = metrics["headline"].get(name)
        unit = item["unit"] if item else ""
        lines.append(f"  {name:<50} {with_interval(item, 0 if unit == 'layer' else 3)} {unit}".rstrip())
    return "\n".join([*lines, "", *(f"- {plain_text(text)}" for text in findings(metrics))])


def findings_markdown(metrics: dict) -> str:
    """The findings as a Markdown list, escaped."""
    return "\n".join(f"- {escape_markdown(text)}" for text in findings(metrics))
