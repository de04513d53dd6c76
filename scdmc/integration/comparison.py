"""Comparing ways to merge batches: each method's embedding is clustered and scored alike.

Source: docs/method.md, "Evaluation rules".
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.clustering import leiden_clusters, neighbour_graph
from scdmc.cells.scores import integration_scores, require_types
from scdmc.errors import ScDMCError, shown_names
from scdmc.labels import is_missing

logger = logging.getLogger(__name__)


USELESS_ARI = 0.05


@dataclass(frozen=True)
class IntegrationResult:
    """How one method did on the cells that have a type.

    Attributes
    ----------
    scores
        See :func:`scdmc.cells.scores.integration_scores`.
    clusters
        Leiden clusters, shape (n_scored,).
    graph
        Neighbour graph that they come from, shape (n_scored, n_scored).
    """

    scores: dict[str, float]
    clusters: np.ndarray
    graph: scipy.sparse.csr_matrix


def require_batches(batch: np.ndarray, batch_key: str = "batch", whose: str = "") -> None:
    """Refuse one batch alone, shape (n_cells,), none missing; ``whose`` says of which cells, for the message.

    Raises
    ------
    ScDMCError
        If there are fewer than two batches.
    """
    batches = sorted({str(name) for name in batch})
    if len(batches) < 2:
        raise ScDMCError(
            f"obs[{batch_key!r}] holds one batch only{whose}, {batches[0]!r}; integration needs at least two"
        )


def require_types_in_batches(
    labels: np.ndarray, batch: np.ndarray, label_key: str = "label", batch_key: str = "batch"
) -> np.ndarray:
    """True for the cells that can be scored, those with a type; shape (n_cells,).

    Parameters
    ----------
    labels
        Types, shape (n_cells,); NaN, None and '' are none.
    batch
        Shape (n_cells,), none missing.
    label_key, batch_key
        Names of the columns, for messages.

    Raises
    ------
    ScDMCError
        If there are fewer than two types or batches, or no type has cells in two batches.
    """
    labels, batch = np.asarray(labels, dtype=object), np.asarray(batch, dtype=object)
    n_missing = int(is_missing(batch).sum())
    if n_missing:
        raise ScDMCError(f"obs[{batch_key!r}]: {n_missing} cells have no batch; leave them out")
    is_scored = require_types(labels, label_key)
    if not is_scored.all():
        logger.info("%d of %d cells have no %s and are not scored", (~is_scored).sum(), len(labels), label_key)
    whose = "" if is_scored.all() else f" among the {is_scored.sum():,} cells with a {label_key}"
    require_batches(batch[is_scored], batch_key, whose)
    sizes = pd.crosstab(labels[is_scored].astype(str), batch[is_scored].astype(str))
    n_batches = (sizes > 0).sum(axis=1)
    # scib passes over a type in one batch, and over one whose cells are all of different batches.
    if not ((n_batches > 1) & (n_batches < sizes.sum(axis=1))).any():
        raise ScDMCError(
            f"no type of obs[{label_key!r}] has cells in two batches of obs[{batch_key!r}], so mixing cannot be "
            "scored; choose another batch column"
        )
    return is_scored


def cells_to_integrate(batch: np.ndarray, batch_key: str = "batch") -> np.ndarray:
    """True for the cells that can be integrated, shape (n_cells,); the others are named in the log.

    A cell without a batch cannot be, and nor can one that is alone in its batch.

    Parameters
    ----------
    batch
        Shape (n_cells,); NaN, None and '' are none.
    batch_key
        Name of the column, for messages.
    """
    batch = np.asarray(batch, dtype=object)
    usable = ~is_missing(batch)
    if not usable.all():
        logger.warning("warning: %d of %d cells have no %s and are left out", (~usable).sum(), len(batch), batch_key)
    sizes = pd.Series(batch[usable].astype(str)).value_counts()
    alone = sorted(sizes.index[sizes == 1])
    if alone:
        logger.warning("warning: left out, alone in their %s: the cells of %s", batch_key, shown_names(alone, 20))
        usable[usable] = ~np.isin(batch[usable].astype(str), alone)
    return usable


def centred_batches(embedding: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Move the batches of an embedding to one mean, shape (n_cells, n_dimensions); no label is read.

    The simplest remedy for a shift between batches, and wrong where their cell types differ: a batch without B cells
    has another mean for a good reason.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    batch
        Shape (n_cells,), none missing.
    """
    centred = np.array(embedding, dtype=np.float32)
    mean = centred.mean(axis=0)
    names = np.asarray(batch, dtype=object).astype(str)
    for name in np.unique(names):
        centred[names == name] += mean - centred[names == name].mean(axis=0)
    return centred


def warn_of_merged_types(method: str, ari: float) -> None:
    """Say so if the clusters of a method hardly agree with the types: merging everything is no integration."""
    if ari < USELESS_ARI:
        logger.warning(
            "warning: %s hardly tells types apart (ARI %.2f); a high batch score means nothing then", method, ari
        )


def compare_integrations(
    embeddings: Mapping[str, np.ndarray],
    labels: np.ndarray,
    batch: np.ndarray,
    resolution: float = 0.2,
    n_neighbors: int = 15,
    seed: int = 42,
) -> dict[str, IntegrationResult]:
    """Score embeddings of the same cells, all in the same way.

    Labels are for the scores only: cells without one count nowhere here, graphs and clusters included.

    Parameters
    ----------
    embeddings
        Method -> embedding of shape (n_cells, n_dimensions).
    labels
        Types, shape (n_cells,); NaN, None and '' are none.
    batch
        Shape (n_cells,), none missing.
    resolution
        Of Leiden, the same for every method.
    n_neighbors
        Of the neighbour graphs.
    seed
        Of neighbours and Leiden.

    Raises
    ------
    ScDMCError
        As :func:`require_types_in_batches`.
    """
    labels, batch = np.asarray(labels, dtype=object), np.asarray(batch, dtype=object)
    is_scored = require_types_in_batches(labels, batch)
    results = {}
    for method, embedding in embeddings.items():
        scored = np.asarray(embedding)[is_scored]
        graph = neighbour_graph(scored, n_neighbors, seed)
        clusters = leiden_clusters(graph, resolution, seed)
        scores = integration_scores(scored, labels[is_scored], batch[is_scored], clusters, graph)
        warn_of_merged_types(method, scores["ARI"])
        results[method] = IntegrationResult(scores, clusters, graph)
    return results
