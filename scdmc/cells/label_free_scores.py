"""Scores of an integration that need no label.

Source: docs/method.md, "Scores of integration".
"""

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from scdmc.cells.neighbours import Neighbours

NEIGHBOURS_KEPT, NEIGHBOURS_MIXED = 15, 50


def label_free_scores(
    before: np.ndarray, after: np.ndarray, batch: np.ndarray, found: Neighbours | None = None
) -> dict[str, float]:
    """What an integration did to the neighbourhoods of cells.

    Parameters
    ----------
    before
        Principal components before integration, shape (n_cells, n_components).
    after
        The embedding, shape (n_cells, n_dimensions).
    batch
        Shape (n_cells,), none missing.
    found
        Neighbours by the embedding, as for :func:`batch_entropy`.

    Returns
    -------
    dict
        ``neighbours_kept`` (:func:`neighbours_kept`) and ``batch_entropy`` (:func:`batch_entropy`), each between 0 and
        1. Only both together say something: no integration at all keeps every neighbour, and noise mixes best.
    """
    return {
        "neighbours_kept": neighbours_kept(before, after, batch),
        "batch_entropy": batch_entropy(after, batch, found=found),
    }


def neighbours_kept(
    before: np.ndarray, after: np.ndarray, batch: np.ndarray, n_neighbors: int = NEIGHBOURS_KEPT
) -> float:
    """Share of a cell's nearest neighbours within its batch that are so after integration, too; the mean over cells.

    Within a batch there is no batch effect, so that an integration has no reason to change what is near to what.

    Parameters
    ----------
    before, after
        Shape (n_cells, n_dimensions).
    batch
        Shape (n_cells,). A cell that is alone in its batch has no neighbour there and does not count.
    n_neighbors
        Neighbours of a cell, fewer in a batch that has no more.

    Returns
    -------
    Between 0 and 1; NaN if no batch has two cells.
    """
    names = np.asarray(batch, dtype=object).astype(str)
    kept, n_cells = 0.0, 0
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        n_found = min(n_neighbors, len(rows) - 1)
        if n_found < 1:
            continue
        old, new = (_nearest(np.asarray(points)[rows], n_found) for points in (before, after))
        offsets = len(rows) * np.arange(len(rows))[:, None]  # a number of its own for each pair of cells
        kept += np.isin(old + offsets, new + offsets).sum() / n_found
        n_cells += len(rows)
    return float(kept / n_cells) if n_cells else float("nan")


def batch_entropy(
    embedding: np.ndarray,
    batch: np.ndarray,
    n_neighbors: int = NEIGHBOURS_MIXED,
    found: Neighbours | None = None,
) -> float:
    """How mixed the batches are around a cell: entropy of its neighbours' batches, as a share of that of all cells.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    batch
        Shape (n_cells,), none missing.
    n_neighbors
        Neighbours of a cell, fewer where there are no more.
    found
        The nearest cells that are known already, more than ``n_neighbors`` where there are so many.

    Returns
    -------
    The mean over cells, between 0 (every cell among its own batch) and 1 (batches as mixed as in all cells); NaN for
    one batch.
    """
    codes, names = pd.factorize(np.asarray(batch, dtype=object).astype(str))
    if len(names) < 2:
        return float("nan")
    n_neighbors = min(n_neighbors, len(codes) - 1)
    nearest = _nearest(np.asarray(embedding), n_neighbors) if found is None else found.others(n_neighbors)
    around = codes[nearest]  # (n_cells, n_neighbors)
    counts = np.stack([(around == code).sum(axis=1) for code in range(len(names))], axis=1)
    entropies = _entropy(counts / counts.sum(axis=1, keepdims=True))
    of_all = _entropy(np.bincount(codes)[None] / len(codes))
    return float(np.minimum(entropies / of_all, 1).mean())


def _nearest(points: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Rows of the nearest points of each point, itself left out, shape (n_points, n_neighbors)."""
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(points)
    return search.kneighbors(return_distance=False)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy of each row of shares, in nats."""
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)
