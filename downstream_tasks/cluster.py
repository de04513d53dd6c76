"""Cluster the cells of a data set by their embeddings; labels, where given, only score the result."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.baselines import pca_of_variable_genes
from scdmc.clustering import leiden_clusters, neighbour_graph, resolution_by_silhouette, umap_coordinates
from scdmc.command_line import argument_parser, non_negative_int, positive_int, script
from scdmc.devices import choose_device
from scdmc.embeddings import EMBEDDING_KEY, POOLINGS, cell_embeddings
from scdmc.figures import save_figure, umap_figure
from scdmc.files import atomic_path, require_new
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import STREAMS, ScDMCModel
from scdmc.scores import clustering_scores, metric_rows, write_metrics
from scdmc.task_data import (
    add_count_arguments,
    annotated_data,
    count_options,
    labels_of,
    read_cells,
    read_expression,
    write_annotated_data,
)

TASK = "clustering"
METHOD = "scDMC zero-shot"
BASELINE = "PCA of 2,000 variable genes"
RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of clustering."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, required=True, help="model folder")
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for clusters, scores and figures")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    parser.add_argument("--label_key", help="column of obs with labels, to score the clusters against")
    parser.add_argument("--resolution", default="1.0", help="of Leiden, or 'auto': by the silhouette, without labels")
    parser.add_argument("--n_neighbors", type=positive_int, default=15, help="of the neighbour graph")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help="state of <cls>, or mean state of the genes")
    parser.add_argument("--baselines", choices=("none", "fast"), default="fast", help="cluster PCA beside it")
    parser.add_argument("--seed", type=non_negative_int, default=42, help="of neighbours, Leiden and UMAP")
    parser.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.resolution != "auto":
        try:
            arguments.resolution = float(arguments.resolution)
        except ValueError:
            parser.error(f"--resolution {arguments.resolution}: a number or 'auto'")
    return arguments


def cluster(arguments: argparse.Namespace, embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and UMAP coordinates of an embedding."""
    graph = neighbour_graph(embedding, arguments.n_neighbors, arguments.seed)
    resolution = arguments.resolution
    if resolution == "auto":
        resolution = resolution_by_silhouette(embedding, graph, RESOLUTIONS, arguments.seed)
    return leiden_clusters(graph, resolution, arguments.seed), umap_coordinates(embedding, graph, arguments.seed)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed, cluster, score, draw."""
    arguments = parse_arguments(argv)
    device = choose_device(arguments.num_gpus)
    output_dir = arguments.output_dir
    require_new(output_dir, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path)
    columns = [arguments.label_key] if arguments.label_key else []
    cells = read_cells(arguments.data_path, model_directory, columns, count_options(arguments))
    encoder = load_model(arguments.model_path, ScDMCModel).to(device)
    embeddings = {METHOD: cell_embeddings(encoder, cells, arguments.stream, arguments.pooling)}
    if arguments.baselines != "none":
        expression, _ = read_expression(arguments.data_path, cells, model_directory, count_options(arguments))
        embeddings[BASELINE] = pca_of_variable_genes(expression, seed=arguments.seed)
    results = {method: cluster(arguments, embedding) for method, embedding in embeddings.items()}

    labels = labels_of(cells.obs[arguments.label_key]) if arguments.label_key else None
    for method, (clusters, coordinates) in results.items():
        colourings = {f"{len(set(clusters))} Leiden clusters": clusters}
        if labels is not None:
            colourings[arguments.label_key] = labels
        figure = umap_figure(coordinates, colourings, f"UMAP of {len(cells):,} cells: {method}", arguments.seed)
        save_figure(figure, output_dir / ("umap" if method == METHOD else "umap_pca"))
    clusters, coordinates = results[METHOD]
    with atomic_path(output_dir / "clusters.csv") as temporary:
        cells.obs[["source_file", "cell_id"]].assign(cluster=clusters).to_csv(temporary, index=False)
    adata = annotated_data(arguments.data_path, cells, {"scDMC_cluster": clusters.astype(object)},
                           {EMBEDDING_KEY: embeddings[METHOD], "X_umap": coordinates})  # fmt: skip
    write_annotated_data(adata, output_dir / "clustered.h5ad")
    if labels is not None:
        is_labelled = ~pd.isna(labels)
        rows = [
            row
            for method, (clusters, _) in results.items()
            for row in metric_rows(TASK, method, clustering_scores(
                labels[is_labelled], clusters[is_labelled], embeddings[method][is_labelled]))
        ]  # fmt: skip
        print(write_metrics(output_dir / "metrics.csv", rows).round(3).to_string())
    print(f"{len(set(results[METHOD][0]))} clusters; wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
