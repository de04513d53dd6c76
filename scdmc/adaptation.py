"""Adapting a pre-trained model to cells without their labels: pre-training goes on with these cells alone."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scdmc.batches import BatchOrder
from scdmc.errors import ScDMCError
from scdmc.model_directory import ModelDirectory, load_model
from scdmc.modeling import ScDMCForMaskedLM, ScDMCModel, ScDMCPreTrainedModel
from scdmc.pretraining import Pretraining, PretrainingSettings
from scdmc.tokenized_data import TokenizedCells

logger = logging.getLogger(__name__)

CELLS_OF_EVALUATION = 256
NEVER = 10**9


@dataclass(frozen=True)
class AdaptationSettings:
    """How long and how fast pre-training goes on; all else is as in :class:`scdmc.pretraining.PretrainingSettings`.

    Attributes
    ----------
    minutes
        Train this long; the schedule follows the clock.
    steps
        Train so many optimizer steps instead, which gives the same model on every machine of a kind.
    learning_rate
        Peak of the schedule.
    batch_size
        Cells of an optimizer step: each is contrasted with the others.
    batch_balanced
        Each step holds every batch of the data in its share, so that telling batches apart does not help the contrast;
        otherwise cells of similar lengths meet, which often are cells of one batch.
    queue_size
        Past keys of each stream that serve as more negatives; 0 for none.
    """

    minutes: float = 3.0
    steps: int | None = None
    learning_rate: float = 5e-5
    batch_size: int = 24
    batch_balanced: bool = False
    queue_size: int = 0

    def for_seed(self, seed: int) -> PretrainingSettings:
        """Settings of the run: it is evaluated and saved at its end only."""
        return PretrainingSettings(
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_steps=self.steps,
            schedule_minutes=None if self.steps else self.minutes,
            seed=seed,
            queue_size=self.queue_size,
            evaluate_every=NEVER,
            save_every=NEVER,
            keep_checkpoints=1,
        )


class MixedBatchOrder(BatchOrder):
    """Training batches that hold every group of cells in its share, drawn anew each epoch.

    Parameters
    ----------
    lengths, batch_size, seed
        See :class:`scdmc.batches.BatchOrder`.
    groups
        Group (batch of the data) of each cell, shape (n_cells,).
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, groups: np.ndarray) -> None:
        super().__init__(lengths, batch_size, seed)
        self.groups = np.asarray(groups, dtype=object).astype(str)

    def _batches_of_equal_cells(self, generator: np.random.Generator) -> list[np.ndarray]:
        # Each group is spread evenly over the epoch, so that every stretch of it holds all groups in their shares.
        place = np.empty(len(self.groups))
        for group in np.unique(self.groups):
            members = generator.permutation(np.flatnonzero(self.groups == group))
            place[members] = (np.arange(len(members)) + generator.random()) / len(members)
        return np.split(np.argsort(place), np.arange(1, self.n_batches(0)) * self.batch_size)


def adapted_encoder(
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    batch: np.ndarray,
    settings: AdaptationSettings,
    seed: int,
    place: Callable[[ScDMCPreTrainedModel], ScDMCPreTrainedModel],
) -> ScDMCModel:
    """The encoder of a pre-trained model after more pre-training on the given cells; no label is read.

    Parameters
    ----------
    model_directory
        The pre-trained model; its folder stays as it is.
    cells
        The cells, as long as the model reads them.
    batch
        Shape (n_cells,): used with ``settings.batch_balanced`` only.
    settings
        See :class:`AdaptationSettings`.
    seed
        Of masks, order and dropout.
    place
        Puts a model onto its device, with its attention.

    Raises
    ------
    ScDMCError
        If the folder holds no pre-trained model (a classifier, say), training diverges or is interrupted.
    """
    device = place(load_model(model_directory.path, ScDMCModel)).device
    everything = np.arange(len(cells))
    watched = np.sort(np.random.default_rng(seed).permutation(everything)[:CELLS_OF_EVALUATION])
    order = None
    if settings.batch_balanced:
        order = MixedBatchOrder(2 * cells.rank_lengths, settings.batch_size, seed, batch)
    model = load_model(model_directory.path, ScDMCForMaskedLM)
    with tempfile.TemporaryDirectory() as folder:
        run = Pretraining(model, cells, everything, watched, settings.for_seed(seed), Path(folder), device, order=order)
        run.run()
    if not run.is_finished:
        raise ScDMCError(f"adapting was interrupted at step {run.step}; start it again")
    before, after = (row["eval_loss"] for row in (run.history[0], run.history[-1]))
    logger.info("adapted in %d steps to %d cells: loss %.3f, before %.3f", run.step, len(cells), after, before)
    return place(run.module.model.bert).eval()
