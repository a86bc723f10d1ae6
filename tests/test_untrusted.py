"""Text of others does nothing in a terminal or a spreadsheet, and comes back as it was."""

import io

from hypothesis import given
from hypothesis import strategies as st

from eestudy import untrusted


@given(st.text())
def test_a_cell_comes_back_and_begins_no_formula(text):
    cell = untrusted.as_cell(text)
    assert untrusted.from_cell(cell) == text and not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_other_values_stay_themselves():
    for value in (-1, 2.5, None, "plain", ""):
        assert untrusted.as_cell(value) is value and untrusted.from_cell(value) is value


def test_a_terminal_sees_lines_and_tabs_and_nothing_else_that_moves():
    stream = io.StringIO()
    terminal = untrusted.Terminal(stream)
    assert terminal.write("a\tb\n\x1b[31mred\x07 \u202eright\x9b2J") == 23
    terminal.flush()
    assert stream.getvalue() == "a\tb\n [31mred   right 2J"


def test_plain_text_is_one_line():
    assert untrusted.plain_text(" a\n\x00b\u2028c ") == "a b c"
