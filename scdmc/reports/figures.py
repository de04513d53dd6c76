"""Figures as matplotlib ``Figure`` objects: no pyplot, so nothing global, no display and no window.

Text is 7 to 9 points on a figure about as wide as a column of a paper (3.4 inches a panel). Names that users gave (cell
types, batches, files) are shown as they are, never read as mathematics, and shortened; however many there are, a
figure shows a bounded number of them and says so.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from scdmc.errors import ScDMCError
from scdmc.files import atomic_path
from scdmc.labels import is_missing
from scdmc.reports.colours import UNKNOWN_GREY, colours_of, in_natural_order
from scdmc.reports.map_names import LETTERS_ON_MAP, plain_text, write_names

DOTS_PER_INCH = 200


PANEL_INCHES = 3.4


MOST_CATEGORIES = 30


MOST_NAMES = 40  # along an axis


MOST_PANELS = 8  # side by side


LONGEST_NAME = 34  # letters


LONGEST_LINE, MOST_TEXT_LINES = 120, 8  # of a title


MOST_INCHES, MOST_PIXELS = 36, 7200


COLOURS_OF_PNG = 256


SMALLEST_SPAN = 0.15  # of the axis of a score, in a figure of trends


# Ten colours of bars and lines, chosen for colour-blind readers (Petroff 2021, arXiv:2107.02270), brown and the greys
# last. Groups of cells have those of scdmc.reports.colours.
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

    A dollar sign is a dollar sign: no text is read as mathematics. The PNG has :func:`few_colours`.

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
        text.set_text(_bounded(text.get_text()))
    # Type 42 keeps text in the PDF as text; without a date two runs give the same file.
    with matplotlib.rc_context({"pdf.fonttype": 42}), plain_text(figure):
        # Not with_suffix: "leiden_0.2" is a stem, too.
        with atomic_path(path_stem.with_name(path_stem.name + ".pdf")) as temporary:
            figure.savefig(temporary, dpi=dots_per_inch, bbox_inches="tight", metadata={"CreationDate": None})
        with atomic_path(path_stem.with_name(path_stem.name + ".png")) as temporary:
            write_png(figure, temporary, dots_per_inch, bbox_inches="tight")
    return path_stem.with_name(path_stem.name + ".png")


def write_png(figure: Figure, path: Path, dots_per_inch: float, bbox_inches: str | None = None) -> None:
    """Write a figure as PNG of few colours (:func:`few_colours`), a quarter as large as one of millions."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dots_per_inch, bbox_inches=bbox_inches, pil_kwargs={"compress_level": 1})
    few_colours(PIL.Image.open(drawn)).save(path, "PNG", dpi=(dots_per_inch, dots_per_inch))


def few_colours(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture with at most 256 colours; one that has no more keeps them exactly.

    The palette has the colours that lie farthest apart, so a group of a few cells keeps its own; those that occur most
    would leave it out.
    """
    palette = PIL.Image.Quantize.MAXCOVERAGE
    return image.convert("RGB").quantize(COLOURS_OF_PNG, palette, dither=PIL.Image.Dither.NONE)


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
    wrong: np.ndarray | None = None,
) -> Figure:
    """Draw the same points once for each colouring, side by side.

    Names of groups that lie together stand on the map (:func:`scdmc.reports.map_names.write_names`). At most 30 groups
    are drawn apart: the 29 largest and "other". Of more than eight colourings the first eight are drawn.

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
        True if the colourings share their groups (true and predicted types, say): a group then has one colour in all
        panels.
    wrong
        True for cells to mark by a ring in the last panel, shape (n_cells,); None for none.

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
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, name in zip(panels, drawn, strict=True):
        marked = coordinates[np.asarray(wrong, dtype=bool)] if wrong is not None and axes is panels[-1] else None
        _draw_groups(axes, coordinates[order], drawn[name], legends[name], marked)
        axes.set_title(shortened(name), fontsize=8)
    groups = {axes: _named_points(coordinates[order], drawn[name], legends[name])
              for axes, name in zip(panels, drawn, strict=True)}  # fmt: skip
    write_names(figure, groups)
    return figure


def _named_points(coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """What is written on the map, and points of the group; nothing of small groups that are drawn together."""
    return [
        (text, coordinates[labels == name])
        for name, text in legend.loc[legend["on_map"] != "", "on_map"].items()
        if (labels == name).any()
    ]


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
    names = {axes: _named_points(np.asarray(points)[order], drawn[name][order], legends[name])
             for row, points in zip(panels, coordinates.values(), strict=True)
             for axes, name in zip(row, drawn, strict=True)}  # fmt: skip
    write_names(figure, names)
    return figure


def _few_groups(labels: np.ndarray) -> np.ndarray:
    """Labels as text, shape (n_cells,), with small groups beyond the thirtieth as "other (n groups)"."""
    labels = np.where(is_missing(labels), WITHOUT_LABEL, np.asarray(labels, dtype=object))
    labels = np.array([str(label) for label in labels], dtype=object)  # of fixed width, one long name would cost all
    sizes = pd.Series(labels[labels != WITHOUT_LABEL]).value_counts()
    if len(sizes) <= MOST_CATEGORIES:
        return labels
    small = sizes.index[MOST_CATEGORIES - 1 :]
    return np.where(np.isin(labels, small), f"other ({len(small)} groups)", labels)


def _legend(labels: np.ndarray) -> pd.DataFrame:
    """Colour, text on the map ("" for none) and in the legend of each group; index: the groups in order."""
    names = in_natural_order({str(name) for name in np.unique(labels)} - {WITHOUT_LABEL})
    legend = pd.DataFrame(
        {
            "colour": list(colours_of(names).values()),
            "on_map": _on_map(names),
            "text": [shortened(name) for name in names],
        },
        names,
    )
    if WITHOUT_LABEL in labels:
        legend.loc[WITHOUT_LABEL] = [UNKNOWN_GREY, "", WITHOUT_LABEL]
    return legend


def _on_map(names: list[str]) -> list[str]:
    """Names as they fit on a map: of a cluster its number; nothing for groups that are drawn together."""
    texts = []
    for name in names:
        number = name.partition(": ")[0]
        text = number if number.isdecimal() else shortened(name)
        texts.append("" if name.startswith("other (") else text)
    cut = [text if len(text) <= LETTERS_ON_MAP else text[: LETTERS_ON_MAP - 1] + "…" for text in texts]
    # Long names that begin alike are told apart by their ends.
    return [
        f"{text[: LETTERS_ON_MAP // 2 - 1]}…{text[-LETTERS_ON_MAP // 2 :]}" if cut.count(short) > 1 and short else short
        for text, short in zip(texts, cut, strict=True)
    ]


def _legend_columns(legend: pd.DataFrame) -> int:
    """Columns of legend text that fit below one panel."""
    if len(legend) <= 3:
        return 1
    longest = legend["text"].str.len().max()
    return 4 if longest <= 6 else 2 if longest <= 24 else 1


def _draw_groups(
    axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame, marked: np.ndarray | None
) -> None:
    """Points coloured by group, some of them in rings, the legend below them."""
    _draw_points(axes, coordinates, labels, legend)
    rings = []
    if marked is not None and len(marked):
        axes.scatter(*marked.T, s=16, facecolors="none", edgecolors="black", linewidths=0.5, rasterized=True)
        rings = [Line2D([], [], ls="", marker="o", ms=5, mfc="none", mec="black", label=f"wrong ({len(marked):,})")]
    _draw_legend(axes, legend, rings)
    axes.set_xlabel("UMAP 1", fontsize=7)
    axes.set_ylabel("UMAP 2", fontsize=7)


def _draw_points(axes: Axes, coordinates: np.ndarray, labels: np.ndarray, legend: pd.DataFrame) -> None:
    """Points coloured by group; cells without a label lie below the others."""
    area = float(np.clip(12_000 / len(labels), 0.5, 12))  # points²
    below_first = np.argsort(labels != WITHOUT_LABEL, kind="stable")
    coordinates, labels = coordinates[below_first], labels[below_first]
    colours = legend["colour"].map(to_rgb)[labels].to_list()
    axes.scatter(*coordinates.T, c=colours, s=area, linewidths=0, alpha=0.85, rasterized=True)
    axes.set(xticks=[], yticks=[], box_aspect=1)


def _draw_legend(axes: Axes, legend: pd.DataFrame, more: Sequence[Line2D] = ()) -> None:
    """The groups, below the axes."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=group.colour, label=group.text) for group in legend.itertuples()
    ]
    axes.legend(
        handles=[*handles, *more],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=_legend_columns(legend),
        fontsize=7,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )


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
    in_order = [*(name for name in apart if name != WITHOUT_LABEL), *sorted(names - set(apart))]
    return colours_of(in_order) | {name: colour for name, colour in apart.items() if name == WITHOUT_LABEL}
