"""The page of cells that got labels, where nothing is known of these but the labeller's own probability."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scdmc.labels import is_missing
from scdmc.reports.cell_map import MappedCells, columns_to_map, interactive_map
from scdmc.reports.colours import UNKNOWN_GREY
from scdmc.reports.figures import (
    MOST_NAMES,
    PANEL_INCHES,
    group_colours,
    largest_groups,
    save_figure,
    shortened,
    umap_figure,
)
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

# A probability below it is a doubt; so many doubts, or cells without a label, ask for a look.
DOUBT, MOST_IN_DOUBT = 0.5, 0.2


WARNING = (
    "These cells were not compared with known types, so no score says how often these labels are right. A cell of a "
    "type that was never learned gets a label, too, unless a least probability is asked for."
)


@dataclass(frozen=True)
class LabelledFile:
    """What was written.

    Attributes
    ----------
    name, labeller
        Of the file, and what gave the labels.
    n_types
        Types that the labeller knows.
    labels, probability
        Of the cells that were read, shape (n_cells,); NaN for the probability of a cell without counts.
    unknown
        The label of cells that got none.
    obs
        Annotation of the same cells; empty for none.
    coordinates
        Their map, shape (n_cells, 2), NaN for cells that are not on it; None for none.
    values
        Name -> a number from 0 to 1 of each cell, to colour the map by.
    on_others
        How right the labeller was on other cells, whose types are known; None where that was not measured now.
    """

    name: str
    labeller: str
    n_types: int
    labels: np.ndarray
    probability: np.ndarray
    unknown: str
    obs: pd.DataFrame = field(default_factory=pd.DataFrame)
    coordinates: np.ndarray | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    on_others: KeyNumber | None = None

    @property
    def known(self) -> np.ndarray:
        """The labels with None where a cell got none, shape (n_cells,)."""
        labels = np.asarray(self.labels, dtype=object)
        return np.where(is_missing(labels) | (labels == self.unknown), None, labels)


def write_labels_page(path: Path, labelled: LabelledFile, made: Provenance) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    labelled
        What was written.
    made
        From what.
    """
    with tempfile.TemporaryDirectory() as folder:
        sections = [_section_of_labels(labelled, Path(folder))]
        if labelled.coordinates is not None and np.isfinite(labelled.coordinates).all(axis=1).any():
            sections.insert(0, _section_of_map(labelled, Path(folder), made))
        write_report(path, f"Labels of {labelled.name} by {labelled.labeller}", sections, verdict_of(labelled), made)


def verdict_of(labelled: LabelledFile) -> Verdict:
    """How sure the labeller is; whether it is right, these cells cannot say."""
    known, probability = labelled.known, np.asarray(labelled.probability, dtype=float)
    has_label, with_counts = ~is_missing(known), probability[np.isfinite(probability)]
    without, n_found = 1 - has_label.mean(), len(set(known[has_label]))
    doubtful = float((with_counts < DOUBT).mean()) if len(with_counts) else 0.0
    headline = f"{has_label.sum():,} of {len(known):,} cells got one of {n_found:,} labels"
    reasons = [WARNING]
    if without > MOST_IN_DOUBT:
        reasons.insert(0, f"{without:.0%} of the cells have no label.")
    if doubtful > MOST_IN_DOUBT:
        reasons.insert(0, f"{doubtful:.0%} of the cells have a probability below {DOUBT}: look at them before use.")
    median = f"{np.median(with_counts):.2f}" if len(with_counts) else "–"
    numbers = (
        KeyNumber("Median probability", median, f"{1 / labelled.n_types:.2f} for a guess among {labelled.n_types:,}"),
        KeyNumber(f"Cells with a probability below {DOUBT}", f"{doubtful:.1%}", f"a caution above {MOST_IN_DOUBT:.0%}"),
        KeyNumber("Cells without a label", f"{without:.1%}", f"a caution above {MOST_IN_DOUBT:.0%}"),
        *filter(None, (labelled.on_others,)),
    )
    return Verdict("caution" if len(reasons) > 1 else "good", headline, tuple(reasons), numbers)


def _section_of_map(labelled: LabelledFile, folder: Path, made: Provenance) -> Section:
    is_drawn, known = np.isfinite(labelled.coordinates).all(axis=1), labelled.known
    title = _finding(labelled)
    figure = umap_figure(labelled.coordinates[is_drawn], {"label": known[is_drawn]}, title, made.seed or 0)
    cells = MappedCells(
        labelled.coordinates,
        known,
        values={"probability": np.asarray(labelled.probability, dtype=float), **labelled.values},
        unknown=labelled.unknown,
        columns=columns_to_map(labelled.obs),
        ids=labelled.obs.index.astype(str).to_numpy() if len(labelled.obs) else None,
    )
    return Section("Map", maps=[interactive_map(cells, title, save_figure(figure, folder / "umap"), made.seed or 0)])


def _finding(labelled: LabelledFile) -> str:
    """The largest label, in a title."""
    sizes = pd.Series(labelled.known, dtype=object).value_counts()
    if sizes.empty:
        return f"None of the {len(labelled.labels):,} cells has a label"
    share = sizes.iloc[0] / len(labelled.labels)
    largest = f"{shortened(sizes.index[0])} ({share:.0%})"
    return f"{len(labelled.labels):,} cells; the largest of {len(sizes):,} labels is {largest}"


def _section_of_labels(labelled: LabelledFile, folder: Path) -> Section:
    """Cells of each label, and how sure."""
    shown = pd.Series(labelled.known, dtype=object).fillna(labelled.unknown)
    probability = pd.Series(np.asarray(labelled.probability, dtype=float))
    groups = probability.groupby(shown.to_numpy())
    table = pd.DataFrame({
        "cells": shown.value_counts(),
        "share": shown.value_counts(normalize=True),
        "median probability": groups.median(),
        f"share below {DOUBT}": groups.agg(lambda values: (values < DOUBT).mean()),
    }).sort_values("cells", ascending=False, kind="stable")  # fmt: skip
    title = _finding(labelled)
    figure = save_figure(_sureness_figure(labelled, table, title), folder / "labels")
    caption = f"Bars: share of the cells; dark: the part with a probability below {DOUBT}"
    return Section(
        "Labels",
        tables=[("Cells by label", table.rename_axis("label"))],
        figures=[(caption, figure, f"{title}. {caption}")],
    )


def _sureness_figure(labelled: LabelledFile, table: pd.DataFrame, title: str) -> Figure:
    """A bar for each of the 40 largest labels, the doubtful part dark."""
    rows = table.loc[largest_groups(table["cells"])][::-1]
    colours = group_colours(labelled.known)
    figure = Figure(figsize=(PANEL_INCHES + 1.8, 1.0 + 0.2 * max(len(rows), 2)), layout="constrained")
    axes, height = figure.subplots(), np.arange(len(rows))
    axes.barh(height, 100 * rows["share"], height=0.7, color=[colours.get(name, UNKNOWN_GREY) for name in rows.index])
    doubtful = 100 * rows["share"] * rows[f"share below {DOUBT}"]
    axes.barh(height, doubtful, height=0.3, color="#222222")
    axes.set_yticks(height, [f"{shortened(name)} ({cells:,})" for name, cells in rows["cells"].items()], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    left_out = f", the {MOST_NAMES} largest of {len(table):,} labels" if len(table) > MOST_NAMES else ""
    axes.set_xlabel(f"share of the cells (%){left_out}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure
