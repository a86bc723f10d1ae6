"""Text that somebody else wrote (titles, names, files' contents), made harmless for where it goes.

Prompts clean it (`prompts.clean_title`), HTML and Markdown escape it (`report.page`); here is what terminals and
spreadsheets need. No file is ever named by it: see `artifacts.Run.path`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TextIO

FORMULA = r"'*[=+\-@\t\r]"  # how a cell begins that a spreadsheet computes; quotation marks of ours may precede it
LAYOUT = "\n\t"  # the only control characters that a terminal may see


def plain_text(value) -> str:
    """Any value as one line of visible text: control, format and bidi characters become a space."""
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(value))
    return re.sub(" +", " ", text).strip()


def terminal_text(text: str) -> str:
    """Text without what moves a cursor, colours, or reverses the order of letters; lines and tabs stay."""
    return "".join(c if c in LAYOUT or unicodedata.category(c)[0] != "C" else " " for c in text)


class Terminal:
    """A stream that passes `terminal_text` on; what reaches it may quote a title, a file name, a row."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write harmless text; returns how many characters were given."""
        self._stream.write(terminal_text(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self._stream.flush()


def as_cell(value):
    """A value for a CSV cell: text that a spreadsheet would compute gets a quotation mark in front."""
    return f"'{value}" if isinstance(value, str) and re.match(FORMULA, value) else value


def from_cell(value):
    """What `as_cell` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and re.match(FORMULA, value) else value
