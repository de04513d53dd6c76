"""Names of groups on a map: on their cells where they fit, beside them with a line where they would collide.

A package for this (adjustText) moves texts step by step, which takes seconds for thirty names and would be one more
dependency; here each name takes the first free place, the largest group first.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

LETTERS_ON_MAP, FONT_SIZE = 18, 6.5


# Groups as wide as the whole map lie in one another, such as batches that mix: a name in the middle would mislead.
WIDEST_GROUP = 0.75


N_RINGS, N_ANGLES = 14, 16


Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def write_names(figure: Figure, panels: Mapping[Axes, Sequence[tuple[str, np.ndarray]]]) -> None:
    """Write the names of groups that lie together, none on another.

    Parameters
    ----------
    figure
        With all else drawn.
    panels
        Axes -> for each group its name as it is written, and its points, shape (n_cells_of_group, 2).
    """
    with plain_text(figure):
        figure.draw_without_rendering()  # sizes of the panels are known only then
        _write_names(figure, panels)


@contextmanager
def plain_text(figure: Figure) -> Iterator[None]:
    """While a figure is drawn, a dollar sign is a dollar sign: no text is read as mathematics."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Labels of ticks are made anew while a figure is drawn, so they need the setting, too.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # emoji become boxes
        yield


def _write_names(figure: Figure, panels: Mapping[Axes, Sequence[tuple[str, np.ndarray]]]) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, groups in panels.items():
        taken: list[Box] = []
        for name, points in _that_lie_together(groups):
            middle = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
            text = axes.annotate(
                name,
                middle,
                xytext=(0, 0),
                textcoords="offset points",
                fontsize=FONT_SIZE,
                ha="center",
                va="center",
                path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
                annotation_clip=False,
                zorder=5,
            )
            text.set_in_layout(False)
            extent = text.get_window_extent(renderer)
            size = np.array([extent.width, extent.height])
            at = axes.transData.transform(middle)
            spread = np.median(np.linalg.norm(axes.transData.transform(points) - at, axis=1))
            place, box = _free_place(at, size, spread, taken, axes.get_window_extent().extents)
            taken.append(box)
            text.set_position(tuple((place - at) * 72 / figure.dpi))
            # A line to a name that stands on its cells would be a blot.
            text.arrow_patch.set_visible(bool(np.abs(place - at)[1] > size[1] or np.abs(place - at)[0] > size[0] / 2))


def _that_lie_together(groups: Sequence[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and points of groups that are narrower than the whole, the largest first; none where one is all."""
    if len(groups) < 2:
        return
    everything = np.concatenate([points for _, points in groups])
    widest = WIDEST_GROUP * _width(everything)
    for name, points in sorted(groups, key=lambda group: -len(group[1])):
        if len(points) and _width(points) <= widest:
            yield name, points


def _width(points: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1)))


def _free_place(
    at: np.ndarray, size: np.ndarray, spread: float, taken: list[Box], inside: np.ndarray
) -> tuple[np.ndarray, Box]:
    """The nearest place for a text of some size where it lies on no other, and its box there.

    The cells themselves are the first place, unless the name would hide them all. Where all is taken, the place where
    the least is covered.
    """
    found = []
    for place in _places(at, size, is_on_cells=spread > size[1]):
        half = size / 2 + 1
        box = (*(place - half), *(place + half))
        outside = sum(max(0, inside[side] - box[side]) + max(0, box[side + 2] - inside[side + 2]) for side in (0, 1))
        covered = sum(_overlap(box, other) for other in taken) + outside * size[1]
        if covered == 0:
            return place, box
        found.append((covered, len(found), place, box))
    _, _, place, box = min(found)
    return place, box


def _places(at: np.ndarray, size: np.ndarray, is_on_cells: bool) -> Iterator[np.ndarray]:
    if is_on_cells:
        yield at
    angles = np.pi / 2 + 2 * np.pi * np.arange(N_ANGLES) / N_ANGLES
    for ring in range(1, N_RINGS + 1):
        for angle in angles:
            yield at + ring * 0.8 * size[1] * np.array([1.6 * np.cos(angle), np.sin(angle)])


def _overlap(box: Box, other: Box) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0)
