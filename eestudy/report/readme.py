"""What the README shows of the reference results: the answer, the table, what to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from eestudy import artifacts
from eestudy.report.datasets import by_name, dataset_blocks
from eestudy.report.page import number, percent, to_markdown
from eestudy.report.retrieval import times
from eestudy.report.sizes import changed_answers, read_sizes, size_table
from eestudy.verdicts import shown, with_interval, word

FAULTS = artifacts.reference_dir() / "faults.csv"
RIVALS = (("plain", "one prompt a pair"), ("llama_cpp", "llama.cpp"), ("best_truncated_program",
          "the fastest other program with the model cut to the same depth"))  # fmt: skip


def readme_table(metrics: dict) -> str:
    """The README's five-row Markdown table, from `metrics.json`."""
    head = metrics["headline"]
    saving = [percent(head[name]) for name in ("mean_exit_fraction", "token_layer_fraction")]
    rows = [
        ("AUC at full depth, with evidence / without it",
         f"{with_interval(head['auc_full_depth_retrieval'])} / {with_interval(head['auc_full_depth_no_retrieval'])}"),
        ("AUC of the LLM less the simple model on the same numbers",
         with_interval(head["auc_llm_minus_evidence_model"], signed=True)),
        ("AUC of early exit less full depth", with_interval(head["auc_early_exit_minus_full_depth"], signed=True)),
        ("AUC of early exit less a static exit at the same cost",
         with_interval(head["auc_dynamic_minus_static_same_cost"], signed=True)),
        ("Early exit: layers per candidate, token-layers, requests per second against the plain way",
         f"{saving[0]}, {saving[1]}, {with_interval(head['throughput_ratio_early_exit_vs_plain'], 1)}×"),
    ]  # fmt: skip
    rivals = [with_interval(head.get(f"throughput_ratio_best_vs_{name}"), 1) + "×" for name, _ in RIVALS
              if head.get(f"throughput_ratio_best_vs_{name}")]  # fmt: skip
    if len(rivals) == len(RIVALS):
        rows.append((f"Our fastest setting, requests per second against: {'; '.join(text for _, text in RIVALS)}",
                     "; ".join(rivals)))  # fmt: skip
    if own := head.get("throughput_ratio_early_exit_vs_own_truncation"):
        rows.append(("Early exit against one static exit for everybody, the shallowest that validation allows, same "
                     "engine and precision, requests filled up to one size (range over repeats): requests per second",
                     with_interval(own, 2) + "×"))  # fmt: skip
    lines = ["| what | value [95 % interval over users; for requests per second, range or interval over requests] |",
             "|---|---|"]  # fmt: skip
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows]) + "\n"


def readme_expectation(metrics: dict) -> str:
    """What a newcomer should expect of `make reproduce`, from `metrics.json`: minutes and the number at the end."""
    head = metrics["headline"]
    spent = head["reproduce_minutes"]
    minutes = f"Then the reference run took {spent['value']:.0f} minutes on two cores, and early" if spent else "Early"
    return f"{minutes} exit ended at an AUC of {with_interval(head['auc_early_exit'])} in the reference run."


def _word(item: dict) -> str:
    """What a paired difference shows: 'better', 'worse', or that neither is shown."""
    return word(item, "better", "worse", "no difference shown")


ANSWERED = ("early_exit_minus_full_depth", "dynamic_minus_static_same_cost", "static_selected_minus_full_depth",
            "early_exit_minus_evidence_model", "llm_minus_evidence_model",
            "early_exit_minus_full_depth_similar_users_only",
            "early_exit_minus_full_depth_no_retrieval",
            "llm_minus_best_classic_all_labels", "llm_minus_item_plus_user_mean")  # differences of AUC


def readme_answer(metrics: dict) -> str:
    """The study's answer in a few sentences, every judgement taken from an interval of `metrics.json`."""
    values = {item["name"]: item for item in metrics["metrics"] if item["split"] in ("test", "all")}
    values |= metrics["headline"]
    ratio, drawn, leaving, fixed = (values.get(f"throughput_ratio_early_exit_vs_{name}") for name in (
        "plain", "plain_as_they_come", "packed_full_depth_as_they_come", "static_selected"))  # fmt: skip
    share, layer = values.get("modal_exit_share"), values.get("modal_exit_layer")
    found = [values.get(f"auc_{name}") for name in ANSWERED]
    if any(item is None or item["value"] is None for item in (*found, ratio, fixed, share)):
        return "Not all of it is measured yet."
    text = [f"{_word(item)}, {with_interval(item, signed=True)}" for item in found]
    speed = word(fixed, "faster than that", "slower than that", "not shown to be faster or slower", zero=1.0)
    return (
        "**The answer here:**\n\n"
        f"- **Speed.** Early exit serves {with_interval(ratio, 1)} times as many requests as the plain way where they "
        f"are fullest, {with_interval(drawn, 1)} times as they come{_sizes(values)}. There leaving early is worth "
        f"{with_interval(leaving, 1)} times, the shared prefix and the engine the rest.\n"
        f"- **Accuracy.** AUC against full depth: {text[0]}. With less evidence in the prompt, leaving early by the "
        f"same procedure: similar users' ratings only, as in the paper, {text[5]}; no evidence, {text[6]}.\n"
        f"- **Would one fixed layer do?** {percent(share)} of the candidates leave after layer "
        f"{number(layer['value'], 0)}. AUC against one fixed exit for everybody at the same cost: {text[1]}. Everybody "
        f"out at the layer that validation chooses: against full depth {text[2]}, and early exit is {speed}, "
        f"{with_interval(fixed, 2)} times as many of the fullest requests.\n"
        f"- **Would no LLM do?** AUC against the simple model on the numbers that the prompt shows: early exit "
        f"{text[3]}; the LLM at full depth {text[4]}. The LLM at full depth against item mean plus user mean: "
        f"{text[8]}. The LLM at full depth against the best click model without one, "
        f"fitted on all training data: {text[7]}.{_whom_to_ask(values)}{_untaught(values)}"
    )


def _measured(values: dict) -> dict:
    return {name: item for name, item in values.items() if item and item["value"] is not None}


def _whom_to_ask(values: dict) -> str:
    """Whether the graph's neighbours are worth more than random ones, and than an LLM's, where that was measured."""
    known = _measured(values)
    names = ("others_mean_graph_minus_random", "others_mean_graph_minus_everybody",
             "llm_reading_gcn_minus_random_retriever", "llm_reading_gcn_minus_llm_retriever")  # fmt: skip
    chance, everybody, one_draw, llm = (known.get(f"auc_{name}") for name in names)
    ratio = known.get("retriever_lookup_ratio_llm_vs_gcn")
    if None in (chance, everybody, one_draw, llm, ratio):
        return ""
    return (f"\n- **Does it matter whom one asks?** What the graph's neighbours say, AUC against as many drawn at "
            f"random: {_word(chance)}, {with_interval(chance, signed=True)}; against all who may be asked: "
            f"{_word(everybody)}, {with_interval(everybody, signed=True)}. Read by the LLM, against one random draw: "
            f"{with_interval(one_draw, signed=True)}. Against those of a small LLM that reads histories, untuned: "
            f"{_word(llm)}, {with_interval(llm, signed=True)}, and that one's look-up after a new interaction takes "
            f"{times(ratio)} times as long.")


def _untaught(values: dict) -> str:
    """Whether what the language model was taught matters, where that was tried."""
    known = _measured(values)
    item, p = (known.get(f"{name}_random_backbone_minus_main") for name in ("auc", "p_adjusted"))
    labels = known.get("n_ablation_labels")
    if item is None or labels is None:
        return ""
    said = shown(item["value"], item["ci95"], p["value"] if p else None, "random weights are better", "it does")
    return (f"\n- **Does it matter what the LLM was taught?** Random weights in its place, both trained on about "
            f"{labels['value']:,.0f} labels, AUC {with_interval(item, signed=True)}: {said}.")


def _sizes(values: dict) -> str:
    """How many candidates the timed requests had, beside all of test."""
    timed, test = (values.get(f"candidates_per_request_{which}") for which in ("timed", "test"))
    return "" if timed is None or test is None else (
        f" (those timed have {number(timed['value'], 1)} candidates on average, all of test "
        f"{number(test['value'], 1)})")  # fmt: skip


def readme_elsewhere(references: Sequence[dict], dataset: str) -> str:
    """The other datasets, in two sentences: early exit's speed and AUC; whether it matters there whom one asks."""
    found, asked = [], []
    for metrics in references:
        values = by_name(metrics)
        ratio, loss = (values.get(name) for name in ("throughput_ratio_early_exit_vs_plain_as_they_come",
                                                     "auc_early_exit_minus_full_depth"))  # fmt: skip
        if metrics["dataset"] != dataset and ratio and loss:
            found.append(f"{metrics['dataset']} {with_interval(ratio, 1)} times, {_word(loss)} in AUC "
                         f"({with_interval(loss, signed=True)})")  # fmt: skip
        if metrics["dataset"] != dataset and (chance := values.get("auc_others_mean_graph_minus_random")):
            asked.append(f"{metrics['dataset']} {_word(chance)} ({with_interval(chance, signed=True)})")
    said = f"- **Elsewhere**, requests as they come: {'; '.join(found)}.\n" if found else ""
    said += ("- **Whom to ask, elsewhere**: what the graph's neighbours say alone, against random ones (where nobody "
             f"rates: how alike the graph finds them): {'; '.join(asked)}.\n") if asked else ""  # fmt: skip
    return "\n" + said


def readme_more_labels(sizes: Sequence[dict]) -> str:
    """Which answers change once the LLM learns from all labels and all test rows judge it; '' where that was not tried.

    Args:
        sizes: from `read_sizes`.
    """
    said = changed_answers(sizes)
    return f"\n- **And with more labels and test rows?** {said}" if said else ""


def readme_trust(path: Path = FAULTS) -> str:
    """What became of the faults that `make torture` injects, as a table; `path`: its committed record."""
    if not path.exists():
        return "Not tried yet."
    return to_markdown([("table", pd.read_csv(path))])


def render_readme(text: str, metrics: dict, references: Sequence[dict] = ()) -> str:
    """The README with what stands between its markers rendered anew.

    Args:
        text: the README.
        metrics: the `metrics.json` that it tells.
        references: those of all datasets, for the table over datasets.
    """
    sizes = read_sizes(metrics.get("dataset", ""))
    blocks = {"answer": "\n" + readme_answer(metrics) + readme_more_labels(sizes)
                        + readme_elsewhere(references, metrics.get("dataset", "")),
              "results": "\n" + readme_table(metrics),
              "expect": readme_expectation(metrics),
              "datasets": "\n" + to_markdown(dataset_blocks(references or [metrics])),
              "sizes": "\n" + to_markdown([("table", size_table(sizes))]),
              "trust": "\n" + readme_trust()}
    return fill(text, blocks)


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Put each block between its markers, `<!-- name:start -->` and `<!-- name:end -->`, where the text has them."""
    for name, content in blocks.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        head, found, rest = text.partition(start)
        text = head + start + content + end + rest.partition(end)[2] if found else text
    return text
