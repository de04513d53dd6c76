"""Pairs of a cell type and a gene: the rows of everything that is computed by gene and type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scdmc.errors import ScDMCError
from scdmc.genes.symbols import gene_symbols
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary
from scdmc.tokens.tokenized_cells import TokenizedCells


@dataclass(frozen=True)
class GenePairs:
    """The pairs of a type and a gene that enough cells of the type have, n_rows in the order of types, then tokens.

    Attributes
    ----------
    table
        Columns cell_type, token, gene_id, symbol, cells (of that type that have the gene, in each stream).
    cell_types
        Number of the type of each cell, shape (n_cells,).
    slots
        Row of each pair, shape (n_types, vocab_size); -1 for a pair that has none.
    row_types, tokens
        Number of the type and token of each row, both (n_rows,).
    """

    table: pd.DataFrame
    cell_types: np.ndarray
    slots: np.ndarray
    row_types: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def cells_in(self, cells: TokenizedCells, stream: str) -> np.ndarray:
        """How many cells of its type have the gene of each row in a stream, shape (n_rows,)."""
        n_types, vocab_size = self.slots.shape
        return _cells_of_pairs(cells, self.cell_types, n_types, vocab_size, stream)[self.row_types, self.tokens]


def gene_pairs(
    cells: TokenizedCells, labels: np.ndarray, vocabulary: Vocabulary, streams: Sequence[str], min_cells: int
) -> GenePairs:
    """Find the pairs with enough cells; special tokens are no genes.

    Parameters
    ----------
    cells
        The cells.
    labels
        Type of each cell, shape (n_cells,).
    vocabulary
        Of the model.
    streams
        ``rank`` and ``expression``, or one of them: a cell has a gene if every one of them holds it.
    min_cells
        Cells of a type that must have a gene, in each stream.

    Raises
    ------
    ScDMCError
        If no gene has enough cells.
    """
    names, types = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    n_cells = np.minimum.reduce(
        [_cells_of_pairs(cells, types, len(names), len(vocabulary), stream) for stream in streams]
    )
    row_types, tokens = np.nonzero(n_cells >= min_cells)
    if not len(tokens):
        raise ScDMCError(f"no gene is seen in {min_cells} cells of one type; lower the minimum or give more cells")
    slots = np.full(n_cells.shape, -1, dtype=np.int64)
    slots[row_types, tokens] = np.arange(len(tokens))
    gene_ids = vocabulary.tokens[tokens]
    table = pd.DataFrame(
        {
            "cell_type": names[row_types].astype(object),
            "token": tokens,
            "gene_id": gene_ids,
            "symbol": gene_symbols(gene_ids),
            "cells": n_cells[row_types, tokens],
        }
    )
    return GenePairs(table, types, slots, row_types, tokens)


def _cells_of_pairs(cells: TokenizedCells, types: np.ndarray, n_types: int, vocab_size: int, stream: str) -> np.ndarray:
    """How many cells of each type have each gene in the stream, shape (n_types, vocab_size); special tokens 0."""
    ids, offsets = (
        (cells.rank_ids, cells.rank_offsets)
        if stream == "rank"
        else (cells.expression_ids, cells.expression_offsets)
    )  # fmt: skip
    type_of_token = np.repeat(types, np.diff(offsets))
    pairs = np.bincount(type_of_token * vocab_size + ids, minlength=n_types * vocab_size).reshape(n_types, vocab_size)
    pairs[:, : EOS_TOKEN_ID + 1] = 0
    return pairs
