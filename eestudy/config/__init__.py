"""The settings of a run: `load(dataset, profile, seed)` is the only way in. Unknown names and fields are errors.

Shape letters used in the whole package: B batch, T tokens, D hidden size, L layers, E exits,
C candidates per request, U / I users / items, K history length, N neighbours.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from eestudy.config.datasets import DATASETS
from eestudy.config.own import read_own
from eestudy.config.profiles import PROFILES
from eestudy.config.sections import (
    BackboneConfig,
    BaselineConfig,
    BenchConfig,
    DataConfig,
    HeadsConfig,
    LatencyConfig,
    PolicyConfig,
    PromptConfig,
    ReportConfig,
    RetrieverConfig,
    Section,
    StudyConfig,
    TableConfig,
)

MODES = ("both", "similar_users", "none")  # which evidence a prompt carries
SPLITS = ("graph", "label", "validation", "test", "development")
# which parts of the data a prompt of each part may know (the forward split)
KNOWN_PARTS = {"label": ("graph",), "validation": ("graph", "label"), "test": ("graph", "label"),
               "development": ("graph", "label")}
TRIVIAL_BASELINES = ("click_rate", "item_mean", "user_mean", "item_plus_user_mean")

__all__ = [
    "BackboneConfig",
    "BaselineConfig",
    "BenchConfig",
    "DATASETS",
    "DataConfig",
    "HeadsConfig",
    "KNOWN_PARTS",
    "LatencyConfig",
    "MODES",
    "PROFILES",
    "PolicyConfig",
    "PromptConfig",
    "ReportConfig",
    "RetrieverConfig",
    "SPLITS",
    "Section",
    "StudyConfig",
    "TRIVIAL_BASELINES",
    "TableConfig",
    "load",
    "read_own",
]


def load(dataset: str = "ml-100k", profile: str = "laptop", seed: int = 0) -> StudyConfig:
    """The settings of one run.

    Args:
        dataset: a name in `DATASETS`, or the path of a toml that describes a study on own data.
        profile: a name in `PROFILES`.
        seed: non-negative integer; drives graph, label sample and adapter.

    Returns:
        A frozen `StudyConfig`.

    Raises:
        ValueError: an unknown dataset or profile (the message lists those there are), a toml that cannot be used, or a
            negative seed.
    """
    own = {dataset: read_own(Path(dataset))} if dataset.endswith(".toml") else {}
    for kind, name, known in (("dataset", dataset, DATASETS | own), ("profile", profile, PROFILES)):
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)} (see eestudy/config/)")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed!r}")
    sections: dict[str, dict] = {"data": {"name": dataset}}
    for overrides in ((DATASETS | own)[dataset], PROFILES[profile]):
        for section, fields in overrides.items():
            sections.setdefault(section, {}).update(fields)
    try:
        return StudyConfig(profile=profile, seed=seed, **sections)
    except ValidationError as error:
        if not own:
            raise
        raise ValueError(f"{dataset}: {error}") from error
