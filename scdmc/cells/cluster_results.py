"""Clusters of several embeddings of the same cells: made alike, scored alike, written and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.cluster_markers import cluster_sizes
from scdmc.cells.cluster_stability import Stability, by_size, resolution_by_stability, stability
from scdmc.cells.clustering import leiden_clusters, neighbour_graph, umap_coordinates
from scdmc.cells.leiden import LeidenGraph
from scdmc.cells.options import RESOLUTIONS, ClusterOptions
from scdmc.cells.scores import clustering_scores, metric_rows
from scdmc.cells.viewers import MAP_KEY
from scdmc.errors import ScDMCError
from scdmc.file_names import file_names_of
from scdmc.model.embeddings import EMBEDDING_KEY
from scdmc.reports.tables import write_csv
from scdmc.tokens.tokenized_cells import TokenizedCells

TASK = "clustering"


METHOD, BASELINE = "scDMC zero-shot", "PCA of 2,000 variable genes"


ORACLE = "oracle ("  # begins the name of a row whose resolution the labels chose


@dataclass(frozen=True)
class Clustering:
    """Clusters of one embedding.

    Attributes
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    graph
        Its neighbours, shape (n_cells, n_cells).
    resolution
        Of Leiden.
    clusters
        Shape (n_cells,).
    coordinates
        UMAP, shape (n_cells, 2).
    stability
        Of the clusters.
    resolutions
        What :func:`scdmc.cells.cluster_stability.resolution_by_stability` found; None for a resolution that was given.
    file_stem
        Of its map.
    """

    embedding: np.ndarray
    graph: scipy.sparse.csr_matrix
    resolution: float
    clusters: np.ndarray
    coordinates: np.ndarray
    stability: Stability
    resolutions: pd.DataFrame | None
    file_stem: str


def require_own_names(names: Sequence[str]) -> None:
    """Refuse names of embeddings of the user that are those of methods here.

    Raises
    ------
    ScDMCError
        Naming the first.
    """
    for name in names:
        if name in (METHOD, BASELINE):
            raise ScDMCError(f"embedding {name!r} has the name of a method of this command; give it another name")


def map_files(methods: Sequence[str]) -> dict[str, str]:
    """Method -> stem of the file of its map."""
    fixed = {METHOD: "umap", BASELINE: "umap_pca"}
    others = file_names_of([f"umap_{method.removeprefix('X_')}" for method in methods if method not in fixed])
    return {method: fixed.get(method) or others[f"umap_{method.removeprefix('X_')}"] for method in methods}


def cluster_embedding(embedding: np.ndarray, options: ClusterOptions, file_stem: str = "umap") -> Clustering:
    """Neighbours, clusters, the largest first, and UMAP of an embedding of shape (n_cells, n_dimensions)."""
    graph, resolution = neighbour_graph(embedding, options.n_neighbors, options.seed), options.resolution
    table = None
    if resolution is None:
        table = resolution_by_stability(graph, RESOLUTIONS, options.seed)
        resolution = float(table.loc[table["is_chosen"], "resolution"].iloc[0])
    clusters = by_size(leiden_clusters(graph, resolution, options.seed))
    how_stable = stability(graph, clusters, resolution, options.seed)
    coordinates = umap_coordinates(embedding, graph, options.seed)
    return Clustering(embedding, graph, resolution, clusters, coordinates, how_stable, table, file_stem)


def cluster_rows(
    clusterings: Mapping[str, Clustering],
    labels: np.ndarray | None,
    is_labelled: np.ndarray | None,
    options: ClusterOptions,
) -> list[dict[str, object]]:
    """Rows of metrics.csv.

    Parameters
    ----------
    clusterings
        Method -> its clusters.
    labels, is_labelled
        Shape (n_cells,): labels, and True where there is one; None for no scores by labels.
    options
        How the clusters were made.

    Returns
    -------
    Scores of each method on the labelled cells; the resolution, where it was chosen; the scores of the oracle, where
    that was asked for.
    """
    rows = [] if labels is None else _score_rows(clusterings, labels, is_labelled)
    if options.resolution is None:
        # A setting, of which no value is the best.
        for method, clustering in clusterings.items():
            rows += metric_rows(TASK, method, {"resolution": clustering.resolution})
    if options.has_oracle:
        rows += _oracle_rows(clusterings, labels, is_labelled, options.seed)
    return rows


def _score_rows(
    clusterings: Mapping[str, Clustering], labels: np.ndarray, is_labelled: np.ndarray
) -> list[dict[str, object]]:
    """Scores of each method on the labelled cells."""
    rows = []
    for method, clustering in clusterings.items():
        clusters, embedding = clustering.clusters[is_labelled], clustering.embedding[is_labelled]
        rows += metric_rows(TASK, method, clustering_scores(labels[is_labelled], clusters, embedding))
    return rows


def _oracle_rows(
    clusterings: Mapping[str, Clustering], labels: np.ndarray, is_labelled: np.ndarray, seed: int
) -> list[dict[str, object]]:
    """Scores of the clusters that fit the labels best, which no user without labels could choose."""
    rows = []
    for method, clustering in clusterings.items():
        scores, to_cluster = [], LeidenGraph(clustering.graph)
        for candidate in RESOLUTIONS:
            clusters = to_cluster.clusters(candidate, seed)[is_labelled]
            scores.append(clustering_scores(labels[is_labelled], clusters, clustering.embedding[is_labelled]))
        rows += metric_rows(TASK, f"{ORACLE}{method})", max(scores, key=lambda of_one: of_one["NMI"]))
    return rows


def of_cells(clustering: Clustering) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns of obs and matrices of obsm, for :func:`scdmc.cells.results.write_annotated`."""
    obsm = {EMBEDDING_KEY: clustering.embedding, MAP_KEY: clustering.coordinates}
    return {"scDMC_cluster": clustering.clusters.astype(object)}, obsm


def write_clusters(
    output_dir: Path, cells: TokenizedCells, clusters: np.ndarray, labels: np.ndarray | None, markers: pd.DataFrame
) -> None:
    """Write which cell is in which cluster, how large the clusters are, and their marker genes if there are any."""
    tables = {
        "clusters.csv": cells.obs[["source_file", "cell_id"]].assign(cluster=clusters),
        "cluster_sizes.csv": cluster_sizes(clusters, labels),
    }
    if len(markers):
        tables["marker_genes.csv"] = markers
    for name, table in tables.items():
        write_csv(output_dir / name, table)
