"""Cluster the cells of a data set by their embeddings; labels, where given, only score the result."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from scdmc.cells.cluster_markers import cluster_sizes, marker_genes
from scdmc.cells.clustering import (
    leiden_clusters,
    neighbour_graph,
    require_neighbours,
    resolution_by_silhouette,
    umap_coordinates,
)
from scdmc.cells.data import read_cells
from scdmc.cells.expression import read_expression
from scdmc.cells.results import write_annotated
from scdmc.cells.scores import clustering_scores, metric_rows, require_types, write_metrics
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_dtype_argument,
    add_model_arguments,
    add_model_path_argument,
    count_options_for,
    placement,
)
from scdmc.cli.parser import argument_parser, non_negative_int, positive_float, positive_int, script, seed
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, remove, require_new_folder
from scdmc.integration.methods import pca_of_variable_genes
from scdmc.labels import labels_of
from scdmc.model.devices import place_model
from scdmc.model.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_model, saw_labels
from scdmc.options import POOLINGS, STREAMS
from scdmc.reading.h5ad import require_room_for_results
from scdmc.reports.figures import save_figure, umap_figure
from scdmc.tokens.tokenized_cells import TokenizedCells

TASK = "clustering"
METHOD = "scDMC zero-shot"
BASELINE = "PCA of 2,000 variable genes"
OPTIONAL_OUTPUTS = ("metrics.csv", "umap_pca.png", "umap_pca.pdf", "marker_genes.csv")  # of some runs
AUTO = "auto"
RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


def resolution(text: str) -> float | str:
    """Argparse type: a number above 0, or ``auto``."""
    return text if text == AUTO else positive_float(text)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of clustering."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser)
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for clusters, scores and figures")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--label_key", help="column of obs with labels, to score the clusters against")
    parser.add_argument(
        "--resolution", type=resolution, default=1.0, help="of Leiden, or 'auto': by the silhouette, without labels"
    )
    parser.add_argument("--n_neighbors", type=positive_int, default=15, help="of the neighbour graph")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    parser.add_argument("--baselines", choices=("none", "fast"), default="fast", help="cluster PCA beside it")
    parser.add_argument(
        "--oracle", action="store_true", help="one more row each: the resolution that fits the labels best (NMI)"
    )
    parser.add_argument("--markers", type=non_negative_int, default=10, help="marker genes of each cluster; 0 for none")
    parser.add_argument("--seed", type=seed, default=42, help="of neighbours, Leiden and UMAP")
    add_model_arguments(parser)
    add_dtype_argument(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def resolution_for(arguments: argparse.Namespace, embedding: np.ndarray, graph: scipy.sparse.csr_matrix) -> float:
    """The resolution that was asked for, or the one that fits an embedding and its neighbours."""
    if arguments.resolution != AUTO:
        return arguments.resolution
    return resolution_by_silhouette(embedding, graph, RESOLUTIONS, arguments.seed)


def cluster(
    arguments: argparse.Namespace, embedding: np.ndarray, graph: scipy.sparse.csr_matrix, chosen: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and UMAP coordinates of an embedding and its neighbours."""
    return leiden_clusters(graph, chosen, arguments.seed), umap_coordinates(embedding, graph, arguments.seed)


def resolution_rows(resolutions: dict[str, float]) -> list[dict[str, object]]:
    """The resolution chosen for each method, as rows of metrics.csv; a setting, of which no value is the best."""
    return [row for method, chosen in resolutions.items() for row in metric_rows(TASK, method, {"resolution": chosen})]


def score_rows(
    results: dict[str, tuple[np.ndarray, np.ndarray]],
    embeddings: dict[str, np.ndarray],
    labels: np.ndarray,
    is_labelled: np.ndarray,
) -> list[dict[str, object]]:
    """Scores of each method on the labelled cells, as rows of metrics.csv."""
    rows = []
    for method, (clusters, _) in results.items():
        scores = clustering_scores(labels[is_labelled], clusters[is_labelled], embeddings[method][is_labelled])
        rows += metric_rows(TASK, method, scores)
    return rows


def oracle_rows(
    arguments: argparse.Namespace,
    embeddings: dict[str, np.ndarray],
    graphs: dict[str, scipy.sparse.csr_matrix],
    labels: np.ndarray,
    is_labelled: np.ndarray,
) -> list[dict[str, object]]:
    """Scores of the clusters that fit the labels best, which no user without labels could choose."""
    rows = []
    for method, embedding in embeddings.items():
        scores = []
        for candidate in RESOLUTIONS:
            clusters = leiden_clusters(graphs[method], candidate, arguments.seed)
            scores.append(clustering_scores(labels[is_labelled], clusters[is_labelled], embedding[is_labelled]))
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
        with atomic_path(output_dir / name) as temporary:
            table.to_csv(temporary, index=False)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed, cluster, score, draw."""
    arguments = parse_arguments(argv)
    output_dir, label_key = arguments.output_dir, arguments.label_key
    if arguments.oracle and not label_key:
        raise ScDMCError("--oracle chooses by labels: name their column with --label_key")
    options = count_options_for(arguments, arguments.data_path)
    require_new_folder(output_dir, arguments.overwrite)
    require_room_for_results(arguments.data_path)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    if saw_labels(model_directory):
        raise ScDMCError(
            f"{arguments.model_path} is a classifier, whose encoder saw labels, and clusters are made without; "
            "give the pre-trained model"
        )
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    cells = read_cells(arguments.data_path, model_directory, [label_key] if label_key else [], options)
    labels = labels_of(cells.obs[label_key]) if label_key else None
    is_labelled = require_types(labels, label_key) if label_key else None

    require_neighbours(len(cells), arguments.n_neighbors)

    # What cannot be done is refused before the model works.
    baselines = {}
    if arguments.baselines != "none" or arguments.markers:
        expression, genes = read_expression(arguments.data_path, cells, model_directory, options)
    if arguments.baselines != "none":
        baselines[BASELINE] = pca_of_variable_genes(expression, seed=arguments.seed)
    embeddings = {METHOD: cell_embeddings(encoder, cells, arguments.stream, arguments.pooling), **baselines}
    graphs = {
        method: neighbour_graph(embedding, arguments.n_neighbors, arguments.seed)
        for method, embedding in embeddings.items()
    }
    resolutions = {method: resolution_for(arguments, embeddings[method], graph) for method, graph in graphs.items()}
    results = {
        method: cluster(arguments, embeddings[method], graph, resolutions[method]) for method, graph in graphs.items()
    }
    rows = score_rows(results, embeddings, labels, is_labelled) if label_key else []
    if arguments.resolution == AUTO:
        rows += resolution_rows(resolutions)
    if arguments.oracle:
        rows += oracle_rows(arguments, embeddings, graphs, labels, is_labelled)
    clusters, coordinates = results[METHOD]
    markers = marker_genes(expression, genes, clusters, arguments.markers) if arguments.markers else pd.DataFrame()

    for name in OPTIONAL_OUTPUTS:  # those of an earlier run would belong to other clusters
        remove(output_dir / name)
    for method, (its_clusters, its_coordinates) in results.items():
        colourings = {f"{len(set(its_clusters))} Leiden clusters": its_clusters}
        if label_key:
            colourings[label_key] = labels
        figure = umap_figure(its_coordinates, colourings, f"UMAP of {len(cells):,} cells: {method}", arguments.seed)
        save_figure(figure, output_dir / ("umap" if method == METHOD else "umap_pca"))
    write_clusters(output_dir, cells, clusters, labels, markers)
    obsm = {EMBEDDING_KEY: embeddings[METHOD], "X_umap": coordinates}
    write_annotated(
        output_dir / "clustered.h5ad", arguments.data_path, cells, {"scDMC_cluster": clusters.astype(object)}, obsm
    )
    if rows:
        print(write_metrics(output_dir / "metrics.csv", rows).round(3).to_string())
    print(f"{len(set(clusters))} clusters; wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
