"""From tokenized cells to packed batches: masking, both streams, and the order of the cells (design.md, section 6).

Every random number is a hash of (seed, epoch, cell, position), so that neither the batch nor the number of processes
changes what happens to a cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from scdmc.attention import PackedLayout
from scdmc.modeling import PackedCells
from scdmc.tokenized_data import TokenizedCells, gather_index
from scdmc.vocabulary import EOS_TOKEN_ID, MASK_TOKEN_ID

MASK_PROBABILITY = 0.15
# Batches of similar lengths are cut from this many batches' worth of shuffled cells.
BATCHES_PER_GROUP = 32

_RANK, _EXPRESSION = 0, 1


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
    """

    streams: PackedCells
    masked_positions: torch.Tensor
    labels: torch.Tensor
    expression_values: torch.Tensor
    n_masked_rank: int
    cells: torch.Tensor

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    def to(self, device: torch.device) -> "PretrainingBatch":
        """The same on another device."""
        moved = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if item.name in ("masked_positions", "labels", "expression_values")
        }
        return replace(self, streams=self.streams.to(device), **moved)


def packed_streams(cells: TokenizedCells, chosen: np.ndarray, stream: str) -> PackedCells:
    """Pack one stream of the chosen cells, or (``both``) their rank streams followed by their expression streams."""
    parts = []
    if stream in ("rank", "both"):
        parts.append((cells.rank_ids, *gather_index(cells.rank_offsets, chosen)))
    if stream in ("expression", "both"):
        parts.append((cells.expression_ids, *gather_index(cells.expression_offsets, chosen)))
    input_ids = np.concatenate([ids[positions] for ids, positions, _ in parts]).astype(np.int64)
    lengths = np.concatenate([np.diff(offsets) for _, _, offsets in parts]).tolist()
    return PackedCells(torch.from_numpy(input_ids), PackedLayout.from_lengths(lengths))


def masked_batch(
    cells: TokenizedCells, chosen: np.ndarray, seed: int, epoch: int, mask_probability: float = MASK_PROBABILITY
) -> PretrainingBatch:
    """Both streams of the chosen cells with masked genes.

    Parameters
    ----------
    cells
        The data.
    chosen
        Shape (n_cells,): rows of the cells.
    seed, epoch
        Decide, with the row of a cell, which of its genes are masked.
    mask_probability
        Share of the genes that become ``<mask>``, drawn independently in both streams; special tokens never do.
    """
    rank, rank_offsets = gather_index(cells.rank_offsets, chosen)
    expression, expression_offsets = gather_index(cells.expression_offsets, chosen)
    rank_masked = _masked_positions(cells.rank_ids[rank], rank_offsets, chosen, (seed, epoch, _RANK), mask_probability)
    expression_masked = _masked_positions(
        cells.expression_ids[expression], expression_offsets, chosen, (seed, epoch, _EXPRESSION), mask_probability
    )
    streams = packed_streams(cells, chosen, "both")
    positions = torch.from_numpy(np.concatenate([rank_masked, expression_masked + len(rank)]))
    labels = streams.input_ids[positions]
    streams.input_ids[positions] = MASK_TOKEN_ID
    values = np.zeros(len(positions), dtype=np.float32)
    values[len(rank_masked) :] = cells.expression_values[expression[expression_masked]]
    return PretrainingBatch(
        streams, positions, labels, torch.from_numpy(values), len(rank_masked), torch.from_numpy(np.asarray(chosen))
    )


def _masked_positions(
    ids: np.ndarray, offsets: np.ndarray, chosen: np.ndarray, draw: tuple[int, int, int], mask_probability: float
) -> np.ndarray:
    """Where genes of one stream are masked, ascending."""
    lengths = np.diff(offsets)
    cells = np.repeat(np.asarray(chosen), lengths)
    positions = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    is_gene = ids > EOS_TOKEN_ID
    return np.flatnonzero(is_gene & (hashed_uniform(*draw, cells, positions) < mask_probability))


class BatchOrder:
    """Which cells make up each batch: a shuffle by (seed, epoch), then batches of similar lengths.

    Cells of similar lengths go together because on a CPU a batch costs what its longest cells cost; the batches
    themselves come in random order. The last cells of an epoch make a smaller batch.

    Parameters
    ----------
    lengths
        Shape (n_cells,): tokens of each cell.
    batch_size
        Cells in a batch.
    seed
        Of the shuffle.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of the cells of every batch of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        group_size = self.batch_size * BATCHES_PER_GROUP
        groups = [order[start : start + group_size] for start in range(0, len(order), group_size)]
        by_length = np.concatenate([group[np.argsort(self.lengths[group], kind="stable")] for group in groups])
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(by_length), self.batch_size)]
        generator.shuffle(batches)
        return batches


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
