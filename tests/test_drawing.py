"""The look of the figures: readable in grey, nothing overlaps, one style sheet and no other."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from eestudy import artifacts, drawing

NOTEBOOKS = sorted((artifacts.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def closed():
    drawing.use_style()
    yield
    plt.close("all")


def test_neighbours_in_the_cycle_differ_in_grey_or_are_told_apart_by_their_dash():
    lights = [np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in drawing.CYCLE]
    assert (np.abs(np.diff(lights[:4])) > 0.1).all()
    assert len({str(dash) for dash in drawing.CYCLE.values()}) == len(drawing.CYCLE)


def test_spread_keeps_order_and_distance():
    values = np.random.default_rng(0).random(7)
    placed = drawing.spread(values, 0.05)
    assert (np.diff(np.sort(placed)) >= 0.05 - 1e-6).all()
    assert (np.argsort(placed) == np.argsort(values)).all()


def test_names_at_the_ends_of_lines_do_not_overlap():
    figure, axes = plt.subplots(figsize=(6, 3))
    for place, name in enumerate(("first", "second", "third")):
        axes.plot([1, 10, np.nan], [1, 1 + place / 1000, np.nan], label=name)
    axes.axhline(1, label="level")
    axes.axvline(3, label="kept")
    axes.plot([1, 2], [1, 1])
    axes.set(xscale="log", yscale="log", ylim=(0.1, 10))
    drawing.label_ends(axes)
    figure.draw_without_rendering()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert set(boxes) == {"first", "second", "third", "level", "kept"}
    column = sorted((box for name, box in boxes.items() if name != "kept"), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(column, column[1:], strict=False))


def test_marks_of_a_line_are_named_where_neither_line_nor_other_marks_are():
    _, axes = plt.subplots(figsize=(6, 3))
    line, others = np.array([[1.0, 1.0], [10.0, 2.0], [100.0, 1.0], [1000.0, 1.5]]), np.array([[1000.0, 1.65]])
    axes.set(xscale="log", xlim=(0.5, 2000), ylim=(0, 3))
    drawing.label_marks(axes, line, list("abcd"), "C0", others)
    above = {text.get_text(): text.xyann[1] > 0 for text in axes.texts}
    assert above == {"a": False, "b": True, "c": False, "d": False}  # d: a peak, but another mark is above it
    drawing.label_marks(axes, line, list("abcd"), "C0", others[:0])
    assert axes.texts[-1].xyann[1] > 0


def test_error_bars_reach_from_the_value_to_its_ends():
    table = pd.DataFrame({"auc": [0.5, 0.6], "auc_lo": [0.4, 0.7], "auc_hi": [0.7, np.nan]})
    np.testing.assert_allclose(drawing.reach(table, "auc"), [[0.1, 0.0], [0.2, np.nan]])


def test_a_picture_is_the_same_bytes_each_time_and_lies_in_the_run(tmp_path):
    run = artifacts.Run(tmp_path, "ml-100k", "smoke", 0)
    figure, _ = plt.subplots()
    drawing.save(run, figure, "01_empty")
    assert (tmp_path / "figures/01_empty.png").read_bytes() == drawing.picture(figure, "png")
    assert drawing.picture(figure, "svg") == drawing.picture(figure, "svg")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_a_notebook_that_draws_uses_the_one_style(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    if "plt." in code:
        assert code.count("drawing.use_style()") == 1
    for another in ("set_theme", "rcParams", "style.use", "savefig", 'color="#', "palette=\"colorblind"):
        assert another not in code, another
    for cell in cells:
        source = "".join(cell["source"])
        if "subplots(" in source:
            assert "xlabel" in source and re.search("ylabel|tick|barh", source), f"{cell['id']} names no axes"
