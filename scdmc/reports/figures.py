"""Figures as matplotlib ``Figure`` objects: no pyplot, so nothing global, no display and no window.

Text is 7 to 9 points on a figure about as wide as a column of a paper (3.4 inches a panel). Names that users gave (cell
types, batches, files) are shown as they are, never read as mathematics, and shortened; however many there are, a
figure shows a bounded number of them and says so.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.labels import is_missing

DOTS_PER_INCH = 200


PANEL_INCHES = 3.4


MOST_CATEGORIES = 20


MOST_NAMES = 40  # along an axis


MOST_PANELS = 8  # side by side


LONGEST_NAME = 34  # letters


LONGEST_LINE, MOST_TEXT_LINES = 120, 8  # of a title


MOST_INCHES, MOST_PIXELS = 36, 7200


SMALLEST_SPAN = 0.15  # of the axis of a score, in a figure of trends


# Ten colours chosen for colour-blind readers (Petroff 2021, arXiv:2107.02270), brown and the greys last.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#b9ac70",
    "#92dadd",
    "#e76300",
    "#a96b59",
    "#717581",
    "#94a4a2",
)


# Twenty more for many groups: each as far as could be from all before it (distance in OKLab, to normal and to
# colour-blind eyes), with a contrast of at least 3 to white and 2.5 to the dark ground of a page.
MORE_COLOURS = (
    "#ff3ce1", "#004bff", "#a55aff", "#3c692d", "#ff1e69", "#c35aa5", "#5a9600", "#c300c3", "#0fa587", "#006996",
    "#874b78", "#695ae1", "#9687c3", "#b41e69", "#87782d", "#2d875a", "#8787ff", "#a500ff", "#0087a5", "#e16987",
)  # fmt: skip


# No palette keeps more colours than this apart for every reader: beyond it, numbers on the points name the groups.
NUMBERED_FROM = 7


GREY = "#d0d0d0"


WITHOUT_LABEL = "unknown"


def shortened(name: object) -> str:
    """A name as it fits beside an axis or into a legend: one line without control characters, cut where it is long."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", str(name)).split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def largest_groups(sizes: pd.Series, most: int = MOST_NAMES) -> pd.Index:
    """Names of at most so many groups, those of the largest numbers, in the order in which they stand."""
    return sizes.index[np.sort(np.argsort(-sizes.to_numpy(), kind="stable")[:most])]


def save_figure(figure: Figure, path_stem: Path) -> Path:
    """Write a figure as PNG (200 dpi, or fewer for a very large one) and PDF; the same figure gives the same bytes.

    A dollar sign is a dollar sign: no text is read as mathematics.

    Parameters
    ----------
    figure
        The figure.
    path_stem
        Path without suffix.

    Returns
    -------
    Path
        The PNG.
    """
    path_stem = Path(path_stem)
    inches = np.minimum(figure.get_size_inches(), MOST_INCHES)
    figure.set_size_inches(inches)
    dots_per_inch = min(DOTS_PER_INCH, MOST_PIXELS / inches.max())
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(_bounded(text.get_text()))
    # Type 42 keeps text in the PDF as text; without a date two runs give the same file. Labels of ticks are made anew
    # while a figure is drawn, so they need the setting, too.
    settings = {"pdf.fonttype": 42, "text.parse_math": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # emoji become boxes
        for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
            # Not with_suffix: "leiden_0.2" is a stem, too.
            with atomic_path(path_stem.with_name(path_stem.name + suffix)) as temporary:
                figure.savefig(temporary, dpi=dots_per_inch, bbox_inches="tight", metadata=metadata)
    return path_stem.with_name(path_stem.name + ".png")


def _bounded(text: str) -> str:
    """A text whose lines fit on a figure; only one that is built of odd or long names changes."""
    text = re.sub("[\x00-\x09\x0b-\x1f\ud800-\udfff]", " ", text)
    lines = text.split("\n")
    if len(lines) <= MOST_TEXT_LINES and all(len(line) <= LONGEST_LINE for line in lines):
        return text
    return "\n".join(
        line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…" for line in lines[:MOST_TEXT_LINES]
    )


def umap_figure(
    coordinates: np.ndarray,
    colourings: Mapping[str, np.ndarray],
    title: str,
    seed: int = 42,
    same_colours: bool = False,
) -> Figure:
    """Draw the same points once for each colouring, side by side.

    From seven groups on, numbers on the points repeat what the colours say. At most 20 groups are drawn apart: the 19
    largest and "other". Of more than eight colourings the first eight are drawn.

    Parameters
    ----------
    coordinates
        Shape (n_cells, 2).
    colourings
        Title of the panel -> labels of shape (n_cells,); NaN, None and '' are drawn grey, as "unknown".
    title
        Of the figure: what it shows.
    seed
        Of the order in which the points are drawn; a fixed order would put one group on top.
    same_colours
        True if the colourings share their groups (true and predicted types, say): a group then has one colour and
        number in all panels.

    Raises
    ------
    ScDMCError
        If there is no colouring or one does not have n_cells labels.
    """
    coordinates = np.asarray(coordinates)
    if not colourings:
        raise ScDMCError("a UMAP figure needs at least one colouring")
    for name, labels in colourings.items():
        if len(labels) != len(coordinates):
            raise ScDMCError(f"{name}: {len(labels)} labels for {len(coordinates)} cells")
    title, colourings = _first_panels(title, colourings)
    order = np.random.default_rng(seed).permutation(len(coordinates))
    if same_colours:
        together = _few_groups(np.concatenate([np.asarray(labels, dtype=object) for labels in colourings.values()]))
        drawn = {
            name: labels[order] for name, labels in zip(colourings, np.split(together, len(colourings)), strict=True)
        }
        legends = dict.fromkeys(drawn, _legend(together))
    else:
        drawn = {name: _few_groups(labels)[order] for name, labels in colourings.items()}
        legends = {name: _legend(labels) for name, labels in drawn.items()}
    legend_rows = max(-(-len(legend) // _legend_columns(legend)) for legend in legends.values())
    figure = Figure(figsize=(PANEL_INCHES * len(drawn), PANEL_INCHES + 0.6 + 0.15 * legend_rows), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _draw_groups(axes, coordinates[order], drawn[name], legends[name])
        axes.set_title(shortened(name), fontsize=8)
    return figure


def _first_panels(title: str, colourings: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """At most so many colourings as fit side by side, and the title, which says so."""
    shown = dict(list(colourings.items())[:MOST_PANELS])
    if len(shown) < len(colourings):
        title = f"{title} (the first {MOST_PANELS} of {len(colourings):,} colourings)"
    return title, shown


def umap_grid_figure(
    coordinates: Mapping[str, np.ndarray], colourings: Mapping[str, np.ndarray], title: str, seed: int = 42
) -> Figure:
    """Draw the same cells by several methods: a row for each method, a column for each colouring.

    Parameters
    ----------
    coordinates
        Method -> coordinates of shape (n_cells, 2).
    colourings
        Title of the column -> labels of shape (n_cells,); NaN, None and '' are drawn grey, as "unknown".
    title
        Of the figure: what it shows.
    seed
        Of the order in which the points are drawn.
    """
    title, colourings = _first_panels(title, colourings)
    n_rows, n_columns = len(coordinates), len(colourings)
    drawn = {name: _few_groups(labels) for name, labels in colourings.items()}
    legends = {name: _legend(labels) for name, labels in drawn.items()}
    legend_rows = max(-(-len(legend) // _legend_columns(legend)) for legend in legends.values())
    height = 0.75 * PANEL_INCHES * n_rows + 0.5 + 0.15 * legend_rows
    figure = Figure(figsize=(0.85 * PANEL_INCHES * n_columns, height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    order = np.random.default_rng(seed).permutation(len(next(iter(drawn.values()))))
    for row, (method, points) in zip(panels, coordinates.items(), strict=True):
        for axes, (name, labels) in zip(row, drawn.items(), strict=True):
            _draw_points(axes, np.asarray(points)[order], labels[order], legends[name])
        row[0].set_ylabel(shortened(method), fontsize=7)
    for top, bottom, name in zip(panels[0], panels[-1], drawn, strict=True):
        top.set_title(shortened(name), fontsize=8)
        _draw_legend(bottom, legends[name])
    return figure


def _few_groups(labels: np.ndarray) -> np.ndarray:
    """Labels as text, shape (n_cells,), with small groups beyond the twentieth as "other (n groups)"."""
    labels = np.where(is_missing(labels), WITHOUT_LABEL, np.asarray(labels, dtype=object))
    labels = np.array([str(label) for label in labels], dtype=object)  # of fixed width, one long name would cost all
    sizes = pd.Series(labels[labels != WITHOUT_LABEL]).value_counts()
    if len(sizes) <= MOST_CATEGORIES:
        return labels
    small = sizes.index[MOST_CATEGORIES - 1 :]
    return np.where(np.isin(labels, small), f"other ({len(small)} groups)", labels)


def _legend(labels: np.ndarray) -> pd.DataFrame:
    """Colour, number on the points ("" for none) and legend text of each group; index: the groups in order."""
    names = _in_natural_order(labels)
    legend = pd.DataFrame(
        {
            "colour": [series_colour(index) for index in range(len(names))],
            "number": "",
            "text": [shortened(name) for name in names],
        },
        names,
    )
    if len(names) >= NUMBERED_FROM:
        # Clusters are numbers already.
        are_numbers = all(name.isdecimal() for name in names)
        legend["number"] = names if are_numbers else [str(index) for index in range(1, len(names) + 1)]
        legend["text"] = legend["number"] if are_numbers else legend["number"] + "  " + legend["text"]
    if WITHOUT_LABEL in labels:
        legend.loc[WITHOUT_LABEL] = [GREY, "", WITHOUT_LABEL]
    return legend


def _legend_columns(legend: pd.DataFrame) -> int:
    """Columns of legend text that fit below one panel."""
    if len(legend) <= 3:
        return 1
    longest = legend["text"].str.len().max()
    return 4 if longest <= 6 else 2 if longest <= 24 else 1


def _draw_groups(axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> None:
    """Points coloured by group, the legend below them."""
    _draw_points(axes, coordinates, labels, legend)
    _draw_legend(axes, legend)
    axes.set_xlabel("UMAP 1 (no unit)", fontsize=7)
    axes.set_ylabel("UMAP 2 (no unit)", fontsize=7)


def _draw_points(axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> None:
    """Points coloured by group, with the groups' numbers if there are any."""
    area = float(np.clip(12_000 / len(labels), 0.5, 12))  # points²
    colours = legend["colour"].map(to_rgb)[labels].to_list()
    axes.scatter(*coordinates.T, c=colours, s=area, linewidths=0, alpha=0.85, rasterized=True)
    for name, number in legend.loc[legend["number"] != "", "number"].items():
        if (labels == name).any():
            _write_number(axes, coordinates[labels == name], number)
    axes.set(xticks=[], yticks=[], box_aspect=1)


def _draw_legend(axes: Axes, legend: pd.DataFrame) -> None:
    """The groups, below the axes."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=group.colour, label=group.text) for group in legend.itertuples()
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=_legend_columns(legend),
        fontsize=7,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _in_natural_order(labels: np.ndarray) -> list[str]:
    """Names of the groups, clusters as numbers ("2" before "10"), the collected rest last, without the unknown."""
    names = [str(name) for name in np.unique(labels) if name != WITHOUT_LABEL]
    return sorted(names, key=lambda name: (name.startswith("other ("), int(name) if name.isdecimal() else -1, name))


def series_colour(index: int) -> str:
    """Colour of a group, one of thirty; the thirty-first group has the colour of the first."""
    colours = (*PALETTE, *MORE_COLOURS)
    return colours[index % len(colours)]


def group_colours(labels: np.ndarray) -> dict[str, str]:
    """Colour of every group of some cells, as :func:`umap_figure` draws them; unknown is grey.

    Groups that a figure would draw together, as "other", come after those that it draws apart.

    Parameters
    ----------
    labels
        Shape (n_cells,).
    """
    drawn = _legend(_few_groups(labels))["colour"].to_dict()
    names = {str(name) for name in np.asarray(labels, dtype=object)[~is_missing(labels)]}
    apart = {name: colour for name, colour in drawn.items() if not name.startswith("other (")}
    n_apart = len(apart) - (WITHOUT_LABEL in apart)
    others = sorted(names - set(apart))
    return apart | {name: series_colour(n_apart + index) for index, name in enumerate(others)}


def _write_number(axes: Axes, points: np.ndarray, number: str) -> None:
    """Write a group's number beside the cell nearest to its median: on it, the number would hide a small group."""
    middle = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
    axes.annotate(
        number,
        middle,
        xytext=(7, 7),
        textcoords="offset points",
        fontsize=7.5,
        weight="bold",
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
    )
