"""The two streams of a cell: genes by rank and genes with values (design.md, section 4).

This is the core of the tokenizer. It takes scipy CSR and numpy arrays and needs neither anndata nor torch.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID

MODEL_INPUT_SIZE = 2048
COUNTS_PER_CELL = 10_000.0
SPECIAL_TOKEN_VALUE = 1.0

# A sort key holds the order of the value in its upper bits and the token id in the lower ones.
TOKEN_BITS = np.uint64(17)
LARGEST_VOCABULARY = 1 << 17
TOKEN_MASK = np.uint64(LARGEST_VOCABULARY - 1)


@dataclass(frozen=True)
class CellStreams:
    """Both streams of a block of cells, cell after cell; the two streams of a cell have the same length.

    Attributes
    ----------
    input_ids_rank
        Shape (total_tokens,), int32: ``<cls>``, genes by descending normalised value, ``<eos>``.
    input_ids_epe
        Shape (total_tokens,), int32: ``<cls>``, the same genes by ascending token id, ``<eos>``.
    expression_values
        Shape (total_tokens,), float32: ln(1 + CP10k / median) of ``input_ids_epe``; 1.0 for ``<cls>`` and ``<eos>``.
    offsets
        Shape (n_cells + 1,), int64: where each cell starts.
    n_truncated
        Cells that had more genes than fit.
    """

    input_ids_rank: np.ndarray
    input_ids_epe: np.ndarray
    expression_values: np.ndarray
    offsets: np.ndarray
    n_truncated: int


def total_counts(counts: scipy.sparse.csr_matrix) -> np.ndarray:
    """Sum of each cell over all genes, shape (n_cells,), float64 (float32 sums lose counts above 2^24)."""
    return counts @ np.ones(counts.shape[1], dtype=np.float64)


def has_counts(n_counts: np.ndarray) -> np.ndarray:
    """True for cells with a positive, finite total; the others are empty cells. Shape (n_cells,), as ``n_counts``."""
    return np.isfinite(n_counts) & (n_counts > 0)


def sum_duplicate_genes(
    counts: scipy.sparse.csr_matrix, token_ids: np.ndarray
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Add up the columns of one gene, and entries that a file stores twice.

    Parameters
    ----------
    counts
        Shape (n_cells, n_genes).
    token_ids
        Shape (n_genes,): token of each column, -1 for none.

    Returns
    -------
    Counts with one column per gene, and the token of each column.
    """
    if not counts.has_canonical_format:
        # In float64: the file's own type may be too narrow for a sum. (astype copies.)
        counts = counts.astype(np.float64)
        counts.sum_duplicates()
    is_matched = token_ids >= 0
    genes, position = np.unique(token_ids[is_matched], return_inverse=True)
    if len(genes) == is_matched.sum():
        return counts, token_ids
    columns = np.flatnonzero(is_matched)
    to_gene = scipy.sparse.csr_matrix(
        (np.ones(len(columns)), (columns, position)), shape=(counts.shape[1], len(genes)), dtype=np.float64
    )
    return (counts @ to_gene).tocsr(), genes


def normalised_values(
    counts: scipy.sparse.csr_matrix, token_ids: np.ndarray, n_counts: np.ndarray, medians: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise the counts of the vocabulary's genes: v = x / n * 10,000 / median, in float64.

    Parameters
    ----------
    counts
        Shape (n_cells, n_genes), one column per gene.
    token_ids
        Shape (n_genes,): token of each column, -1 for none.
    n_counts
        Shape (n_cells,): total counts of each cell; a cell without a positive, finite total has no entries.
    medians
        Shape (vocab_size,): median non-zero CP10k of each token, 1 where unknown.

    Returns
    -------
    values
        Shape (n_entries,), float64, cell after cell.
    tokens
        Shape (n_entries,), int64.
    offsets
        Shape (n_cells + 1,), int64.
    """
    cells = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    tokens = token_ids[counts.indices]
    keep = (tokens >= 0) & (counts.data != 0) & has_counts(n_counts)[cells]
    if not keep.all():
        cells, tokens, data = cells[keep], tokens[keep], counts.data[keep]
    else:
        data = counts.data
    values = data.astype(np.float64)
    values /= n_counts[cells]
    values *= COUNTS_PER_CELL
    values /= medians[tokens]
    offsets = np.zeros(counts.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(cells, minlength=counts.shape[0]), out=offsets[1:])
    return values, tokens, offsets


def cell_streams(
    counts: scipy.sparse.csr_matrix,
    token_ids: np.ndarray,
    n_counts: np.ndarray,
    medians: np.ndarray,
    model_input_size: int = MODEL_INPUT_SIZE,
) -> CellStreams:
    """Tokenize a block of cells into both streams (design.md, section 4).

    Parameters
    ----------
    counts
        Shape (n_cells, n_genes); several columns of one gene are summed.
    token_ids
        Shape (n_genes,), int64: token of each column, -1 for none.
    n_counts
        Shape (n_cells,): total counts of each cell over all genes of the file.
    medians
        Shape (vocab_size,): median non-zero CP10k of each token, 1 where unknown.
    model_input_size
        L: most tokens of a stream, ``<cls>`` and ``<eos>`` included.

    Raises
    ------
    ScDMCError
        If there are more tokens than a sort key has room for.
    """
    if len(medians) > LARGEST_VOCABULARY:
        raise ScDMCError(f"a vocabulary has at most {LARGEST_VOCABULARY:,} tokens, not {len(medians):,}")
    counts, token_ids = sum_duplicate_genes(counts, token_ids)
    values, tokens, entry_offsets = normalised_values(counts, token_ids, n_counts, medians)
    n_entries = np.diff(entry_offsets)
    n_genes = np.minimum(n_entries, model_input_size - 2)
    offsets = np.zeros(len(n_genes) + 1, dtype=np.int64)
    np.cumsum(n_genes + 2, out=offsets[1:])

    rank = np.full(offsets[-1], EOS_TOKEN_ID, dtype=np.int32)
    expression = np.full(offsets[-1], EOS_TOKEN_ID, dtype=np.int32)
    stream_values = np.full(offsets[-1], SPECIAL_TOKEN_VALUE, dtype=np.float32)
    rank[offsets[:-1]] = CLS_TOKEN_ID
    expression[offsets[:-1]] = CLS_TOKEN_ID
    keys = _rank_keys(values, tokens)
    value_of_token = np.empty(len(medians), dtype=np.float64)
    for cell in range(len(n_genes)):
        entries = slice(entry_offsets[cell], entry_offsets[cell + 1])
        genes = slice(offsets[cell] + 1, offsets[cell + 1] - 1)
        order = _rank_order(keys[entries], values[entries], tokens[entries], value_of_token)[: n_genes[cell]]
        rank[genes] = order
        expression[genes] = np.sort(order)
        stream_values[genes] = np.log1p(value_of_token[expression[genes]])
    return CellStreams(rank, expression, stream_values, offsets, int((n_entries > n_genes).sum()))


def _rank_keys(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """One integer per entry that sorts by descending value, then by ascending token id.

    The bits of positive doubles order as the doubles do. The lowest bits of the value give way to the token id;
    :func:`_rank_order` finds and mends the rare cell in which that matters.
    """
    keys = ~values.view(np.uint64)
    keys >>= TOKEN_BITS
    keys <<= TOKEN_BITS
    keys |= tokens.astype(np.uint64)
    return keys


def _rank_order(keys: np.ndarray, values: np.ndarray, tokens: np.ndarray, value_of_token: np.ndarray) -> np.ndarray:
    """Tokens of one cell by descending value, ties by ascending token id; fills ``value_of_token`` as a side effect."""
    value_of_token[tokens] = values
    order = (np.sort(keys) & TOKEN_MASK).astype(np.int32)
    ordered_values = value_of_token[order]
    # Two values that differ only in the bits that the key dropped may stand in the wrong order.
    if (ordered_values[1:] > ordered_values[:-1]).any():
        order = tokens[np.lexsort((tokens, -values))].astype(np.int32)
    return order
