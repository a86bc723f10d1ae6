"""From history and evidence to the text that the LLM reads, and to its tokens.

A request's prefix says who the user is and what they rated lately; each candidate's suffix names the target,
the evidence, and asks. Titles are untrusted text: control characters never reach the prompt and long titles
are cut, so that one item cannot push the others out of the budget.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

from eestudy.config import KNOWN_PARTS, MODES, StudyConfig

QUESTION = " Like?"
MOST_TOKENS_A_LETTER = 1.0  # English takes about a quarter; a script that the tokenizer does not know one or more
LEAST_KEPT = 0.5  # of a title's letters


class PromptError(ValueError):
    """A prompt cannot be built within its budget."""


def clean_title(title: str) -> str:
    """One line of printable text; an empty title becomes 'unknown'."""
    printable = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(title))
    return " ".join(printable.split()) or "unknown"


def cut_titles(titles: Sequence[str], tokenizer, max_tokens: int) -> list[str]:
    """Each title cleaned and cut to at most `max_tokens` tokens (with the blank that precedes it)."""
    if not len(titles):  # the tokenizer takes no empty list
        return []
    cleaned = [" " + clean_title(title) for title in titles]
    tokens = tokenizer(cleaned, add_special_tokens=False)["input_ids"]
    return [
        text.strip() if len(ids) <= max_tokens else tokenizer.decode(ids[:max_tokens]).strip()
        for text, ids in zip(cleaned, tokens, strict=True)
    ]


def refuse_unreadable(titles: Sequence[str], tokenizer, max_tokens: int) -> None:
    """Stop where the tokenizer spells titles out in so many tokens that most of the text is cut.

    Raises:
        PromptError: the median title takes more than `MOST_TOKENS_A_LETTER` tokens a letter, and less than
            `LEAST_KEPT` of it fits.
    """
    cleaned = [" " + clean_title(title) for title in titles]
    tokens = np.array([len(ids) for ids in tokenizer(cleaned, add_special_tokens=False)["input_ids"]])
    rate = float(np.median(tokens / [len(text) for text in cleaned]))
    kept = float(np.median(np.minimum(max_tokens / np.maximum(tokens, 1), 1)))
    if rate > MOST_TOKENS_A_LETTER and kept < LEAST_KEPT:
        raise PromptError(f"titles take {rate:.1f} tokens a letter, {kept:.0%} of one fits into {max_tokens} tokens: "
                          "this tokenizer does not know their script; take another backbone, or raise "
                          "prompt.max_title_tokens and prompt.max_suffix_tokens")  # fmt: skip


def profile_text(
    user: pd.Series, n_rated: int, n_clicks: int, mean_rating: float, noun: str, stars: bool = True
) -> str:  # fmt: skip
    """Who the user is and how often they like what they rate (without stars: how much they bought).

    Args:
        user: a row of the `users` table; empty fields are left out.
        n_rated: ratings known before the request.
        n_clicks: clicks among them.
        mean_rating: their mean, in stars.
        noun: what an item is called.
        stars: whether the dataset has any.
    """
    gender = {"M": "male", "F": "female"}.get(str(user.get("gender", "")), "")
    age = f"{user['age']} years" if str(user.get("age", "")).strip() else ""
    who = ", ".join(part for part in (age, gender, clean_title(user.get("occupation") or "user")) if part)
    if not stars:
        return f"{who}. Bought {n_rated} {noun}s." if n_rated else f"{who}. Bought nothing yet."
    if not n_rated:
        return f"{who}. No {noun}s rated yet."
    return f"{who}. Likes {round(100 * n_clicks / n_rated)}% of {noun}s, mean {mean_rating:.2f}."


def known_profile(user: pd.Series, known: pd.DataFrame, noun: str, stars: bool = True) -> str:
    """`profile_text` of a user whose known history is `known` (columns label, rating)."""
    return profile_text(user, len(known), int(known["label"].sum()), known["rating"].mean(), noun, stars)


def prefix_text(cfg: StudyConfig, tokenizer, profile: str, titles: Sequence[str], ratings: Sequence[float]) -> str:
    """The shared part of a request's prompt: profile, recent history within the budget, and what comes next.

    Args:
        cfg: the study's settings.
        tokenizer: counts the tokens of the budget.
        profile: from `profile_text`.
        titles, ratings: recent history, oldest first; titles cut.

    Raises:
        PromptError: a profile that alone exceeds the budget.
    """
    closing = closing_text(cfg)
    recent = slice(max(0, len(titles) - cfg.prompt.n_history), None)
    return profile + _fit_history(cfg, profile, closing, titles[recent], ratings[recent], tokenizer) + closing


def closing_text(cfg: StudyConfig) -> str:
    """What stands between the shared prefix and a candidate: ' Film:'."""
    return f" {cfg.data.item_noun.capitalize()}:"


def history_text(titles: Sequence[str], ratings: Sequence[float], stars: bool = True, name: str = "Recent") -> str:
    """Recent ratings, oldest first; titles alone without stars; '' where there are none. What they are stands first."""
    if not len(titles):
        return ""
    shown = [f"{title} {math.floor(rating + 0.5)}" if stars else title  # halves round up, as in the evidence
             for title, rating in zip(titles, ratings, strict=True)]  # fmt: skip
    return f" {name}: " + "; ".join(shown) + "."


def ratings_text(name: str, ratings: Sequence[int]) -> str:
    """Evidence as digits, highest first, and their mean: ' others 5543 4.2'. A ten is an X: one sign a rating."""
    if not len(ratings):
        return f" {name} none"
    whole = (math.floor(rating + 0.5) for rating in sorted(ratings, reverse=True))  # means round, too: halves up
    digits = "".join("X" if rating == 10 else str(rating) for rating in whole)
    return f" {name} {digits} {np.mean(ratings):.1f}"


def match_text(names: Sequence[str], digits: Sequence[int]) -> str:
    """Evidence without stars, similarities in tenths: ' match 3 of 9, closest 8 of 9'."""
    shown = [f"{int(digit)} of 9" for digit in digits] or ["none"] * len(names)
    return ",".join(f" {name} {digit}" for name, digit in zip(names, shown, strict=True))


def suffix_text(mode: str, title: str, others: Sequence[int], own: Sequence[int], stars: bool = True) -> str:
    """The candidate's part of the prompt.

    Args:
        mode: 'both', 'similar_users' or 'none': the evidence that is shown.
        title: the target's (cut) title.
        others: ratings of the target by the most similar users.
        own: the user's own ratings of the items most similar to the target.
        stars: whether the dataset has any; else digits: `others` how similar those who took the target are to the user,
            `own` how well the target matches what the user takes, and how close the closest of the user's items is.
    """
    if stars:
        first, second = ratings_text("others", others), ratings_text("own", own)
    else:
        first, second = match_text(["buyers"], others), match_text(["match", "closest"], own)
    evidence = {"both": f"{first},{second}.", "similar_users": f"{first}.", "none": ""}[mode]
    return f" {title}.{evidence}{QUESTION}"


def known_history(interactions: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """What each request may know of its user: rows of the allowed parts, before the request's time.

    Args:
        interactions: the `interactions` table.
        split: the `split` table.

    Returns:
        Columns request_id, item_id, rating, label, timestamp, row; sorted by request, then time, then row.
    """
    rows = interactions[interactions["observed"]].merge(split[["row", "split"]], on="row")
    requests = split[split["request_id"] >= 0].merge(interactions[["row", "user_id"]], on="row")
    requests = requests.drop_duplicates("request_id")
    pieces = []
    for part, known in KNOWN_PARTS.items():
        asked = requests.loc[requests["split"] == part, ["request_id", "user_id", "request_timestamp"]]
        pairs = asked.merge(rows[rows["split"].isin(known)], on="user_id")
        pieces.append(pairs[pairs["timestamp"] < pairs["request_timestamp"]])
    history = pd.concat(pieces, ignore_index=True)
    columns = ["request_id", "item_id", "rating", "label", "timestamp", "row"]
    return history.sort_values(["request_id", "timestamp", "row"])[columns].reset_index(drop=True)


def prefix_parts(cfg: StudyConfig, frames: dict[str, pd.DataFrame], request_ids, titles, tokenizer) -> pd.DataFrame:
    """Profile and history text of each request.

    Args:
        cfg: the study's settings.
        frames: the tables interactions, users, split.
        request_ids: the requests wanted.
        titles: cut title per item_id.
        tokenizer: counts the tokens of the budget.

    Returns:
        Columns request_id, profile, history, closing; one row per request, ascending.

    Raises:
        PromptError: a profile that alone exceeds the budget.
    """
    history = known_history(frames["interactions"], frames["split"])
    by_request = dict(list(history[history["request_id"].isin(set(request_ids))].groupby("request_id")))
    owner = frames["split"].merge(frames["interactions"][["row", "user_id"]], on="row")
    owner = owner.drop_duplicates("request_id").set_index("request_id")["user_id"]
    users = frames["users"].set_index("user_id")
    empty = history.iloc[:0]
    closing = closing_text(cfg)
    records = []
    for request_id in sorted(request_ids):
        known = by_request.get(request_id, empty)
        profile = known_profile(users.loc[owner[request_id]], known, cfg.data.item_noun, cfg.data.has_stars)
        recent = known.tail(cfg.prompt.n_history)
        shown = _fit_history(cfg, profile, closing, [titles[i] for i in recent["item_id"]], recent["rating"].tolist(),
                             tokenizer)
        records.append((request_id, profile, shown, closing))
    return pd.DataFrame(records, columns=["request_id", "profile", "history", "closing"])


def _fit_history(cfg: StudyConfig, profile, closing, titles, ratings, tokenizer) -> str:
    budget = cfg.prompt.max_prefix_tokens
    for dropped in range(len(titles) + 1):  # the oldest goes first
        text = history_text(titles[dropped:], ratings[dropped:], cfg.data.has_stars)
        if n_tokens(tokenizer, profile + text + closing) <= budget:
            return text
    raise PromptError(f"the profile {profile!r} alone exceeds {budget} tokens; raise prompt.max_prefix_tokens")


def n_tokens(tokenizer, text: str) -> int:
    """Tokens of a text, no special tokens added."""
    return len(tokenizer.encode(text, add_special_tokens=False))


def build_prompts(cfg: StudyConfig, frames: dict[str, pd.DataFrame], tokenizer) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Prompts of all judged rows, and what their tokens are spent on.

    Args:
        cfg: the study's settings.
        frames: the tables interactions, users, items, split, evidence.
        tokenizer: the backbone's.

    Returns:
        prompts: row, request_id, prefix, suffix_both, suffix_similar_users, suffix_none (text).
        tokens: row, request_id, n_prefix_tokens, n_suffix_<mode>, and tokens per kind of content
            (n_profile, n_history, n_title, n_others, n_own, n_question).

    Raises:
        PromptError: a suffix over its budget, or a judged row without evidence row.
    """
    judged = frames["split"].loc[frames["split"]["judged"], ["row", "request_id"]]
    rows = judged.merge(frames["interactions"][["row", "item_id"]], on="row")
    rows = rows.merge(_shown_evidence(cfg, frames), on="row", how="left")
    if rows["others"].isna().any():
        row = rows.loc[rows["others"].isna(), "row"].iloc[0]
        raise PromptError(f"row {row} is judged but has no evidence; run notebook 03 again")
    rows = rows.sort_values(["request_id", "row"]).reset_index(drop=True)
    items = frames["items"].sort_values("item_id")
    raw_titles = shown_titles(cfg, items)
    refuse_unreadable(raw_titles, tokenizer, cfg.prompt.max_title_tokens)
    titles = cut_titles(raw_titles, tokenizer, cfg.prompt.max_title_tokens)
    targets = [title + more for title, more in zip(titles, _about(cfg, items, tokenizer), strict=True)]
    parts = prefix_parts(cfg, frames, rows["request_id"].unique(), titles, tokenizer)
    prefix = dict(zip(parts["request_id"], parts["profile"] + parts["history"] + parts["closing"], strict=True))
    prompts = rows[["row", "request_id"]].assign(prefix=rows["request_id"].map(prefix))
    for mode in MODES:
        prompts[f"suffix_{mode}"] = [
            suffix_text(mode, targets[item], others, own, cfg.data.has_stars)
            for item, others, own in zip(rows["item_id"], rows["others"], rows["own"], strict=True)
        ]
    if cfg.prompt.n_own_titles:
        prompts["suffix_both"] = _spell_out(cfg, prompts["suffix_both"], rows, titles)
    return prompts, _count_tokens(cfg, prompts, parts, [targets[i] for i in rows["item_id"]], tokenizer)


def shown_titles(cfg: StudyConfig, items: pd.DataFrame) -> Sequence[str]:
    """The title that each item goes by, as `prompt.titles` says.

    Args:
        cfg: the study's settings.
        items: the `items` table, by item_id.

    Returns:
        [I] the titles themselves, the same dealt out anew by the seed, or the noun and the item's number.
    """
    if cfg.prompt.titles == "ids":
        return [f"{cfg.data.item_noun} {item}" for item in items["item_id"]]
    if cfg.prompt.titles == "shuffled":
        return np.random.default_rng([cfg.seed, 7]).permutation(items["title"].to_numpy())
    return items["title"]


def _about(cfg: StudyConfig, items: pd.DataFrame, tokenizer) -> list[str]:
    """What stands behind a candidate's title: ' (1995, Drama Romance)' where it is asked for and known, else ''."""
    if not cfg.prompt.show_genres:
        return [""] * len(items)

    def clean(value) -> str:
        return "" if pd.isna(value) else str(value).strip()

    known = [", ".join(filter(None, map(clean, pair))) for pair in items[["year", "genres"]].to_numpy()]
    cut = cut_titles([text or "unknown" for text in known], tokenizer, cfg.prompt.max_title_tokens)
    return [f" ({text})" if there else "" for text, there in zip(cut, known, strict=True)]


def _shown_evidence(cfg: StudyConfig, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Columns row, others, own of the judged rows, as `prompt.others` and `prompt.shuffle_evidence` say."""
    shown = frames["evidence"]
    if cfg.prompt.others == "item_mean":
        shown = shown.assign(others=_everybody(shown, cfg.data.has_stars))
    shown = shown[["row", "others", "own", *(["own_items"] if cfg.prompt.n_own_titles else [])]]
    if not cfg.prompt.shuffle_evidence:
        return shown
    split = frames["split"]
    shown = shown.merge(split.loc[split["judged"], ["row", "split", "half"]], on="row").sort_values("row")
    rng = np.random.default_rng([cfg.seed, 8])
    dealt = [part.assign(**part[["others", "own"]].iloc[rng.permutation(len(part))].set_index(part.index))
             for _, part in shown.groupby(["split", "half"])]  # fmt: skip
    return pd.concat(dealt)[["row", "others", "own"]]


def _spell_out(cfg: StudyConfig, suffixes: Sequence[str], rows: pd.DataFrame, titles: Sequence[str]) -> list[str]:
    """Suffixes with the titles of the user's items that are most similar to the target, and their ratings, in words.

    Args:
        cfg: how many titles.
        suffixes: of mode 'both'.
        rows: own and own_items of each.
        titles: [I] cut titles.
    """
    spelled = []
    for suffix, own, items in zip(suffixes, rows["own"], rows["own_items"], strict=True):
        near = items[:cfg.prompt.n_own_titles]
        ratings = own[:len(near)] if cfg.data.has_stars else [0] * len(near)
        text = history_text([titles[item] for item in near], ratings, cfg.data.has_stars, name="Near")
        spelled.append(suffix.removesuffix(QUESTION) + text + QUESTION)
    return spelled


def _everybody(evidence: pd.DataFrame, stars: bool) -> list[list[float]]:
    """What all users, not the similar ones, say of each target: its mean rating, or how many took it, in powers of two.

    Source: the item mean is the strongest number without a user in it, so it is what retrieval has to beat.
    """
    if stars:
        pairs = zip(evidence["item_mean"], evidence["n_item"], strict=True)
        return [[mean] if n else [] for mean, n in pairs]
    return [[min(9, int(n).bit_length())] for n in evidence["n_item"]]


def _count_tokens(cfg, prompts, parts, titles, tokenizer) -> pd.DataFrame:
    def count(texts):
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    per_request = parts[["request_id"]].assign(n_profile=count(parts["profile"] + parts["closing"]))
    per_request["n_prefix_tokens"] = count(parts["profile"] + parts["history"] + parts["closing"])
    per_request["n_history"] = per_request["n_prefix_tokens"] - per_request["n_profile"]
    tokens = prompts[["row", "request_id"]].merge(per_request, on="request_id")
    for mode in MODES:
        tokens[f"n_suffix_{mode}"] = count(prompts[f"suffix_{mode}"])
    tokens["n_title"] = count(f" {title}." for title in titles)
    tokens["n_question"] = tokens["n_suffix_none"] - tokens["n_title"]
    tokens["n_others"] = tokens["n_suffix_similar_users"] - tokens["n_suffix_none"]
    tokens["n_own"] = tokens["n_suffix_both"] - tokens["n_suffix_similar_users"]
    longest = tokens["n_suffix_both"].max()
    if longest > cfg.prompt.max_suffix_tokens:
        row = tokens.loc[tokens["n_suffix_both"].idxmax(), "row"]
        raise PromptError(f"row {row}: a suffix of {longest} tokens exceeds {cfg.prompt.max_suffix_tokens}; "
                          "lower prompt.max_title_tokens or raise prompt.max_suffix_tokens")
    return tokens


def tokenize(prompts: pd.DataFrame, tokenizer, modes: Sequence[str] = MODES) -> dict[str, list[list[int]]]:
    """Token ids of prefixes and suffixes; the two are tokenised apart, so that a prefix can be shared.

    Returns:
        {'prefix': [...], '<mode>': [...]}, each a list of token id lists in the order of `prompts`.
    """
    columns = {"prefix": "prefix", **{mode: f"suffix_{mode}" for mode in modes}}
    return {
        key: tokenizer(prompts[column].tolist(), add_special_tokens=False)["input_ids"] if len(prompts) else []
        for key, column in columns.items()
    }


def draw_modes(n_rows: int, probability: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Evidence dropout: a mode (index into MODES) per training row: [n_rows]."""
    return rng.choice(len(MODES), size=n_rows, p=np.asarray(probability) / np.sum(probability))
