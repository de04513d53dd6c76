"""Masked batches of a run, one after the other from any of its steps on."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.masking import PretrainingBatch, masked_batch
from scdmc.training.settings import MaskingOptions


@dataclass(frozen=True)
class TrainingCells:
    """Cells of a pre-training run.

    Attributes
    ----------
    cells
        The data.
    training, held_out
        Which cells are trained on and which are held out, shapes (n_training,) and (n_held_out,).
    order
        Which cells of ``training`` make up each batch; drawn by length and seed without it.
    """

    cells: TokenizedCells
    training: np.ndarray
    held_out: np.ndarray
    order: BatchOrder | None = field(default=None, kw_only=True)


class _Batches(Dataset):
    """Masked batches by (epoch, number in the epoch): a resumed run asks for the next one."""

    def __init__(
        self,
        data: TrainingCells,
        order: BatchOrder,
        masking: MaskingOptions,
        process: tuple[int, int],
        reader: tuple[str, str],
    ) -> None:
        self.data = data
        self.order = order
        self.masking = masking
        self.process = process
        self.reader = reader
        self.epoch: int | None = None
        self.batches: list[np.ndarray] = []

    def __getitem__(self, number: tuple[int, int]) -> PretrainingBatch:
        epoch, index = number
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self.order.batches(epoch)
        chosen = self.data.training[self.batches[index]]
        return masked_batch(self.data.cells, chosen, epoch, self.masking, *self.process).prepared(*self.reader)


def masked_batches(
    data: TrainingCells,
    order: BatchOrder,
    masking: MaskingOptions,
    n_done: int = 0,
    process: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    reader: tuple[str, str] = ("sdpa", "cpu"),
) -> Iterator[PretrainingBatch]:
    """Batches without end, epoch after epoch.

    Parameters
    ----------
    data
        The cells.
    order
        Which of the training cells make up each batch.
    masking
        What of them is hidden.
    n_done
        Batches that were seen before: the first that comes is the next one.
    process
        Number of this process and number of processes; each gets its share of every batch.
    num_workers
        Processes that make batches ahead; 0 makes them in this one.
    reader
        Attention back end and kind of device that read the batches, which are prepared for them here; for a GPU they
        lie in memory that it reads by itself.
    """
    # A generator of its own: the loader would draw from the global one, which decides the dropout of a resumed run.
    loader = DataLoader(
        _Batches(data, order, masking, process, reader),
        batch_size=None,
        sampler=_numbers(order, n_done),
        num_workers=num_workers,
        pin_memory=reader[1] == "cuda",
        generator=torch.Generator(),
    )
    return iter(loader)


def _numbers(order: BatchOrder, n_done: int) -> Iterator[tuple[int, int]]:
    """(epoch, number in the epoch) of every batch after the first ``n_done``."""
    epoch, index = position(order, n_done)
    while True:
        for number in range(index, order.n_batches(epoch)):
            yield epoch, number
        epoch, index = epoch + 1, 0


def position(order: BatchOrder, n_done: int) -> tuple[int, int]:
    """Epoch and number in it of the batch that follows ``n_done`` others."""
    epoch, index = 0, n_done
    while index >= order.n_batches(epoch):
        index -= order.n_batches(epoch)
        epoch += 1
    return epoch, index
