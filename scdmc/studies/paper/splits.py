"""Which cells of the paper's data sets are learned from and which are tested on, as the field does it.

Source: docs/paper_data.md, "Splits".
"""

import logging

import numpy as np

from scdmc.cells.splits import make_split
from scdmc.errors import shown_names

logger = logging.getLogger(__name__)


VALIDATION_FRACTION = 0.1


def split_of_cells(labels: np.ndarray, is_query: np.ndarray | None, seed: int) -> np.ndarray:
    """The part of each cell, shape (n_cells,): ``train``, ``validation``, ``test`` or ``left_out``.

    Parameters
    ----------
    labels
        Types, None for none, shape (n_cells,).
    is_query
        True for the cells that the field tests on; None where it draws them at random: then the split is stratified.
        Query cells of a type that no reference cell has are left out, with a warning that names it.
    seed
        Of the draw; with a query, of the validation cells alone.
    """
    if is_query is None:
        return make_split(labels, seed=seed)
    labels = np.asarray(labels, dtype=object)
    split = np.full(len(labels), "left_out", dtype="<U10")
    has_label = np.array([label is not None for label in labels])
    known = set(labels[~is_query & has_label])
    is_known = np.array([label in known for label in labels], dtype=bool)
    split[is_query & is_known] = "test"
    split[~is_query & has_label] = "train"
    generator = np.random.default_rng(seed)
    for label in sorted(known):
        cells = np.flatnonzero((split == "train") & (labels == label))
        # A type of one cell is learned from, and not validated on.
        n_validation = min(max(1, round(VALIDATION_FRACTION * len(cells))), len(cells) - 1)
        split[generator.permutation(cells)[:n_validation]] = "validation"
    of_query = set(labels[is_query & has_label])
    only_here = sorted(of_query - known)
    if only_here:
        n_cells = int((is_query & has_label & ~is_known).sum())
        logger.warning(
            "warning: %s cells are of types that are in the query only, and are left out: %s",
            f"{n_cells:,}", shown_names(only_here, 20),
        )  # fmt: skip
    if known - of_query:
        logger.info("types that are in the reference only: %s", shown_names(sorted(known - of_query), 20))
    return split
