"""The page of an embedded file: how many cells got a state, what of their counts the model read, and their map."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from scdmc.labels import is_missing
from scdmc.reports.cell_map import MappedCells, columns_to_map, interactive_map
from scdmc.reports.figures import save_figure, umap_figure
from scdmc.reports.page import KeyNumber, Section, Verdict, write_report
from scdmc.reports.provenance import Provenance

# A column with so many different values is a label; others name cells or measure them.
FEWEST_GROUPS, MOST_GROUPS, MOST_COLOURINGS = 2, 40, 2
MOST_COUNTS_LOST = 0.2
NEAREST = 15
COUNTS_LOST, GENES, GENES_MATCHED = "share of counts lost", "genes", "genes matched"


@dataclass(frozen=True)
class EmbeddedFile:
    """What was written.

    Attributes
    ----------
    n_cells, n_embedded, width
        Cells of the file, those that were embedded, and the columns of their embeddings.
    coverage
        Of counts: ``share of counts lost``, ``genes``, ``genes matched``; empty for tokenized cells.
    obs
        Annotation of all cells.
    coordinates
        The map, shape (n_cells, 2), NaN for cells that are not on it; None for none.
    """

    n_cells: int
    n_embedded: int
    width: int
    coverage: Mapping[str, float]
    obs: pd.DataFrame
    coordinates: np.ndarray | None


def write_embedding_page(path: Path, embedded: EmbeddedFile, made: Provenance) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    embedded
        What was written.
    made
        From what.
    """
    with tempfile.TemporaryDirectory() as folder:
        sections = [_map_section(embedded, Path(folder), made)] if embedded.coordinates is not None else []
        title = f"Embeddings of {embedded.n_embedded:,} cells by {made.model}"
        write_report(path, title, sections, verdict_of(embedded), made)


def verdict_of(embedded: EmbeddedFile) -> Verdict:
    """Whether the model could read the cells; whether the embedding is good, no file can say without labels."""
    left_out = embedded.n_cells - embedded.n_embedded
    whole = "every cell of the file" if not left_out else f"{left_out:,} of {embedded.n_cells:,} were left out"
    numbers = [KeyNumber("Cells embedded", f"{embedded.n_embedded:,}", whole)]
    level, headline = "good", f"{embedded.n_embedded:,} cells have an embedding of {embedded.width} numbers"
    if embedded.coverage:
        lost, genes = embedded.coverage[COUNTS_LOST], int(embedded.coverage[GENES])
        matched = int(embedded.coverage[GENES_MATCHED])
        beside = f"{matched:,} of {genes:,} genes are known; a caution from {MOST_COUNTS_LOST:.0%} on"
        numbers.append(KeyNumber("Counts in unknown genes", f"{lost:.1%}", beside))
        if lost >= MOST_COUNTS_LOST:
            level, headline = "caution", f"The model could not read {lost:.0%} of the counts"
    reason = "Whether cells of one type lie together, scdmc cluster measures (with --label_key)."
    labels = _labels_of(embedded.obs)
    if embedded.coordinates is not None and labels:
        name, column = next(iter(labels.items()))
        shared = shared_neighbours(embedded.coordinates, column)
        if shared is not None:
            title = f"Neighbours on the map with the same {name}"
            numbers.append(KeyNumber(title, f"{shared[0]:.0%}", f"{shared[1]:.0%} by chance; no label made the map"))
    return Verdict(level, headline, (reason,), tuple(numbers))


def shared_neighbours(coordinates: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """How many of a cell's 15 nearest on the map have its label, and how many of any others have; None for few cells.

    Parameters
    ----------
    coordinates
        Shape (n_cells, 2); cells without a place, and those without a label, take no part.
    labels
        Shape (n_cells,).
    """
    takes_part = np.isfinite(coordinates).all(axis=1) & ~is_missing(labels)
    codes, names = pd.factorize(labels[takes_part])
    if len(codes) <= NEAREST:
        return None
    nearest = cKDTree(coordinates[takes_part]).query(coordinates[takes_part], NEAREST + 1)[1][:, 1:]
    sizes = np.bincount(codes, minlength=len(names))
    by_chance = (sizes * (sizes - 1)).sum() / (len(codes) * (len(codes) - 1))
    return float((codes[nearest] == codes[:, None]).mean()), float(by_chance)


def _map_section(embedded: EmbeddedFile, folder: Path, made: Provenance) -> Section:
    is_drawn = np.isfinite(embedded.coordinates).all(axis=1)
    labels = _labels_of(embedded.obs) or {"all cells": np.full(len(is_drawn), "cell", dtype=object)}
    first = next(iter(labels))
    title = f"UMAP of {int(is_drawn.sum()):,} cells, coloured by {' and '.join(labels)}; no label had a part in it"
    drawn = {name: column[is_drawn] for name, column in labels.items()}
    figure = umap_figure(embedded.coordinates[is_drawn], drawn, title, made.seed or 0)
    cells = MappedCells(
        embedded.coordinates,
        labels[first],
        label_name=first,
        columns=columns_to_map(embedded.obs, {first}),
        ids=embedded.obs.index.astype(str).to_numpy(),
    )
    return Section("Map", maps=[interactive_map(cells, title, save_figure(figure, folder / "umap"), made.seed or 0)])


def _labels_of(obs: pd.DataFrame) -> dict[str, np.ndarray]:
    """The first columns of obs that look like labels, those called like cell types first."""
    found = {}
    for name in sorted(obs, key=lambda name: "type" not in str(name).lower()):
        if isinstance(obs[name].dtype, pd.CategoricalDtype) or obs[name].dtype == object:
            labels = obs[name].to_numpy(dtype=object)
            groups = pd.unique(labels[~is_missing(labels)])
            if FEWEST_GROUPS <= len(groups) <= MOST_GROUPS:
                found[str(name)] = labels
        if len(found) == MOST_COLOURINGS:
            break
    return found
