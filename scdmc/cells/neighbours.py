"""Nearest neighbours of all cells, searched once for every score that asks for them; no label is used.

Source: docs/method.md, "Scores of integration".
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class Neighbours:
    """The nearest cells of each cell, the nearest first, itself among them.

    Attributes
    ----------
    indices, distances
        Rows and euclidean distances, shape (n_cells, n_neighbors).
    """

    indices: np.ndarray
    distances: np.ndarray

    def others(self, n_neighbors: int) -> np.ndarray:
        """Rows of the nearest cells without the cell itself, shape (n_cells, n_neighbors)."""
        is_other = self.indices != np.arange(len(self.indices))[:, None]
        is_other[is_other.all(axis=1), -1] = False  # of many equal cells a cell itself need not be found
        return self.indices[is_other].reshape(len(self.indices), -1)[:, :n_neighbors]

    def graph(self, n_neighbors: int) -> scipy.sparse.csr_matrix:
        """Distances to the nearest cells, the cell itself included, shape (n_cells, n_cells)."""
        n_cells = len(self.indices)
        indices, ends = self.indices[:, :n_neighbors], np.arange(n_cells + 1) * n_neighbors
        # To itself a cell is at a rounding error, which UMAP would take for its nearest neighbour.
        distances = np.where(indices == np.arange(n_cells)[:, None], 0, self.distances[:, :n_neighbors])
        return scipy.sparse.csr_matrix((distances.ravel(), indices.ravel(), ends), shape=(n_cells, n_cells))


def exact_neighbours(points: np.ndarray, n_neighbors: int) -> Neighbours:
    """Compare all pairs of cells.

    Parameters
    ----------
    points
        Shape (n_cells, n_dimensions).
    n_neighbors
        Of a cell, itself included; fewer where there are not so many cells.
    """
    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(points)), algorithm="brute").fit(points)
    distances, indices = search.kneighbors(points)
    return Neighbours(indices, distances)
