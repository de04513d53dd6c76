"""Colours of groups: thirty that can be told apart on white and on dark, and one for each type of a run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from matplotlib.colors import is_color_like, to_hex, to_rgb

# Found by search among the 1,774 colours of a grid in steps of 15 whose contrast to white, and to the dark ground of a
# page, is at least 3: the thirty whose nearest two are farthest apart, in OKLab, for usual eyes and, with distances
# doubled, for two kinds of colour blindness (Machado et al. 2009). Usual eyes see any two at least 0.08 apart, and any
# two of the first eight 0.1. The order is that in which each is farthest from those before it.
GROUP_COLOURS = (
    "#2d6996", "#ff5a00", "#c369ff", "#1ea5a5", "#875a4b", "#870fff", "#d2000f", "#3ca55a", "#c300d2", "#ff4ba5",
    "#f06978", "#007869", "#a54bff", "#b41e96", "#ff000f", "#4b69c3", "#c32d69", "#c35a3c", "#c36987", "#ff3ce1",
    "#9687e1", "#964bb4", "#e10096", "#4b7800", "#0096ff", "#d25ac3", "#785ae1", "#96785a", "#876987", "#6987b4",
)  # fmt: skip


# Of cells without a label.
UNKNOWN_GREY = "#a6a6a6"


_of_run: ContextVar[Mapping[str, str] | None] = ContextVar("colours of the types of a run", default=None)


def series_colour(index: int) -> str:
    """Colour of a group, one of thirty; the thirty-first group has the colour of the first."""
    return GROUP_COLOURS[index % len(GROUP_COLOURS)]


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Colour of each group, given in the order of the legend: that of the run where it has one, else the next free.

    Groups of another kind than the types of the run, such as clusters, have the first colours again.
    """
    names, known = list(names), _of_run.get() or {}
    colours = {name: known[name] for name in names if name in known}
    taken = set(known.values()) if colours else set()
    others = [name for name in names if name not in colours]
    free = [colour for colour in GROUP_COLOURS if colour not in taken]
    if len(free) < len(others):
        free = list(GROUP_COLOURS)
    return colours | {name: free[index % len(free)] for index, name in enumerate(others)}


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Groups in the order of legends: clusters as numbers ("2" before "10"), those that are drawn as one last."""

    def place(name: str) -> tuple[bool, int, str]:
        number = name.partition(": ")[0]
        return name.startswith("other ("), int(number) if number.isdecimal() else -1, name

    return sorted(names, key=place)


def ink_on(colour: str | tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast to a ground; that is never below 4.5 (WCAG 2.2, AA).

    Parameters
    ----------
    colour
        The ground, as matplotlib takes colours.
    """
    channels = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in to_rgb(colour)
    ]
    luminance = sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), channels, strict=True))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


@contextmanager
def one_colour_per_type(labels: Iterable[object] | None, given: Mapping[str, str] | None = None) -> Iterator[None]:
    """In all figures that are drawn within the block, each type has one colour.

    Parameters
    ----------
    labels
        Of all cells of the run; None for none.
    given
        Type -> colour that the user's file gives it (``uns['<label>_colors']``). What is no colour is passed over.
    """
    given = {str(name): to_hex(colour) for name, colour in (given or {}).items() if is_color_like(colour)}
    names = in_natural_order({str(label) for label in (() if labels is None else labels) if label is not None})
    before = _of_run.set({name: given[name] for name in names if name in given})
    try:
        _of_run.set(colours_of(names))
        yield
    finally:
        _of_run.reset(before)
