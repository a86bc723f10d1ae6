"""Under which licences the installed packages are: `python -m eestudy.licences`."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import Distribution

from eestudy.untrusted import plain_text

UNKNOWN = "not stated"
LONGEST = 60  # letters; some packages put the whole text where the name belongs


def licence(package: Distribution) -> str:
    """What a package's metadata says of its licence: the expression, else the classifiers, else the free text."""
    about = package.metadata
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    said = about.get("License-Expression") or ", ".join(classifiers) or about.get("License") or ""
    return plain_text(said.strip().partition("\n")[0])[:LONGEST] or UNKNOWN


def main() -> None:
    """One line a package: name, version, licence."""
    found = {package.metadata["Name"]: package for package in importlib.metadata.distributions()}
    for name in sorted(found, key=str.lower):
        print(f"{name:32} {found[name].version:16} {licence(found[name])}")


if __name__ == "__main__":
    main()
