"""Two scores of scib-metrics without what is compiled for them: BRAS by sums, kBET by exact neighbours.

Compiling took over a minute of each run, far longer than the scores. tests/cells/test_scores.py compares both with the
package.
"""

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from scipy.stats import chi2
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

FEWEST_CELLS, LEAST_SHARE_CONNECTED = 10, 0.75


KBET_LEAST, KBET_MOST, KBET_LEVEL, DIFFUSION_COMPONENTS = 10, 70, 0.05, 100


def bras(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray) -> float:
    """Batch removal adapted silhouette (Rautenstrauch and Ohler 2025), as ``scib_metrics.bras``.

    Within a type, the silhouette of the batches by cosine distances, with the mean distance to all cells of other
    batches in place of that to the nearest batch; 1 minus its absolute value, mean of the types.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels, batch
        Shape (n_cells,).

    Returns
    -------
    Between 0 and 1; NaN if no type has cells in two batches.
    """
    directions = normalize(np.asarray(embedding, dtype=np.float64))
    means = []
    for label in np.unique(labels):
        mine, codes = directions[labels == label], pd.factorize(batch[labels == label])[0]
        sizes = np.bincount(codes)
        if len(sizes) in (1, len(mine)):
            continue
        # The sum of the cosine distances to a batch follows from the sum of its directions.
        sums = np.zeros((len(sizes), mine.shape[1]))
        np.add.at(sums, codes, mine)
        distances = sizes - mine @ sums.T  # (n_cells, n_batches)
        within = distances[np.arange(len(mine)), codes]
        others = (distances.sum(axis=1) - within) / (len(mine) - sizes[codes])
        within = within / np.maximum(sizes[codes] - 1, 1)
        silhouette = (others - within) / np.maximum(np.maximum(within, others), np.finfo(float).tiny)
        silhouette[sizes[codes] == 1] = 0  # alone of its batch, as in the package
        means.append(1 - np.abs(silhouette).mean())
    return float(np.mean(means)) if means else float("nan")


def kbet(connectivities: scipy.sparse.spmatrix, labels: np.ndarray, batch: np.ndarray) -> float:
    """Acceptance by type (Büttner et al. 2019; Luecken et al. 2022), as ``scib_metrics.kbet_per_label``.

    The share of a type's cells whose neighbours have the batches of the type (chi-squared test at 0.05), mean of the
    types. Neighbours are those of diffusion maps of the type's part of the graph.

    Parameters
    ----------
    connectivities
        Of 50 neighbours, shape (n_cells, n_cells).
    labels, batch
        Shape (n_cells,).

    Returns
    -------
    Between 0 and 1; NaN where each type is smaller than ten cells, or of one batch.
    """
    graph, scores, n_components = scipy.sparse.csr_matrix(connectivities), [], DIFFUSION_COMPONENTS
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        batches = pd.factorize(batch[rows])[0]
        if len(rows) < FEWEST_CELLS or batches.max() == 0:
            continue
        quarter = int(np.bincount(batches).mean() // 4)
        n_neighbors = min(KBET_MOST, max(KBET_LEAST, quarter))
        part = graph[rows][:, rows]
        kept = _well_connected(part, 3 * n_neighbors)
        if len(kept) < LEAST_SHARE_CONNECTED * len(rows):
            scores.append(0.0)
            continue
        # The package, too, lets a small type lower the number for those after it.
        n_components = min(n_components, len(kept) - 1)
        scores.append(_accepted(part[kept][:, kept], batches[kept], n_neighbors, n_components))
    return float(np.mean(scores)) if scores else float("nan")


def _well_connected(graph: scipy.sparse.csr_matrix, fewest: int) -> np.ndarray:
    """Cells of one component, or of those components that have enough cells."""
    n_parts, part_of = scipy.sparse.csgraph.connected_components(graph, connection="strong")
    if n_parts == 1:
        return np.arange(graph.shape[0])
    return np.flatnonzero(np.bincount(part_of)[part_of] >= fewest)


def _accepted(graph: scipy.sparse.csr_matrix, batches: np.ndarray, n_neighbors: int, n_components: int) -> float:
    """Share of the cells around which the batches are as in all cells; 0 where there is no diffusion map."""
    points = _diffusion_map(graph, n_components)
    if points is None:
        return 0.0  # as the package has it
    n_around = min(n_neighbors + 1, len(points))  # the cell itself comes first
    around = batches[NearestNeighbors(n_neighbors=n_around).fit(points).kneighbors(points, return_distance=False)]
    codes, batches = np.unique(batches, return_inverse=True)
    around = np.searchsorted(codes, around)
    counts = np.stack([(around == code).sum(axis=1) for code in range(len(codes))], axis=1)
    expected = np.bincount(batches) / len(batches) * around.shape[1]
    statistics = ((counts - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistics, len(codes) - 1) >= KBET_LEVEL).mean())


def _diffusion_map(graph: scipy.sparse.csr_matrix, n_components: int) -> np.ndarray | None:
    """Coordinates in which distances are diffusion distances, shape (n_cells, n_components); None if there are none."""
    density = np.asarray(graph.sum(axis=0)).ravel()
    if not density.all():
        return None
    kernel = scipy.sparse.diags(1 / density) @ graph @ scipy.sparse.diags(1 / density)
    roots = scipy.sparse.diags(1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    start = np.random.default_rng(0).normal(size=graph.shape[0])
    transitions = (roots @ kernel @ roots).astype(np.float64)
    values, vectors = scipy.sparse.linalg.eigsh(transitions, k=n_components, v0=start)
    values = values.astype(np.float32) + np.float32(1e-8)
    # The sum over all numbers of steps; the component of the value 1 says nothing and keeps that weight.
    weights = np.where(values == 1, 1, values / np.where(values == 1, 1, 1 - values))
    return (vectors * weights).astype(np.float32)
