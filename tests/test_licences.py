"""Every pinned package says under which licence it is."""

import importlib.metadata
from email.message import Message

import pytest

from eestudy import licences
from eestudy.artifacts import ROOT


class Package:
    """Stands in for an installed package."""

    def __init__(self, *fields):
        self.metadata = Message()
        for name, value in fields:
            self.metadata[name] = value


def test_the_expression_comes_first_then_classifiers_then_free_text():
    expression = ("License-Expression", "MIT")
    classifier = ("Classifier", "License :: OSI Approved :: BSD License")
    text = ("License", "Apache 2.0\n\nall of it")
    assert licences.licence(Package(text, classifier, expression)) == "MIT"
    assert licences.licence(Package(text, classifier)) == "BSD License"
    assert licences.licence(Package(text)) == "Apache 2.0"
    assert licences.licence(Package()) == licences.UNKNOWN


def test_every_installed_pin_states_one(capsys):
    pins = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    for name in sorted(pins):
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert licences.licence(package) != licences.UNKNOWN, name
    licences.main()
    if not capsys.readouterr().out.count("\n") > 10:
        pytest.fail("a line a package")
