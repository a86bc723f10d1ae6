"""A study of one's own: a toml names the files, what their columns are, the rules, and the language model."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from pathlib import Path

from eestudy.config.datasets import DATASETS
from eestudy.config.sections import StudyConfig

ROOT = Path(__file__).resolve().parents[2]


def read_own(path: Path) -> dict[str, dict]:
    """What a study's toml says: overrides as in `DATASETS`.

    Where `[data]` says `dataset = "ml-1m"`, the study is on that dataset, and the toml says only what is different: the
    language model, the form of the files, a label rule.

    Args:
        path: of the toml; its name without the ending names the study and the folder of its results. A relative one
            that leads nowhere from here starts at the project's root, since a notebook's kernel may stand anywhere.

    Returns:
        Fields by section; `data` holds the dataset's name.

    Raises:
        ValueError: the file is missing or not toml, it has a section that there is not, it names neither a known
            dataset nor files of ratings and items, or its name cannot be a folder's.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", path.stem) or path.stem in DATASETS:
        raise ValueError(f"{path}: call the file by a name of its own, of small letters, digits, - and _ "
                         f"(not {', '.join(DATASETS)}); its results go to a folder of that name")
    path = _from_root(path)
    sections = _sections(path)
    data = sections.get("data", {})
    if "dataset" in data:
        name = data["dataset"]
        if not isinstance(name, str) or name not in DATASETS:
            raise ValueError(f"{path}: unknown dataset {name!r}; known: {', '.join(DATASETS)}")
        return sections | {"data": {field: data[field] for field in data if field != "dataset"} | {"name": name}}
    if not {"ratings", "items"} <= set(data):
        raise ValueError(f"{path}: [data.ratings] and [data.items] must name the files, or dataset in [data] one of "
                         f"{', '.join(DATASETS)}. examples/study.toml shows how.")
    return sections | {"data": data | {"name": path.stem, "folder": str(path.resolve().parent)}}


def _from_root(path: Path) -> Path:
    with suppress(OSError):  # a name that no file can have: reading says so
        return path if path.is_file() or not (ROOT / path).is_file() else ROOT / path
    return path


def _sections(path: Path) -> dict[str, dict]:
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}. examples/study.toml shows the form.") from error
    known = [name for name in StudyConfig.model_fields if name not in ("profile", "seed")]
    if loose := [name for name, section in sections.items() if not isinstance(section, dict)]:
        raise ValueError(f"{path}: {', '.join(loose)} stands outside a section; known are {', '.join(known)}")
    if unknown := [name for name in sections if name not in known]:
        raise ValueError(f"{path}: unknown section {', '.join(unknown)}; known are {', '.join(known)}")
    return sections
