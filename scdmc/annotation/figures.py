"""Figures of annotation: confusion matrices, scores by type, calibration, learning curves."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from sklearn.metrics import confusion_matrix

from scdmc.reports.colours import ink_on, series_colour
from scdmc.reports.figures import GREY, MOST_NAMES, PALETTE, PANEL_INCHES, shortened


def confusion_matrix_figure(true: np.ndarray, predicted: np.ndarray, title: str) -> Figure:
    """Draw which type was taken for which: colour is the share of the true type's cells, text the number of cells.

    Of more than 40 types the 39 largest are drawn, and the others as one.

    Parameters
    ----------
    true, predicted
        Labels, shape (n_cells,).
    title
        Of the figure: what it shows.
    """
    codes, names = pd.factorize(np.concatenate([true, predicted]).astype(object), sort=True)
    codes, names = _few_types(codes, [str(name) for name in names])
    counts = confusion_matrix(*np.split(codes, 2), labels=range(len(names)))
    # A type that was predicted but is not there has an empty row.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(2.6, 0.27 * len(names))
    figure = Figure(figsize=(side + 1.9, side + 1.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        ink = ink_on(image.cmap(image.norm(shares[row, column])))
        axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=6.5, color=ink)
    shown = [shortened(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(names)), shown, fontsize=7)
    axes.set_xlabel("predicted type", fontsize=8)
    axes.set_ylabel("true type", fontsize=8)
    axes.set_title(title, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("share of the true type's cells", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def _few_types(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers of the types of some cells, and the types; small types beyond the fortieth become one, the last."""
    if len(names) <= MOST_NAMES:
        return codes, names
    sizes = np.bincount(codes, minlength=len(names))
    kept = np.sort(np.argsort(-sizes, kind="stable")[: MOST_NAMES - 1])
    new_code = np.full(len(names), len(kept))
    new_code[kept] = range(len(kept))
    return new_code[codes], [*(names[code] for code in kept), f"other ({len(names) - len(kept):,} types)"]


def per_class_figure(per_class: pd.DataFrame, title: str) -> Figure:
    """Draw precision, recall and F1 of each type, the largest type on top; types that were never found stand at 0.

    Of more than 40 types the 40 largest are drawn.

    Parameters
    ----------
    per_class
        Columns class, precision, recall, f1, cells, from :func:`scdmc.cells.scores.per_class_scores`.
    title
        Of the figure: what it shows.
    """
    rows = per_class.sort_values("cells", kind="stable").tail(MOST_NAMES)
    left_out = f"; the {len(rows)} largest of {len(per_class):,} types" if len(rows) < len(per_class) else ""
    height = np.arange(len(rows))
    figure = Figure(figsize=(PANEL_INCHES + 1.6, 1.3 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(height, 0, rows["f1"], color=GREY, linewidth=2, zorder=1)
    for column, marker, colour in (("precision", ">", PALETTE[0]), ("recall", "<", PALETTE[1]), ("f1", "o", "black")):
        label = "F1" if column == "f1" else column
        # The dot is smaller, so that equal precision and recall show behind it.
        size = 3.5 if column == "f1" else 6.5
        axes.plot(rows[column], height, ls="", marker=marker, ms=size, color=colour, label=label, clip_on=False)
    names = [f"{shortened(name)} ({cells:,})" for name, cells in zip(rows["class"], rows["cells"], strict=True)]
    axes.set_yticks(height, names, fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("score (0 to 1)", fontsize=8)
    axes.set_ylabel(f"true type (cells scored){left_out}", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


LEAST_CELLS_OF_POINT = 20


def _without_small_bins(table: pd.DataFrame) -> pd.DataFrame:
    """Neighbouring bins together until each has enough cells for a share that means something; the last joins in."""
    points: list[dict[str, float]] = []
    for row in table.to_dict("records"):
        if points and points[-1]["cells"] < LEAST_CELLS_OF_POINT:
            points[-1] = _together(points[-1], row)
        else:
            points.append(row)
    if len(points) > 1 and points[-1]["cells"] < LEAST_CELLS_OF_POINT:
        last = points.pop()
        points[-1] = _together(points[-1], last)
    return pd.DataFrame(points, columns=table.columns)


def _together(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    cells = first["cells"] + second["cells"]
    means = {
        name: (first[name] * first["cells"] + second[name] * second["cells"]) / cells
        for name in ("confidence", "accuracy")
    }
    return {**means, "cells": cells}


def reliability_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy against confidence, with the diagonal of perfect calibration, above the number of cells.

    Neighbouring bins of fewer than 20 cells are one point: one cell of two makes a cliff that means nothing. Bars are
    95% intervals (Wilson).

    Parameters
    ----------
    table
        Columns confidence, accuracy, cells, from :func:`scdmc.annotation.calibration.reliability_table`.
    title
        Of the figure: what it shows.
    """
    figure = Figure(figsize=(PANEL_INCHES, PANEL_INCHES + 1.2), layout="constrained")
    curve, cells = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle="--", label="perfect calibration")
    points = _without_small_bins(table)
    low, high = proportion_interval(points["accuracy"].to_numpy(), points["cells"].to_numpy())
    curve.vlines(points["confidence"], low, high, color=PALETTE[0], linewidth=1)
    curve.plot(points["confidence"], points["accuracy"], marker="o", ms=4, color=PALETTE[0], label="cells")
    curve.set(xlim=(0, 1.02), ylim=(0, 1.02))
    curve.set_ylabel("accuracy (share of cells)", fontsize=8)
    # The curve of a good classifier lies in the upper right.
    curve.legend(fontsize=7, frameon=False, loc="upper left" if points["confidence"].min() > 0.4 else "lower right")
    cells.bar(table["confidence"], table["cells"], width=0.03, color=PALETTE[8])
    cells.set_yscale("log")
    cells.yaxis.set_major_formatter("{x:,.0f}")
    cells.yaxis.set_minor_formatter(NullFormatter())
    cells.set_ylabel("cells", fontsize=8)
    cells.set_xlabel("confidence (calibrated probability of the label)", fontsize=8)
    for axes in (curve, cells):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    return figure


def proportion_interval(share: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95% interval of a share of some cells (Wilson 1927); both of shape (n_shares,)."""
    z = 1.96
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    return middle - half, middle + half


def learning_curve_figure(table: pd.DataFrame, metric: str, title: str) -> Figure:
    """Draw one score against the share of the labels that training had, a line per method.

    Parameters
    ----------
    table
        Columns method, metric, label_fraction, value and sd (NaN for a single run).
    metric
        Which score is drawn.
    title
        Of the figure.
    """
    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    shown = table[table["metric"] == metric]
    for index, (method, rows) in enumerate(shown.groupby("method", sort=False)):
        rows = rows.sort_values("label_fraction")
        axes.errorbar(
            100 * rows["label_fraction"], rows["value"], yerr=rows["sd"].fillna(0), label=shortened(method),
            color=series_colour(index), marker="o", ms=3.5, linewidth=1.2, capsize=2,
        )  # fmt: skip
    ticks = sorted(100 * shown["label_fraction"].unique())
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}%" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels used", fontsize=7)
    axes.set_ylabel(f"{metric.replace('_', ' ')} (bars: standard deviation)", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=6, frameon=False)
    axes.set_title(title, fontsize=9)
    return figure
