"""The standard methods of batch integration, each at its documented defaults, on the same cells and variable genes.

No method here sees a label. scVI and Scanorama are optional packages.
"""

import contextlib
import io
import logging
import random
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.components import component_values
from scdmc.cells.expression import checked_expression
from scdmc.errors import ScDMCError
from scdmc.integration.options import require_packages

FEWEST_FOR_PCA = (
    "principal components need at least two cells and two genes; give more cells, or leave the baselines out"
)


def pca_of_variable_genes(
    expression: scipy.sparse.csr_matrix, n_top_genes: int = 2000, n_components: int = 50, seed: int = 42
) -> np.ndarray:
    """Principal components of the most variable genes (scanpy, flavour "seurat"), shape (n_cells, n_components).

    Uses no label. Fewer genes or components are taken where the data has no more.

    Raises
    ------
    ScDMCError
        If the values cannot be log1p CP10k.
    """
    expression = checked_expression(expression)
    variable = expression[:, variable_genes(expression, n_top_genes)]
    _require_enough(variable)
    return component_values(variable, min(n_components, min(variable.shape) - 1), seed)


def _require_enough(variable: scipy.sparse.csr_matrix) -> None:
    """Refuse cells x variable genes of which there are no principal components."""
    if min(variable.shape) < 2:
        raise ScDMCError(f"{variable.shape[0]} cells with {variable.shape[1]} variable genes: {FEWEST_FOR_PCA}")


def variable_genes(expression: scipy.sparse.csr_matrix, n_top_genes: int = 2000) -> np.ndarray:
    """True for the most variable genes (scanpy, flavour "seurat"), shape (n_genes,); no label is used.

    Raises
    ------
    ScDMCError
        If the values cannot be log1p CP10k.
    """
    import anndata
    import scanpy

    expression = checked_expression(expression)
    n_varying = 0
    if min(expression.shape):
        n_varying = int((expression.max(axis=0).toarray() > expression.min(axis=0).toarray()).sum())
    if n_varying < 2:
        raise ScDMCError(f"{expression.shape[0]} cells with {n_varying} genes that vary: {FEWEST_FOR_PCA}")
    adata = anndata.AnnData(expression)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=min(n_top_genes, adata.n_vars), flavor="seurat")
    return adata.var["highly_variable"].to_numpy()


# As harmonypy chooses clusters itself, but at least one: it stops at fewer than 16 cells.
CELLS_PER_HARMONY_CLUSTER, MOST_HARMONY_CLUSTERS = 30, 100


def harmony(pca: np.ndarray, batch: np.ndarray, seed: int = 42) -> np.ndarray:
    """Principal components corrected for batch by Harmony (Korsunsky et al. 2019), shape (n_cells, n_components).

    Parameters
    ----------
    pca
        Shape (n_cells, n_components), for instance of :func:`pca_of_variable_genes`.
    batch
        Shape (n_cells,).
    seed
        Of the k-means start.

    Raises
    ------
    ScDMCError
        If harmonypy is not installed, or there is one batch only.
    """
    require_packages(["harmony"])
    import harmonypy

    batch = np.asarray(batch, dtype=object).astype(str)
    if len(np.unique(batch)) < 2:
        raise ScDMCError(f"Harmony needs at least two batches, and all cells are of {batch[0]!r}")
    # Handed over as (n_components, n_cells): harmonypy takes that way round when both sizes are equal.
    result = harmonypy.run_harmony(
        np.ascontiguousarray(pca.T),
        pd.DataFrame({"batch": batch}),
        "batch",
        verbose=False,
        random_state=seed,
        nclust=max(1, min(round(len(batch) / CELLS_PER_HARMONY_CLUSTER), MOST_HARMONY_CLUSTERS)),
    )
    return np.asarray(result.Z_corr)  # (n_cells, n_components) since harmonypy 0.2


SCVI_BATCH_SIZE = 128


SCVI_TRAINING_SHARE = 0.9


SCANORAMA_DIMENSIONS = 100


def scvi(
    counts: scipy.sparse.csr_matrix,
    expression: scipy.sparse.csr_matrix,
    batch: np.ndarray,
    seed: int = 42,
    epochs: int | None = None,
    accelerator: str = "cpu",
) -> np.ndarray:
    """Latent space of scVI (Lopez et al. 2018; scvi-tools), shape (n_cells, 10), trained with the batch as covariate.

    Parameters
    ----------
    counts
        Raw counts, shape (n_cells, n_genes).
    expression
        log1p CP10k of the same genes: it decides which 2,000 are variable, as for the other methods.
    batch
        Shape (n_cells,).
    seed
        Of weights, order and dropout.
    epochs
        Without it scVI chooses: 400 up to 20,000 cells, fewer beyond.
    accelerator
        ``cpu`` or ``gpu``.

    Raises
    ------
    ScDMCError
        If scvi-tools is not installed, or a cell has no count in the variable genes.
    """
    require_packages(["scvi"])
    import anndata
    from scvi import settings
    from scvi.model import SCVI

    variable = scipy.sparse.csr_matrix(counts[:, variable_genes(expression)])
    empty = np.flatnonzero(np.asarray(variable.sum(axis=1)).ravel() == 0)
    if len(empty):
        raise ScDMCError(
            f"scVI cannot embed the {len(empty)} cells without any count in the variable genes (first rows: "
            f"{', '.join(map(str, empty[:3]))}); leave these cells out, or the method"
        )
    adata = anndata.AnnData(variable)
    adata.obs["batch"] = np.asarray(batch, dtype=object).astype(str)
    # A last training batch of one cell would stop the batch normalisation.
    drop_last = int(np.ceil(SCVI_TRAINING_SHARE * len(batch))) % SCVI_BATCH_SIZE == 1
    seed_before = settings.seed
    with _quiet_lightning(), _own_random_state(seed):
        settings.seed = seed  # of its own draw of validation cells
        SCVI.setup_anndata(adata, batch_key="batch")
        model = SCVI(adata)
        model.train(
            max_epochs=epochs,
            accelerator=accelerator,
            train_size=SCVI_TRAINING_SHARE,
            batch_size=SCVI_BATCH_SIZE,
            datasplitter_kwargs={"drop_last": drop_last},
            logger=False,
        )
        embedding = np.asarray(model.get_latent_representation(), dtype=np.float32)
    settings.seed = seed_before
    return embedding


def scanorama(expression: scipy.sparse.csr_matrix, batch: np.ndarray, seed: int = 42) -> np.ndarray:
    """Embedding by Scanorama (Hie et al. 2019) of the 2,000 variable genes, shape (n_cells, at most 100).

    Parameters
    ----------
    expression
        log1p CP10k, shape (n_cells, n_genes).
    batch
        Shape (n_cells,).
    seed
        Of the approximate search and decomposition.

    Raises
    ------
    ScDMCError
        If scanorama is not installed, or there are fewer than two cells or variable genes.
    """
    require_packages(["scanorama"])
    from scanorama import integrate

    variable = scipy.sparse.csr_matrix(expression[:, variable_genes(expression)])
    _require_enough(variable)
    batch = np.asarray(batch, dtype=object).astype(str)
    rows = [np.flatnonzero(batch == name) for name in np.unique(batch)]
    genes = [str(gene) for gene in range(variable.shape[1])]
    dimensions = min(SCANORAMA_DIMENSIONS, min(variable.shape) - 1)
    # It prints the number of genes whatever it is told.
    with _own_random_state(seed), contextlib.redirect_stdout(io.StringIO()):
        parts, _ = integrate(
            [variable[chosen] for chosen in rows], [genes] * len(rows), dimred=dimensions, seed=seed, verbose=0
        )
    embedding = np.empty((len(batch), parts[0].shape[1]), dtype=np.float32)
    for chosen, part in zip(rows, parts, strict=True):
        embedding[chosen] = part
    return embedding


@contextlib.contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """These packages draw from the global generators: they get the seed, and the caller's state comes back after."""
    import torch

    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without the trainer's notes on devices and products."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
