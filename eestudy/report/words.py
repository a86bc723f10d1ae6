"""What the report's tables call things, for who comes from elsewhere."""

from __future__ import annotations

WORDS = {
    "AUC": "the chance that a clicked row has a higher score than one that was not clicked; 0.5 is chance",
    "GAUC": "AUC among the rows of one user, mean over the users who have both kinds, weighted by their rows",
    "evidence": "the digits behind a title in the prompt: 'others', what similar users gave this item, and 'own', what "
                "the user gave the items most similar to it, each with its mean (without stars: what was taken)",
    "plain": "one prompt for each user-item pair, to the last layer, by the usual library",
    "packed": "all candidates of a request behind one shared prefix, in our engine",
    "token-layers": "tokens times the layers that they go through: the work, whatever the machine",
    "static": "everybody leaves after one fixed layer",
    "dynamic": "each candidate leaves when a rule says so",
    "shuffled": "the rule's own exits, dealt out at random: does it matter who leaves?",
    "oracle": "looks at full depth's answer and leaves at the first exit from which on every head decides like it: no "
              "rule can know that",
    "FM, DeepFM, DCN-V2, DIN": "click models without any language model, from the literature",
    "Learn-then-Test": "picks a threshold by tests on users kept apart, so that the promised bound holds but for a "
                       "chance that was named beforehand",
}  # fmt: skip


def word_blocks() -> list[tuple]:
    """Blocks for `page`: each word and what it means."""
    return [("heading", 2, "Words"), ("list", [f"{word}: {meaning}" for word, meaning in WORDS.items()])]
