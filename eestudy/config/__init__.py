"""The settings of a run: `load(dataset, profile, seed)` is the only way in. Unknown names and fields are errors.

Shape letters used in the whole package: B batch, T tokens, D hidden size, L layers, E exits,
C candidates per request, U / I users / items, K history length, N neighbours.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from eestudy.config.datasets import DATASETS, FORMS
from eestudy.config.own import read_own
from eestudy.config.profiles import PROFILES
from eestudy.config.sections import (
    AblationConfig,
    BackboneConfig,
    BaselineConfig,
    BenchConfig,
    ClickModelsConfig,
    DataConfig,
    HeadsConfig,
    LatencyConfig,
    PolicyConfig,
    ProbesConfig,
    PromptConfig,
    ReportConfig,
    RetrieverConfig,
    RetrieversConfig,
    Section,
    StudyConfig,
    TableConfig,
    on_disk,
)

MODES = ("both", "similar_users", "none")  # which evidence a prompt carries
SPLITS = ("graph", "label", "validation", "test", "development")
# which parts of the data a prompt of each part may know (the forward split)
KNOWN_PARTS = {"label": ("graph",), "validation": ("graph", "label"), "test": ("graph", "label"),
               "development": ("graph", "label")}
TRIVIAL_BASELINES = ("click_rate", "item_mean", "user_mean", "item_plus_user_mean")

__all__ = [
    "AblationConfig",
    "BackboneConfig",
    "BaselineConfig",
    "BenchConfig",
    "ClickModelsConfig",
    "DATASETS",
    "DataConfig",
    "FORMS",
    "HeadsConfig",
    "KNOWN_PARTS",
    "LatencyConfig",
    "MODES",
    "PROFILES",
    "PolicyConfig",
    "ProbesConfig",
    "PromptConfig",
    "ReportConfig",
    "RetrieverConfig",
    "RetrieversConfig",
    "SPLITS",
    "Section",
    "StudyConfig",
    "TRIVIAL_BASELINES",
    "TableConfig",
    "load",
    "on_disk",
    "read_own",
]


def load(dataset: str = "ml-100k", profile: str = "laptop", seed: int = 0) -> StudyConfig:
    """The settings of one run.

    Whoever says more wins: the dataset, the form of its files, the profile, then the reader's toml, whatever the
    profile. Only `smoke` has the last word: it has to stay small.

    Args:
        dataset: a name in `DATASETS`, or the path of a toml that describes a study on own data.
        profile: a name in `PROFILES`.
        seed: non-negative integer; drives graph, label sample and adapter.

    Returns:
        A frozen `StudyConfig`.

    Raises:
        ValueError: an unknown dataset or profile (the message lists those there are), a toml that cannot be used (the
            message names it and the field), or a negative seed.
    """
    is_own = dataset.endswith(".toml")
    told = read_own(Path(dataset)) if is_own else {"data": {"name": dataset}}
    for kind, name, known in (("dataset", told["data"]["name"], DATASETS), ("profile", profile, PROFILES)):
        if name not in known and not (is_own and kind == "dataset"):
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)} (see eestudy/config/)")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed!r}")
    base, last = DATASETS.get(told["data"]["name"], {}), (PROFILES[profile], told)
    form = told["data"].get("form", base.get("data", {}).get("form"))
    sections = _merge(base, FORMS.get(str(form), {}), *(reversed(last) if profile == "smoke" else last))
    try:
        return StudyConfig(profile=profile, seed=seed, **sections)
    except ValidationError as error:
        if not is_own:
            raise
        raise ValueError(_complaints(dataset, error)) from error


def _merge(*layers: dict[str, dict]) -> dict[str, dict]:
    """Fields by section; a later layer wins."""
    sections: dict[str, dict] = {}
    for layer in layers:
        for section, fields in layer.items():
            sections.setdefault(section, {}).update(fields)
    return sections


def _complaints(toml: str, error: ValidationError) -> str:
    """One line per field that cannot stand."""
    lines = []
    for fault in error.errors():
        section, *fields = map(str, fault["loc"] or ("",))
        place = f"[{section}] {'.'.join(fields)}".rstrip() + ": " if section else ""  # none: of several sections
        given = "" if isinstance(fault["input"], dict) else f", not {fault['input']!r}"
        said = _unknown(section, fields) if fault["type"] == "extra_forbidden" else f"{fault['msg']}{given}"
        lines.append(f"{toml}: {place}{said}")
    return "\n".join(lines)


def _unknown(section: str, fields: list[str]) -> str:
    """What to say of a setting that there is not; a section's own field is compared with those there are."""
    kind = StudyConfig.model_fields[section].annotation if section in StudyConfig.model_fields else None
    near = get_close_matches(fields[0], kind.model_fields, 1) if kind and len(fields) == 1 else []
    return "there is no such setting" + (f"; perhaps {near[0]} is meant" if near else "")
