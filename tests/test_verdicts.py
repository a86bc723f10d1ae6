"""What is said of a difference is no more than its interval and its adjusted p allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eestudy.metrics import LEVEL
from eestudy.verdicts import shown, with_ends

PART = st.floats(-1, 1)


@pytest.mark.parametrize(("value", "ends", "p", "said"), [
    (0.1, (0.05, 0.2), 0.01, "up"), (-0.1, (-0.2, -0.05), 0.01, "down"), (0.1, (-0.1, 0.3), 0.6, "no difference shown"),
    (-0.1, (-0.2, -0.05), 0.06, "down by itself, not once all declared comparisons count"),
    (0.1, (0.05, 0.2), None, "undecided: no model was trained twice"),
    (0.1, (0.05, 0.2), float("nan"), "undecided: no model was trained twice")])  # fmt: skip
def test_every_case_has_its_words(value, ends, p, said):
    assert shown(value, ends, p, "up", "down") == said


@given(PART, st.tuples(PART, PART).map(sorted), st.floats(0, 1))
def test_who_is_ahead_is_said_only_where_a_difference_is_shown(value, ends, p):
    said = shown(value, ends, p, "up", "down")
    if said in ("up", "down"):
        assert p < LEVEL and (said == "up") == (value > 0)
    elif p >= LEVEL and ends[0] <= 0 <= ends[1]:
        assert said == "no difference shown"


@pytest.mark.parametrize(("given", "said"), [
    ((0.71249, 0.69, 0.731), "0.712 [0.690, 0.731]"), ((0.05, -0.01, 0.11, "+"), "+0.050 [-0.010, +0.110]"),
    ((4321.06, 4000, 4600, ",", 1), "4,321.1 [4,000.0, 4,600.0]"), ((float("nan"), 0.1, 0.2), ""),
    ((0.5, float("nan"), float("nan")), "0.500"), ((-0.0001, -0.1, 0.1), "0.000 [-0.100, 0.100]"),
    ((0.017, 0.0004, 0.03, "+"), "+0.0170 [+0.0004, +0.0300]")])  # fmt: skip
def test_a_number_is_told_with_its_interval_where_it_has_one(given, said):
    assert with_ends(*given) == said
