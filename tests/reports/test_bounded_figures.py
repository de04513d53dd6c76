"""Figures of very many groups, and of names that are mathematics, markup or pages long to somebody."""

import struct

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from scdmc.annotation.figures import confusion_matrix_figure, learning_curve_figure, per_class_figure
from scdmc.cells.scores import per_class_scores
from scdmc.gene_analysis.figures import (
    bar_panels_figure,
    grouped_dots_figure,
    heat_map_figure,
    histograms_figure,
    lines_figure,
)
from scdmc.gene_analysis.network_output import network_figure
from scdmc.reports.figures import (
    LONGEST_LINE,
    MOST_INCHES,
    MOST_PIXELS,
    largest_groups,
    save_figure,
    shortened,
    umap_figure,
    umap_grid_figure,
)
from scdmc.reports.score_figures import score_blocks_figure
from scdmc.tokens.report import share_figure

ODD = [
    r"$\alpha_{1$", r"$\notacommand$", "CD8$+", "$x$ cells", "b" * 500, "T\ncell\r\n", "خلايا", "🧬 cell",
    "\x07\x00bell", "<script>alert(1)</script>", "a_b^c", r"\frac{", "\udce9", "%s{}", "a\u2028b", "=1+1",
]  # fmt: skip
MANY = [*ODD, *(f"type {number}" for number in range(600 - len(ODD)))]


def pixels(png):
    content = png.read_bytes()
    return struct.unpack(">II", content[16:24])


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def figures():
    """Name -> every kind of figure that shows names, with 600 of them where it can have so many."""
    rng = np.random.default_rng(0)
    true = np.array(MANY, dtype=object)
    predicted = np.roll(true, 1)
    points = rng.normal(size=(len(true), 2))
    numbers = pd.DataFrame(rng.normal(size=(600, 600)), MANY, MANY)
    few = pd.Series(np.arange(5.0), MANY[:5])
    edges = pd.DataFrame({"tf": MANY[:20], "target": MANY[20:40], "score": 1.0, "is_known": True})
    curve = pd.DataFrame({"method": MANY[:12], "metric": "f", "label_fraction": 0.1, "value": 0.5, "sd": np.nan})
    title = "$\\oops$ of " + "x" * 200
    return {
        "confusion": confusion_matrix_figure(true, predicted, title),
        "per_class": per_class_figure(per_class_scores(true.astype(str), predicted.astype(str)), title),
        "learning": learning_curve_figure(curve, "f", title),
        "umap": umap_figure(points, dict.fromkeys(MANY[:30], true), title),
        "together": umap_figure(points, {"a": true, "b": predicted}, title, same_colours=True),
        "grid": umap_grid_figure({MANY[4]: points}, dict.fromkeys(MANY[:30], true), title),
        "scores": score_blocks_figure(
            numbers.iloc[:18, :18], {title: list(numbers)[:18]}, [], title, np.zeros((18, 18), bool)
        ),
        "heat_map": heat_map_figure(numbers, title, "c", "x", "y", starred=numbers > 1),
        "bars": bar_panels_figure(dict.fromkeys(MANY, few), title, "x"),
        "dots": grouped_dots_figure(numbers.iloc[:, :18], title, "x"),
        "histograms": histograms_figure({name: rng.normal(size=9) for name in MANY[:18]}, title, "x", "y"),
        "lines": lines_figure({name: pd.Series([1.0, 2], [1, 2]) for name in MANY[:18]}, title, "x", "y"),
        "networks": network_figure(dict.fromkeys(MANY[:2], edges), title),
        "shares": share_figure(dict.fromkeys(MANY[:18], 0.5), title),
    }


@pytest.fixture(scope="module")
def made():
    return figures()


def test_figures_are_bounded_in_inches_and_letters_for_any_number_of_groups(made):
    for name, figure in made.items():
        assert max(figure.get_size_inches()) <= MOST_INCHES, name
        assert len(texts(figure)) < 2_500, name
        names = [text for axes in figure.axes for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
        assert max((len(text.get_text()) for text in names), default=0) < 50, name


def test_a_figure_of_too_many_groups_says_what_it_leaves_out(made):
    said = {
        "confusion": "other (561 types)", "per_class": "the 40 largest of 600 types",
        "umap": "(the first 8 of 30 colourings)", "grid": "(the first 8 of 30 colourings)",
        "heat_map": "40 of 600, those with the largest numbers", "bars": "(the first 12 of 600)",
        "dots": "the first 40 of 600; all are in the table",
    }  # fmt: skip
    for name, words in said.items():
        assert any(words in text for text in texts(made[name])), name


def test_names_of_any_kind_are_written_and_dollars_are_dollars(made, tmp_path):
    for name in ("confusion", "histograms", "networks"):
        figure = made[name]
        assert max(pixels(save_figure(figure, tmp_path / name))) <= MOST_PIXELS
        shown = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert shown
        assert not any(text.get_parse_math() for text in shown), name
        assert max(len(line) for text in texts(figure) for line in text.split("\n")) <= LONGEST_LINE
    assert any(r"$\alpha_{1$" in text for text in texts(figure))


def test_the_largest_types_are_drawn_and_the_others_counted_together():
    # type k has k cells, k = 1 ... 60; all right but those of the smallest 21, which are taken for type 60
    true = np.repeat([f"t{k:02}" for k in range(1, 61)], range(1, 61))
    predicted = np.where(true < "t22", "t60", true)
    axes = confusion_matrix_figure(true, predicted, "t").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*(f"t{k:02}" for k in range(22, 61)), "other (21 types)"]
    cells = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    assert cells == {(place, place): place + 22 for place in range(39)} | {(39, 38): sum(range(1, 22))}


def test_names_of_any_kind_become_one_short_line():
    assert shortened("T\ncell\t 1") == "T cell 1"
    assert shortened("x" * 5_000) == "x" * 33 + "…"
    assert shortened("a\x00\u2028\udce9b") == "a b"
    assert list(largest_groups(pd.Series([1, 5, 5, 2], list("abcd")), 2)) == ["b", "c"]
