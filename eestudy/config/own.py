"""A study of one's own: a toml names the files, what their columns are, the rules, and the language model."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from eestudy.config.datasets import DATASETS


def read_own(path: Path) -> dict[str, dict]:
    """The sections of a study's toml: overrides as in `DATASETS`.

    Where `[data]` says `dataset = "ml-1m"`, the study is on that dataset, and the toml says what else is different: the
    language model, the form of the files, a label rule.

    Args:
        path: of the toml; its name without the ending names the study and the folder of its results.

    Raises:
        ValueError: the file is missing or not toml, it names neither a known dataset nor files of ratings and items,
            or its name cannot be a folder's.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", path.stem) or path.stem in DATASETS:
        raise ValueError(f"{path}: call the file by a name of its own, of small letters, digits, - and _ "
                         f"(not {', '.join(DATASETS)}); its results go to a folder of that name")
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}. examples/study.toml shows the form.") from error
    loose = [name for name, section in sections.items() if not isinstance(section, dict)]
    if loose:
        raise ValueError(f"{path}: {', '.join(loose)} stands outside a section; known are [data], [backbone] and so on")
    data = dict(sections.get("data", {}))
    if "dataset" in data:
        return _changed(path, data.pop("dataset"), sections | {"data": data})
    if not {"ratings", "items"} <= set(data):
        raise ValueError(f"{path}: [data.ratings] and [data.items] must name the files, or dataset in [data] one of "
                         f"{', '.join(DATASETS)}. examples/study.toml shows how.")
    return sections | {"data": data | {"name": path.stem, "folder": str(path.resolve().parent)}}


def _changed(path: Path, name: str, sections: dict[str, dict]) -> dict[str, dict]:
    """A known dataset's settings with those of the toml in their place."""
    if name not in DATASETS:
        raise ValueError(f"{path}: unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    known = DATASETS[name]
    merged = {section: known.get(section, {}) | sections.get(section, {}) for section in known.keys() | sections}
    return merged | {"data": merged["data"] | {"name": name}}
