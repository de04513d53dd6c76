"""Labels from a reference without any training: the nearest reference cells vote, the closer ones with more weight."""

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from scdmc.annotation.options import N_NEIGHBORS
from scdmc.errors import ScDMCError
from scdmc.labels import is_missing

# A cell as far from the reference as all but one in twenty reference cells are from each other is no stranger to it.
USUAL_SHARE = 0.95


@dataclass(frozen=True)
class Reference:
    """Labelled cells that vote.

    Attributes
    ----------
    names
        Types, shape (n_types,).
    types
        Index of the type of each reference cell, shape (n_reference,).
    search
        Finds the nearest of them (euclidean).
    n_neighbors
        Voters of a cell.
    usual_distance
        Up to this distance a voter has its full weight; beyond, usual_distance / distance.
    """

    names: np.ndarray
    types: np.ndarray
    search: NearestNeighbors
    n_neighbors: int
    usual_distance: float


def fit_reference(embeddings: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> Reference:
    """Prepare reference cells for :func:`transfer_labels`; cells without a label are left out.

    Parameters
    ----------
    embeddings
        Shape (n_reference, hidden_size).
    labels
        Shape (n_reference,); NaN, None and '' are none.
    n_neighbors
        Voters of a cell; fewer where there are not more reference cells.

    Raises
    ------
    ScDMCError
        If there are fewer than two types.
    """
    is_labelled = ~is_missing(labels)
    names, types = np.unique(np.asarray(labels, dtype=object)[is_labelled].astype(str), return_inverse=True)
    if len(names) < 2:
        raise ScDMCError(f"the reference has {len(names)} types ({', '.join(names)}); labels are transferred from two")
    embeddings = np.asarray(embeddings)[is_labelled]
    n_neighbors = min(n_neighbors, len(embeddings) - 1)
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(embeddings)
    # Without arguments: the neighbours of each reference cell other than itself.
    distances, _ = search.kneighbors()
    usual_distance = float(np.quantile(distances, USUAL_SHARE))
    return Reference(names.astype(object), types, search, n_neighbors, usual_distance)


def transfer_labels(reference: Reference, embeddings: np.ndarray) -> np.ndarray:
    """Share of the votes that each type gets for each cell.

    Parameters
    ----------
    reference
        See :func:`fit_reference`.
    embeddings
        Of the cells, from the same encoder, shape (n_cells, hidden_size).

    Returns
    -------
    Shape (n_cells, n_types), float64. A row sums to 1 for a cell that is as close to the reference as its cells are to
    each other, and to less the farther away it is.
    """
    distances, voters = reference.search.kneighbors(embeddings)
    is_far = distances > reference.usual_distance
    weights = np.divide(reference.usual_distance, distances, out=np.ones_like(distances), where=is_far)
    shares = np.zeros((len(embeddings), len(reference.names)))
    np.add.at(shares, (np.arange(len(embeddings))[:, None], reference.types[voters]), weights / reference.n_neighbors)
    return shares
