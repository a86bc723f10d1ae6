"""Executed notebooks as HTML: outputs count as untrusted, formulas are drawn, nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import bleach
import nbformat
from matplotlib import rc_context
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# what a table or a rendered list needs; no link, no image, no style
TAGS = {"table", "thead", "tbody", "tr", "th", "td", "caption", "div", "p", "pre", "code", "em", "strong", "ul", "ol",
        "li", "br", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "span"}  # fmt: skip
KEPT = ("text/html", "image/png", "text/plain")  # kinds of output that are shown
FORMULA = re.compile(r"(\$\$.+?\$\$|(?<![\\$\w])\$[^$\n]+?\$(?!\w))", re.DOTALL)

FOLDING = """{% extends "basic/index.html.j2" %}
{% block codecell %}
{%- if "solution" in cell.metadata.get("tags", ()) -%}
<details><summary>Solution</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{% endblock codecell %}
"""


def safe(text: str) -> str:
    """HTML of an output without anything that could run, load or lay over the page.

    pandas brings a style sheet with every table; it is dropped whole, since cleaning would show it as text.
    """
    without_style = re.sub(r"<style\b.*?</style>", "", text, flags=re.DOTALL | re.IGNORECASE)
    return bleach.clean(without_style, tags=TAGS, attributes={"td": ["colspan", "rowspan"],
                                                              "th": ["colspan", "rowspan", "scope"]})  # fmt: skip


def drawn(formula: str) -> str:
    """A formula between dollar signs as an image whose text alternative is its source; as code where it fails.

    Without the date that matplotlib writes, and with fixed ids, so that the same notebook gives the same page.
    """
    source = formula.strip("$").strip()
    image = io.BytesIO()
    try:
        with rc_context({"svg.hashsalt": "eestudy"}):
            depth = math_to_image(f"${source}$", image, dpi=100, format="svg")
    except ValueError:  # not part of mathtext
        return f"<code>{html.escape(source)}</code>"
    content = re.sub(rb"<metadata>.*?</metadata>", b"", image.getvalue(), flags=re.DOTALL)
    data, alt = base64.b64encode(content).decode(), html.escape(source, quote=True)
    kind = "formula display" if formula.startswith("$$") else "formula"
    return (f'<img class="{kind}" alt="{alt}" style="vertical-align:-{depth:.0f}px" '
            f'src="data:image/svg+xml;base64,{data}">')  # fmt: skip


def with_formulas(source: str) -> str:
    """Markdown with its formulas drawn; what stands between backticks is left alone."""
    parts = re.split(r"(```.*?```|`[^`]*`)", source, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else FORMULA.sub(lambda found: drawn(found[0]), part)
                   for part in parts)  # fmt: skip


def _prepare(output: dict, heading: str) -> None:
    """Keep, in place, what is safe of one output; pictures are told by the heading they stand under."""
    data = output.get("data")
    if data is None:
        return
    if "text/markdown" in data:
        plain = IPythonRenderer(escape=False, exclude_anchor_links=True)  # a link would be shown as text: `safe`
        data["text/html"] = MarkdownWithMath(renderer=plain).render(data["text/markdown"])
    if "text/html" in data:
        data["text/html"] = safe(data["text/html"]).replace("<td>NaN</td>", "<td>–</td>")  # absent, not an error
    output["data"] = nbformat.from_dict({kind: data[kind] for kind in KEPT if kind in data})
    if "image/png" in data:
        output["metadata"] = nbformat.from_dict({"image/png": {"alt": f"Figure under the heading: {heading}"}})


def render(path: Path) -> tuple[str, str]:
    """An executed notebook.

    Args:
        path: of the .ipynb.

    Returns:
        Its title, and its cells as HTML without a page around them.
    """
    notebook = nbformat.read(path, as_version=4)
    heading = title = path.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.search(r"^#+ (.+)$", cell.source, re.MULTILINE)
            heading = found[1] if found else heading
            title = heading if title == path.stem else title
            cell.source = with_formulas(cell.source)
        for output in cell.get("outputs", []):
            _prepare(output, heading)
    exporter = HTMLExporter(template_name="basic", raw_template=FOLDING, exclude_input_prompt=True,
                            exclude_output_prompt=True)  # fmt: skip
    return title, exporter.from_notebook_node(notebook)[0]
