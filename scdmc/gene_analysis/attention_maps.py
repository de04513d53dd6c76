"""Attention weights of all layers and heads, streamed over cells: never more than one batch of them in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import CELLS_PER_GENE
from scdmc.gene_analysis.states import gene_pairs
from scdmc.genes.vocabulary import EOS_TOKEN_ID, Vocabulary
from scdmc.model.embeddings import TOKENS_PER_BATCH
from scdmc.model.encoder import ScDMCModel
from scdmc.model.packing import PackedCells, batches_by_length, packed_streams
from scdmc.progress import progress_bar
from scdmc.tokens.tokenized_cells import TokenizedCells

MOST_WEIGHTS = 64_000_000  # of one layer of one batch: 256 MB


@dataclass(frozen=True)
class ReceivedAttention:
    """How much attention each gene gets in each cell type.

    Attributes
    ----------
    table
        Columns cell_type, token, gene_id, symbol, cells, received, from_cls: a row for each gene and type with enough
        cells. 1 is what every token would get if attention were spread evenly over the cell.
    by_head
        Received by layer and head, shape (n_rows, n_layers, n_heads), float32; ``received`` is its mean.
    """

    table: pd.DataFrame
    by_head: np.ndarray


@contextmanager
def eager_attention(encoder: ScDMCModel) -> Iterator[None]:
    """Evaluation mode, no gradient, and the back end that returns weights; as before afterwards."""
    back_end, was_training = encoder.attention_back_end, encoder.training
    encoder.eval()
    encoder.attention_back_end = "eager"
    try:
        with torch.no_grad():
            yield
    finally:
        encoder.attention_back_end = back_end
        encoder.train(was_training)


def layer_weights(encoder: ScDMCModel, cells: PackedCells) -> Iterator[list[torch.Tensor]]:
    """Yield, layer after layer, the attention weights of each cell, (n_heads, length, length); rows add up to 1.

    Row i, column j: how much token i reads of token j. Call it within :func:`eager_attention`.
    """
    states = encoder.embeddings(cells)
    attend = encoder.packed_attention(cells.layout, states.dtype)
    for layer in encoder.encoder.layer:
        states = layer(states, attend)
        yield attend.weights


def attention_batches(
    encoder: ScDMCModel, cells: TokenizedCells, stream: str, what: str | None
) -> Iterator[tuple[np.ndarray, PackedCells]]:
    """Yield (rows, packed stream) in batches whose attention weights fit into memory, with a progress bar."""
    longest = int(cells.rank_lengths.max())
    n_cells = MOST_WEIGHTS // (encoder.config.num_attention_heads * longest**2)
    with progress_bar(total=len(cells), unit=" cells", desc=what, disable=what is None) as progress:
        for chosen in batches_by_length(cells.rank_lengths, min(TOKENS_PER_BATCH["cpu"], max(1, n_cells) * longest)):
            yield chosen, packed_streams(cells, chosen, stream).to(encoder.device)
            progress.update(len(chosen))


def received_attention(
    encoder: ScDMCModel,
    cells: TokenizedCells,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    stream: str = "rank",
    min_cells: int = CELLS_PER_GENE,
    show_progress: bool = True,
) -> ReceivedAttention:
    """Mean attention that each gene receives in the cells of each type that have it.

    What a gene receives in a cell is the sum over all tokens that read it (a column of the attention matrix).

    Parameters
    ----------
    encoder, cells, labels, vocabulary, stream, min_cells, show_progress
        See :func:`scdmc.gene_analysis.states.embed_genes`; ``stream`` is ``rank`` or ``expression``.

    Raises
    ------
    ScDMCError
        If no gene has enough cells.
    """
    pairs = gene_pairs(cells, labels, vocabulary, [stream], min_cells)
    n_layers, n_heads = encoder.config.num_hidden_layers, encoder.config.num_attention_heads
    # The last column is that of <cls> as reader, over all layers and heads.
    sums = torch.zeros(len(pairs), n_layers * n_heads + 1, dtype=torch.float64)
    with eager_attention(encoder):
        for chosen, batch in attention_batches(encoder, cells, stream, "attention" if show_progress else None):
            read = [torch.zeros(n_layers * n_heads + 1, length) for length in batch.layout.lengths]
            for layer, weights in enumerate(layer_weights(encoder, batch)):
                for of_cell, of_heads in zip(read, weights, strict=True):
                    of_cell[layer * n_heads : (layer + 1) * n_heads] = of_heads.sum(dim=1)
                    of_cell[-1] += of_heads[:, 0].mean(dim=0).cpu() * (of_heads.shape[-1] / n_layers)
            of_type = np.repeat(pairs.cell_types[chosen], batch.layout.lengths)
            slot = torch.from_numpy(pairs.slots[of_type, batch.input_ids.cpu().numpy()])
            kept = slot >= 0
            sums.index_add_(0, slot[kept], torch.cat(read, dim=1).T[kept].double())
    means = (sums / torch.from_numpy(pairs.table["cells"].to_numpy())[:, None]).float().numpy()
    by_head = means[:, :-1].reshape(-1, n_layers, n_heads)
    table = pairs.table.assign(received=by_head.mean(axis=(1, 2)), from_cls=means[:, -1])
    return ReceivedAttention(table, by_head)


def head_properties(
    encoder: ScDMCModel, cells: TokenizedCells, stream: str, show_progress: bool = True
) -> pd.DataFrame:
    """What kind of reader each head is, averaged over the cells that have genes.

    Returns
    -------
    A row for each layer and head (both from 1): ``entropy`` of its rows (1: spread evenly, 0: on one token),
    ``to_specials`` (share of the genes' attention that goes to ``<cls>`` and ``<eos>``) and ``distance`` (mean |i - j|
    between reader and read, as share of the cell's length).

    Raises
    ------
    ScDMCError
        If no cell has genes.
    """
    n_layers, n_heads = encoder.config.num_hidden_layers, encoder.config.num_attention_heads
    cells = cells.select(np.flatnonzero(cells.rank_lengths > 2))  # <cls> and <eos> alone: no gene that could read
    if not len(cells):
        raise ScDMCError("none of the cells has a gene that the model reads, so its heads cannot be looked at")
    sums = torch.zeros(n_layers, n_heads, 3)
    with eager_attention(encoder):
        for _, batch in attention_batches(encoder, cells, stream, "heads" if show_progress else None):
            starts = batch.layout.cu_seqlens.tolist()
            is_special = batch.input_ids <= EOS_TOKEN_ID
            for layer, weights in enumerate(layer_weights(encoder, batch)):
                for cell, of_heads in enumerate(weights):
                    special = is_special[starts[cell] : starts[cell + 1]]
                    sums[layer] += _properties(of_heads, special).cpu()
    means = (sums / len(cells)).reshape(-1, 3).numpy()
    places = pd.MultiIndex.from_product([range(1, n_layers + 1), range(1, n_heads + 1)], names=["layer", "head"])
    return pd.DataFrame(means, index=places, columns=["entropy", "to_specials", "distance"]).reset_index()


def _properties(weights: torch.Tensor, is_special: torch.Tensor) -> torch.Tensor:
    """Entropy, share to specials and distance of one cell: (n_heads, length, length) -> (n_heads, 3)."""
    length = weights.shape[-1]
    entropy = torch.special.entr(weights).sum(dim=-1).mean(dim=-1) / np.log(length)
    to_specials = weights[:, ~is_special][..., is_special].sum(dim=-1).mean(dim=-1)
    position = torch.arange(length, device=weights.device)
    distance = (weights * (position[:, None] - position).abs()).sum(dim=-1).mean(dim=-1) / length
    return torch.stack([entropy, to_specials, distance], dim=-1)
