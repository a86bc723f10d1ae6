"""A prediction's way through the layers: what each head says, and where each policy would have stopped."""

from __future__ import annotations

from eestudy.untrusted import plain_text

EVIDENCE = {  # column of the `evidence` table: what it is called on a page
    "user_mean": "mean of the user's known ratings", "n_user": "number of the user's known ratings",
    "item_mean": "mean of the item's known ratings", "n_item": "number of the item's known ratings",
    "others": "ratings of the item by similar users", "others_mean": "their mean",
    "own": "the user's ratings of similar items", "own_mean": "their mean",
}  # fmt: skip
CLICKS = {  # the same where nobody rates: digits are tenths of a similarity
    "n_user": "number of items that the user is known to have taken",
    "n_item": "number of users who are known to have taken the item",
    "others": "digit shown as buyers", "others_mean": "how alike the most similar of its buyers are to the user",
    "own": "digits shown as match and closest", "match": "how near user and item lie in the graph",
    "own_mean": "how alike the item is to the closest that the user took",
}  # fmt: skip


def evidence(example: dict) -> list[tuple[str, str]]:
    """What the graph found, as (name, value) pairs in words; [] where the reference does not say."""
    found = example.get("evidence") or {}
    known = CLICKS if "match" in found else EVIDENCE
    return [(known.get(name, name.replace("_", " ")), _text(found[name]))
            for name in (*(key for key in known if key in found), *(key for key in found if key not in known))]


def _text(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) or "none"
    return f"{value:.2f}" if isinstance(value, float) and value != round(value) else f"{value:g}"


def heads(study: dict, example: dict) -> list[dict]:
    """One row an exit: layer, p (probability of a click), change since the exit before, says ('yes' or 'no')."""
    rows, before = [], None
    for layer, p in zip(study["layers"], example["p_yes"], strict=True):
        rows.append({"layer": layer, "p": p, "change": None if before is None else p - before,
                     "says": "yes" if p > study["base_rate"] else "no"})  # fmt: skip
        before = p
    return rows


def stops(study: dict, place: int) -> list[dict]:
    """Where each policy, at the threshold that validation chose, lets an example out.

    Args:
        study: from `explorer.study`.
        place: of the example in its list.

    Returns:
        policy, description, threshold, layer, p, says, right (whether that is what the user did); policies without
        a chosen threshold are left out.
    """
    example, rows = study["examples"][place], heads(study, study["examples"][place])
    found = []
    for policy in study["policies"]:
        if policy["chosen"] is not None:
            head = rows[policy["exits"][place][policy["chosen"]]]
            found.append({"policy": policy["name"], "description": policy["description"],
                          "threshold": policy["thresholds"][policy["chosen"]], **head,
                          "right": (head["says"] == "yes") == bool(example["label"])})  # fmt: skip
    return found
