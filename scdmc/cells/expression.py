"""Expression of cells: raw counts, and ln(1 + CP10k), from count files and tokenized data."""

from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.model.folder import ModelDirectory
from scdmc.reading.counts import Counts, cell_totals, open_counts
from scdmc.reading.options import CountOptions, is_counts
from scdmc.tokens.parquet import read_tokenized
from scdmc.tokens.streams import COUNTS_PER_CELL, has_counts, total_counts
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells, expression_of_cells


def read_expression(
    data_path: Path, cells: TokenizedCells, model_directory: ModelDirectory, options: CountOptions | None = None
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """log1p CP10k of the same cells, for the baselines.

    From an ``.h5ad`` all its genes; from parquet the genes that the streams hold, which are the highest of each cell.

    Returns
    -------
    CSR of shape (n_cells, n_genes), float32, and the names of the genes, shape (n_genes,).
    """
    if is_counts(data_path):
        return _expression_of_h5ad(data_path, cells, options or CountOptions())
    return expression_of_streams(read_tokenized(data_path, obs_columns=()), model_directory)


def _expression_of_h5ad(
    data_path: Path, cells: TokenizedCells, options: CountOptions
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    with open_counts(data_path, **options.of_counts()) as counts:
        return log1p_cp10k(counts)[cells.obs[ROW_COLUMN].to_numpy()], counts.var.index.to_numpy(dtype=object)


def log1p_cp10k(counts: Counts) -> scipy.sparse.csr_matrix:
    """ln(1 + counts per 10,000) of all cells and genes, CSR of shape (n_cells, n_genes), float32; empty cells are 0."""
    blocks = []
    for first, block in counts.blocks():
        rows = np.arange(first, first + block.shape[0])
        n_counts = cell_totals(counts, rows, total_counts(block))
        has_total = has_counts(n_counts)
        scale = np.where(has_total, COUNTS_PER_CELL / np.where(has_total, n_counts, 1.0), 0.0)
        blocks.append((scipy.sparse.diags_array(scale) @ block).log1p().astype(np.float32))
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks))


def raw_counts(counts: Counts) -> scipy.sparse.csr_matrix:
    """The counts of all cells and genes, CSR of shape (n_cells, n_genes), float32."""
    blocks = [block.astype(np.float32) for _, block in counts.blocks()]
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks))


def read_raw_counts(
    data_path: Path, cells: TokenizedCells, options: CountOptions | None = None
) -> scipy.sparse.csr_matrix | None:
    """Raw counts of the same cells, shape (n_cells, n_genes), genes as :func:`read_expression` has them.

    None for tokenized parquet, which keeps no counts.
    """
    if not is_counts(data_path):
        return None
    options = options or CountOptions()
    with open_counts(data_path, **options.of_counts()) as counts:
        return raw_counts(counts)[cells.obs[ROW_COLUMN].to_numpy()]


def expression_of_streams(
    cells: TokenizedCells, model_directory: ModelDirectory
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """log1p CP10k of the genes in the streams of cells, and the tokens of the genes that any cell has."""
    vocabulary = model_directory.vocabulary
    expression = expression_of_cells(cells, np.arange(len(cells)), len(vocabulary))
    relative = np.expm1(expression.data.astype(np.float64))
    medians = model_directory.medians.by_token(vocabulary)
    expression.data = np.log1p(relative * medians[expression.indices]).astype(np.float32)
    expression.sum_duplicates()  # data of the published tool may name a gene twice
    seen = np.unique(expression.indices)
    return expression[:, seen], vocabulary.tokens[seen]


LARGEST_LOG1P_CP10K = np.log1p(10_000)  # all counts of a cell on one gene


def checked_expression(expression: scipy.sparse.spmatrix) -> scipy.sparse.csr_matrix:
    """CSR of the values; refuses what cannot be log1p CP10k, raw counts above all."""
    expression = scipy.sparse.csr_matrix(expression)
    largest = expression.data.max(initial=0.0)
    if not largest <= LARGEST_LOG1P_CP10K + 1e-3:
        raise ScDMCError(
            f"expression holds {largest:g}, and log1p CP10k is at most {LARGEST_LOG1P_CP10K:.2f}; "
            "normalise the counts first"
        )
    return expression
