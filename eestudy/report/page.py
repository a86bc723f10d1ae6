"""Blocks of content and their two renderings: Markdown, and HTML that needs nothing else.

A block is a tuple: ("heading", level, text), ("text", text), ("list", [text]), ("table", frame),
("figure", png bytes, file name, caption) or ("quote", text). All text is untrusted and escaped here, once.
"""

from __future__ import annotations

import base64
import html
import re

import numpy as np
import pandas as pd

from eestudy.untrusted import plain_text


def escape_html(value) -> str:
    """One line of text, safe as HTML content and inside a quoted attribute."""
    return html.escape(plain_text(value), quote=True)


def escape_markdown(value) -> str:
    """One line of text that Markdown shows as it is: no emphasis, link, table cell, HTML or heading begins in it."""
    text = re.sub(r"([\\`*_\[\]#|~!$])", r"\\\1", plain_text(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"^(\d*)([.)+=-])(?= |$)", r"\1\\\2", text)  # no list begins
    return re.sub(r"(?i)(https?|www)([:.])", r"\1&#8203;\2", text)  # no automatic link


def number(value, digits: int = 3, signed: bool = False) -> str:
    """A number as text; "not measured" for None and NaN."""
    if value is None or not np.isfinite(value):
        return "not measured"
    return f"{value:{'+' if signed else ''}z.{digits}f}"  # z: what rounds to 0 has no minus


def percent(item: dict | None, digits: int = 0) -> str:
    """A share as '14 %', or 'not measured'. Args: an entry of metrics.json; decimals."""
    return "not measured" if item is None or item["value"] is None else f"{number(100 * item['value'], digits)} %"


def cell(value) -> str:
    """A table cell as text: empty for missing, three decimals below 100, none above."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (float, np.floating)):
        return f"{value:.0f}" if abs(value) >= 100 or (abs(value) >= 2 and value == round(value)) else f"{value:.3f}"
    return str(value)


def _markdown_table(frame: pd.DataFrame) -> str:
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    texts = [[text if text == "---" else escape_markdown(cell(text)) for text in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in texts)


def _html_table(frame: pd.DataFrame) -> str:
    head = "".join(f"<th>{escape_html(name)}</th>" for name in frame.columns)
    rows = ["".join(f"<td>{escape_html(cell(value))}</td>" for value in row) for row in frame.itertuples(index=False)]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _markdown_block(block: tuple) -> str:
    kind, *content = block
    if kind == "heading":
        return "#" * content[0] + " " + escape_markdown(content[1])
    if kind == "list":
        return "\n".join(f"- {escape_markdown(text)}" for text in content[0])
    if kind == "table":
        return _markdown_table(content[0])
    if kind == "figure":
        return f"![{escape_markdown(content[2])}](figures/{content[1]})"
    if kind == "quote":
        return "\n".join(f"> {escape_markdown(line)}  " for line in content[0].split("\n"))
    return escape_markdown(content[0])


def _html_block(block: tuple) -> str:
    kind, *content = block
    if kind == "heading":
        return f"<h{content[0]}>{escape_html(content[1])}</h{content[0]}>"
    if kind == "list":
        return "<ul>" + "".join(f"<li>{escape_html(text)}</li>" for text in content[0]) + "</ul>"
    if kind == "table":
        return _html_table(content[0])
    if kind == "figure":
        data, caption = base64.b64encode(content[0]).decode(), escape_html(content[2])
        return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                f"<figcaption>{caption}</figcaption></figure>")  # fmt: skip
    if kind == "quote":
        return "<pre>" + "\n".join(escape_html(line) for line in content[0].split("\n")) + "</pre>"
    return f"<p>{escape_html(content[0])}</p>"


def to_markdown(blocks: list[tuple]) -> str:
    """Markdown of the blocks; figures are links into `figures/`."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def to_html(blocks: list[tuple]) -> str:
    """The blocks as HTML without a page around them; the pages are `site`'s."""
    return "\n".join(_html_block(block) for block in blocks)
