"""Where the cells of a packed batch lie, and what attention makes of that once a batch (docs/method.md, "Encoder").

All of it follows from the lengths of the cells. So the process that makes a batch can prepare it and send it along, and
both encoders of pre-training read the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

# How much shorter than the longest cell of a similar run another one may be. On a GPU a call costs more than padding.
LARGEST_PADDING = {"cpu": 0.1, "cuda": 0.5}


# Tokens of a block of FlexAttention's mask.
FLEX_BLOCK = 128


def for_device(choices: Mapping[str, float], device_type: str) -> float:
    """The choice for a kind of device; that for a CPU where there is none."""
    return choices.get(device_type, choices["cpu"])


@dataclass(frozen=True)
class PaddedRun:
    """Neighbouring cells, packed and padded.

    Attributes
    ----------
    start, stop
        Their tokens in the batch.
    is_token
        Shape (n_cells, length): False where there is padding.
    tokens
        Shape (n_cells * length,): the token of the run that stands at each place; some token where there is padding.
    places
        Shape (stop - start,): where each token stands.
    """

    start: int
    stop: int
    is_token: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of_cells(cls, start: int, lengths: list[int], starts: torch.Tensor) -> "PaddedRun":
        """The run of cells of these lengths, which start at ``starts`` (n_cells,); made where that tensor is.

        Nothing is sent to the device and nothing is waited for.
        """
        n_tokens, longest = sum(lengths), max(lengths)
        starts = starts - start
        ends = torch.cat([starts[1:], starts.new_full((1,), n_tokens)])
        place = torch.arange(longest, device=starts.device)
        is_token = place < (ends - starts)[:, None]
        tokens = (starts[:, None] + place.where(is_token, 0)).flatten()
        cells = torch.arange(len(lengths), device=starts.device)
        of_token = torch.repeat_interleave(cells, ends - starts, output_size=n_tokens)
        places = torch.arange(n_tokens, device=starts.device) - starts[of_token] + of_token * longest
        return cls(start, start + n_tokens, is_token, tokens, places)

    @property
    def length(self) -> int:
        """Tokens of the longest cell."""
        return self.is_token.shape[1]

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """(total_tokens, ...) -> (n_cells, length, ...)."""
        rows = _Padded.apply(packed[self.start : self.stop].flatten(1), self.tokens, self.places)
        return rows.view(*self.is_token.shape, *packed.shape[1:])

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_cells, length, ...) -> (stop - start, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)


class _Padded(torch.autograd.Function):
    """Rows at their places in padded cells. Padding gets no gradient, so that the way back is a choice of rows too.

    Autograd's own way back adds rows up one by one, which is slow on a GPU and not the same at every run.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, rows: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        context.save_for_backward(places)
        return rows.index_select(0, tokens)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (places,) = context.saved_tensors
        return gradient.index_select(0, places), None, None


@dataclass(frozen=True)
class PaddedRuns:
    """All cells of a batch in runs of similar lengths; the tensors of the runs are joined, to be sent as three.

    Attributes
    ----------
    sizes
        Cells, tokens of the longest cell and tokens of each run.
    is_token, tokens, places
        Those of :class:`PaddedRun`, flat and one run after the other.
    """

    sizes: tuple[tuple[int, int, int], ...]
    is_token: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of_runs(cls, runs: Sequence[PaddedRun]) -> "PaddedRuns":
        """Join runs that follow each other."""
        sizes = tuple((*run.is_token.shape, run.stop - run.start) for run in runs)
        is_token = torch.cat([run.is_token.flatten() for run in runs])
        return cls(sizes, is_token, torch.cat([run.tokens for run in runs]), torch.cat([run.places for run in runs]))

    def __iter__(self) -> Iterator[PaddedRun]:
        start = padded = 0
        for n_cells, length, n_tokens in self.sizes:
            stop, places = start + n_tokens, slice(padded, padded + n_cells * length)
            is_token = self.is_token[places].view(n_cells, length)
            yield PaddedRun(start, stop, is_token, self.tokens[places], self.places[start:stop])
            start, padded = stop, places.stop

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PaddedRuns":
        """The same with its tensors moved."""
        return PaddedRuns(self.sizes, move(self.is_token), move(self.tokens), move(self.places))


@dataclass(frozen=True)
class SeenBlocks:
    """FlexAttention's block mask as tensors: a token sees the tokens of its own cell.

    ``create_block_mask`` asks for every pair of tokens, which takes memory for the square of all tokens of a batch. Of
    cells that lie one after the other, the tokens of a block see neighbouring blocks only: those of their cells.

    Attributes
    ----------
    cell
        Shape (total_tokens,), int32: the cell of each token.
    partial_counts, partial_numbers
        Shapes (1, 1, n_blocks) and (1, 1, n_blocks, most), int32: how many and which blocks each block sees in part.
    full_counts, full_numbers
        Likewise those that it sees whole, because all tokens of both are of one cell.
    """

    cell: torch.Tensor
    partial_counts: torch.Tensor
    partial_numbers: torch.Tensor
    full_counts: torch.Tensor
    full_numbers: torch.Tensor

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "SeenBlocks":
        """The blocks of cells of these lengths, on the host."""
        cell_lengths = torch.tensor(lengths)
        ends = cell_lengths.cumsum(0)
        starts, total = ends - cell_lengths, int(ends[-1])
        first_tokens = torch.arange(0, total, FLEX_BLOCK)
        last_tokens = (first_tokens + FLEX_BLOCK).clamp(max=total) - 1
        first_cell, last_cell = (torch.searchsorted(ends, tokens, right=True) for tokens in (first_tokens, last_tokens))
        first_seen, last_seen = starts[first_cell] // FLEX_BLOCK, (ends[last_cell] - 1) // FLEX_BLOCK
        is_inside = (first_cell == last_cell) & (first_tokens + FLEX_BLOCK <= ends[first_cell])
        first_full, end_full = -(-starts[first_cell] // FLEX_BLOCK), ends[first_cell] // FLEX_BLOCK
        seen = first_seen[:, None] + torch.arange(int((last_seen - first_seen).max()) + 1)  # (n_blocks, most seen)
        is_seen = seen <= last_seen[:, None]
        is_full = is_inside[:, None] & (seen >= first_full[:, None]) & (seen < end_full[:, None])
        columns = []
        for listed in (is_seen & ~is_full, is_full):
            numbers = seen.gather(1, (~listed).int().argsort(dim=1, stable=True)).clamp(max=len(seen) - 1)
            columns += [listed.sum(dim=1), numbers]
        cell = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), cell_lengths, output_size=total)
        return cls(cell, *(column[None, None].int() for column in columns))

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "SeenBlocks":
        """The same with its tensors moved."""
        return SeenBlocks(*(move(getattr(self, name)) for name in self.__dataclass_fields__))

    def block_mask(self) -> object:
        """FlexAttention's ``BlockMask``."""
        from torch.nn.attention.flex_attention import BlockMask

        cell = self.cell

        def same_cell(batch, head, query, key):  # noqa: ANN001  (FlexAttention's own signature)
            return cell[query] == cell[key]

        columns = self.partial_counts, self.partial_numbers, self.full_counts, self.full_numbers
        # What a block sees sees the block: the mask is symmetric.
        return BlockMask((len(cell), len(cell)), *columns, *columns, (FLEX_BLOCK, FLEX_BLOCK), same_cell)


@dataclass(frozen=True)
class PackedLayout:
    """Where the cells lie in a packed batch.

    Attributes
    ----------
    cu_seqlens
        Shape (n_cells + 1,), int32, on the device of the tokens.
    lengths
        Tokens of each cell, on the host, so that no back end has to wait for the device.
    runs, blocks
        What attention makes of it, where that was prepared (:meth:`prepared`).
    """

    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    runs: PaddedRuns | None = None
    blocks: SeenBlocks | None = None

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device | str = "cpu") -> "PackedLayout":
        """Layout of cells of these lengths."""
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(torch.tensor(lengths, dtype=torch.int32), dim=0, out=cu_seqlens[1:])
        return cls(cu_seqlens.to(device, non_blocking=True), tuple(lengths))

    @property
    def first_tokens(self) -> torch.Tensor:
        """Where each cell starts, shape (n_cells,), int64."""
        return self.cu_seqlens[:-1].long()

    @property
    def max_length(self) -> int:
        """Tokens of the longest cell."""
        return max(self.lengths)

    def prepared(self, back_end: str, device_type: str) -> "PackedLayout":
        """The same with what attention by a back end on such a device reads, made where the layout is."""
        blocks = SeenBlocks.of_lengths(self.lengths) if back_end == "flex" else None
        return replace(self, runs=self.padded_runs(device_type), blocks=blocks)

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "PackedLayout":
        """The same with its tensors moved."""
        runs, blocks = (part and part.moved(move) for part in (self.runs, self.blocks))
        return PackedLayout(move(self.cu_seqlens), self.lengths, runs, blocks)

    def padded_runs(self, device_type: str) -> PaddedRuns:
        """Neighbouring cells of similar lengths, padded to the longest of them; made where the layout is."""
        runs, n_done, starts = [], 0, self.first_tokens
        for start, lengths in self.similar_runs(for_device(LARGEST_PADDING, device_type)):
            runs.append(PaddedRun.of_cells(start, lengths, starts[n_done : n_done + len(lengths)]))
            n_done += len(lengths)
        return PaddedRuns.of_runs(runs)

    def similar_runs(self, largest_padding: float = LARGEST_PADDING["cpu"]) -> list[tuple[int, list[int]]]:
        """Neighbouring cells of similar lengths as (first token, lengths); padding them all costs little."""
        runs, start, shortest, longest = [], 0, 0, 0
        for length in self.lengths:
            shortest, longest = min(shortest, length), max(longest, length)
            if runs and longest - shortest <= largest_padding * longest:
                runs[-1][1].append(length)
            else:
                runs.append((start, [length]))
                shortest = longest = length
            start += length
        return runs

    def equal_runs(self) -> list[tuple[int, int, int]]:
        """Neighbouring cells of one length as (first token, number of cells, length)."""
        runs, start = [], 0
        for length, cells in groupby(self.lengths):
            n_cells = len(list(cells))
            runs.append((start, n_cells, length))
            start += n_cells * length
        return runs
