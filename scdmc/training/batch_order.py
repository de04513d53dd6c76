"""The order of cells and batches of an epoch, drawn from the seed and kept over a resume."""

import numpy as np

from scdmc.errors import ScDMCError
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.settings import PretrainingSettings

# Batches of similar lengths are cut from this many batches' worth of shuffled cells.
BATCHES_PER_GROUP = 32


class BatchOrder:
    """Which cells make up each batch: a shuffle by (seed, epoch), then batches of similar lengths.

    Cells of similar lengths go together, so that attention of one length is computed at once and processes wait little
    for each other; the batches themselves come in random order. The last cells of an epoch make a smaller batch, or
    join the one before if they are fewer than half a batch: then no process is left without cells, and the order does
    not depend on the number of processes.

    With ``tokens_per_batch`` batches hold about as many tokens instead of as many cells, so that memory does not depend
    on how long the cells are that meet in a batch. The number of batches may then differ from epoch to epoch.

    Parameters
    ----------
    lengths
        Shape (n_cells,): tokens of each cell, over all streams.
    batch_size
        Cells in a batch.
    seed
        Of the shuffle.
    tokens_per_batch
        Most tokens in a batch, instead of ``batch_size``.

    Attributes
    ----------
    fewest_cells
        No batch of any epoch holds fewer cells, but where there are fewer in all.

    Raises
    ------
    ScDMCError
        If fewer than four of the longest cells fit into ``tokens_per_batch``: a contrast needs other cells.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, tokens_per_batch: int | None = None) -> None:
        self.lengths = np.asarray(lengths)
        self.seed = seed
        self.tokens_per_batch = tokens_per_batch
        self.batch_size = batch_size
        self.fewest_cells = max(1, batch_size // 2)
        self._batches_by_epoch: dict[int, int] = {}
        if tokens_per_batch is not None:
            longest = int(self.lengths.max())
            if tokens_per_batch < 4 * longest:
                raise ScDMCError(
                    f"{tokens_per_batch} tokens in a batch are too few: four cells of {longest} tokens (the longest) "
                    "should fit; raise --tokens_per_batch"
                )
            self.batch_size = int(tokens_per_batch / self.lengths.mean())
            self.fewest_cells = tokens_per_batch // longest // 2
        self.fewest_cells = min(self.fewest_cells, len(self.lengths))

    def __len__(self) -> int:
        """Batches of an epoch; with ``tokens_per_batch``, of the first."""
        return self.n_batches(0)

    def n_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        if self.tokens_per_batch is not None:
            if epoch not in self._batches_by_epoch:
                self._batches_by_epoch[epoch] = len(self._batches_within_tokens(self._generator(epoch)))
            return self._batches_by_epoch[epoch]
        return self._n_batches_of(len(self.lengths))

    def _n_batches_of(self, n_cells: int) -> int:
        """Batches that so many cells make."""
        n_full, rest = divmod(n_cells, self.batch_size)
        return max(1, n_full + (rest > 0 and 2 * rest >= self.batch_size))

    @property
    def cells_per_batch(self) -> float:
        """Cells of a batch, on average."""
        return len(self.lengths) / len(self)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of the cells of every batch of an epoch."""
        generator = self._generator(epoch)
        if self.tokens_per_batch is not None:
            batches = self._batches_within_tokens(generator)
        else:
            batches = self._batches_of_equal_cells(generator)
        generator.shuffle(batches)
        return batches

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])

    def _batches_of_equal_cells(self, generator: np.random.Generator) -> list[np.ndarray]:
        return self._batches_of(np.arange(len(self.lengths)), generator)

    def _batches_of(self, cells: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """Batches of so many of these cells, shuffled."""
        order = cells[generator.permutation(len(cells))]
        group_size = self.batch_size * BATCHES_PER_GROUP
        groups = [order[start : start + group_size] for start in range(0, len(order), group_size)]
        by_length = np.concatenate([self._by_length(group) for group in groups])
        return np.split(by_length, np.arange(1, self._n_batches_of(len(cells))) * self.batch_size)

    def _batches_within_tokens(self, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(len(self.lengths))
        n_groups = max(1, round(len(order) / (self.batch_size * BATCHES_PER_GROUP)))
        return [batch for group in np.array_split(order, n_groups) for batch in self._cut(self._by_length(group))]

    def _cut(self, group: np.ndarray) -> list[np.ndarray]:
        """Cut sorted cells into full batches; the last one takes cells from the one before if it has too few."""
        ends = np.cumsum(self.lengths[group])
        cuts = [0]
        while cuts[-1] < len(group):
            before = ends[cuts[-1] - 1] if cuts[-1] else 0
            cuts.append(int(np.searchsorted(ends, before + self.tokens_per_batch, side="right")))
        if len(cuts) > 2:
            cuts[-2] = min(cuts[-2], len(group) - self.fewest_cells)
        return np.split(group, cuts[1:-1])

    def _by_length(self, group: np.ndarray) -> np.ndarray:
        return group[np.argsort(self.lengths[group], kind="stable")]


class GroupedBatchOrder(BatchOrder):
    """The same with cells of one group in a batch; groups of fewer cells than half a batch are taken as one.

    Parameters
    ----------
    lengths, batch_size, seed
        See :class:`BatchOrder`.
    groups
        Shape (n_cells,), integers: the group of each cell.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, groups: np.ndarray) -> None:
        super().__init__(lengths, batch_size, seed)
        _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        number = np.where(2 * sizes[number] < batch_size, -1, number)
        self.members = [np.flatnonzero(number == group) for group in np.unique(number)]
        self.fewest_cells = min(self.fewest_cells, *(len(members) for members in self.members))

    def n_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        return sum(self._n_batches_of(len(members)) for members in self.members)

    def _batches_of_equal_cells(self, generator: np.random.Generator) -> list[np.ndarray]:
        return [batch for members in self.members for batch in self._batches_of(members, generator)]


def batch_order_of(
    cells: TokenizedCells, training: np.ndarray, settings: PretrainingSettings, groups: np.ndarray | None = None
) -> BatchOrder:
    """The order of the parts of batches; with groups (n_training,), a part holds cells of one of them."""
    parts = settings.gradient_accumulation_steps
    n_streams = 2 if settings.streams == "both" else 1
    tokens = None if settings.tokens_per_batch is None else settings.tokens_per_batch // parts
    lengths = n_streams * cells.rank_lengths[training]
    if groups is not None:
        return GroupedBatchOrder(lengths, settings.batch_size // parts, settings.seed, groups)
    return BatchOrder(lengths, settings.batch_size // parts, settings.seed, tokens)
