"""Figures of newly labelled cells: maps of sureness, composition, markers, and scores of the methods."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scdmc.reports.colours import UNKNOWN_GREY
from scdmc.reports.figures import MOST_NAMES, PALETTE, PANEL_INCHES, largest_groups, shortened

MOST_TYPES_WITH_MARKERS, MOST_MARKER_ROWS, MOST_MARKERS_OF_TYPE = 20, 45, 5


LARGEST_DOT = 55  # points²


def value_map_figure(coordinates: np.ndarray, values: Mapping[str, np.ndarray], title: str, seed: int = 42) -> Figure:
    """Draw the same cells once for each value from 0 to 1, side by side.

    Parameters
    ----------
    coordinates
        Shape (n_cells, 2).
    values
        Title of the panel -> shape (n_cells,).
    title
        Of the figure: what it shows.
    seed
        Of the order in which the points are drawn.
    """
    order = np.random.default_rng(seed).permutation(len(coordinates))
    area = float(np.clip(12_000 / max(len(order), 1), 0.5, 12))  # points²
    figure = Figure(figsize=(PANEL_INCHES * len(values), PANEL_INCHES + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, (name, of_cells) in zip(figure.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True):
        drawn = axes.scatter(
            *np.asarray(coordinates)[order].T, c=np.asarray(of_cells)[order], s=area, linewidths=0, vmin=0, vmax=1,
            cmap="viridis", rasterized=True,
        )  # fmt: skip
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.set_title(shortened(name), fontsize=8)
        axes.set_xlabel("UMAP 1", fontsize=7)
        axes.set_ylabel("UMAP 2", fontsize=7)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.7)
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.set_major_formatter("{x:.0%}")
    return figure


def composition_figure(types: pd.DataFrame, colours: Mapping[str, str], title: str) -> Figure:
    """Draw the share of each type in the new cells as a bar, and in the reference as a line; the 40 largest.

    Parameters
    ----------
    types
        Index: the type; columns cells, share, reference_share.
    colours
        Type -> colour.
    title
        Of the figure: what it shows.
    """
    shown = types.loc[largest_groups(types["cells"])][::-1]
    height = np.arange(len(shown))
    figure = Figure(figsize=(PANEL_INCHES + 1.8, 1.2 + 0.2 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh(height, 100 * shown["share"], height=0.7, color=[colours.get(name, UNKNOWN_GREY) for name in shown.index])
    axes.plot(100 * shown["reference_share"], height, ls="", marker="|", ms=10, mew=2, color="black")
    names = [f"{shortened(name)} ({cells:,})" for name, cells in shown["cells"].items()]
    axes.set_yticks(height, names, fontsize=7)
    axes.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    left_out = f"; the {MOST_NAMES} largest of {len(types):,} types" if len(types) > MOST_NAMES else ""
    axes.set_xlabel("share of the cells (%)", fontsize=8)
    axes.set_ylabel(f"label (new cells){left_out}", fontsize=8)
    handles = [
        Line2D([], [], ls="", marker="s", ms=6, color=PALETTE[8], label="new cells"),
        Line2D([], [], ls="", marker="|", ms=8, mew=2, color="black", label="reference"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def markers_drawn(markers: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Markers that a dot plot has room for: of the 20 largest types, at most five each and 45 together.

    Parameters
    ----------
    markers
        Columns type, rank and others.
    types
        Index: the type; column cells.
    """
    largest = largest_groups(types["cells"], MOST_TYPES_WITH_MARKERS)
    of_each = int(np.clip(MOST_MARKER_ROWS // max(len(largest), 1), 1, MOST_MARKERS_OF_TYPE))
    kept = markers[markers["type"].isin(largest) & (markers["rank"] <= of_each)]
    place = pd.Series(range(len(largest)), largest)
    return kept.assign(place=kept["type"].map(place)).sort_values(["place", "rank"], kind="stable", ignore_index=True)


def dot_plot_figure(markers: pd.DataFrame, mean: pd.DataFrame, share: pd.DataFrame, title: str) -> Figure:
    """Draw how the reference's markers are expressed in the new cells: genes down, labels across.

    Size is the share of cells that have the gene, colour the mean expression as a share of the gene's highest. Frames
    show where the reference has its markers.

    Parameters
    ----------
    markers
        From :func:`markers_drawn`: columns type, gene.
    mean, share
        One row per marker, one column per label.
    title
        Of the figure: what it shows.
    """
    n_genes, n_types = mean.shape
    figure = Figure(figsize=(2.1 + 0.24 * max(n_types, 4), 1.9 + 0.155 * max(n_genes, 6)), layout="constrained")
    axes = figure.subplots()
    relative = mean.to_numpy() / np.maximum(mean.to_numpy().max(axis=1, keepdims=True, initial=0), 1e-9)
    rows, columns = np.divmod(np.arange(n_genes * n_types), max(n_types, 1))
    drawn = axes.scatter(
        columns, rows, s=LARGEST_DOT * share.to_numpy().ravel(), c=relative.ravel(), cmap="Blues", vmin=0, vmax=1,
        edgecolors="#777777", linewidths=0.3,
    )  # fmt: skip
    for name, of_type in markers.groupby("type", sort=False):
        column, top = list(mean.columns).index(name), of_type.index[0]
        axes.add_patch(_frame(column, top, len(of_type)))
        if top:
            axes.axhline(top - 0.5, color="#e3e3e3", linewidth=0.6, zorder=0)
    axes.set_yticks(range(n_genes), [shortened(gene) for gene in markers["gene"]], fontsize=7)
    axes.set_xticks(
        range(n_types), [shortened(name) for name in mean.columns], rotation=45, ha="left", rotation_mode="anchor",
        fontsize=7,
    )  # fmt: skip
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(xlim=(-0.7, n_types - 0.3), ylim=(n_genes - 0.4, -0.6))
    axes.set_ylabel("marker in the reference", fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.35, aspect=12, anchor=(0, 1))
    bar.set_label("mean (share of highest)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    sizes = [
        Line2D([], [], ls="", marker="o", ms=np.sqrt(LARGEST_DOT * part), color="#777777", label=f"{part:.0%}")
        for part in (0.25, 0.5, 1.0)
    ]
    figure.legend(
        handles=sizes, loc="outside lower center", ncols=3, fontsize=7, frameon=False, title="new cells with the gene",
        title_fontsize=7,
    )  # fmt: skip
    figure.suptitle(title, fontsize=9)
    return figure


def _frame(column: int, top: int, n_rows: int) -> object:
    """A frame around the markers of a type, in its own column."""
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, top - 0.5), 1, n_rows, fill=False, edgecolor=PALETTE[6], linewidth=1.1)


def methods_figure(methods: pd.DataFrame, is_ours: np.ndarray, title: str) -> Figure:
    """Draw accuracy and macro-F1 of each method, on held-out reference cells, the best on top.

    Parameters
    ----------
    methods
        Index: the method; columns accuracy, macro_f1.
    is_ours
        True for methods that use the language model, shape (n_methods,).
    title
        Of the figure: what it shows.
    """
    order = np.argsort(methods["macro_f1"].fillna(-1).to_numpy(), kind="stable")[-MOST_NAMES:]
    shown, ours = methods.iloc[order], np.asarray(is_ours)[order]
    height = np.arange(len(shown))
    figure = Figure(figsize=(PANEL_INCHES + 1.8, 1.3 + 0.22 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    colours = np.where(ours, PALETTE[0], PALETTE[8])
    axes.scatter(shown["accuracy"], height, marker="|", s=70, c=colours, label="accuracy")
    axes.scatter(shown["macro_f1"], height, marker="o", s=24, c=colours, label="macro-F1")
    axes.set_yticks(height, [shortened(name) for name in shown.index], fontsize=7)
    axes.set_ylim(-0.6, len(shown) - 0.4)  # of two methods the marks would be cut
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("score on held-out reference cells (0 to 1)", fontsize=8)
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color="black", label="macro-F1"),
        Line2D([], [], ls="", marker="|", ms=8, color="black", label="accuracy"),
        Line2D([], [], ls="", marker="s", ms=5, color=PALETTE[0], label="with the language model"),
        Line2D([], [], ls="", marker="s", ms=5, color=PALETTE[8], label="without"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure
