"""Genes by cell type: which pairs there are, and the mean last-layer state of each, streamed over the cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_GENE
from scdmc.genes.symbols import gene_symbols
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary
from scdmc.model.embeddings import inference_batches
from scdmc.model.encoder import ScDMCModel
from scdmc.options import STREAMS
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


@dataclass(frozen=True)
class GeneEmbeddings:
    """One row for each gene and cell type with enough cells.

    Attributes
    ----------
    table
        Columns cell_type, token, gene_id, symbol, cells (of that type that have the gene), n_rows rows.
    means, standard_errors
        Shape (n_rows, hidden_size), or twice as wide where both streams are joined; float32.
    """

    table: pd.DataFrame
    means: np.ndarray
    standard_errors: np.ndarray

    def of_type(self, name: str) -> "GeneEmbeddings":
        """The rows of one cell type."""
        rows = np.flatnonzero(self.table["cell_type"] == name)
        return GeneEmbeddings(
            self.table.iloc[rows].reset_index(drop=True), self.means[rows], self.standard_errors[rows]
        )

    def to_frame(self) -> pd.DataFrame:
        """One table of all: the columns of ``table``, then mean_0, mean_1, ... and se_0, se_1, ..."""
        wide = [
            pd.DataFrame(values, columns=[f"{name}_{i}" for i in range(values.shape[1])])
            for name, values in (("mean", self.means), ("se", self.standard_errors))
        ]
        return pd.concat([self.table, *wide], axis=1)


class _PairMoments:
    """Number, sum and sum of squares of the states of each (type, gene) that has a slot."""

    def __init__(self, pairs: GenePairs, hidden_size: int, device: torch.device) -> None:
        self.slots = torch.from_numpy(pairs.slots).to(device)
        # Sums over thousands of cells: float64 keeps the difference of squares exact enough. MPS has none.
        self.sums = torch.zeros(len(pairs), hidden_size, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sums)

    def add(self, types: torch.Tensor, tokens: torch.Tensor, states: torch.Tensor) -> None:
        """Add states (n_tokens, hidden_size) of genes in cells of these types, both (n_tokens,)."""
        slots = self.slots[types, tokens]
        kept = slots >= 0
        slots, states = slots[kept], states[kept].double()
        self.sums.index_add_(0, slots, states)
        self.squares.index_add_(0, slots, states**2)

    def mean_and_error(self, n_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean, and standard error with the variance of a sample (divided by n - 1)."""
        n = torch.from_numpy(n_cells).to(self.sums)[:, None]
        mean = self.sums / n
        variance = (self.squares - n * mean**2).clamp(min=0) / (n - 1).clamp(min=1)
        return mean.float().cpu().numpy(), (variance / n).sqrt().float().cpu().numpy()


@torch.inference_mode()
def embed_genes(
    encoder: ScDMCModel,
    cells: TokenizedCells,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    stream: str = "rank",
    min_cells: int = CELLS_PER_GENE,
    show_progress: bool = True,
) -> GeneEmbeddings:
    """Mean last-layer state of each gene over the cells of each type; special tokens are no genes.

    Cells are streamed; memory holds two numbers per gene, type and component.

    Parameters
    ----------
    encoder
        The encoder, on the device where the work is to be done.
    cells
        The cells, as long as the model reads them.
    labels
        Type of each cell, shape (n_cells,).
    vocabulary
        Of the model.
    stream
        ``rank``, ``expression``, or ``both`` joined.
    min_cells
        A gene needs so many cells of a type (in each stream); at least 2, for a standard error.
    show_progress
        Whether to show a progress bar.

    Returns
    -------
    Rows in the order of types, then tokens.

    Raises
    ------
    ScDMCError
        If no gene has enough cells.
    """
    if stream not in STREAMS:
        raise ScDMCError(f"--stream {stream}: there are {', '.join(STREAMS)}")
    if min_cells < 2:
        raise ScDMCError(f"min_cells {min_cells}: a standard error needs at least 2 cells")
    streams = ("rank", "expression") if stream == "both" else (stream,)
    pairs = gene_pairs(cells, labels, vocabulary, streams, min_cells)
    was_training = encoder.training
    encoder.eval()
    parts = []
    for single in streams:
        moments = _PairMoments(pairs, encoder.config.hidden_size, encoder.device)
        what = f"gene states, {single} stream" if show_progress else None
        for chosen, batch in inference_batches(cells, single, "cls", what):
            batch = batch.to(encoder.device)
            lengths = batch.layout.cu_seqlens.diff().long()
            cell_types = torch.from_numpy(pairs.cell_types[chosen]).to(encoder.device)
            moments.add(torch.repeat_interleave(cell_types, lengths), batch.input_ids, encoder.encode(batch).float())
        parts.append(moments.mean_and_error(pairs.cells_in(cells, single)))
    encoder.train(was_training)
    means, errors = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return GeneEmbeddings(pairs.table, means, errors)


def centred_units(vectors: np.ndarray) -> np.ndarray:
    """Rows minus their mean, as unit vectors: their products are cosines.

    Without centring, what all genes share (the common direction of a contextual encoder) would make them all similar.

    Parameters
    ----------
    vectors
        Shape (n_genes, hidden_size).
    """
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return (centred / np.maximum(norms, 1e-12)).astype(np.float32)
