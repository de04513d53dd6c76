"""Results of labelled cells for people: columns of obs, an annotated copy of the file, tables."""

from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation.annotate_file import CELL_COLUMN
from scdmc.annotation.annotated_cells import AnnotatedCells, LabelledCells
from scdmc.annotation.options import UNKNOWN
from scdmc.cells.results import add_to_file
from scdmc.cells.shared_genes import CellCounts
from scdmc.cells.viewers import MAP_KEY, ForViewers
from scdmc.files import atomic_path
from scdmc.model.embeddings import EMBEDDING_KEY
from scdmc.reading.h5ad import results_file
from scdmc.reading.options import is_h5ad
from scdmc.reports.tables import without_formulas


def result_columns(cells: LabelledCells) -> dict[str, np.ndarray]:
    """Columns of obs, each of shape (n_cells,): label, probability, and all that is said beside them."""
    order = np.argsort(-np.nan_to_num(cells.probabilities, nan=0.0), axis=1, kind="stable")
    rows, is_empty = np.arange(len(order)), np.isnan(cells.probabilities).any(axis=1)
    highest = cells.probabilities[rows, order[:, 0]]
    columns = {"scDMC_cell_type": cells.labels.astype(object), "scDMC_probability": highest}
    if len(cells.names) > 1:
        columns["scDMC_second_label"] = np.where(is_empty, UNKNOWN, cells.names[order[:, 1]]).astype(object)
        columns["scDMC_margin"] = highest - cells.probabilities[rows, order[:, 1]]
    else:
        columns["scDMC_second_label"] = np.full(len(rows), UNKNOWN, dtype=object)
        columns["scDMC_margin"] = highest
    columns["scDMC_familiarity"] = cells.familiarity
    columns["scDMC_distance"] = cells.distance
    return columns | {f"scDMC_view_{view}": labels.astype(object) for view, labels in cells.view_labels.items()}


def result_matrices(cells: LabelledCells) -> dict[str, np.ndarray]:
    """Matrices of obsm, n_cells rows each."""
    return {EMBEDDING_KEY: cells.embedding, MAP_KEY: cells.umap}


def write_annotated_cells(
    path: Path, data_path: Path, counts: CellCounts, cells: LabelledCells, viewers: ForViewers
) -> None:
    """Write a copy of an ``.h5ad`` with the results added, or of other data the cells without genes.

    Parameters
    ----------
    path
        To write.
    data_path
        Where the cells came from.
    counts
        The cells as they were read; those that ``filter_pass`` leaves out get missing values.
    cells
        Their results.
    viewers
        What is said of them.
    """
    with atomic_path(path) as temporary, results_file(temporary, data_path, counts.obs) as file:
        rows = counts.rows if is_h5ad(data_path) else np.arange(len(counts.rows))
        add_to_file(file, rows, result_columns(cells), result_matrices(cells), viewers)


def write_labels_table(path: Path, counts: CellCounts, cells: LabelledCells) -> None:
    """Write one row a cell: its name and its results."""
    table = pd.DataFrame(result_columns(cells), index=counts.obs.index.astype(str))
    with atomic_path(path) as temporary:
        without_formulas(table).to_csv(temporary, index_label=CELL_COLUMN)


def write_score_tables(folder: Path, cells: AnnotatedCells) -> None:
    """Write ``views.csv`` (held-out scores and weights of views and controls) and ``per_type.csv``."""
    cells.held_out.methods.to_csv(folder / "views.csv", index_label="method")
    table = cells.held_out.types.copy()
    table["unseen_auroc"] = [cells.held_out.unseen_auroc.get(str(name), np.nan) for name in table.index]
    table["new_cells"] = [int((cells.labels == name).sum()) for name in table.index]
    without_formulas(table).to_csv(folder / "per_type.csv", index_label="cell_type")


def summary_lines(cells: LabelledCells, recommended: float) -> list[str]:
    """How many cells there are of each type, how certain that is, and which views said so, in plain words.

    Parameters
    ----------
    cells
        The labelled cells.
    recommended
        Familiarity below which the reference recommends to call a cell Unknown.
    """
    highest = np.nanmax(np.nan_to_num(cells.probabilities, nan=-1.0), axis=1)
    is_empty = highest < 0
    lines = [pd.Series(cells.labels, name="scDMC_cell_type").value_counts().to_string()]
    lines.append("weights of the views: " + ", ".join(f"{view} {w:.2f}" for view, w in cells.weights.items()))
    lines += [f"left out: {view}: {reason}" for view, reason in cells.left_out.items()]
    if (~is_empty).any():
        median, strange = np.median(highest[~is_empty]), (cells.familiarity[~is_empty] < recommended).mean()
        which = "which are" if cells.min_familiarity else "which --min_probability auto calls"
        lines.append(f"probability of the label: median {median:.2f}")
        lines.append(
            f"familiarity: below the recommended {recommended:.2f} in {strange:.1%} of the cells, {which} {UNKNOWN}"
        )
    if is_empty.any():
        lines.append(f"{is_empty.sum():,} cells have no count in any shared gene and are {UNKNOWN}")
    return lines
