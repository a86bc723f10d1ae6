"""What a look-up takes: with everything at hand, and when the user's newest interaction has just come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eestudy import backbone, latency, retriever
from eestudy.retriever import Way
from eestudy.retriever.search import normalise
from eestudy.retrievers.material import Material, drawn_requests
from eestudy.retrievers.vectors import Vectors, history_text, line_counts

# one target, everything computed beforehand; one target, after a new interaction; all targets of the request, after it
READY, AFTER, REQUEST = "ready", "after", "request"


@dataclass(frozen=True)
class Asked:
    """One request, and what may be known of it, as arrays that lie ready."""

    user: int
    targets: np.ndarray  # [T] item ids
    raters: list[np.ndarray]  # T arrays of user ids
    own: np.ndarray  # [n] items that the user rated
    ratings: np.ndarray  # [n] the user's ratings of them
    lines: np.ndarray  # [m] those of them that are lines of the graph
    recent: pd.DataFrame  # item_id, rating: what the history's text is made of


def asked_requests(material: Material, n: int) -> list[Asked]:
    """Requests drawn at random whose first target has been rated by somebody, `n` at most."""
    cfg, made = material.cfg, []
    raters = dict(list(material.allowed.groupby("item_id")))
    own, lines = (dict(list(frame.groupby("user_id"))) for frame in (material.before, material.lines))
    nothing = material.before.iloc[:0]
    asked = dict(list(material.asked.groupby("request_id")))
    for request_id in drawn_requests(material.asked, None, cfg.seed):
        if len(made) == n:
            break
        part = asked[request_id]
        user, before = int(part["user_id"].iloc[0]), part["request_timestamp"].iloc[0]
        who = [raters.get(item, nothing) for item in part["item_id"]]
        who = [frame.loc[frame["timestamp"] < before, "user_id"].to_numpy() for frame in who]
        known = own.get(user, nothing).sort_values(["timestamp", "row"])
        if len(who[0]):
            made.append(Asked(user, part["item_id"].to_numpy(), who, known["item_id"].to_numpy(),
                              known["rating"].to_numpy(), lines.get(user, nothing)["item_id"].to_numpy(),
                              known.tail(cfg.retrievers.n_history)[["item_id", "rating"]]))  # fmt: skip
    return made


def updates(material: Material, vectors: Mapping[str, Vectors], model, tokenizer, titles: Sequence[str]) -> dict:
    """How each retriever makes the asking user's vector anew: name -> function of `Asked` that returns [D].

    All but one are sums over arrays that lie ready. The LLM has to read the history again.
    """
    cfg, degree = material.cfg, line_counts(material)
    n_items, plain = len(material.titles), {name: normalise(part.items) for name, part in vectors.items()
                                            if name in ("llm titles", "sentence")}  # fmt: skip

    def read(asked: Asked) -> np.ndarray:
        text = history_text(asked.recent, titles, cfg.data.has_stars)
        return backbone.text_vectors(model, tokenizer, [text], cfg.prompt.max_prefix_tokens)[0] - vectors["llm"].shift

    def rated(asked: Asked) -> np.ndarray:
        row = np.zeros(n_items, dtype=np.float32)
        row[asked.own] = asked.ratings
        return row

    def fold(name: str) -> Callable[[Asked], np.ndarray]:
        return lambda asked: retriever.fold_in(vectors[name].items, degree, asked.lines)

    def average(name: str) -> Callable[[Asked], np.ndarray]:
        return lambda asked: plain[name][asked.lines].sum(axis=0) / max(len(asked.lines), 1)

    found = {"llm": read, "cosine on ratings": rated, **{name: average(name) for name in plain}}
    found |= {name: fold(name) for name in vectors if name.startswith("graph")}
    found["random"] = lambda asked: vectors["random"].users[asked.user]
    return {name: make for name, make in found.items() if name in vectors}


def asks_with(way: Way, stars: bool) -> list[str]:
    """The retrievers in whose space the asking user's vector is needed: the raters', and without stars the items', too.

    Without stars the user's own side shows how well the target matches the user, and the other one how alike those
    are who took it: if the retriever cannot say, the graph does.
    """
    names = (way.users, retriever.shown_by(way.users, stars), None if stars else way.items)
    return list(dict.fromkeys(name for name in names if name))


def contenders(
    ways: Sequence[Way], vectors: Mapping[str, Vectors], make_anew: Callable[[Mapping[str, Vectors]], Mapping],
    numbers: tuple[int, int], stars: bool,
) -> dict[str, Callable[[Asked], object]]:  # fmt: skip
    """'<way>/<row>' -> what has to be done for a request; all search by the same plain product over the same lists.

    Every way has arrays of its own: those that several share would lie nearer at hand than the others'.

    Args:
        ways: the ways; one that asks nobody is left out.
        vectors: by retriever.
        make_anew: vectors -> what `updates` makes of them.
        numbers: similar users and items wanted.
        stars: whether the dataset has any.
    """
    found: dict[str, Callable[[Asked], object]] = {}
    for way in ways:
        own = {name: replace(vectors[name], users=vectors[name].users.copy(), items=vectors[name].items.copy())
               for name in {*asks_with(way, stars), way.items} if name}  # fmt: skip
        if own:
            found |= _rows(way, own, make_anew(own), numbers, stars)
    return found


def _rows(way: Way, own: Mapping[str, Vectors], anew, numbers, stars) -> dict[str, Callable[[Asked], object]]:
    """The three rows of one way."""
    unit = {name: (normalise(part.users), normalise(part.items)) for name, part in own.items()}
    if "most active" in own:
        unit["most active"] = (own["most active"].users, own["most active"].items)  # larger, not: more alike
    names, search = asks_with(way, stars), _search(way, unit, numbers, stars)

    def stored(asked: Asked) -> dict[str, np.ndarray]:
        return {name: np.ones(1, np.float32) if name == "most active" else unit[name][0][asked.user] for name in names}

    def fresh(asked: Asked) -> dict[str, np.ndarray]:
        return {name: normalise(anew[name](asked)[None])[0] if name in anew else stored(asked)[name] for name in names}

    def all_targets(asked: Asked) -> list:
        queries = fresh(asked)
        return [search(asked, queries, place) for place in range(len(asked.targets))]

    return {f"{way.name}/{READY}": lambda asked: search(asked, stored(asked), 0),
            f"{way.name}/{AFTER}": lambda asked: search(asked, fresh(asked), 0),
            f"{way.name}/{REQUEST}": all_targets}


def _search(way: Way, unit, numbers: tuple[int, int], stars: bool):
    """(request, the user's vectors by retriever, place of the target) -> what a prompt is made of.

    Raters and own items; without stars how alike these raters are (where the search has not said so) and the match.
    """
    shown = retriever.shown_by(way.users, stars)

    def search(asked: Asked, queries: Mapping[str, np.ndarray], place: int) -> tuple:
        found: list = []
        if way.users:
            raters = asked.raters[place]
            found.append(_top(unit[way.users][0][raters] @ queries[way.users], raters, numbers[0]))
            if shown not in ("", way.users):
                found.append(unit[shown][0][found[0]] @ queries[shown])
        if way.items:
            items = unit[way.items][1]
            target = items[asked.targets[place]]
            found.append(_top(items[asked.own] @ target, asked.own, numbers[1]))
            if not stars:
                found.append(float(target @ queries[way.items]))
        return tuple(found)

    return search


def _top(score: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    return ids[np.argsort(-score, kind="stable")[:k]]


def measure(
    material: Material, vectors: Mapping[str, Vectors], ways: Sequence[Way], model, tokenizer, titles: Sequence[str]
) -> pd.DataFrame:  # fmt: skip
    """Seconds of every way and row on the same requests, in turn, in an order drawn anew for each.

    Returns:
        Columns way, row (`READY`, `AFTER`, `REQUEST`), request, n_targets, seconds.
    """
    cfg = material.cfg
    latency.set_threads(cfg.latency.n_threads)
    asked = asked_requests(material, cfg.retrievers.n_lookups)
    numbers = (cfg.retriever.n_similar_users, cfg.retriever.n_similar_items)
    racing = contenders(ways, vectors, lambda own: updates(material, own, model, tokenizer, titles), numbers,
                        cfg.data.has_stars)
    times = latency.interleave(racing, asked, min(cfg.latency.warmup_requests, len(asked)), 1)
    times[["way", "row"]] = times["contender"].str.split("/", expand=True)
    targets = [len(one.targets) for one in asked]
    return times.assign(n_targets=times["request"].map(dict(enumerate(targets))))[
        ["way", "row", "request", "n_targets", "seconds"]]  # fmt: skip
