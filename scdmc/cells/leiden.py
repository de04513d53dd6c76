"""Leiden communities of a graph that is built once for all resolutions and seeds; no label is used.

They are those of ``scanpy.tl.leiden(flavor="igraph", n_iterations=2, directed=False)``, to the cell. scanpy builds the
graph anew, from a list of pairs, for every resolution: half of the time at 20,000 cells.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy.sparse

ITERATIONS = 2


class LeidenGraph:
    """A neighbour graph that can be clustered.

    Parameters
    ----------
    connectivities
        Symmetric weights, shape (n_cells, n_cells), from :func:`scdmc.cells.clustering.neighbour_graph`.
    """

    def __init__(self, connectivities: scipy.sparse.csr_matrix) -> None:
        import igraph

        edges = scipy.sparse.coo_matrix(scipy.sparse.csr_matrix(connectivities))
        known = edges.data != 0
        # Each edge stands there in both directions, as in scanpy: the modularity is the same.
        self._graph = igraph.Graph(
            n=edges.shape[0], edges=np.column_stack([edges.row[known], edges.col[known]]), directed=False
        )
        self._weights = edges.data[known].tolist()

    def clusters(self, resolution: float = 1.0, seed: int = 42) -> np.ndarray:
        """Communities (Traag et al. 2019; igraph, modularity, two iterations), shape (n_cells,).

        Parameters
        ----------
        resolution
            Higher gives more clusters.
        seed
            Of the algorithm.

        Returns
        -------
        np.ndarray
            Cluster names "0", "1", ... in no order of size.
        """
        with _igraph_draws_from(seed):
            found = self._graph.community_leiden(
                objective_function="modularity",
                weights=self._weights,
                resolution=resolution,
                n_iterations=ITERATIONS,
            )
        return np.array(found.membership).astype(str)


class _Draws:
    """The random numbers that igraph asks for, of a seed."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)
        self.random, self.gauss = self._state.random_sample, self._state.normal

    def getrandbits(self, n_bits: int) -> int:
        return self._state.tomaxint() & ((1 << n_bits) - 1)

    def randint(self, lowest: int, highest: int) -> int:
        return self._state.randint(lowest, highest + 1)


@contextmanager
def _igraph_draws_from(seed: int) -> Iterator[None]:
    """Give igraph, which has one source of random numbers for all, one of the seed, and its usual one back after."""
    import igraph

    igraph.set_random_number_generator(_Draws(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
