"""Which genes a generated cell has: those that vary most for their mean, and one bin for the counts of all others.

Source: docs/pseudo_cells.md, "Genes".
"""

import logging
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.text.pseudo_cells.options import ALL_GENES

logger = logging.getLogger(__name__)

# Rarer genes have no dispersion worth comparing.
LEAST_SHARE_OF_CELLS = 0.005
BINS_OF_MEANS = 20


def chosen_genes(counts: Sequence[scipy.sparse.csr_matrix], totals: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
    """Columns of the panel, ascending.

    Parameters
    ----------
    counts, totals
        Of each data set: CSR of shape (n_cells, n_columns), and shape (n_cells,).
    n_genes
        How many; :data:`scdmc.text.pseudo_cells.options.ALL_GENES` for all that are frequent enough. Where fewer are,
        these, with a warning.

    Raises
    ------
    ScDMCError
        If none is frequent enough.
    """
    n_cells = sum(matrix.shape[0] for matrix in counts)
    n_with = sum(np.diff(scipy.sparse.csc_matrix(matrix).indptr) for matrix in counts)
    frequent = np.flatnonzero(n_with >= max(LEAST_SHARE_OF_CELLS * n_cells, 1))
    if not len(frequent):
        raise ScDMCError(f"no gene that all files have has counts in {LEAST_SHARE_OF_CELLS:.1%} of the training cells")
    if len(frequent) < n_genes:
        logger.warning(
            "warning: --panel_genes %s: only %s genes that all files have have counts in %s of the training cells; "
            "generated cells have these",
            f"{n_genes:,}", f"{len(frequent):,}", f"{LEAST_SHARE_OF_CELLS:.1%}",
        )  # fmt: skip
    if n_genes == ALL_GENES or len(frequent) <= n_genes:
        return frequent
    scores = [standardised_dispersion(matrix[:, frequent], total) for matrix, total in zip(counts, totals, strict=True)]
    best = np.argsort(-np.mean(scores, axis=0), kind="stable")[:n_genes]
    return np.sort(frequent[best])


def standardised_dispersion(counts: scipy.sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """How much more the CP10k of each gene vary than those of genes with its mean, shape (n_genes,).

    ln(variance / mean), standardised among the genes of each of :data:`BINS_OF_MEANS` bins of equally many genes.
    """
    relative = scipy.sparse.csr_matrix(scipy.sparse.diags_array(1e4 / np.maximum(totals, 1)) @ counts)
    mean = np.asarray(relative.mean(axis=0)).ravel()
    variance = np.asarray(relative.multiply(relative).mean(axis=0)).ravel() - mean**2
    is_seen = mean > 0
    dispersion = np.log(np.maximum(variance, 1e-12) / np.where(is_seen, mean, 1.0))
    scores = np.full(len(mean), -np.inf)
    order = np.flatnonzero(is_seen)[np.argsort(mean[is_seen], kind="stable")]
    for genes in np.array_split(order, min(BINS_OF_MEANS, max(len(order), 1))):
        spread = dispersion[genes].std() if len(genes) > 1 else 0.0
        scores[genes] = (dispersion[genes] - dispersion[genes].mean()) / (spread or 1.0) if len(genes) else 0.0
    return np.where(np.isfinite(scores), scores, -1e6)
