"""The table: what each row changes, which question it answers, and which row it is compared with.

The order is the order of importance and, seed by seed, of running. The comparisons are declared here, before any row
is run: the adjustment for many comparisons counts all of them, those not run included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from eestudy.ablation_results import MAIN
from eestudy.config import MODES, StudyConfig

ONE_KIND = {"both": (1.0, 0.0, 0.0), "similar_users": (0.0, 1.0, 0.0), "none": (0.0, 0.0, 1.0)}  # of evidence
SEEDS = (0, 1, 2)
WITHHELD = 0.3  # of the items: enough test rows to judge by
HOSTILE = 0.5  # of the items, in training: as many titles that instruct as plain ones
WITH_GENRES = ("ml-100k", "ml-1m", "bookcrossing")


@dataclass(frozen=True)
class Row:
    """One training of the table.

    name: of the row's folder and files.
    question: what it is there to answer.
    family: which notebook's story it belongs to: 'evidence', 'static', 'controls', 'heads' or 'prompts'.
    changes: {section: {field: value}}, against the study's settings at the common budget.
    compared_with: the rows that its AUC is compared with, on the same test rows.
    at_exit: the exit layer at which both are read, where both have it; else, and for None, the exit of each that its
        selection rows choose.
    modes: the evidence in which select and test rows are scored; each is compared, where the other row has it, too.
    teacher: the row whose model's answers make half of what this one learns; '' for labels alone.
    seeds: of graph, label sample and adapter.
    datasets: on which it makes sense; () all.
    """

    name: str
    question: str
    family: str
    changes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    compared_with: tuple[str, ...] = (MAIN,)
    at_exit: int | None = None
    modes: tuple[str, ...] = ("both",)
    teacher: str = ""
    seeds: tuple[int, ...] = (0,)
    datasets: tuple[str, ...] = ()


def all_rows(cfg: StudyConfig) -> tuple[Row, ...]:
    """All rows for a study's depth and dataset, the most telling first.

    Args:
        cfg: the study's own settings: its exit layers say how deep the model is, its name which rows make sense.
    """
    main = Row(MAIN, "What do adapter and heads learn together, at the common budget?", "heads", compared_with=(),
               modes=("both", "none"), seeds=SEEDS)  # fmt: skip
    rows = (main, *_separate(), *_static(cfg), *_controls(), *_heads(cfg), *_prompts())
    return tuple(row for row in rows if not row.datasets or cfg.data.name in row.datasets)


def each_seed(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """Every row with each of its seeds, the first seed of all before the second of any: a short night asks more."""
    return sorted(((row, seed) for row in rows for seed in row.seeds), key=lambda one: one[1])


def _separate() -> tuple[Row, ...]:
    """One model for each kind of evidence: what a model that never saw any other makes of it."""
    def one(name, question, mode, *compared_with, seeds=SEEDS, **prompt):
        changes = {"prompt": {"keep_probability": ONE_KIND[mode], **prompt}}
        return Row(name, question, "evidence", changes, compared_with, modes=(mode,), seeds=seeds)

    return (
        one("only_none", "What does a model reach that was trained without evidence?", "none"),
        one("only_item_mean", "What is the item's mean worth, without neighbours?", "similar_users", "only_none",
            others="item_mean"),
        Row("withheld_items", "Does text alone carry over to items that nothing in training holds?", "controls",
            {"prompt": {"keep_probability": ONE_KIND["none"]}, "ablation": {"withheld_share": WITHHELD}},
            ("only_none",), modes=("none",)),
        one("only_both", "What is retrieval worth to a model that is trained with it?", "both", "only_none",
            "only_item_mean"),
        one("only_similar_users", "Do similar users tell more than the item's mean?", "similar_users",
            "only_item_mean"),
        one("item_mean_and_own", "Does the item's mean do as well as similar users, beside the user's own ratings?",
            "both", "only_both", seeds=(0,), others="item_mean"),
    )  # fmt: skip


def _static(cfg: StudyConfig) -> tuple[Row, ...]:
    """Models cut to k layers and trained alone: with the same labels, and with as many as their speed affords."""
    depth, rows = cfg.heads.exit_layers[-1], []
    for k in static_depths(cfg):
        changes = {"backbone": {"n_layers_kept": k}, "heads": {"exit_layers": (k,)}}
        longer = changes | {"ablation": {"label_factor": depth / k}}
        rows.append(Row(f"static_{k}", f"Is a model of {k} layers, trained alone, better than exit {k} of the whole?",
                        "static", changes, at_exit=k, seeds=SEEDS))  # fmt: skip
        rows.append(Row(f"static_{k}_same_time", f"And where the {k} layers learn for as long as the whole model?",
                        "static", longer, at_exit=k))  # fmt: skip
        rows.append(Row(f"static_{k}_distilled", f"And where the whole model teaches the {k} layers?", "static",
                        changes, at_exit=k, teacher=MAIN))  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (row.name.endswith("distilled"), row.name.endswith("same_time"))))


def static_depths(cfg: StudyConfig) -> list[int]:
    """The exits nearest to an eighth, a sixth, a third and half of the depth (of two as near, the deeper one)."""
    layers = cfg.heads.exit_layers
    shares = [layers[-1] / part for part in (8, 6, 3, 2)]
    return sorted({min(layers, key=lambda layer, want=want: (abs(layer - want), -layer)) for want in shares})


def _controls() -> tuple[Row, ...]:
    """What must hurt, if depth, language and evidence are what the claims say they are."""
    return (
        Row("random_backbone", "Does what the language model was taught matter?", "controls",
            {"backbone": {"random_weights": True}}, modes=("both", "none")),
        Row("shuffled_titles", "Are titles read, or would any do?", "controls",
            {"prompt": {"titles": "shuffled"}}, modes=("both", "none")),
        Row("ids", "Would a number do as well as a title?", "controls", {"prompt": {"titles": "ids"}},
            modes=("both", "none")),
        Row("shuffled_evidence", "Is it the target's own evidence that counts?", "controls",
            {"prompt": {"shuffle_evidence": True}}),
    )  # fmt: skip


def _heads(cfg: StudyConfig) -> tuple[Row, ...]:
    """What adapter, learning rates, weights and number of heads contribute: the latter three to a shallow exit.

    At the last head teacher and pupil are the same, and its learning rate is the same by depth.
    """
    layers, depth = cfg.heads.exit_layers, cfg.heads.exit_layers[-1]
    shallow = next(k for k in spread_heads(depth, 3) if k in layers)

    def heads(name, question, at_exit=None, **changes):
        return Row(name, question, "heads", {"heads": changes}, at_exit=at_exit)

    return (
        heads("last_head_only", "Does joint training cost the last head anything?", depth, loss_weights="last"),
        heads("frozen", "What do heads learn on a backbone that stays as it is?", train_adapter=False),
        heads("distill", "Does the last head teach the others anything that labels do not?", shallow, distill=1.0),
        heads("linear_weights", "Should deep heads count for more?", shallow, loss_weights="linear"),
        heads("equal_rates", "Do shallow heads learn as well at the deep ones' rate?", shallow, shallow_lr_factor=1.0),
        heads("deep_rates", "Or at a smaller one?", shallow, shallow_lr_factor=0.5),
        *(heads(f"heads_{m}", f"What if there are {m} heads?", shallow, exit_layers=spread_heads(depth, m))
          for m in (3, 6, 15, 30) if m <= depth),
    )  # fmt: skip


def spread_heads(depth: int, n_heads: int) -> tuple[int, ...]:
    """`n_heads` exit layers at even distances, the last one at `depth`."""
    return tuple(-(-depth * (i + 1) // n_heads) for i in range(n_heads))


def _prompts() -> tuple[Row, ...]:
    return (
        Row("genres", "Do year and genres help?", "prompts", {"prompt": {"show_genres": True}}, datasets=WITH_GENRES),
        Row("own_titles", "Do the titles of the similar items tell more than their bare numbers?", "prompts",
            {"prompt": {"n_own_titles": 3, "max_suffix_tokens": 128}}),
        Row("soft_tokens", "Do the graph's own vectors tell more than the ratings it finds?", "prompts",
            {"ablation": {"soft_tokens": True}}, modes=("both", "none")),
        Row("no_history", "What if the user's recent history is left out?", "prompts", {"prompt": {"n_history": 0}}),
        Row("hostile_titles", "What do titles that instruct cost, where training shows them?", "prompts",
            {"ablation": {"hostile_share": HOSTILE}}),
        Row("twice_the_labels", "What do twice as many labels bring?", "prompts", {"ablation": {"label_factor": 2.0}}),
    )


def settings_of(row: Row, cfg: StudyConfig, seed: int) -> StudyConfig:
    """A row's settings: the study's, at the common budget, with the row's changes.

    Args:
        row: of the table.
        cfg: the study's own settings.
        seed: of the row.

    Raises:
        ValueError: the row changes a field that there is not, or to a value that it cannot have, or names an unknown
            mode; the message names row and field.
    """
    if unknown := set(row.modes) - set(MODES):
        raise ValueError(f"ablation {row.name}: unknown mode {', '.join(unknown)}; known: {', '.join(MODES)}")
    changed = _merge(cfg.model_dump() | {"seed": seed}, row.changes, row.name)
    common = changed["ablation"]
    changed["data"] |= {"n_label_rows": round(common["n_label_rows"] * common["label_factor"]),
                        "n_select_rows": common["n_select_rows"], "n_test_rows": common["n_test_rows"]}
    changed["heads"] |= {"evaluations": 1, "n_init_rows": common["n_init_rows"], "n_eval_rows": common["n_eval_rows"]}
    try:
        return StudyConfig.model_validate(changed)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"ablation {row.name}: {faults} (see eestudy/ablations/table.py)") from error


def _merge(sections: dict, changes: Mapping[str, Mapping[str, object]], name: str) -> dict:
    if unknown := [section for section in changes if not isinstance(sections.get(section), dict)]:
        raise ValueError(f"ablation {name}: unknown section {', '.join(unknown)} (see eestudy/ablations/table.py)")
    return sections | {section: sections[section] | dict(fields) for section, fields in changes.items()}
