"""The short answers, as the front page shows them: every word follows from an interval in `metrics.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eestudy.metrics import LEVEL
from eestudy.report.datasets import by_name
from eestudy.report.page import number
from eestudy.verdicts import with_interval


@dataclass(frozen=True)
class Question:
    """One question and the entry of `metrics.json` that answers it.

    names: entries, of which the first that was measured counts; with `least` the smallest: the gain to be quoted.
    zero: the value that says "no difference".
    words: what to answer when the interval lies above it, below it, or holds it.
    unit: after the number.
    """

    text: str
    names: tuple[str, ...]
    words: tuple[str, str, str]
    zero: float = 0.0
    unit: str = "AUC"
    least: bool = False


QUESTIONS = {
    "speed": Question("Is it faster than asking the model once for every item?", (
        "throughput_ratio_early_exit_vs_plain_as_they_come", "throughput_ratio_early_exit_vs_plain"),
        ("Yes", "No, slower", "Not shown"), 1.0, "times"),
    "exit": Question("Does stopping early add to that, on top of sharing the prompt?", (
        "throughput_ratio_early_exit_vs_packed_full_depth_as_they_come",
        "throughput_ratio_early_exit_vs_packed_full_depth"), ("Yes", "No, slower", "Not shown"), 1.0, "times"),
    "loss": Question("Does stopping early cost accuracy?", ("auc_early_exit_minus_full_depth",),
                     ("No, it gains", "Yes", "No loss shown")),
    "order": Question("And the order within one person's items?", ("gauc_early_exit_minus_full_depth",),
                      ("No, it gains", "Yes", "No loss shown"), unit="GAUC"),
    "less_evidence": Question("And with similar users only in the prompt?", (
        "auc_early_exit_minus_full_depth_similar_users_only",), ("No, it gains", "Yes", "No loss shown")),
    "no_evidence": Question("And without any evidence in the prompt?", (
        "auc_early_exit_minus_full_depth_no_retrieval",), ("No, it gains", "Yes", "No loss shown")),
    "static": Question("Is choosing when to stop, item by item, better than one fixed layer of the same cost?",
                       ("auc_dynamic_minus_static_same_cost",), ("Yes", "No, worse", "Not shown")),
    "static_speed": Question("Is it faster than stopping everybody at the layer that validation chose?", (
        "throughput_ratio_early_exit_vs_static_selected_as_they_come",), ("Yes", "No, slower", "Not shown"),
        1.0, "times"),
    "static_full": Question("And on the requests with the most candidates?", (
        "throughput_ratio_early_exit_vs_static_selected",), ("Yes", "No, slower", "Not shown"), 1.0, "times"),
    "duel": Question("And than a model cut to fewer layers and trained alone, in its time (both of few labels)?",
                     ("auc_dynamic_minus_static_same_latency",), ("Yes", "No, less", "Not shown")),
    "evidence": Question("Does evidence in the prompt help, against a prompt without any?", (
        "auc_retrieval_minus_own_no_retrieval_model", "auc_retrieval_gain"), ("Yes", "No, it hurts", "Not shown"),
        least=True),
    "graph": Question("Do the neighbours that the graph finds tell more than random ones (all numbers, no LLM)?",
                      ("auc_evidence_logistic_graph_minus_random",), ("Yes", "No, less", "Not shown")),
    "everybody": Question("And more than everybody who may be asked (all numbers, no LLM)?",
                          ("auc_evidence_logistic_graph_minus_everybody",), ("Yes", "No, less", "Not shown")),
    "random_alone": Question("And what the neighbours say alone, against random ones?",
                             ("auc_others_mean_graph_minus_random",), ("More", "Less", "Not shown")),
    "everybody_alone": Question("And what the neighbours say alone, against what everybody says?",
                                ("auc_others_mean_graph_minus_everybody",), ("More", "Less", "Not shown")),
    "means": Question("Is the LLM, at full depth, more accurate than item mean plus user mean?", (
        "auc_llm_minus_item_plus_user_mean",), ("Yes", "No, less", "Not shown")),
    "llm": Question("Is the LLM, at full depth, more accurate than the best model without one on the same labels?", (
        "auc_llm_minus_best_classic_same_labels",), ("Yes", "No, less", "Not shown")),
    "numbers": Question("And than the simple model on the prompt's own numbers?", (
        "auc_llm_minus_evidence_model",), ("Yes", "No, less", "Not shown")),
    "all_labels": Question("And than the best one that may learn from all labels there are?", (
        "auc_llm_minus_best_without_llm", "auc_llm_minus_best_classic_all_labels"), ("Yes", "No, less", "Not shown")),
}  # fmt: skip
CLAUSES = {  # for: above, below, neither, not measured
    "speed": ("Yes, they can be made {} times as fast{}", "No: they become slower, {} times as fast",
              "No gain in speed could be shown", "How much faster they become was not measured here"),
    "loss": ("without losing accuracy", "at a price in accuracy",
             "and no loss of accuracy could be shown (one of {} is not excluded)",
             "and what it costs in accuracy was not measured"),
    "order": ("", "Within one person's items the order gets worse.", "", ""),
    "less_evidence": ("", "With similar users only in the prompt, leaving early costs accuracy.", "", ""),
    "no_evidence": ("", "Without any evidence in the prompt, leaving early costs accuracy.", "", ""),
    "static": ("Choosing when to stop, item by item, pays.", "But stopping everybody at one fixed layer is better.",
               "But no advantage over stopping everybody at one fixed layer could be shown.", ""),
    "static_speed": ("", "Stopping everybody at the layer that validation chose is faster still.", "", ""),
    "static_full": ("", "On requests with the most candidates, stopping everybody at the layer that validation chose "
                    "is faster still.", "", ""),
    "duel": ("Of two models trained on few labels, the one that leaves early is more accurate than one cut to fewer "
             "layers, in the same time.", "Of two models trained on few labels, one cut to fewer layers is more "
             "accurate than the one that leaves early, in the same time.", "", ""),
    "everybody": ("By the numbers alone, the graph's choice of whom to ask pays.",
                  "By the numbers alone, asking everybody tells more than asking whom the graph finds.",
                  "By the numbers alone, no advantage of the graph's choice over asking everybody could be shown.", ""),
    "everybody_alone": ("", "Taken by itself, what everybody did tells more than what the graph's choice did.",
                        "", ""),
    "means": ("", "Item mean plus user mean is more accurate than the LLM at full depth.",
              "It is not shown that the LLM at full depth beats item mean plus user mean.", ""),
    "llm": ("And the LLM is more accurate than every model without one that learns from the same labels.",
            "And a model without any LLM, taught with the same labels, is more accurate than the "
            "LLM at full depth, in a fraction of the time.",
            "And no difference could be shown to the model without any LLM that validation picks among those taught "
            "with the same labels, which answers in a fraction of the time.", ""),
    "numbers": ("", "But the simple model on the prompt's own numbers is more accurate than the LLM at full depth.", "",
                ""),
    "all_labels": ("", "The best model that may learn from all labels is more accurate than the LLM at full depth.", "",
                   ""),
}  # fmt: skip

REPEATED = (("static_speed", "static_full"), ("llm", "numbers"), ("llm", "all_labels"))  # lost once, not said twice


def entry(metrics: dict, question: Question) -> dict | None:
    """The entry that answers a question, or None where none of its names was measured with an interval."""
    values = by_name(metrics)
    found = [item for name in question.names
             if (item := values.get(name)) and item["value"] is not None and item["ci95"]]  # fmt: skip
    if question.least:
        return min(found, key=lambda item: item["value"], default=None)
    return found[0] if found else None


def side(item: dict | None, zero: float) -> int:
    """Where an interval lies: 0 above `zero`, 1 below it, 2 across it, 3 not measured."""
    if item is None:
        return 3
    low, high = item["ci95"]
    return 0 if low > zero else 1 if high < zero else 2


def _place(metrics: dict, question: Question) -> int:
    """`side` of a question's entry; across where it has an adjusted p that shows no difference, or no model was
    trained twice, see `verdicts.shown`."""
    item = entry(metrics, question)
    p = by_name(metrics).get(f"p_adjusted_{item['name'].removeprefix('auc_')}") if item else None
    shown = p is None or (p["value"] is not None and p["value"] < LEVEL)
    return side(item, question.zero) if shown else 2


def answer(metrics: dict) -> str:
    """The answer to the study's question in a few sentences."""
    items = {name: entry(metrics, QUESTIONS[name]) for name in CLAUSES}
    said = {name: clauses[_place(metrics, QUESTIONS[name])] for name, clauses in CLAUSES.items()}
    if items["speed"]:
        part = _part(by_name(metrics).get(items["speed"]["name"].replace("_vs_plain", "_vs_packed_full_depth")))
        said["speed"] = said["speed"].format(number(items["speed"]["value"], 1), part)
    said["loss"] = said["loss"].format(_not_excluded(items))
    for first, again in REPEATED:
        if _place(metrics, QUESTIONS[first]) == 1:
            said[again] = ""
    rest = (text for name, text in said.items() if name not in ("speed", "loss"))
    return " ".join(filter(None, (f"{said['speed']}, {said['loss']}.", *rest)))


def _not_excluded(items: dict[str, dict | None]) -> str:
    """The largest loss that the interval of AUC leaves open, and that of GAUC where it is no known loss."""
    lows = [f"{number(-item['ci95'][0], 3)} in {QUESTIONS[name].unit}" for name in ("loss", "order")
            if (item := items[name]) and item["ci95"][0] < 0 <= item["ci95"][1]]  # fmt: skip
    return " or ".join(lows)


def _part(leaving: dict | None) -> str:
    """Of a gain in speed, what stopping early brings by itself: against full depth in the same workload."""
    place = side(leaving, 1.0)
    if place == 3:
        return ""
    part = f"{number(leaving['value'], 1)} times by" if place == 0 else "not shown to come from"
    return f" ({part} stopping early, the rest by the shared prefix and the engine)"


def answers(metrics: dict) -> list[dict]:
    """One row a question: question, answer (a word or two), number (value with its 95 % interval)."""
    rows = []
    for question in QUESTIONS.values():
        item, ratio = entry(metrics, question), question.zero == 1.0
        shown = f"{with_interval(item, 1 if ratio else 3, not ratio)} {question.unit}"
        shown += f", {item['n']} requests" if item and ratio and item["n"] else ""
        rows.append({"question": question.text, "answer": (*question.words, "Not measured")[_place(metrics, question)],
                     "number": "" if item is None else shown})  # fmt: skip
    return rows


def beside(references: Sequence[dict]) -> list[dict]:
    """The answers of all datasets: one row a question, the answer and number of each dataset in order."""
    columns = [answers(metrics) for metrics in references]
    return [{"question": question.text, "answers": [column[place] for column in columns]}
            for place, question in enumerate(QUESTIONS.values())]  # fmt: skip
