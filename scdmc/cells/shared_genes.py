"""Counts of two files over the genes that both have, whatever these are called there.

A gene is known by its token where the vocabulary has it, and by its name in the file where not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse

from scdmc.errors import ScDMCError, shown_names
from scdmc.genes.ids import UNMATCHED
from scdmc.reading.counts import Counts, cell_totals
from scdmc.tokens.streams import COUNTS_PER_CELL, cell_streams, concatenate_streams, has_counts, total_counts
from scdmc.tokens.tokenized_cells import ROW_COLUMN, TokenizedCells
from scdmc.tokens.tokenizer import Tokenizer, cells_of_streams

# Fewer genes say nothing of a cell.
FEWEST_SHARED_GENES = 10


@dataclass(frozen=True)
class CellCounts:
    """Raw counts of cells in memory, one column a gene.

    Attributes
    ----------
    name
        Of the file.
    counts
        CSR of shape (n_cells, n_genes), float32.
    totals
        Counts of each cell over all genes of the file, shape (n_cells,).
    keys
        What each gene is known by, sorted, shape (n_genes,).
    names
        What the file calls it, shape (n_genes,).
    tokens
        Its id in the vocabulary, :data:`scdmc.genes.ids.UNMATCHED` for none, shape (n_genes,).
    obs
        Annotation of the cells, n_cells rows.
    rows
        Row of each cell in the file, shape (n_cells,).
    n_rows
        Cells of the file, with those that ``filter_pass`` leaves out.
    n_genes_of_file
        Genes of the file.
    """

    name: str
    counts: scipy.sparse.csr_matrix
    totals: np.ndarray
    keys: np.ndarray
    names: np.ndarray
    tokens: np.ndarray
    obs: pd.DataFrame
    rows: np.ndarray
    n_rows: int
    n_genes_of_file: int

    def select(self, cells: np.ndarray) -> "CellCounts":
        """The chosen cells (indices, or True for each)."""
        cells = np.flatnonzero(cells) if np.asarray(cells).dtype == bool else np.asarray(cells)
        return replace(
            self,
            counts=self.counts[cells],
            totals=self.totals[cells],
            obs=self.obs.iloc[cells],
            rows=self.rows[cells],
        )

    def of_genes(self, keys: np.ndarray) -> "CellCounts":
        """These genes, in this order; one that the file lacks has no counts."""
        place = pd.Index(self.keys).get_indexer(keys)
        there = place >= 0
        chooser = scipy.sparse.csr_matrix(
            (np.ones(there.sum(), dtype=np.float32), (place[there], np.flatnonzero(there))),
            shape=(len(self.keys), len(keys)),
        )
        names, tokens = keys.astype(object), np.full(len(keys), UNMATCHED)
        names[there], tokens[there] = self.names[place[there]], self.tokens[place[there]]
        return replace(
            self, counts=scipy.sparse.csr_matrix(self.counts @ chooser), keys=keys, names=names, tokens=tokens
        )

    def expression(self) -> scipy.sparse.csr_matrix:
        """ln(1 + CP10k), CSR of shape (n_cells, n_genes), float32; the total is that of these genes."""
        return log1p_cp10k_of(self.counts, total_counts(self.counts))

    def tokenized(self, tokenizer: Tokenizer) -> TokenizedCells:
        """Both streams of each cell, of these genes, as the model reads them."""
        totals = total_counts(self.counts)
        median, size = tokenizer.median_of_token, tokenizer.model_input_size
        streams = concatenate_streams(
            [
                cell_streams(self.counts[part], self.tokens, totals[part], median, size)
                for part in (slice(start, start + CELLS_OF_BLOCK) for start in range(0, len(self.rows), CELLS_OF_BLOCK))
            ]
        )
        return cells_of_streams(streams, pa.table({ROW_COLUMN: self.rows}), tokenizer.settings)


CELLS_OF_BLOCK = 4096


def log1p_cp10k_of(counts: scipy.sparse.csr_matrix, totals: np.ndarray) -> scipy.sparse.csr_matrix:
    """ln(1 + counts per 10,000 of a total), CSR, float32; a cell without a total is 0.

    Parameters
    ----------
    counts
        CSR of shape (n_cells, n_genes).
    totals
        Shape (n_cells,).
    """
    has_total = has_counts(totals)
    scale = np.where(has_total, COUNTS_PER_CELL / np.where(has_total, totals, 1.0), 0.0)
    return scipy.sparse.csr_matrix((scipy.sparse.diags_array(scale) @ counts).log1p().astype(np.float32))


@dataclass(frozen=True)
class GeneKeys:
    """What the columns of a file are known by.

    Attributes
    ----------
    of_columns
        Shape (n_columns,).
    tokens
        Shape (n_columns,).
    """

    of_columns: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, counts: Counts, tokenizer: Tokenizer) -> "GeneKeys":
        """Of an opened file; nothing but its names is read."""
        match = tokenizer.match(counts)
        tokens = tokenizer.vocabulary.tokens
        written = counts.var.index.astype(str).str.upper().to_numpy(dtype=object)
        known = tokens[np.where(match.is_matched, match.token_ids, 0)]
        return cls(np.where(match.is_matched, known, written).astype(str), match.token_ids)


def shared_keys(reference: GeneKeys, new: GeneKeys, names: Sequence[str]) -> np.ndarray:
    """Genes that two files have, sorted.

    Parameters
    ----------
    reference, new
        What their genes are known by.
    names
        Of the two files, for the message.

    Raises
    ------
    ScDMCError
        If there are fewer than :data:`FEWEST_SHARED_GENES`.
    """
    shared = np.intersect1d(reference.of_columns, new.of_columns)
    if len(shared) < FEWEST_SHARED_GENES:
        shown = [shown_names(list(map(str, keys.of_columns[:3]))) for keys in (reference, new)]
        raise ScDMCError(
            f"{names[0]} and {names[1]} share {len(shared)} genes ({names[0]} has {shown[0]}; {names[1]} has "
            f"{shown[1]}); at least {FEWEST_SHARED_GENES} are needed: are both of one species, and is --gene_id_column "
            "the right one?"
        )
    return shared


def read_cell_counts(counts: Counts, keys: GeneKeys) -> CellCounts:
    """Read the counts of the cells that ``filter_pass`` keeps; columns of one gene are added.

    Raises
    ------
    ScDMCError
        If a value is no count, or no cell is left.
    """
    genes, first, number = np.unique(keys.of_columns, return_index=True, return_inverse=True)
    adder = scipy.sparse.csr_matrix(
        (np.ones(len(number), dtype=np.float32), (np.arange(len(number)), number)), shape=(len(number), len(genes))
    )
    blocks, totals = [], []
    for start, block in counts.blocks():
        rows = np.arange(start, start + block.shape[0])
        kept = counts.is_passing[rows]
        totals.append(cell_totals(counts, rows, total_counts(block))[kept])
        blocks.append(scipy.sparse.csr_matrix(block[kept].astype(np.float32) @ adder))
    rows = np.flatnonzero(counts.is_passing)
    if not len(rows):
        raise ScDMCError(f"{counts.name}: there is no cell: the file is empty, or filter_pass drops them all")
    names = counts.var.index.astype(str).to_numpy(dtype=object)[first]
    return CellCounts(
        counts.name,
        scipy.sparse.csr_matrix(scipy.sparse.vstack(blocks)),
        np.concatenate(totals),
        genes,
        names,
        keys.tokens[first],
        counts.obs.iloc[rows],
        rows,
        counts.n_cells,
        len(keys.of_columns),
    )
