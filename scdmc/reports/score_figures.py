"""Scores as the scIB benchmark shows them: circles for metrics, bars for averages, in blocks, coloured from 0 to 1.

plottable, which scib-metrics draws its table with, needs pyplot, and colours each column from its lowest to its
highest score: a hundredth of a difference then looks like all.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from scdmc.reports.colours import ink_on, series_colour
from scdmc.reports.figures import shortened

CIRCLES, BARS = "Blues", "Greens"


LETTER_WIDTH, BAR_WIDTH = 0.165, 1.5  # in cells


SHORTEST_AROUND_NUMBER = 0.6  # a score whose bar is longer than its number


def score_blocks_figure(
    scores: pd.DataFrame,
    blocks: Mapping[str, Sequence[object]],
    averages: Sequence[object],
    title: str,
    is_best: np.ndarray,
    has_deviations: bool = False,
) -> Figure:
    """Draw methods x metrics: a circle for each score, a bar for each average, blocks of metrics side by side.

    Colour, and the length of a bar, run from 0 to 1 for every column, so that equal scores look equal.

    Parameters
    ----------
    scores
        One row for each method, one column for each metric, from 0 to 1, higher is better; NaN is a dash.
    blocks
        Heading -> its columns.
    averages
        Columns that are drawn as bars.
    title
        Of the figure: what it shows.
    is_best
        Shape (n_methods, n_metrics): these are bold (:func:`scdmc.reports.tables.best_of_columns`).
    has_deviations
        Whether scores within one standard deviation of the best are bold, too.
    """
    best = pd.DataFrame(is_best, scores.index, scores.columns)
    places, edge = {}, 0.3 + LETTER_WIDTH * max(len(shortened(name)) for name in (*scores.index, "method"))
    for block, columns in blocks.items():
        first = edge
        for name in columns:
            width = BAR_WIDTH if name in averages else 1.0
            places[name] = (edge, width)
            edge += width
        edge = max(edge, first + _width_of(block)) + 0.35
    n_rows = len(scores)
    figure = Figure(figsize=(0.52 * edge, 0.36 * n_rows + 1.9), layout="constrained")
    axes = figure.subplots()
    for row, method in enumerate(scores.index):
        axes.text(0, row, shortened(method), ha="left", va="center", fontsize=8)
        axes.axhline(row + 0.5, color="#dddddd", linewidth=0.6)
        for name, place in places.items():
            score, is_bold = scores.at[method, name], bool(best.at[method, name])
            _draw_score(axes, row, place, score, (name in averages, is_bold))
    _draw_headings(axes, blocks, places, n_rows)
    axes.set(xlim=(-0.1, edge), ylim=(n_rows - 0.4, -3.6), aspect="equal")
    axes.axis("off")
    figure.suptitle(title, fontsize=9)
    what = "colour and length" if any(name in places for name in averages) else "colour"
    bold = "the best, and all within one sd" if has_deviations else "the best"
    figure.supxlabel(f"{what}: 0 to 1 in every column; bold: {bold}", fontsize=6.5)
    return figure


def _width_of(heading: str) -> float:
    """How many cells a heading of a block takes."""
    return LETTER_WIDTH * len(shortened(heading))


def _draw_score(axes: Axes, row: int, place: tuple[float, float], score: float, how: tuple[bool, bool]) -> None:
    """One score as a bar or a circle, with its number; ``how``: whether it is an average, and whether it is bold."""
    (left, width), (is_average, is_bold) = place, how
    if np.isnan(score):
        axes.text(left + width / 2, row, "–", ha="center", va="center", fontsize=7, color="#555555")
        return
    level = float(np.clip(score, 0, 1))
    colour = matplotlib.colormaps[BARS if is_average else CIRCLES](0.05 + 0.75 * level)
    if is_average:
        axes.add_patch(Rectangle((left + 0.05, row - 0.36), (width - 0.1) * level, 0.72, color=colour, linewidth=0))
    else:
        axes.add_patch(Circle((left + 0.5, row), 0.46, facecolor=colour, edgecolor="#bbbbbb", linewidth=0.4))
    # Of a short bar the number lies half beside it.
    ink = ink_on(colour) if level > SHORTEST_AROUND_NUMBER or not is_average else "black"
    where = left + (0.15 if is_average else width / 2)
    axes.text(
        where, row, f"{score:.2f}", ha="left" if is_average else "center", va="center", fontsize=7, color=ink,
        weight="bold" if is_bold else "normal",
    )  # fmt: skip


def _draw_headings(
    axes: Axes, blocks: Mapping[str, Sequence[object]], places: Mapping[object, tuple[float, float]], n_rows: int
) -> None:
    """Names of the columns, and of the blocks above them."""
    for block, columns in blocks.items():
        for name in columns:
            left, width = places[name]
            text = name[-1] if isinstance(name, tuple) else str(name)
            axes.text(
                left + width / 2, -0.65, shortened(text.replace("_", " ")), rotation=35, fontsize=7, ha="left",
                va="bottom", rotation_mode="anchor",
            )  # fmt: skip
        first, (last, width) = places[columns[0]][0], places[columns[-1]]
        axes.text(first + 0.05, -3.3, shortened(block), ha="left", va="center", fontsize=8)
        end = max(last + width, first + _width_of(block))
        axes.plot([first + 0.05, end - 0.05], [-3.05, -3.05], color="#555555", linewidth=0.8)
    axes.axhline(-0.5, color="#555555", linewidth=0.8)


def curves_figure(
    curves: Mapping[str, pd.Series], chosen: Mapping[str, float], title: str, labels: tuple[str, str]
) -> Figure:
    """Draw a curve for each method over one axis of resolutions, with a point at the one that was chosen.

    Parameters
    ----------
    curves
        Method -> values by resolution.
    chosen
        Method -> resolution.
    title
        Of the figure: what it shows.
    labels
        Of the two axes.
    """
    figure = Figure(figsize=(5.2, 3.2 + 0.16 * len(curves)), layout="constrained")
    axes = figure.subplots()
    for index, (method, curve) in enumerate(curves.items()):
        colour, style = series_colour(index), ("-", "--", ":")[index // 10 % 3]
        axes.plot(curve.index, curve.to_numpy(), style, color=colour, label=shortened(method), linewidth=1.2)
        if method in chosen:
            axes.plot(chosen[method], curve[chosen[method]], "o", color=colour, markersize=4)
    axes.set_xlabel(labels[0], fontsize=8)
    axes.set_ylabel(labels[1], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure
