"""How much clusters depend on the cells that were drawn and on chance, and the resolution that this chooses.

Source: docs/method.md, "Clusters".
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.metrics import adjusted_rand_score

from scdmc.cells.clustering import leiden_clusters
from scdmc.cells.leiden import LeidenGraph
from scdmc.errors import ScDMCError

logger = logging.getLogger(__name__)


N_DRAWS, SHARE_DRAWN, STABLE = 5, 0.8, 0.9


@dataclass(frozen=True)
class Stability:
    """What is left of clusters when a fifth of the cells is left out and the seed is another.

    Attributes
    ----------
    ari
        Mean adjusted Rand index of the draws with the clusters of all cells.
    of_cluster
        Cluster -> the Jaccard index with the most similar cluster of a draw, mean of the draws.
    """

    ari: float
    of_cluster: dict[str, float]


def by_size(clusters: np.ndarray) -> np.ndarray:
    """Clusters under new names, "0" for the largest, shape (n_cells,); of equals the first in the data comes first."""
    names = pd.unique(clusters)
    sizes = pd.Series(clusters).value_counts()[names]
    order = np.argsort(-sizes.to_numpy(), kind="stable")
    new = {names[old]: str(number) for number, old in enumerate(order)}
    return np.array([new[name] for name in clusters])


def stability(graph: scipy.sparse.csr_matrix, clusters: np.ndarray, resolution: float, seed: int) -> Stability:
    """Cluster draws of the cells anew and compare.

    Parameters
    ----------
    graph
        Neighbours, shape (n_cells, n_cells).
    clusters
        Of all cells, shape (n_cells,).
    resolution
        Of Leiden.
    seed
        Of the draws; each draw's Leiden has another one.
    """
    n_cells, aris, found = len(clusters), [], {name: [] for name in pd.unique(clusters)}
    for draw in range(N_DRAWS):
        generator = np.random.default_rng([seed, draw])
        rows = np.sort(generator.choice(n_cells, max(2, round(SHARE_DRAWN * n_cells)), replace=False))
        drawn = leiden_clusters(graph[rows][:, rows], resolution, seed + draw + 1)
        aris.append(adjusted_rand_score(clusters[rows], drawn))
        shared = pd.crosstab(clusters[rows], drawn)
        either = shared.sum(axis=1).to_numpy()[:, None] + shared.sum(axis=0).to_numpy()[None] - shared.to_numpy()
        for name, jaccard in zip(shared.index, (shared.to_numpy() / either).max(axis=1), strict=True):
            found[name].append(jaccard)
    return Stability(float(np.mean(aris)), {name: float(np.mean(values or [0])) for name, values in found.items()})


def resolution_by_stability(graph: scipy.sparse.csr_matrix, resolutions: Sequence[float], seed: int) -> pd.DataFrame:
    """Clusters and stability at every resolution, and the choice: the finest one that is stable; no label is used.

    Stable is a mean adjusted Rand index of 0.9. Where no resolution with two clusters is, the most stable one is taken.

    Parameters
    ----------
    graph
        Neighbours, shape (n_cells, n_cells).
    resolutions
        The candidates.
    seed
        Of clusters and draws.

    Returns
    -------
    Columns resolution, clusters, stability, is_chosen.

    Raises
    ------
    ScDMCError
        If no resolution gives at least two clusters.
    """
    rows, to_cluster = [], LeidenGraph(graph)
    for resolution in resolutions:
        clusters = to_cluster.clusters(resolution, seed)
        rows.append((resolution, len(np.unique(clusters)), stability(graph, clusters, resolution, seed).ari))
        logger.info("resolution %g: %d clusters, stability %.3f", *rows[-1])
    table = pd.DataFrame(rows, columns=["resolution", "clusters", "stability"])
    several = table[table["clusters"].between(2, graph.shape[0] - 1)]
    if several.empty:
        tried = ", ".join(f"{resolution:g}" for resolution in resolutions)
        raise ScDMCError(f"no resolution gives two clusters or more (tried: {tried}); name one with --resolution")
    stable = several[several["stability"] >= STABLE]
    chosen = stable["resolution"].max() if len(stable) else several.loc[several["stability"].idxmax(), "resolution"]
    return table.assign(is_chosen=table["resolution"] == chosen)
