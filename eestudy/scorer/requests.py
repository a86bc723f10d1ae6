"""From a question in words (who asks, what they rated, which candidates) to the token ids that are scored."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from eestudy import prompts
from eestudy.config import StudyConfig

MOST_STARS = 10  # see `prompts.ratings_text`: one sign a rating


@dataclass(frozen=True)
class Question:
    """One request in words; titles are untrusted and cut on the way."""

    user: Hashable  # names the prefix in the cache
    profile: str  # from `prompts.profile_text`
    history: Sequence[tuple[str, float]]  # title and stars of what the user rated, oldest first
    candidates: Sequence[str]  # [C] titles
    others: Sequence[Sequence[int]]  # [C] ratings of each candidate by similar users
    own: Sequence[Sequence[int]]  # [C] the user's own ratings of similar items


@dataclass(frozen=True)
class TokenRequest:
    """One request as the engine reads it."""

    user: Hashable
    prefix: list[int]  # [P]
    suffixes: list[list[int]]  # C lists


def tokenize(question: Question, cfg: StudyConfig, tokenizer, mode: str = "both") -> TokenRequest:
    """Write the prompt of a question and turn it into token ids.

    Args:
        question: C candidates.
        cfg: the study's settings: budgets and nouns.
        tokenizer: the backbone's.
        mode: which evidence is shown, one of `config.MODES`.

    Raises:
        prompts.PromptError: a profile over its budget, no candidate, lists of different lengths, or a rating that no
            prompt can show.
    """
    return encode(question.user, *write(question, cfg, tokenizer, mode), tokenizer)


def write(question: Question, cfg: StudyConfig, tokenizer, mode: str = "both") -> tuple[str, list[str]]:
    """The prompt of a question as text: the prefix, and C suffixes. Arguments and errors: see `tokenize`."""
    n = len(question.candidates)
    if not n:
        raise prompts.PromptError("a question needs a candidate at least")
    if not n == len(question.others) == len(question.own):
        raise prompts.PromptError(f"{n} candidates, but {len(question.others)} and {len(question.own)} evidence lists")
    recent = question.history[max(0, len(question.history) - cfg.prompt.n_history):]
    _refuse_odd([rating for _, rating in recent], *question.others, *question.own)
    cut = prompts.cut_titles([title for title, _ in recent] + list(question.candidates), tokenizer,
                             cfg.prompt.max_title_tokens)  # fmt: skip
    stars = [rating for _, rating in recent]
    prefix = prompts.prefix_text(cfg, tokenizer, question.profile, cut[: len(recent)], stars)
    suffixes = [prompts.suffix_text(mode, *parts, cfg.data.has_stars)
                for parts in zip(cut[len(recent):], question.others, question.own, strict=True)]  # fmt: skip
    return prefix, suffixes


def _refuse_odd(*ratings: Sequence[float]) -> None:
    odd = [rating for some in ratings for rating in some if not 0 <= rating <= MOST_STARS]
    if odd:
        raise prompts.PromptError(f"a rating of {odd[0]}: a prompt shows ratings between 0 and {MOST_STARS}")


def encode(user: Hashable, prefix: str, suffixes: Sequence[str], tokenizer) -> TokenRequest:
    """Texts of one request as token ids; prefix and suffixes are tokenised apart, so that a prefix can be shared."""
    ids = tokenizer([prefix, *suffixes], add_special_tokens=False)["input_ids"]
    return TokenRequest(user, ids[0], ids[1:])
