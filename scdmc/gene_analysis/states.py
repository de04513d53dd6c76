"""Gene embeddings: the mean last-layer state of every gene in every cell type, streamed over the cells."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_GENE
from scdmc.gene_analysis.pairs import GenePairs, gene_pairs
from scdmc.genes.vocabulary import Vocabulary
from scdmc.model.embeddings import inference_batches
from scdmc.model.encoder import ScDMCModel
from scdmc.options import STREAMS
from scdmc.tokens.tokenized_cells import TokenizedCells


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
