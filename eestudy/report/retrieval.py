"""Where retrieval helps and where it does not, and what lies behind it: density and popularity, in sentences."""

from __future__ import annotations

from eestudy.report.page import number, percent
from eestudy.verdicts import with_ends, with_interval, word

MORE = ("more", "less", "no more is shown")

FACTS = {  # those that a dataset has
    "auc_item_mean_before_request": "the item's mean", "auc_user_mean_before_request": "the user's mean",
    "auc_n_item_before_request": "the item's number of rows", "auc_n_user_before_request": "the user's number of rows",
    "auc_own_mean": "the user's own most similar items", "auc_match": "match of user and target in the graph",
    "auc_title_closest": "words shared with a title that the user liked",
    "auc_taken_by_neighbors": "whether any of the users most similar to this one took it",
}  # fmt: skip


def retrieval_sentences(values: dict[str, dict]) -> list[str]:
    """What evidence adds to the LLM, and what the evidence itself is worth.

    Args:
        values: entries of `metrics.json` on test rows by name.

    Returns:
        Sentences; what was not measured is left out, so [] where nothing was.
    """
    said = (_effect(values), _beyond_means(values), _density(values), _popularity(values), _against_cosine(values),
            _against_llm(values), _against_chance(values))  # fmt: skip
    return [sentence for sentence in said if sentence]


def _effect(values: dict) -> str:
    both, similar = (_moved(values.get(f"auc_{name}_gain")) for name in ("retrieval", "similar_users"))
    if not both or not similar:
        return ""
    paper = "" if _without_stars(values) else ", as in the paper,"
    own = values.get("auc_retrieval_minus_own_no_retrieval_model")
    apart = ("no model was trained apart, so it may be less" if own is None or own["ci95"] is None else
             f"of models trained apart it is {with_interval(own, signed=True)}")  # fmt: skip
    return (f"Evidence in the prompt, all of it, {both}; similar users' alone{paper} {similar} (one model, which saw "
            f"most prompts with evidence: {apart}).")  # fmt: skip


def _without_stars(values: dict) -> bool:
    """Whether nobody rates: similar users then say how similar they are, and not what they think."""
    return "auc_match" in values


def _moved(item: dict | None) -> str:
    if item is None or item["value"] is None or item["ci95"] is None:
        return ""
    said = word(item, "raises AUC by", "lowers AUC by", "shows no effect on AUC,")
    return f"{said} {with_interval(item, signed=True)}"


def _beyond_means(values: dict) -> str:
    """Whether neighbours, or the LLM, tell more than the plain means; '' where nobody gives stars: there are none."""
    own = values.get("auc_user_mean")
    told = {what: values.get(f"auc_{name}_minus_item_plus_user_mean") for what, name in
            (("a logistic model of the prompt's numbers", "evidence_logistic"), ("the LLM that reads them", "llm"))}
    if own is None or own["ci95"] == [0.5, 0.5] or any(item is None or item["ci95"] is None for item in told.values()):
        return ""
    words = [f"{what} {with_interval(item, signed=True)} ({word(item, *MORE)})" for what, item in told.items()]
    return (f"The mean of a user's own ratings alone has an AUC of {number(own['value'], 3)}. Beyond the means of item "
            f"and user together, known from all of the graph and label part: {', '.join(words)}.")  # fmt: skip


def _density(values: dict) -> str:
    raters, nobody = (values.get(name) for name in ("evidence_n_item_median_test", "evidence_without_others_test"))
    if raters is None or nobody is None:
        return ""
    return (f"Density: the median test target is known from {number(raters['value'], 0)} users; for "
            f"{percent(nobody, 1)} of the test rows there is no evidence of others.")  # fmt: skip


def _popularity(values: dict) -> str:
    """Whether it matters whom one asks: the graph's neighbours against anybody's, and against the plain facts."""
    chosen, alone = values.get("auc_others_mean_graph_minus_random"), values.get("auc_others_mean")
    if chosen is None or alone is None or chosen["ci95"] is None:
        return ""
    said = word(chosen, "it matters whom one asks", "random ones tell more",
                f"no difference shown, though one of up to {number(chosen['ci95'][1], 3)} is not excluded")  # fmt: skip
    drawn = "ones, as alike as the graph finds those" if _without_stars(values) else "ones"
    everybody = values.get("auc_others_mean_graph_minus_everybody")
    whole = "" if everybody is None else f"; against all there are {with_interval(everybody, signed=True)}"
    facts = [f"{name} {number(values[key]['value'], 3)}" for key, name in FACTS.items() if key in values]
    return (f"Without an LLM, similar users have an AUC of {number(alone['value'], 3)}, "
            f"{with_interval(chosen, signed=True)} against random {drawn}: {said}{whole}. "
            f"Beside it: {', '.join(facts)}.")  # fmt: skip


def _against_cosine(values: dict) -> str:
    """Whether it takes a graph: against neighbours by plain cosine on rating vectors."""
    kinds = {"similar users": "others_mean", "the user's own items": "own_mean", "all numbers": "evidence_logistic"}
    found = {what: values.get(f"auc_{kind}_graph_minus_cosine_on_ratings") for what, kind in kinds.items()}
    said = [f"{what} {with_interval(item, signed=True)} ({word(item, *MORE)})" for what, item in found.items()
            if item is not None and item["ci95"] is not None]  # fmt: skip
    return f"The graph's choice against plain cosine on rating vectors, AUC: {', '.join(said)}." if said else ""


def _against_llm(values: dict) -> str:
    """The graph's neighbours against those that an LLM finds by reading the histories."""
    alone, read = (values.get(f"auc_{kind}_gcn_minus_llm_retriever") for kind in ("alone", "llm_reading"))
    ratio = values.get("retriever_lookup_ratio_llm_vs_gcn")
    if any(item is None or item["ci95"] is None for item in (alone, read, ratio)):
        return ""
    whole = values.get("retriever_request_ratio_llm_vs_gcn")
    request = f", for all targets of a request {times(whole)}" if whole is not None and whole["ci95"] else ""
    scale = ", each shown with its own similarity" if _without_stars(values) else ""
    return ("Neighbours by the graph against neighbours by a small LLM, frozen and not tuned to retrieve, that reads "
            f"the histories{scale}: AUC of what they say alone {_verdict(alone)}, of the LLM reading it "
            f"{_verdict(read)}; after a new interaction the LLM's look-up takes {times(ratio)} times as long"
            f"{_milliseconds(values, 'after')}{request}{_milliseconds(values, 'ready')}.")  # fmt: skip


def _against_chance(values: dict) -> str:
    """The LLM that reads of the graph's neighbours, against random ones: one draw, so that no verdict is given."""
    read = values.get("auc_llm_reading_gcn_minus_random_retriever")
    if read is None or read["ci95"] is None:
        return ""
    return ("The LLM that reads of the graph's neighbours, against one draw of as many random ones: AUC "
            f"{with_interval(read, signed=True)} (over users; another draw would differ).")  # fmt: skip


def _verdict(item: dict) -> str:
    return f"{with_interval(item, signed=True)} ({word(item, 'better', 'worse', 'no difference shown')})"


def _milliseconds(values: dict, row: str) -> str:
    """Both medians of a row of the table; '' where they are not known."""
    llm, graph = (values.get(f"retriever_{row}_ms_p50_{way}") for way in ("llm", "gcn"))
    if llm is None or graph is None:
        return ""
    pair = f"{number(llm['value'], 3)} ms against {number(graph['value'], 3)} ms"
    return f" ({pair})" if row == "after" else f"; with every vector at hand {pair}"


def times(ratio: dict) -> str:
    """'3,028 [2,590, 3,464]'. Args: an entry of metrics.json, with its interval."""
    return with_ends(ratio["value"], *ratio["ci95"], ",", 0)
