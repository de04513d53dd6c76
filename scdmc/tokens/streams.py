"""The two streams of a cell: genes by rank and genes with values (docs/method.md, "Tokenization").

This is the core of the tokenizer. It takes scipy CSR and numpy arrays and needs neither anndata nor torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse

from scdmc.errors import ScDMCError
from scdmc.genes.vocabulary import CLS_TOKEN_ID, EOS_TOKEN_ID
from scdmc.tokens.options import MODEL_INPUT_SIZE

COUNTS_PER_CELL = 10_000.0


SPECIAL_TOKEN_VALUE = 1.0


# A sort key holds the order of the value in its upper bits and the token id in the lower ones.
TOKEN_BITS = np.uint64(17)


LARGEST_VOCABULARY = 1 << 17


TOKEN_MASK = np.uint64(LARGEST_VOCABULARY - 1)


# The arrays of so many cells stay in a processor's cache from one step to the next.
CELLS_AT_A_TIME = 64


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
    n_genes
        Shape (n_cells,), int64: genes of the vocabulary with counts, those that did not fit included.
    """

    input_ids_rank: np.ndarray
    input_ids_epe: np.ndarray
    expression_values: np.ndarray
    offsets: np.ndarray
    n_genes: np.ndarray

    @property
    def n_truncated(self) -> int:
        """Cells that had more genes than fit."""
        return int((self.n_genes > np.diff(self.offsets) - 2).sum())


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
    n_entries = np.diff(counts.indptr)
    tokens, data = token_ids[counts.indices], counts.data
    keep = (tokens >= 0) & (data != 0)
    if not has_counts(n_counts).all():
        keep &= np.repeat(has_counts(n_counts), n_entries)
    if not keep.all():
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        n_entries = np.diff(kept_before[counts.indptr])
        tokens, data = tokens[keep], data[keep]
    values = data.astype(np.float64)
    values /= np.repeat(n_counts, n_entries)
    values *= COUNTS_PER_CELL
    values /= medians[tokens]
    offsets = np.zeros(counts.shape[0] + 1, dtype=np.int64)
    np.cumsum(n_entries, out=offsets[1:])
    return values, tokens, offsets


def cell_streams(
    counts: scipy.sparse.csr_matrix,
    token_ids: np.ndarray,
    n_counts: np.ndarray,
    medians: np.ndarray,
    model_input_size: int = MODEL_INPUT_SIZE,
) -> CellStreams:
    """Tokenize a block of cells into both streams (docs/method.md, "Tokenization").

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
    parts = []
    # At least one part, so that a block of no cells has streams, too.
    for start in range(0, max(1, counts.shape[0]), CELLS_AT_A_TIME):
        cells = slice(start, start + CELLS_AT_A_TIME)
        entries = normalised_values(_cells_of(counts, cells), token_ids, n_counts[cells], medians)
        parts.append(_streams_of_entries(*entries, vocab_size=len(medians), most_genes=model_input_size - 2))
    return concatenate_streams(parts)


def concatenate_streams(parts: Sequence[CellStreams]) -> CellStreams:
    """Join the streams of blocks of cells, in order."""
    if len(parts) == 1:
        return parts[0]
    return CellStreams(
        np.concatenate([part.input_ids_rank for part in parts]),
        np.concatenate([part.input_ids_epe for part in parts]),
        np.concatenate([part.expression_values for part in parts]),
        np.cumsum(np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])),
        np.concatenate([part.n_genes for part in parts]),
    )


def regroup(blocks: Iterable[tuple[np.ndarray, CellStreams]], n_cells: int) -> Iterator[tuple[np.ndarray, CellStreams]]:
    """Yield (rows, streams) in groups of ``n_cells`` (the last may be smaller), in whatever blocks they come."""
    rows, parts, n_waiting = [], [], 0
    for block_rows, streams in blocks:
        start = 0
        while start < len(block_rows):
            stop = min(len(block_rows), start + n_cells - n_waiting)
            rows.append(block_rows[start:stop])
            parts.append(_slice_of_streams(streams, start, stop))
            n_waiting += stop - start
            start = stop
            if n_waiting == n_cells:
                yield np.concatenate(rows), concatenate_streams(parts)
                rows, parts, n_waiting = [], [], 0
    if n_waiting:
        yield np.concatenate(rows), concatenate_streams(parts)


def _slice_of_streams(streams: CellStreams, start: int, stop: int) -> CellStreams:
    """Consecutive cells, as views."""
    offsets = streams.offsets[start : stop + 1]
    tokens = slice(offsets[0], offsets[-1])
    return CellStreams(
        streams.input_ids_rank[tokens],
        streams.input_ids_epe[tokens],
        streams.expression_values[tokens],
        offsets - offsets[0],
        streams.n_genes[start:stop],
    )


def _cells_of(counts: scipy.sparse.csr_matrix, cells: slice) -> scipy.sparse.csr_matrix:
    """Consecutive rows as views: scipy's own slices are copies."""
    indptr = counts.indptr[cells.start : cells.stop + 1]
    entries = slice(indptr[0], indptr[-1])
    shape = (len(indptr) - 1, counts.shape[1])
    return scipy.sparse.csr_matrix((counts.data[entries], counts.indices[entries], indptr - indptr[0]), shape=shape)


def _streams_of_entries(
    values: np.ndarray, tokens: np.ndarray, entry_offsets: np.ndarray, vocab_size: int, most_genes: int
) -> CellStreams:
    """Streams of cells whose normalised values are known (see :func:`normalised_values`)."""
    n_genes = np.diff(entry_offsets)
    offsets = np.zeros(len(n_genes) + 1, dtype=np.int64)
    np.cumsum(np.minimum(n_genes, most_genes) + 2, out=offsets[1:])
    rank = np.full(offsets[-1], EOS_TOKEN_ID, dtype=np.int32)
    expression = np.full(offsets[-1], EOS_TOKEN_ID, dtype=np.int32)
    stream_values = np.zeros(offsets[-1], dtype=np.float64)
    rank[offsets[:-1]] = CLS_TOKEN_ID
    expression[offsets[:-1]] = CLS_TOKEN_ID
    keys = _rank_keys(values, tokens)
    value_of_token = np.empty(vocab_size, dtype=np.float64)
    for cell, (start, stop) in enumerate(pairwise(entry_offsets.tolist())):
        genes = slice(offsets[cell] + 1, offsets[cell + 1] - 1)
        entries = slice(start, stop)
        value_of_token[tokens[entries]] = values[entries]
        order = _rank_order(keys[entries], values[entries], tokens[entries], value_of_token)
        rank[genes] = order[:most_genes]
        genes_by_id = expression[genes]
        genes_by_id[:] = rank[genes]
        genes_by_id.sort()
        # "clip" (no id is out of bounds) spares a copy.
        value_of_token.take(genes_by_id, out=stream_values[genes], mode="clip")
    np.log1p(stream_values, out=stream_values)
    stream_values[offsets[:-1]] = SPECIAL_TOKEN_VALUE
    stream_values[offsets[1:] - 1] = SPECIAL_TOKEN_VALUE
    return CellStreams(rank, expression, stream_values.astype(np.float32), offsets, n_genes)


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
    """Tokens of one cell by descending value, ties by ascending token id; sorts and overwrites ``keys``."""
    keys.sort()
    keys &= TOKEN_MASK
    order = keys.view(np.int64)
    ordered_values = value_of_token.take(order)
    # Two values that differ only in the bits that the key dropped may stand in the wrong order.
    if (ordered_values[1:] > ordered_values[:-1]).any():
        order = tokens[np.lexsort((tokens, -values))]
    return order
