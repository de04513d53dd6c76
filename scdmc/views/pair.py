"""A labelled file and a new one: opened and checked first, read only then."""

from collections.abc import Sequence

import numpy as np

from scdmc.cells.shared_genes import CellCounts, GeneKeys, read_cell_counts, shared_keys
from scdmc.errors import ScDMCError, shown_names
from scdmc.labels import is_missing, type_labels
from scdmc.reading.counts import Counts
from scdmc.tokens.tokenizer import Tokenizer
from scdmc.views.options import VIEW_CHOICES, ViewOptions


def require_views(views: Sequence[str]) -> None:
    """Refuse views that there are not, or none.

    Raises
    ------
    ScDMCError
        Naming the first that is wrong.
    """
    unknown = [view for view in views if view not in VIEW_CHOICES]
    if unknown or not views or len(set(views)) < len(views):
        what = f"{unknown[0]!r} is none" if unknown else ("one is named twice" if views else "none is named")
        raise ScDMCError(f"--views: {what}; there are {', '.join(VIEW_CHOICES)}")


def read_pair(
    new: Counts, reference: Counts, tokenizer: Tokenizer, options: ViewOptions
) -> tuple[CellCounts, CellCounts, np.ndarray]:
    """Check two opened files against each other, and read them.

    Parameters
    ----------
    new, reference
        The opened files.
    tokenizer
        Finds the genes.
    options
        Which columns of the reference's obs are needed.

    Returns
    -------
    Counts of the new cells and of the reference, and the labels of the latter, None for none.

    Raises
    ------
    ScDMCError
        If a column is missing or holds no label, or the files share too few genes.
    """
    for key in (options.label_key, options.batch_key):
        if key is not None and key not in reference.obs:
            there = shown_names(sorted(map(str, reference.obs)))
            raise ScDMCError(f"{reference.name}: obs has no column {key!r}; there are {there or 'none'}")
    labels, _ = type_labels(reference.obs[options.label_key], options.label_options)
    if is_missing(labels).all():
        raise ScDMCError(f"{reference.name}: no cell has a label in obs[{options.label_key!r}]")
    keys_of_reference, keys_of_new = GeneKeys.of(reference, tokenizer), GeneKeys.of(new, tokenizer)
    shared_keys(keys_of_reference, keys_of_new, (reference.name, new.name))
    counts_of_new = read_cell_counts(new, keys_of_new)
    counts_of_reference = read_cell_counts(reference, keys_of_reference)
    return counts_of_new, counts_of_reference, labels[counts_of_reference.rows]
