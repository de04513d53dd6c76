"""Figures of the gene-level analyses (see :mod:`scdmc.reports.figures` for their rules)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scdmc.reports.colours import ink_on, series_colour
from scdmc.reports.figures import GREY, MOST_NAMES, PALETTE, PANEL_INCHES, largest_groups, shortened

MOST_BAR_PANELS = 12


def heat_map_figure(
    table: pd.DataFrame, title: str, colour_label: str, x_label: str, y_label: str, diverging: bool = False,
    numbers: str | None = None, starred: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Draw a table as colours; of more than 40 rows or columns those with the largest numbers, of either sign.

    Parameters
    ----------
    table
        Rows x columns, numbers; NaN is left blank.
    title, colour_label, x_label, y_label
        What it shows, and what its colours, columns and rows are.
    diverging
        Colours around zero, for numbers of both signs.
    numbers
        Format in which the numbers are written on the cells, such as ``.2f``.
    starred
        Shape of the table: True where a star follows the number.
    """
    (table, starred), left_out = _largest(table, starred)
    values = table.to_numpy(dtype=float)
    figure = Figure(figsize=(2.2 + 0.3 * values.shape[1], 1.7 + 0.19 * values.shape[0]), layout="constrained")
    axes = figure.subplots()
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    limits = {"vmin": -largest, "vmax": largest} if diverging else {}
    image = axes.imshow(values, cmap="RdBu_r" if diverging else "viridis", aspect="auto", **limits)
    if numbers:
        for row, column in np.argwhere(np.isfinite(values)):
            ink = ink_on(image.cmap(image.norm(values[row, column])))
            star = "*" if starred is not None and starred.iat[row, column] else ""
            text = f"{values[row, column]:{numbers}}{star}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=ink)
    names = [shortened(name) for name in table.columns]
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 2 else {}
    axes.set_xticks(range(values.shape[1]), names, fontsize=6.5, **turned)
    axes.set_yticks(range(values.shape[0]), map(shortened, table.index), fontsize=6.5)
    axes.set_xlabel(x_label + left_out[1], fontsize=7)
    axes.set_ylabel(y_label + left_out[0], fontsize=7)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(colour_label, fontsize=6.5)
    bar.ax.tick_params(labelsize=6.5)
    figure.suptitle(title, fontsize=9)
    return figure


def _largest(
    table: pd.DataFrame, starred: pd.DataFrame | None
) -> tuple[tuple[pd.DataFrame, pd.DataFrame | None], list[str]]:
    """The rows and columns that fit on a figure, of two tables; and for each what is to be said of the others."""
    size, said = table.abs().astype(float).fillna(-1.0), []
    for axis in (0, 1):
        n = table.shape[axis]
        said.append(f" ({MOST_NAMES} of {n:,}, those with the largest numbers)" if n > MOST_NAMES else "")
        if n > MOST_NAMES:
            kept = largest_groups(size.max(axis=1 - axis).reset_index(drop=True)).to_numpy()
            table, size = table.take(kept, axis=axis), size.take(kept, axis=axis)
            starred = None if starred is None else starred.take(kept, axis=axis)
    return (table, starred), said


def bar_panels_figure(
    panels: dict[str, pd.Series], title: str, x_label: str, n_columns: int = 3, origin: float = 0.0
) -> Figure:
    """Draw horizontal bars, the longest on top, a panel for each name; of more than twelve the first twelve.

    Parameters
    ----------
    panels
        Title of the panel -> numbers, indexed by name, in the order of the bars.
    title, x_label
        Of the figure and of the bars.
    n_columns
        Panels in a row.
    origin
        Where the bars start.
    """
    if len(panels) > MOST_BAR_PANELS:
        title = f"{title}\n(the first {MOST_BAR_PANELS} of {len(panels):,})"
        panels = dict(list(panels.items())[:MOST_BAR_PANELS])
    n_columns = min(n_columns, len(panels))
    n_rows = -(-len(panels) // n_columns)
    longest = max(len(bars) for bars in panels.values())
    height = 0.6 + 0.15 * longest
    figure = Figure(figsize=(2.4 * n_columns, height * n_rows + 0.5), layout="constrained")
    axes_of = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (name, bars) in zip(axes_of, panels.items(), strict=False):
        axes.barh(range(len(bars)), bars - origin, left=origin, color=PALETTE[0], height=0.7)
        axes.set_yticks(range(len(bars)), map(shortened, bars.index), fontsize=6.5)
        axes.invert_yaxis()
        axes.set_title("\n".join(map(shortened, str(name).rsplit("\n", 1))), fontsize=8)
        _plain(axes)
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(x_label, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def grouped_dots_figure(
    table: pd.DataFrame, title: str, x_label: str, chance: float | None = None, chance_label: str = "chance"
) -> Figure:
    """Draw one dot for each row and method, so that methods are compared row by row; of more than 40 rows the first 40.

    Parameters
    ----------
    table
        Rows x methods, at most ten methods; NaN is left out.
    title, x_label
        Of the figure and of the numbers.
    chance, chance_label
        A vertical line to read the dots against.
    """
    if len(table) > MOST_NAMES:
        title = f"{title}\n(the first {MOST_NAMES} of {len(table):,}; all are in the table)"
        table = table.head(MOST_NAMES)
    rows = np.arange(len(table))
    figure = Figure(figsize=(PANEL_INCHES + 2.0, 1.5 + 0.24 * len(table) + 0.1 * table.shape[1]), layout="constrained")
    axes = figure.subplots()
    axes.hlines(rows, *_range(table), color="#eeeeee", linewidth=1, zorder=0)
    markers = "oD^vsP*XdH"
    for index, method in enumerate(table):
        axes.plot(
            table[method],
            rows,
            ls="",
            marker=markers[index % 10],
            ms=5,
            color=series_colour(index),
            label=shortened(method),
            alpha=0.9,
        )
    if chance is not None:
        axes.axvline(chance, color="#555555", linewidth=0.8, linestyle="--", label=chance_label)
    axes.set_yticks(rows, map(shortened, table.index), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(x_label, fontsize=7)
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=6.5, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def histograms_figure(
    values: dict[str, np.ndarray], title: str, x_label: str, y_label: str, zero_line: str | None = None
) -> Figure:
    """Draw outlines of histograms over each other, on common bins.

    Parameters
    ----------
    values
        Name -> numbers.
    title, x_label, y_label
        Of the figure and its axes.
    zero_line
        What a line at 0 means.
    """
    figure = Figure(figsize=(PANEL_INCHES + 1.2, PANEL_INCHES), layout="constrained")
    axes = figure.subplots()
    together = np.concatenate(list(values.values()))
    bins = np.linspace(*np.quantile(together, [0.005, 0.995]), 26)
    for index, (name, numbers) in enumerate(values.items()):
        clipped = np.clip(numbers, bins[0], bins[-1])
        axes.hist(clipped, bins=bins, histtype="step", linewidth=1.5, color=series_colour(index), label=shortened(name))
    if zero_line:
        axes.axvline(0, color="#555555", linewidth=0.8, linestyle="--", label=zero_line)
    axes.set_xlabel(x_label, fontsize=7)
    axes.set_ylabel(y_label, fontsize=7)
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=1, fontsize=6.5, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def lines_figure(lines: dict[str, pd.Series], title: str, x_label: str, y_label: str) -> Figure:
    """Draw numbers against thresholds (on a logarithmic axis), a line for each method.

    Parameters
    ----------
    lines
        Method -> numbers, indexed by the threshold.
    title, x_label, y_label
        Of the figure and its axes.
    """
    figure = Figure(figsize=(PANEL_INCHES + 1.2, PANEL_INCHES + 0.4), layout="constrained")
    axes = figure.subplots()
    for index, (name, line) in enumerate(lines.items()):
        axes.plot(
            line.index, line, marker="o", ms=3.5, linewidth=1.2, color=series_colour(index), label=shortened(name)
        )
    axes.set_xscale("log")
    ticks = next(iter(lines.values())).index
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x_label, fontsize=7)
    axes.set_ylabel(y_label, fontsize=7)
    _plain(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=6.5, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def _range(table: pd.DataFrame) -> tuple[float, float]:
    return float(np.nanmin(table.to_numpy())), float(np.nanmax(table.to_numpy()))


def _plain(axes: Axes) -> None:
    """Small ticks, no frame on top and on the right, a faint grid along the numbers."""
    axes.tick_params(labelsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=GREY, linewidth=0.3)
    axes.set_axisbelow(True)


def head_of_each(table: pd.DataFrame, by: str, names: Sequence[str], value: str, label: str, n: int) -> dict:
    """The largest ``n`` numbers of each group, as panels for :func:`bar_panels_figure`."""
    panels = {}
    for name in names:
        rows = table[table[by] == name].nlargest(n, value)
        panels[name] = pd.Series(rows[value].to_numpy(), index=rows[label])
    return panels
