"""What is said of a difference is no more than its interval and its adjusted p allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eestudy.metrics import LEVEL
from eestudy.verdicts import shown

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
