"""From an embedding to a neighbour graph, clusters and a picture in two dimensions; no label is used anywhere."""

import logging
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.metrics import silhouette_score

from scdmc.cells.leiden import LeidenGraph
from scdmc.cells.neighbours import Neighbours
from scdmc.errors import ScDMCError
from scdmc.model.devices import threads_of_torch

SILHOUETTE_CELLS = 5_000  # The silhouette compares all pairs of cells.


EXACT_CELLS = 20_000  # Up to here all pairs take seconds, and less than compiling an approximate search.


logger = logging.getLogger(__name__)


# A cell's neighbourhood holds itself; a map in two dimensions needs a few cells.
FEWEST_NEIGHBOURS, FEWEST_CELLS = 2, 5


def require_neighbours(n_cells: int, n_neighbors: int) -> None:
    """Refuse, before the work, cells too few for a graph of so many neighbours.

    Raises
    ------
    ScDMCError
        If there are too few cells, or neighbours.
    """
    if n_neighbors < FEWEST_NEIGHBOURS:
        raise ScDMCError(f"--n_neighbors {n_neighbors}: a cell counts itself, so that at least 2 are needed")
    if n_cells <= n_neighbors:
        raise ScDMCError(f"{n_neighbors} neighbours need more than {n_neighbors} cells, and there are {n_cells}")
    if n_cells < FEWEST_CELLS:
        raise ScDMCError(f"{n_cells} cells are too few for clusters and a map; at least {FEWEST_CELLS} are needed")


def neighbour_graph(
    embedding: np.ndarray, n_neighbors: int = 15, seed: int = 42, found: Neighbours | None = None
) -> scipy.sparse.csr_matrix:
    """UMAP connectivities of the nearest neighbours (scanpy.pp.neighbors, euclidean).

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    n_neighbors
        Size of the neighbourhood, the cell itself included.
    seed
        Of the approximate search that scanpy uses for many cells.
    found
        Exact neighbours that are known already, more than ``n_neighbors``; many cells are searched all the same.

    Returns
    -------
    scipy.sparse.csr_matrix
        Symmetric weights between 0 and 1, shape (n_cells, n_cells).

    Raises
    ------
    ScDMCError
        If a value is not finite or there are too few cells.
    """
    import anndata
    import scanpy

    require_neighbours(len(embedding), n_neighbors)
    embedding = finite_embedding(embedding)
    adata = anndata.AnnData(embedding)
    if len(embedding) > EXACT_CELLS:
        transformer = _approximate_neighbours(n_neighbors, seed)
    else:
        transformer = "sklearn" if found is None else _KnownNeighbours(found, n_neighbors)
    with threads_of_torch():
        scanpy.pp.neighbors(adata, n_neighbors=n_neighbors, use_rep="X", random_state=seed, transformer=transformer)
    return adata.obsp["connectivities"].tocsr()


class _KnownNeighbours:
    """Tells scanpy neighbours that were searched before, in the form of scikit-learn's search."""

    def __init__(self, found: Neighbours, n_neighbors: int) -> None:
        self._n_neighbors = n_neighbors
        self._graph = found.graph(n_neighbors + 1)  # scikit-learn counts the cell itself apart

    def get_params(self) -> dict[str, int]:
        """What scanpy asks a search for."""
        return {"n_neighbors": self._n_neighbors}

    def fit_transform(self, X: np.ndarray, y: None = None) -> scipy.sparse.csr_matrix:
        """Distances, shape (n_cells, n_cells)."""
        return self._graph


def _approximate_neighbours(n_neighbors: int, seed: int) -> object:
    """Pynndescent for many cells; since its version 0.7 it returns a csr_array, which scanpy 1.11 cannot read."""
    from pynndescent import PyNNDescentTransformer

    class MatrixTransformer(PyNNDescentTransformer):
        def fit_transform(self, X: np.ndarray, y: None = None, **options: object) -> scipy.sparse.csr_matrix:
            return scipy.sparse.csr_matrix(super().fit_transform(X, y, **options))

    return MatrixTransformer(n_neighbors=n_neighbors, random_state=seed)


def leiden_clusters(connectivities: scipy.sparse.csr_matrix, resolution: float = 1.0, seed: int = 42) -> np.ndarray:
    """Leiden communities of a graph that is clustered once (:class:`scdmc.cells.leiden.LeidenGraph`).

    Parameters
    ----------
    connectivities
        Shape (n_cells, n_cells), from :func:`neighbour_graph`.
    resolution
        Higher gives more clusters.
    seed
        Of the algorithm.

    Returns
    -------
    np.ndarray
        Cluster names "0", "1", ... in no order of size, shape (n_cells,).
    """
    return LeidenGraph(connectivities).clusters(resolution, seed)


def resolution_by_silhouette(
    embedding: np.ndarray,
    connectivities: scipy.sparse.csr_matrix,
    resolutions: Sequence[float],
    seed: int = 42,
) -> float:
    """Choose the Leiden resolution whose clusters lie furthest apart in the embedding, without any label.

    The mean silhouette is taken over at most 5,000 cells, the same for each resolution. Of equals the first one given
    is taken. The silhouette likes few, round clusters; the scores of all resolutions are in the log.

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    connectivities
        Its neighbour graph, shape (n_cells, n_cells).
    resolutions
        The candidates.
    seed
        Of the clusters and of the sample of cells.

    Returns
    -------
    float
        One of ``resolutions``.

    Raises
    ------
    ScDMCError
        If no resolution gives at least two clusters.
    """
    embedding = finite_embedding(embedding)
    n_sampled = min(len(embedding), SILHOUETTE_CELLS)
    sample = np.sort(np.random.default_rng(seed).choice(len(embedding), n_sampled, replace=False))
    scores, to_cluster = {}, LeidenGraph(connectivities)
    for resolution in resolutions:
        clusters = to_cluster.clusters(resolution, seed)[sample]
        n_clusters = len(np.unique(clusters))
        if 1 < n_clusters < n_sampled:
            scores[resolution] = float(silhouette_score(embedding[sample], clusters))
            logger.info("resolution %g: %d clusters, silhouette %.3f", resolution, n_clusters, scores[resolution])
    if not scores:
        tried = ", ".join(f"{resolution:g}" for resolution in resolutions)
        raise ScDMCError(f"no resolution gives two clusters or more (tried: {tried or 'none'}); try higher ones")
    return float(max(scores, key=scores.__getitem__))


def umap_coordinates(
    embedding: np.ndarray, connectivities: scipy.sparse.csr_matrix | None = None, seed: int = 42
) -> np.ndarray:
    """UMAP (McInnes et al. 2018) of the neighbour graph, by scanpy.tl.umap.

    Parameters
    ----------
    embedding
        Shape (n_cells, hidden_size).
    connectivities
        Its neighbour graph, shape (n_cells, n_cells): give the one that was clustered. Without it
        :func:`neighbour_graph` makes one.
    seed
        Of the layout.

    Returns
    -------
    np.ndarray
        Coordinates without unit, shape (n_cells, 2).
    """
    import anndata
    import scanpy

    embedding = finite_embedding(embedding)
    if connectivities is None:
        connectivities = neighbour_graph(embedding, seed=seed)
    adata = anndata.AnnData(embedding, obsp={"connectivities": connectivities})
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {"method": "umap", "use_rep": "X"},
    }
    with threads_of_torch():
        scanpy.tl.umap(adata, random_state=seed)
    return adata.obsm["X_umap"]


def finite_embedding(embedding: np.ndarray) -> np.ndarray:
    """Return the embedding as float32, shape (n_cells, hidden_size), after a check that every value is finite.

    Raises
    ------
    ScDMCError
        If a value is not.
    """
    embedding = np.asarray(embedding, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise ScDMCError(
            f"the embedding of {len(bad)} cells is not finite (first rows: {', '.join(map(str, bad[:3]))})"
        )
    return embedding
