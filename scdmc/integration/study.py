"""The integration benchmark: every method embeds the same cells, and all are scored alike.

Source: docs/method.md, "Evaluation rules".
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression, read_raw_counts
from scdmc.cells.scores import mean_metrics, metric_rows
from scdmc.cells.splits import cells_in_training
from scdmc.errors import ScDMCError
from scdmc.integration.adaptation import adapted_encoder
from scdmc.integration.comparison import (
    IntegrationResult,
    cells_to_integrate,
    centred_batches,
    compare_integrations,
    require_types_in_batches,
)
from scdmc.integration.methods import harmony, pca_of_variable_genes, scanorama, scvi
from scdmc.integration.options import IntegrationOptions
from scdmc.labels import labels_of, type_labels
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.model.encoder import ScDMCModel, ScDMCPreTrainedModel
from scdmc.model.folder import ModelDirectory
from scdmc.model.loaded import model_to_run
from scdmc.model.storage import saw_labels
from scdmc.reading.options import CountOptions
from scdmc.tokens.tokenized_cells import TokenizedCells

logger = logging.getLogger(__name__)


TASK = "integration"


SCDMC, ADAPTED, SAW_LABELS = "scDMC zero-shot", "scDMC adapted", "scDMC fine-tuned (saw labels)"


CENTRED = {method: f"{method}, centred" for method in (SCDMC, ADAPTED)}


PCA, HARMONY, SCVI, SCANORAMA = "PCA, not integrated", "Harmony", "scVI", "Scanorama"


OBSM_KEYS = {
    SCDMC: EMBEDDING_KEY,
    ADAPTED: f"{EMBEDDING_KEY}_adapted",
    SAW_LABELS: EMBEDDING_KEY,
    CENTRED[SCDMC]: f"{EMBEDDING_KEY}_centred",
    CENTRED[ADAPTED]: f"{EMBEDDING_KEY}_adapted_centred",
    PCA: "X_pca",
    HARMONY: "X_harmony",
    SCVI: "X_scVI",
    SCANORAMA: "X_scanorama",
}


Place = Callable[[ScDMCPreTrainedModel], ScDMCPreTrainedModel]


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
    """

    name: str
    cells: TokenizedCells
    labels: np.ndarray
    batch: np.ndarray
    is_scored: np.ndarray
    expression: scipy.sparse.csr_matrix
    counts: scipy.sparse.csr_matrix | None


@dataclass(frozen=True)
class IntegrationRun:
    """All methods with one seed.

    Attributes
    ----------
    seed
        The seed.
    embeddings
        Method -> embedding of all cells, shape (n_cells, n_dimensions).
    results
        Method -> clusters and scores of the cells with a label.
    """

    seed: int
    embeddings: dict[str, np.ndarray]
    results: dict[str, IntegrationResult]


def usable_cells(cells: TokenizedCells, model_directory: ModelDirectory, batch_key: str, label_key: str) -> np.ndarray:
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
    require_types_in_batches(type_labels(cells.obs[label_key])[0][usable], batch[usable], label_key, batch_key)
    return usable


def read_integration_data(
    path: Path,
    name: str,
    model_directory: ModelDirectory,
    keys: tuple[str, str],
    counts: CountOptions,
    has_counts: bool,
) -> IntegrationData:
    """The cells of a data set that can be integrated, after a check that they can be scored.

    Parameters
    ----------
    path, name
        ``.h5ad`` with raw counts or tokenized parquet, and what it is called.
    model_directory
        The model.
    keys
        Columns of batch and label.
    counts
        How an ``.h5ad`` is read.
    has_counts
        Whether raw counts are read, too, which scVI needs.

    Raises
    ------
    ScDMCError
        If the cells cannot be read as the model was trained, or cannot be scored.
    """
    cells = read_cells(path, model_directory, keys, counts)
    usable = usable_cells(cells, model_directory, *keys)
    expression, _ = read_expression(path, cells, model_directory, counts)
    raw = read_raw_counts(path, cells, counts) if has_counts else None
    return integration_data(name, cells, usable, keys, expression, raw)


def integration_data(
    name: str,
    cells: TokenizedCells,
    usable: np.ndarray,
    keys: tuple[str, str],
    expression: scipy.sparse.csr_matrix,
    counts: scipy.sparse.csr_matrix | None,
) -> IntegrationData:
    """The usable cells of a data set; ``keys`` are the columns of batch and label, matrices are of all cells."""
    batch, labels = labels_of(cells.obs[keys[0]])[usable], type_labels(cells.obs[keys[1]])[0][usable]
    return IntegrationData(
        name,
        cells.select(usable),
        labels,
        batch,
        np.array([label is not None for label in labels]),
        expression[usable],
        None if counts is None else counts[usable],
    )


def require_runnable(data: IntegrationData, model_directory: ModelDirectory, options: IntegrationOptions) -> None:
    """Refuse, before anything is computed, what would fail after hours.

    Raises
    ------
    ScDMCError
        If scVI is asked for without counts, or a classifier should be adapted.
    """
    if "scvi" in options.methods and data.counts is None:
        raise ScDMCError(f"{data.name}: scVI needs raw counts, and tokenized parquet has none; give the .h5ad")
    if options.adaptation is not None and saw_labels(model_directory):
        raise ScDMCError(f"{model_directory.path} is a classifier; adapt a pre-trained model, which saw no labels")


def run_benchmark(
    data: IntegrationData, model_directory: ModelDirectory, place: Place, options: IntegrationOptions
) -> list[IntegrationRun]:
    """Embed and score by every method, once for each seed.

    Parameters
    ----------
    data
        The cells.
    model_directory
        The model of the rows of scDMC.
    place
        Puts a model onto its device, with its attention.
    options
        What is compared.

    Raises
    ------
    ScDMCError
        As :func:`require_runnable`, or if a method cannot work on the cells.
    """
    require_runnable(data, model_directory, options)
    zero_shot = {}
    if "scdmc" in options.methods:
        encoder = model_to_run(model_directory, ScDMCModel, place)
        method = SAW_LABELS if saw_labels(model_directory) else SCDMC
        zero_shot[method] = cell_embeddings(encoder, data.cells, options.stream, options.pooling)
    runs = []
    for seed in options.seeds:
        if len(options.seeds) > 1:
            logger.info("seed %d", seed)
        embeddings = dict(zero_shot)
        pca = pca_of_variable_genes(data.expression, seed=seed)
        if options.adaptation is not None:
            encoder = adapted_encoder(model_directory, data.cells, data.batch, options.adaptation, seed, place, pca)
            embeddings[ADAPTED] = cell_embeddings(encoder, data.cells, options.stream, options.pooling)
        if options.centre_batches:
            embeddings |= {
                CENTRED[method]: centred_batches(embedding, data.batch)
                for method, embedding in embeddings.items()
                if method in CENTRED
            }
        embeddings |= _standard_embeddings(data, pca, options, seed)
        unintegrated = pca if options.full_scores else None
        results = compare_integrations(
            embeddings, data.labels, data.batch, options.resolution, seed=seed, unintegrated=unintegrated
        )
        runs.append(IntegrationRun(seed, embeddings, results))
    return runs


def _standard_embeddings(
    data: IntegrationData, pca: np.ndarray, options: IntegrationOptions, seed: int
) -> dict[str, np.ndarray]:
    embeddings = {}
    if "pca" in options.methods:
        embeddings[PCA] = pca
    if "harmony" in options.methods:
        embeddings[HARMONY] = harmony(pca, data.batch, seed)
    if "scvi" in options.methods:
        embeddings[SCVI] = scvi(
            data.counts, data.expression, data.batch, seed, options.scvi_epochs, options.scvi_accelerator
        )
    if "scanorama" in options.methods:
        embeddings[SCANORAMA] = scanorama(data.expression, data.batch, seed)
    return embeddings


def mean_rows(runs: list[IntegrationRun]) -> list[dict[str, object]]:
    """Rows of metrics.csv: means over the runs, with standard deviations if there are several."""
    return mean_metrics(
        [
            [row for method, result in run.results.items() for row in metric_rows(TASK, method, result.scores)]
            for run in runs
        ]
    )
