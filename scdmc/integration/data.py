"""The cells that an integration benchmark compares methods on: which can be integrated, and which can be scored."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression, read_raw_counts
from scdmc.cells.options import OwnEmbeddings
from scdmc.cells.own_embeddings import read_own_embeddings
from scdmc.cells.splits import cells_in_training
from scdmc.errors import ScDMCError
from scdmc.integration.comparison import cells_to_integrate, require_batches, require_types_in_batches
from scdmc.labels import labels_of, type_labels
from scdmc.model.folder import ModelDirectory
from scdmc.model.storage import saw_labels
from scdmc.reading.h5ad import read_obs
from scdmc.reading.options import CountOptions, is_counts
from scdmc.tokens.parquet import kept_columns
from scdmc.tokens.tokenized_cells import TokenizedCells

logger = logging.getLogger(__name__)


LABEL_KEY = "cell_type"


@dataclass(frozen=True)
class IntegrationData:
    """The cells of one data set that can be integrated.

    Attributes
    ----------
    name
        Of the data set.
    cells
        Their streams.
    labels, batch
        Shape (n_cells,); a label may be None, a batch not.
    is_scored
        Shape (n_cells,): True for cells with a label.
    expression
        log1p CP10k, shape (n_cells, n_genes).
    counts
        Raw counts of the same genes, for scVI; None where there are none.
    own
        Name -> embedding that the user gave, shape (n_cells, n_dimensions).
    in_file
        Which of ``own`` the user's file holds already.
    keys
        Columns of batch and label, for captions; None for cells without labels.
    """

    name: str
    cells: TokenizedCells
    labels: np.ndarray
    batch: np.ndarray
    is_scored: np.ndarray
    expression: scipy.sparse.csr_matrix
    counts: scipy.sparse.csr_matrix | None
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    in_file: frozenset[str] = frozenset()
    keys: tuple[str, str | None] = ("batch", "cell_type")

    @property
    def has_labels(self) -> bool:
        """True if any cell has a label, and so can be scored by it."""
        return bool(self.is_scored.any())

    @property
    def shown(self) -> np.ndarray:
        """True for the cells of maps and graphs: those with a label, or all without labels; shape (n_cells,)."""
        return self.is_scored if self.has_labels else np.ones(len(self.is_scored), dtype=bool)


def usable_cells(
    cells: TokenizedCells, model_directory: ModelDirectory, batch_key: str, label_key: str | None
) -> np.ndarray:
    """True for the cells that take part, shape (n_cells,); those left out are named in the log.

    Left out are cells without a batch, cells alone in their batch, and for a classifier those it was trained on.

    Raises
    ------
    ScDMCError
        If the rest cannot be scored (:func:`scdmc.integration.comparison.require_types_in_batches`), or a classifier's
        folder does not say what it was trained on.
    """
    usable = np.ones(len(cells), dtype=bool)
    if saw_labels(model_directory):
        split_file = model_directory.path / "split.csv"
        if not split_file.is_file():
            raise ScDMCError(
                f"{model_directory.path} is a classifier without split.csv, so the cells whose labels it saw cannot be "
                "left out; give the pre-trained model, or the folder that downstream_tasks.py wrote"
            )
        usable = ~cells_in_training(split_file, cells.obs)
        logger.warning(
            "warning: %s saw labels; the %d cells that it was trained on are left out",
            model_directory.path.name, (~usable).sum(),
        )  # fmt: skip
        if not usable.any():
            raise ScDMCError(f"{model_directory.path} was trained on all of these cells; none is left to score")
    batch = labels_of(cells.obs[batch_key])
    usable[usable] = cells_to_integrate(batch[usable], batch_key)
    if not usable.any():
        raise ScDMCError(f"obs[{batch_key!r}] puts no two cells into one batch; choose another batch column")
    if label_key is None:
        require_batches(batch[usable], batch_key)
    else:
        require_types_in_batches(type_labels(cells.obs[label_key])[0][usable], batch[usable], label_key, batch_key)
    return usable


def label_key_of(path: Path, label_key: str | None) -> str | None:
    """The column of the labels of a data set: the given one, else :data:`LABEL_KEY` where there is one, else None."""
    if label_key is not None:
        return label_key
    columns = read_obs(path).columns if is_counts(path) else kept_columns(path)
    if LABEL_KEY in columns:
        return LABEL_KEY
    logger.warning(
        "warning: %s has no column %s and no --label_key is given; the scores that need no label are written alone",
        path, LABEL_KEY,
    )  # fmt: skip
    return None


def read_integration_data(
    path: Path,
    name: str,
    model_directory: ModelDirectory,
    keys: tuple[str, str | None],
    counts: CountOptions,
    has_counts: bool,
    own: OwnEmbeddings,
) -> IntegrationData:
    """The cells of a data set that can be integrated, after a check that they can be scored.

    Parameters
    ----------
    path, name
        ``.h5ad`` with raw counts or tokenized parquet, and what it is called.
    model_directory
        The model.
    keys
        Columns of batch and label; None for :func:`label_key_of`.
    counts
        How an ``.h5ad`` is read.
    has_counts
        Whether raw counts are read, too, which scVI needs.
    own
        Embeddings that the user brings.

    Raises
    ------
    ScDMCError
        If the cells cannot be read as the model was trained, or cannot be scored.
    """
    keys = (keys[0], label_key_of(path, keys[1]))
    cells = read_cells(path, model_directory, [key for key in dict.fromkeys(keys) if key], counts)
    usable = usable_cells(cells, model_directory, *keys)
    embeddings = read_own_embeddings(own, path, cells.select(usable))
    expression, _ = read_expression(path, cells, model_directory, counts)
    raw = read_raw_counts(path, cells, counts) if has_counts else None
    data = integration_data(name, cells, usable, keys, expression, raw)
    return replace(data, own=embeddings, in_file=frozenset(own.obsm))


def integration_data(
    name: str,
    cells: TokenizedCells,
    usable: np.ndarray,
    keys: tuple[str, str | None],
    expression: scipy.sparse.csr_matrix,
    counts: scipy.sparse.csr_matrix | None,
) -> IntegrationData:
    """The usable cells of a data set; ``keys`` are the columns of batch and label, matrices are of all cells."""
    batch = labels_of(cells.obs[keys[0]])[usable]
    labels = np.full(len(batch), None) if keys[1] is None else type_labels(cells.obs[keys[1]])[0][usable]
    return IntegrationData(
        name,
        cells.select(usable),
        labels,
        batch,
        np.array([label is not None for label in labels]),
        expression[usable],
        None if counts is None else counts[usable],
        keys=keys,
    )
