"""From tokenized cells to packed batches: masking, both streams, and the order of the cells.

Source: docs/method.md, "Masking".

Every random number is a hash of (seed, epoch, cell, position), so that neither the batch nor the number of processes
changes what happens to a cell.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from scdmc.genes.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID
from scdmc.model.packing import NO_VALUE, UNKNOWN_VALUE, PackedCells, StreamPositions, pack_streams, stream_positions
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.settings import MaskingOptions

_RANK, _EXPRESSION, _ORDER, _RANK_VIEW, _EXPRESSION_VIEW = 0, 1, 2, 3, 4


def hashed_uniform(seed: int, epoch: int, stream: int, cells: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A uniform number in [0, 1) for each (seed, epoch, stream, cell, position), by the SplitMix64 finaliser.

    Parameters
    ----------
    seed, epoch, stream
        Integers.
    cells, positions
        Shape (n,), integers.

    Returns
    -------
    Shape (n,), float64.
    """
    state = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    for part in (np.uint64(epoch), np.uint64(stream), cells.astype(np.uint64), positions.astype(np.uint64)):
        state = _mix(state ^ _mix(part + np.uint64(0x9E3779B97F4A7C15)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class PretrainingBatch:
    """Both streams of n cells, masked and packed: the n rank streams, then the n expression streams.

    Attributes
    ----------
    streams
        The 2 n masked streams.
    masked_positions
        Shape (n_masked,), int64: where in ``streams.input_ids`` the masked genes are; rank stream first.
    labels
        Shape (n_masked,), int64: the genes that were masked.
    expression_values
        Shape (n_masked,), float32: expression value of each masked gene; 0 in the rank stream.
    n_masked_rank
        How many of the masked genes are in the rank stream.
    cells
        Shape (n_cells,), int64: rows of the cells in the data.
    fingerprints
        Shape (n_cells,), int64: equal where two cells have identical streams.
    cells_by_process
        How many cells of the same global batch each process has; one number for one process.
    """

    streams: PackedCells
    masked_positions: torch.Tensor
    labels: torch.Tensor
    expression_values: torch.Tensor
    n_masked_rank: int
    cells: torch.Tensor
    fingerprints: torch.Tensor
    cells_by_process: tuple[int, ...]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def is_shared(self) -> bool:
        """True if other processes have other cells of the same global batch."""
        return len(self.cells_by_process) > 1

    def to(self, device: torch.device) -> "PretrainingBatch":
        """The same on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True), self.streams.to(device))

    def pin_memory(self) -> "PretrainingBatch":
        """The same in memory that a GPU reads by itself; the loader of batches calls this."""
        return self._with(torch.Tensor.pin_memory, self.streams.pin_memory())

    def prepared(self, back_end: str, device_type: str) -> "PretrainingBatch":
        """The same with what both encoders read of its layout (:meth:`PackedLayout.prepared`)."""
        return replace(self, streams=self.streams.prepared(back_end, device_type))

    def _with(self, moved: Callable[[torch.Tensor], torch.Tensor], streams: PackedCells) -> "PretrainingBatch":
        """The same with its tensors moved; the rows of the cells stay on the host."""
        return replace(self, streams=streams, **{name: moved(getattr(self, name)) for name in MOVED})


# Tensors of a batch that a step reads on the device.
MOVED = ("masked_positions", "labels", "expression_values", "fingerprints")


def masked_batch(
    cells: TokenizedCells,
    chosen: np.ndarray,
    epoch: int,
    options: MaskingOptions,
    process: int = 0,
    n_processes: int = 1,
) -> PretrainingBatch:
    """The chosen cells with masked genes; over several processes, the share of one of them.

    Parameters
    ----------
    cells
        The data.
    chosen
        Shape (n_cells,): which cells.
    epoch
        Decides, with the seed and the row of a cell, what is drawn.
    options
        See :class:`MaskingOptions`.
    process, n_processes
        Process p of n takes the cells p, p + n, p + 2 n, ... of ``chosen``.
    """
    cells_by_process = tuple(len(range(number, len(chosen), n_processes)) for number in range(n_processes))
    chosen = chosen[process::n_processes]
    rows = cells.rows[chosen]
    rank, expression = stream_positions(cells, chosen, options.streams)
    fingerprints = _fingerprints(cells, rank, expression)
    if options.view_dropout:
        rank = _thinned(cells.rank_ids, rank, rows, (options.seed, epoch, _RANK_VIEW), options.view_dropout)
        expression = _thinned(
            cells.expression_ids, expression, rows, (options.seed, epoch, _EXPRESSION_VIEW), options.view_dropout
        )
    if options.expression_order == "random":
        expression = _shuffled(cells, expression, rows, options.seed, epoch)
    streams = pack_streams(cells, rank, expression)
    input_ids, n_rank = streams.input_ids.numpy(), len(rank.positions)
    rank_masked = _masked_positions(input_ids[:n_rank], rank.offsets, rows, (options.seed, epoch, _RANK), options)
    expression_masked = n_rank + _masked_positions(
        input_ids[n_rank:], expression.offsets, rows, (options.seed, epoch, _EXPRESSION), options
    )
    positions = np.concatenate([rank_masked, expression_masked])
    labels = input_ids[positions]
    values = streams.expression_values.numpy()
    masked_values = np.maximum(values[positions], 0.0)
    hidden = positions if options.mask_expression_input else rank_masked
    input_ids[hidden] = MASK_TOKEN_ID
    values[hidden] = np.where(values[hidden] == NO_VALUE, NO_VALUE, UNKNOWN_VALUE)
    return PretrainingBatch(
        streams,
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        torch.from_numpy(masked_values),
        len(rank_masked),
        torch.from_numpy(rows),
        torch.from_numpy(fingerprints),
        cells_by_process,
    )


def _thinned(
    ids: np.ndarray, stream: StreamPositions, rows: np.ndarray, draw: tuple[int, int, int], view_dropout: float
) -> StreamPositions:
    """A stream without a random share of its genes; the others, and the special tokens, keep their order."""
    lengths = np.diff(stream.offsets)
    uniform = hashed_uniform(*draw, np.repeat(rows, lengths), _positions_in_cell(stream.offsets))
    is_kept = (uniform >= view_dropout) | (ids[stream.positions] <= EOS_TOKEN_ID)
    n_kept_before = np.concatenate([[0], np.cumsum(is_kept)])
    return StreamPositions(stream.positions[is_kept], n_kept_before[stream.offsets])


def _shuffled(
    cells: TokenizedCells, expression: StreamPositions, rows: np.ndarray, seed: int, epoch: int
) -> StreamPositions:
    """The genes of each expression stream in random order; ``<cls>`` stays first and ``<eos>`` last."""
    lengths = np.diff(expression.offsets)
    place = _positions_in_cell(expression.offsets)
    key = hashed_uniform(seed, epoch, _ORDER, np.repeat(rows, lengths), place)
    key[expression.offsets[:-1]] = -1.0
    key[expression.offsets[1:] - 1] = 2.0
    cell = np.repeat(np.arange(len(lengths)), lengths)
    return StreamPositions(expression.positions[np.lexsort((key, cell))], expression.offsets)


def _masked_positions(
    ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, draw: tuple[int, int, int], options: MaskingOptions
) -> np.ndarray:
    """Where genes of one stream are masked, ascending."""
    if not len(ids):
        return np.empty(0, dtype=np.int64)
    lengths = np.diff(offsets)
    is_gene = ids > EOS_TOKEN_ID
    uniform = hashed_uniform(*draw, np.repeat(rows, lengths), _positions_in_cell(offsets))
    return np.flatnonzero(is_gene & (uniform < options.mask_probability))


def _positions_in_cell(offsets: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each cell, shape (total_tokens,)."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def _fingerprints(cells: TokenizedCells, rank: StreamPositions, expression: StreamPositions) -> np.ndarray:
    """A hash of the tokens, order and values of each cell before masking, shape (n_cells,), int64."""
    place = _positions_in_cell(rank.offsets).astype(np.uint64) << np.uint64(32)
    rank_hash = _mix(place | cells.rank_ids[rank.positions].astype(np.uint64))
    value_bits = cells.expression_values[expression.positions].view(np.uint32).astype(np.uint64) << np.uint64(32)
    expression_hash = _mix(~(value_bits | cells.expression_ids[expression.positions].astype(np.uint64)))
    parts = [(rank_hash, rank.offsets[:-1]), (expression_hash, expression.offsets[:-1])]
    total = sum(np.add.reduceat(hashes, starts) for hashes, starts in parts if len(hashes))
    return total.view(np.int64)
