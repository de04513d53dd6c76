"""A packed batch: streams of many cells in one row of tokens, padding taken out, and pooling over it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from scdmc.genes.vocabulary import EOS_TOKEN_ID
from scdmc.model.layout import PackedLayout
from scdmc.tokens.tokenized_cells import TokenizedCells, gather_index

# Weights of genes add up to more, unless a cell has none.
SMALLEST_WEIGHT = 1e-6


# In place of an expression value (which is never negative): a masked gene, and a token that has none.
UNKNOWN_VALUE, NO_VALUE = -1.0, -2.0


@dataclass(frozen=True)
class PackedCells:
    """One stream of several cells, packed.

    Attributes
    ----------
    input_ids
        Shape (total_tokens,), int64.
    layout
        Where each cell lies.
    expression_values
        Shape (total_tokens,), float32, for models with ``expression_input = "value"``; :data:`UNKNOWN_VALUE` for a
        masked gene, :data:`NO_VALUE` for the rank stream and for special tokens.
    gene_values
        Shape (total_tokens,), float32: the value of each gene in either stream, 0 for special tokens; for pooling by
        value, None where nobody asked for it.
    """

    input_ids: torch.Tensor
    layout: PackedLayout
    expression_values: torch.Tensor | None = None
    gene_values: torch.Tensor | None = None

    def to(self, device: torch.device) -> "PackedCells":
        """The same on another device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PackedCells":
        """The same in memory that a GPU reads by itself."""
        return self._moved(torch.Tensor.pin_memory)

    def prepared(self, back_end: str, device_type: str) -> "PackedCells":
        """The same with what attention reads of the layout (:meth:`PackedLayout.prepared`)."""
        return replace(self, layout=self.layout.prepared(back_end, device_type))

    def _moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PackedCells":
        values = (None if values is None else move(values) for values in (self.expression_values, self.gene_values))
        return PackedCells(move(self.input_ids), self.layout.moved(move), *values)

    @property
    def cls_positions(self) -> torch.Tensor:
        """Where the ``<cls>`` of each cell is, shape (n_cells,)."""
        return self.layout.first_tokens


def pack(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, expression_values: torch.Tensor | None = None
) -> PackedCells:
    """Drop the padding of (n_cells, length) ids and values; cells are padded on the right."""
    lengths = attention_mask.sum(dim=1)
    is_right_padded = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    if not torch.equal(is_right_padded, attention_mask.bool()):
        raise ValueError("attention_mask should be 1 for the tokens of a cell, then 0 for the padding on the right")
    layout = PackedLayout.from_lengths(lengths.tolist(), input_ids.device)
    values = None if expression_values is None else expression_values[is_right_padded]
    return PackedCells(input_ids[is_right_padded], layout, values)


def pool(states: torch.Tensor, cells: PackedCells, pooling: str) -> torch.Tensor:
    """One vector per stream of a cell: (total_tokens, hidden_size) -> (n_streams, hidden_size)."""
    if pooling == "cls":
        return states[cells.cls_positions]
    lengths = cells.layout.cu_seqlens.diff().long()
    weights = (cells.input_ids > EOS_TOKEN_ID).to(states.dtype)
    if pooling == "weighted":
        if cells.gene_values is None:
            raise ValueError("pooling 'weighted' needs cells that were packed with their gene values")
        weights = weights * cells.gene_values.to(states.dtype)
    streams = torch.arange(len(lengths), device=states.device)
    stream = torch.repeat_interleave(streams, lengths, output_size=len(states))  # else a GPU is waited for
    sums = states.new_zeros(len(lengths), states.shape[-1]).index_add_(0, stream, states * weights[:, None])
    totals = weights.new_zeros(len(lengths)).index_add_(0, stream, weights)
    return sums / totals.clamp(min=SMALLEST_WEIGHT)[:, None]  # a cell without genes gets zeros


@dataclass(frozen=True)
class StreamPositions:
    """Where the tokens of one stream of some cells are in the data, and where each cell starts."""

    positions: np.ndarray
    offsets: np.ndarray


def stream_positions(cells: TokenizedCells, chosen: np.ndarray, stream: str) -> tuple[StreamPositions, StreamPositions]:
    """The rank and the expression stream of the chosen cells; the one that ``stream`` does not ask for is empty."""
    none = np.empty(0, dtype=np.int64)
    return (
        StreamPositions(*gather_index(cells.rank_offsets, chosen if stream != "expression" else none)),
        StreamPositions(*gather_index(cells.expression_offsets, chosen if stream != "rank" else none)),
    )


def pack_streams(cells: TokenizedCells, rank: StreamPositions, expression: StreamPositions) -> PackedCells:
    """The rank streams, then the expression streams with their values."""
    expression_ids = cells.expression_ids[expression.positions]
    input_ids = np.concatenate([cells.rank_ids[rank.positions], expression_ids]).astype(np.int64)
    values = np.full(len(input_ids), NO_VALUE, dtype=np.float32)
    is_gene = expression_ids > EOS_TOKEN_ID
    values[len(rank.positions) :][is_gene] = cells.expression_values[expression.positions][is_gene]
    lengths = np.concatenate([np.diff(rank.offsets), np.diff(expression.offsets)]).tolist()
    return PackedCells(torch.from_numpy(input_ids), PackedLayout.from_lengths(lengths), torch.from_numpy(values))


def packed_streams(
    cells: TokenizedCells, chosen: np.ndarray, stream: str, with_gene_values: bool = False
) -> PackedCells:
    """Pack one stream of the chosen cells, or (``both``) their rank streams followed by their expression streams.

    Genes of both streams carry their values ``with_gene_values``, for pooling by value.
    """
    rank, expression = stream_positions(cells, chosen, stream)
    packed = pack_streams(cells, rank, expression)
    if not with_gene_values:
        return packed
    values_of_rank = _values_of_rank(cells, chosen) if len(rank.positions) else np.empty(0, dtype=np.float32)
    values = np.concatenate([values_of_rank, cells.expression_values[expression.positions]])
    values[packed.input_ids.numpy() <= EOS_TOKEN_ID] = 0
    return replace(packed, gene_values=torch.from_numpy(values))


def _values_of_rank(cells: TokenizedCells, chosen: np.ndarray) -> np.ndarray:
    """Value of each token of the rank streams, found in the expression streams; 0 where it is not there."""
    rank, expression = stream_positions(cells, chosen, "both")
    keys = _cell_and_token(cells.expression_ids, expression)
    order = np.argsort(keys)
    wanted = _cell_and_token(cells.rank_ids, rank)
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    values = cells.expression_values[expression.positions][place]
    return np.where(keys[place] == wanted, values, np.float32(0))


def _cell_and_token(ids: np.ndarray, stream: StreamPositions) -> np.ndarray:
    """One integer for the cell and the token of each position of a stream, shape (total_tokens,)."""
    cell = np.repeat(np.arange(len(stream.offsets) - 1), np.diff(stream.offsets))
    return cell << 32 | ids[stream.positions]


def batches_by_length(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Rows of cells in batches of similar lengths and about equal numbers of tokens, for inference.

    Parameters
    ----------
    lengths
        Shape (n_cells,).
    tokens_per_batch
        Most tokens of a batch; a longer cell makes a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        total = lengths[order[start]]
        while stop < len(order) and total + lengths[order[stop]] <= tokens_per_batch:
            total += lengths[order[stop]]
            stop += 1
        yield order[start:stop]
        start = stop


def computing_type(tensor: torch.Tensor) -> torch.dtype:
    """The type in which products with a tensor are computed: autocast's where it is on."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """A context in which products on the device of a tensor are computed in its own type."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
