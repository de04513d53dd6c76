"""Adapting a pre-trained model to cells without their labels: pre-training goes on with these cells alone."""

import logging
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from scdmc.errors import ScDMCError
from scdmc.integration.comparison import centred_batches
from scdmc.integration.options import AdaptationSettings
from scdmc.model.devices import computing_dtype
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.heads import ScDMCForMaskedLM
from scdmc.model.loaded import model_to_run
from scdmc.model.storage import load_model
from scdmc.tokens.tokenized_cells import TokenizedCells
from scdmc.training.batch_order import BatchOrder
from scdmc.training.loading import TrainingCells
from scdmc.training.pretraining import Pretraining

logger = logging.getLogger(__name__)


CELLS_OF_EVALUATION = 256


class MixedBatchOrder(BatchOrder):
    """Training batches that hold every group of cells in its share, drawn anew each epoch.

    Parameters
    ----------
    lengths, batch_size, seed
        See :class:`scdmc.training.batch_order.BatchOrder`.
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


class PairedBatchOrder(MixedBatchOrder):
    """Batches as of :class:`MixedBatchOrder`, half as large, to which each cell brings one of its partners.

    Parameters
    ----------
    lengths, batch_size, seed, groups
        See :class:`MixedBatchOrder`; batches have at most ``batch_size`` cells, partners included.
    pairs
        Which cells are partners, shape (n_cells, n_cells), bool, symmetric.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        groups: np.ndarray,
        pairs: scipy.sparse.csr_array,
    ) -> None:
        super().__init__(lengths, max(2, batch_size // 2), seed, groups)
        self.pairs = pairs

    @property
    def cells_per_batch(self) -> float:
        """Cells of a batch, about: a partner may be there already."""
        return super().cells_per_batch * (1 + np.mean(np.diff(self.pairs.indptr) > 0))

    def _batches_of_equal_cells(self, generator: np.random.Generator) -> list[np.ndarray]:
        batches = super()._batches_of_equal_cells(generator)
        return [np.unique(np.concatenate([batch, self._partners(batch, generator)])) for batch in batches]

    def _partners(self, batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One partner of each cell that has any."""
        first, n_partners = self.pairs.indptr[batch], np.diff(self.pairs.indptr)[batch]
        has_partner = n_partners > 0
        return self.pairs.indices[(first + generator.integers(np.maximum(n_partners, 1)))[has_partner]]


def mutual_neighbours(
    embedding: np.ndarray, batch: np.ndarray, n_neighbors: int, centre_batches: bool = True
) -> scipy.sparse.csr_array:
    """Pairs of cells of two batches that are among each other's nearest neighbours there (Haghverdi et al. 2018).

    Neighbours are by cosine. No label is read.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions): principal components of variable genes, say.
    batch
        Shape (n_cells,).
    n_neighbors
        Neighbours of a cell in each other batch.
    centre_batches
        Move the batches to one mean first; not for an embedding that was integrated already.

    Returns
    -------
    Shape (n_cells, n_cells), bool, symmetric.
    """
    centred = centred_batches(embedding, batch) if centre_batches else np.asarray(embedding, dtype=np.float32)
    directions = normalize(centred - centred.mean(axis=0))
    names = np.asarray(batch, dtype=object).astype(str)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    pairs = scipy.sparse.csr_array((len(names), len(names)), dtype=bool)
    for one, other in combinations(members, 2):
        pairs += _neighbours(directions, one, other, n_neighbors) * _neighbours(directions, other, one, n_neighbors).T
    return scipy.sparse.csr_array(pairs + pairs.T)


def _neighbours(
    directions: np.ndarray, cells: np.ndarray, among: np.ndarray, n_neighbors: int
) -> scipy.sparse.csr_array:
    """True where a cell of ``among`` is one of the nearest of a cell of ``cells``, shape (n_cells, n_cells)."""
    k = min(n_neighbors, len(among))
    found = NearestNeighbors(n_neighbors=k).fit(directions[among]).kneighbors(directions[cells], return_distance=False)
    place = (np.repeat(cells, k), among[found.ravel()])
    shape = (len(directions), len(directions))
    return scipy.sparse.csr_array((np.ones(found.size, dtype=bool), place), shape=shape)


def _by_row(pairs: scipy.sparse.csr_array, rows: np.ndarray) -> scipy.sparse.csr_array:
    """Pairs of cells as pairs of their rows in the data, which is how a training batch knows its cells."""
    pairs = pairs.tocoo()
    n_rows = int(rows.max()) + 1
    return scipy.sparse.csr_array((pairs.data, (rows[pairs.row], rows[pairs.col])), shape=(n_rows, n_rows))


def adapted_encoder(
    model_directory: ModelDirectory,
    cells: TokenizedCells,
    batch: np.ndarray,
    settings: AdaptationSettings,
    seed: int,
    place: Callable[[ScDMCPreTrainedModel], ScDMCPreTrainedModel],
    unintegrated: np.ndarray | None = None,
) -> ScDMCModel:
    """The encoder of a pre-trained model after more pre-training on the given cells; no label is read.

    Parameters
    ----------
    model_directory
        The pre-trained model; its folder stays as it is.
    cells
        The cells, as long as the model reads them.
    batch
        Shape (n_cells,): used with ``settings.batch_balanced`` and ``settings.mutual_neighbors`` only.
    settings
        See :class:`AdaptationSettings`.
    seed
        Of masks, order and dropout.
    place
        Puts a model onto its device, with its attention.
    unintegrated
        Principal components of the cells, shape (n_cells, n_components), for ``settings.mutual_neighbors``.

    Raises
    ------
    ScDMCError
        If the folder holds no pre-trained model (a classifier, say), training diverges or is interrupted.
    """
    device = model_to_run(model_directory, ScDMCModel, place).device
    is_bfloat16 = computing_dtype(settings.dtype, device) == torch.bfloat16
    everything = np.arange(len(cells))
    watched = np.sort(np.random.default_rng(seed).permutation(everything)[:CELLS_OF_EVALUATION])
    lengths, order, pairs = 2 * cells.rank_lengths, None, None
    if settings.mutual_neighbors:
        pairs = mutual_neighbours(unintegrated, batch, settings.mutual_neighbors)
        has_partner = np.diff(pairs.indptr) > 0
        logger.info("%d of %d cells have mutual neighbours in other batches", has_partner.sum(), len(cells))
        order = PairedBatchOrder(lengths, settings.batch_size, seed, batch, pairs)
    elif settings.batch_balanced:
        order = MixedBatchOrder(lengths, settings.batch_size, seed, batch)
    model = load_model(model_directory, ScDMCForMaskedLM)
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingCells(cells, everything, watched, order=order)
        run = Pretraining(model, data, settings.for_seed(seed, is_bfloat16), Path(folder), device)
        if pairs is not None:
            run.module.positive_pairs = _by_row(pairs, cells.rows)
        run.run()
    if not run.is_finished:
        raise ScDMCError(f"adapting was interrupted at step {run.step}; start it again")
    before, after = (row["eval_loss"] for row in (run.history[0], run.history[-1]))
    logger.info("adapted in %d steps to %d cells: loss %.3f, before %.3f", run.step, len(cells), after, before)
    return place(run.module.model.bert).eval()
