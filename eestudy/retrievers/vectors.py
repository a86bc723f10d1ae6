"""Users and items as vectors, each kind with the seconds it took: graph, LLM, sentence model, and what needs none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eestudy import artifacts, backbone, prompts, retriever
from eestudy.artifacts import Run
from eestudy.progress import progress
from eestudy.retriever import Retriever
from eestudy.retrievers.material import Material
from eestudy.retrievers.users import averaged, centred, recent_items, users_needed

TEXTS_PER_PART = 500
TRAINING = ("embedding_dim", "n_layers", "epochs", "batch_size", "max_steps", "lr", "lambda_reg")
Encode = Callable[[Sequence[str]], np.ndarray]  # N texts -> [N, D]


@dataclass(frozen=True)
class Vectors:
    """Users and items in one space. Zeros where nothing is known, or where nobody will look."""

    users: np.ndarray  # [U, D]
    items: np.ndarray  # [I, D]
    users_cost: str  # names what has to be computed for them, see `all_vectors`
    items_cost: str
    shift: np.ndarray | float = 0.0  # [D] what was taken from every user's vector, see `centred`


def encode_in_parts(run: Run, name: str, texts: Sequence[str], encode: Encode, wanted: str) -> tuple[np.ndarray, float]:
    """Encode texts some at a time; finished parts are kept, so that a killed step goes on.

    Args:
        run: keeps them, as `chunks/<name>_<start>.safetensors`.
        name: of the parts.
        texts: [N].
        encode: texts -> vectors.
        wanted: fingerprint of encoder and texts.

    Returns:
        float32 [N, D], and the seconds that encoding took, in whatever process it was done.
    """
    found, seconds = [], 0.0
    for start in progress(range(0, len(texts), TEXTS_PER_PART), f"encoding {name}", unit="part"):
        file = f"chunks/{name}_{start:06d}.safetensors"
        if not artifacts.is_current(run, file, wanted):
            spent: dict[str, float] = {}
            with artifacts.stopwatch(spent, "s"):
                vectors = encode(texts[start:start + TEXTS_PER_PART])
            artifacts.write_arrays(run, file, {"vectors": vectors}, fingerprint=wanted, seconds=spent["s"])
        found.append(artifacts.read_arrays(run, file)["vectors"])
        seconds += artifacts.read_meta(run, file)["seconds"]
    return np.concatenate(found), seconds


def history_texts(material: Material, users: np.ndarray, titles: Sequence[str]) -> list[str]:
    """What the LLM retriever reads of each user: the latest titles, with ratings where there are stars.

    Args:
        material: its `before` is what may be known.
        users: ids.
        titles: [I] cut titles.
    """
    cfg = material.cfg
    recent = recent_items(material.before, users, cfg.retrievers.n_history)
    empty = material.before.iloc[:0]
    return [history_text(recent.get(user, empty), titles, cfg.data.has_stars) for user in users.tolist()]


def history_text(known: pd.DataFrame, titles: Sequence[str], stars: bool) -> str:
    """The history's text of a prompt, of interactions item_id and rating, oldest first."""
    return prompts.history_text([titles[item] for item in known["item_id"]], known["rating"].tolist(), stars)


def train_graph(material: Material, last_layer_only: bool, wanted: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The graph of the later parts, trained and timed: user vectors [U, D], item vectors [I, D], seconds."""
    cfg, run = material.cfg.retriever, material.run
    file = f"retriever_graph_{'last' if last_layer_only else 'mean'}.safetensors"
    if not artifacts.is_current(run, file, wanted):
        edges = retriever.graph_interactions(material.interactions, material.split, ("graph", "label"), cfg.edges)
        spent: dict[str, float] = {}
        with artifacts.stopwatch(spent, "s"):
            users, items, _ = retriever.train_lightgcn(
                edges["user_id"].to_numpy(), edges["item_id"].to_numpy(), material.n_users, len(material.titles),
                seed=material.cfg.seed, last_layer_only=last_layer_only, **cfg.model_dump(include=set(TRAINING)),
            )  # fmt: skip
        artifacts.write_arrays(run, file, {"users": users, "items": items}, fingerprint=wanted, seconds=spent["s"])
    arrays = artifacts.read_arrays(run, file)
    return arrays["users"], arrays["items"], artifacts.read_meta(run, file)["seconds"]


def graph_vectors(material: Material, costs: dict[str, float], wanted: str) -> dict[str, Vectors]:
    """Mean of layers (the run's own), last layer, and the run's with every asking user folded in."""
    stored = artifacts.read_arrays(material.run, "embeddings.safetensors")
    users, items = stored["user_final"], stored["item_final"]
    costs["graph"] = train_graph(material, False, wanted)[2]
    last_users, last_items, costs["graph, last layer"] = train_graph(material, True, wanted)
    folded, degree = users.copy(), line_counts(material)
    own = {user: items_of.to_numpy() for user, items_of in material.lines.groupby("user_id")["item_id"]}
    for user in material.asked["user_id"].unique():
        folded[user] = retriever.fold_in(items, degree, own.get(user, np.zeros(0, np.int64)))
    return {"graph": Vectors(users, items, "graph", "graph"),
            "graph, last layer": Vectors(last_users, last_items, "graph, last layer", "graph, last layer"),
            "graph, folded in": Vectors(folded, items, "graph", "graph")}


def line_counts(material: Material) -> np.ndarray:
    """How many lines of the graph each item has: [I]."""
    return np.bincount(material.lines["item_id"], minlength=len(material.titles))


def language_vectors(
    material: Material, encode: Encode, read_titles: Encode, titles: Sequence[str], costs: dict, wanted: str
) -> dict[str, Vectors]:  # fmt: skip
    """Users and items by text: the LLM on histories and titles, its titles averaged, the sentence model's averaged.

    Args:
        material: the run.
        encode: of the LLM.
        read_titles: of the sentence model.
        titles: [I] as a prompt shows them.
        costs: receives seconds by name.
        wanted: fingerprint of all that the vectors depend on.
    """
    run, needed = material.run, users_needed(
        pd.concat([material.asked, material.reference]) if not material.cfg.data.has_stars else material.asked,
        material.allowed)  # fmt: skip
    histories, costs["llm histories"] = encode_in_parts(
        run, "llm_histories", history_texts(material, needed, titles), encode, wanted)
    by_title, costs["llm titles"] = encode_in_parts(run, "llm_titles", titles, encode, wanted)
    sentences, costs["sentence titles"] = encode_in_parts(run, "sentence_titles", titles, read_titles, wanted)
    users = np.zeros((material.n_users, histories.shape[1]), dtype=np.float32)
    users[needed], shift = centred(histories)
    by_title, _ = centred(by_title)
    return {
        "llm": Vectors(users, by_title, "llm histories", "llm titles", shift),
        "llm titles": Vectors(averaged(material.lines, by_title, material.n_users), by_title, "llm titles",
                              "llm titles"),
        "sentence": Vectors(averaged(material.lines, sentences, material.n_users), sentences,
                            "sentence titles", "sentence titles"),
    }  # fmt: skip


def plain_vectors(material: Material) -> dict[str, Vectors]:
    """What needs no training: chance, activity, and the ratings themselves where there are stars."""
    rng, sizes = np.random.default_rng(material.cfg.seed), (material.n_users, len(material.titles))
    chance = [rng.standard_normal((n, 16)).astype(np.float32) for n in sizes]
    counts = [np.bincount(material.allowed[key], minlength=n).astype(np.float32)[:, None]
              for key, n in zip(("user_id", "item_id"), sizes, strict=True)]
    found = {"random": Vectors(*chance, "", ""), "most active": Vectors(*counts, "", "")}
    if material.cfg.data.has_stars:
        ratings = retriever.rating_matrix(material.allowed, *sizes)
        found["cosine on ratings"] = Vectors(ratings, ratings.T, "", "")
    return found


def all_vectors(
    material: Material, model, tokenizer, wanted: str, read_titles: Encode = retriever.sentence_vectors
) -> tuple[dict[str, Vectors], dict[str, float]]:  # fmt: skip
    """Every retriever's vectors, and the seconds that each named cost took.

    Args:
        material: the run.
        model, tokenizer: the frozen LLM as it came, without adapter.
        wanted: fingerprint of all that they depend on.
        read_titles: titles -> vectors of the sentence model.
    """
    cfg, costs = material.cfg, {"": 0.0}
    titles = prompts.cut_titles(material.titles, tokenizer, cfg.prompt.max_title_tokens)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return backbone.text_vectors(model, tokenizer, texts, cfg.prompt.max_prefix_tokens)

    found = plain_vectors(material) | graph_vectors(material, costs, wanted)
    return found | language_vectors(material, encode, read_titles, titles, costs, wanted), costs


def embedding_retriever(name: str, users: np.ndarray, items: np.ndarray) -> Retriever:
    """Cosine of any vectors. Args: name; users [U, D] and items [I, D] in one space, received as arrays."""
    return Retriever(name, retriever.vector_similarity(users), retriever.vector_similarity(items),
                     retriever.vector_similarity(users, items))  # fmt: skip


def make_retrievers(material: Material, vectors: dict[str, Vectors]) -> dict[str, Retriever]:
    """Every retriever by name; the plain ones are those of notebook 03."""
    plain = retriever.rival_retrievers(
        material.allowed, material.n_users, len(material.titles), material.cfg.seed, material.cfg.data.has_stars)
    found = {one.name: one for one in plain}
    return found | {name: embedding_retriever(name, part.users, part.items)
                    for name, part in vectors.items() if name not in found}  # fmt: skip
