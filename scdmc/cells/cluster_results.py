"""Clusters of several embeddings of the same cells: made alike, scored alike, written and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.cluster_markers import cluster_sizes
from scdmc.cells.clustering import leiden_clusters, neighbour_graph, resolution_by_silhouette, umap_coordinates
from scdmc.cells.options import RESOLUTIONS, ClusterOptions
from scdmc.cells.scores import clustering_scores, metric_rows
from scdmc.reports.figures import save_figure, umap_figure
from scdmc.reports.tables import write_csv
from scdmc.tokens.tokenized_cells import TokenizedCells

TASK = "clustering"


METHOD, BASELINE = "scDMC zero-shot", "PCA of 2,000 variable genes"


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
    """

    embedding: np.ndarray
    graph: scipy.sparse.csr_matrix
    resolution: float
    clusters: np.ndarray
    coordinates: np.ndarray


def cluster_embedding(embedding: np.ndarray, options: ClusterOptions) -> Clustering:
    """Neighbours, clusters and UMAP coordinates of an embedding of shape (n_cells, n_dimensions)."""
    graph, resolution = neighbour_graph(embedding, options.n_neighbors, options.seed), options.resolution
    if resolution is None:
        resolution = resolution_by_silhouette(embedding, graph, RESOLUTIONS, options.seed)
    clusters = leiden_clusters(graph, resolution, options.seed)
    return Clustering(embedding, graph, resolution, clusters, umap_coordinates(embedding, graph, options.seed))


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
        scores = []
        for candidate in RESOLUTIONS:
            clusters = leiden_clusters(clustering.graph, candidate, seed)[is_labelled]
            scores.append(clustering_scores(labels[is_labelled], clusters, clustering.embedding[is_labelled]))
        rows += metric_rows(TASK, f"oracle ({method})", max(scores, key=lambda of_one: of_one["NMI"]))
    return rows


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


def draw_clusters(
    output_dir: Path, clusterings: Mapping[str, Clustering], label_key: str | None, labels: np.ndarray | None, seed: int
) -> None:
    """Draw a map of the cells for each method, coloured by cluster and, where there are labels, by label.

    Parameters
    ----------
    output_dir
        Where to.
    clusterings
        Method -> its clusters.
    label_key, labels
        What the labels are called, and the labels, shape (n_cells,); None for none.
    seed
        Of the order in which the cells are drawn.
    """
    for method, clustering in clusterings.items():
        colourings = {f"{len(set(clustering.clusters))} Leiden clusters": clustering.clusters}
        if label_key:
            colourings[label_key] = labels
        title = f"UMAP of {len(clustering.clusters):,} cells: {method}"
        figure = umap_figure(clustering.coordinates, colourings, title, seed)
        save_figure(figure, output_dir / ("umap" if method == METHOD else "umap_pca"))
