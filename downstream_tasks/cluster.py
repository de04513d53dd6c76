"""Cluster the cells of a data set by their embeddings; labels, where given, only score the result."""

import argparse
import time
from typing import TYPE_CHECKING

from scdmc.cells.options import ClusterOptions
from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_own_embedding_arguments,
    add_seed_argument,
    count_options_for,
    embedding_options,
    own_embeddings,
    placement,
)
from scdmc.cli.parser import argument_parser, non_negative_int, positive_float, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.result_folders import keep_results, result_folder

if TYPE_CHECKING:
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir clusters",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir clusters --resolution 0.5 --label_key cell_type",
)
AUTO = "auto"


def resolution(text: str) -> float | str:
    """Argparse type: a number above 0, or ``auto``."""
    return text if text == AUTO else positive_float(text)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of clustering."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), ClusterOptions()
    add_model_argument(parser)
    add_data_argument(parser)
    add_output_dir_argument(parser, meaning="folder for clusters, scores, figures and report.html")
    meaning = "column of obs with labels, to score the clusters against (default: no scores)"
    add_label_key_argument(parser, meaning, default=None)
    group = parser.add_argument_group("clusters")
    group.add_argument(
        "--resolution",
        type=resolution,
        default=AUTO,
        help="of Leiden, or 'auto': the finest one whose clusters are stable, without labels",
    )
    group.add_argument("--n_neighbors", type=positive_int, default=defaults.n_neighbors, help="of the neighbour graph")
    add_embedding_arguments(group)
    add_own_embedding_arguments(group)
    group.add_argument("--baselines", choices=("none", "fast"), default="fast", help="fast: cluster a PCA, too")
    group.add_argument(
        "--oracle", action="store_true", help="also score the resolution that fits the labels best (by NMI)"
    )
    group.add_argument("--markers", type=non_negative_int, default=10, help="marker genes of each cluster; 0 for none")
    add_seed_argument(group, "of neighbours, Leiden and UMAP")
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.oracle and not arguments.label_key:
        raise ScDMCError("--oracle chooses by labels: name their column with --label_key")
    return arguments


def cluster_options(arguments: argparse.Namespace) -> ClusterOptions:
    """The options that the flags stand for."""
    chosen = None if arguments.resolution == AUTO else arguments.resolution
    return ClusterOptions(chosen, arguments.n_neighbors, arguments.oracle, arguments.seed)


def load_encoder(arguments: argparse.Namespace) -> tuple["ModelDirectory", "ScDMCModel"]:
    """The model; refuses one that saw labels, or has no such stream, pooling or layer."""
    from scdmc.model.devices import place_model
    from scdmc.model.embeddings import embedding_choice
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model, saw_labels

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    embedding_choice(model_directory.config, **embedding_options(arguments))
    if saw_labels(model_directory):
        raise ScDMCError(
            f"{model_directory.path} is a classifier, whose encoder saw labels, and clusters are made without; "
            "give the pre-trained model"
        )
    return model_directory, place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))


@script
def main(argv: list[str] | None = None) -> int:
    """Embed, cluster, score, draw."""
    began, arguments = time.time(), parse_arguments(argv)
    output_dir, label_key, options = arguments.output_dir, arguments.label_key, cluster_options(arguments)
    counts, own = count_options_for(arguments, arguments.data_path), own_embeddings(arguments)
    require_task_inputs(arguments)

    import pandas as pd

    from scdmc.cells import cluster_results as results
    from scdmc.cells.cluster_markers import marker_genes
    from scdmc.cells.cluster_page import write_cluster_page
    from scdmc.cells.clustering import require_neighbours
    from scdmc.cells.data import read_cells
    from scdmc.cells.expression import read_expression
    from scdmc.cells.own_embeddings import read_own_embeddings, require_own_embeddings
    from scdmc.cells.results import write_annotated
    from scdmc.cells.scores import require_types, write_metrics
    from scdmc.cells.viewers import ForViewers
    from scdmc.integration.methods import pca_of_variable_genes
    from scdmc.labels import type_labels
    from scdmc.model.embeddings import cell_embeddings
    from scdmc.reading.h5ad import require_room_for_results
    from scdmc.reading.label_colours import label_colours
    from scdmc.reports.colours import one_colour_per_type
    from scdmc.reports.provenance import Provenance

    require_own_embeddings(own, [arguments.data_path])
    results.require_own_names(own.names)
    require_room_for_results(arguments.data_path, arguments.output_dir)
    model_directory, encoder = load_encoder(arguments)
    cells = read_cells(arguments.data_path, model_directory, [label_key] if label_key else [], counts)
    labels = type_labels(cells.obs[label_key])[0] if label_key else None
    is_labelled = require_types(labels, label_key) if label_key else None

    require_neighbours(len(cells), options.n_neighbors)
    brought = read_own_embeddings(own, arguments.data_path, cells)

    # What cannot be done is refused before the model works.
    baselines = {}
    if arguments.baselines != "none" or arguments.markers:
        expression, genes = read_expression(arguments.data_path, cells, model_directory, counts)
    if arguments.baselines != "none":
        baselines[results.BASELINE] = pca_of_variable_genes(expression, seed=options.seed)
    ours_alone = {results.METHOD: cell_embeddings(encoder, cells, **embedding_options(arguments))}
    embeddings = {**ours_alone, **baselines, **brought}
    stems = results.map_files(list(embeddings))
    clusterings = {
        method: results.cluster_embedding(each, options, stems[method]) for method, each in embeddings.items()
    }
    rows = results.cluster_rows(clusterings, labels, is_labelled, options)
    ours = clusterings[results.METHOD]
    markers = marker_genes(expression, genes, ours.clusters, arguments.markers) if arguments.markers else pd.DataFrame()

    made = Provenance((arguments.data_path,), model_directory.path.name, options.seed, began)
    viewers = ForViewers(made, columns=tuple(filter(None, [label_key])))
    one_colour = one_colour_per_type(labels, label_colours(arguments.data_path, label_key))
    with one_colour, result_folder(output_dir) as folder:
        results.write_clusters(folder, cells, ours.clusters, labels, markers)
        write_annotated(folder / "clustered.h5ad", arguments.data_path, cells, *results.of_cells(ours), viewers)
        scores = write_metrics(folder / "metrics.csv", rows) if rows else pd.DataFrame()
        print(scores.round(3).to_string() if rows else "", end="\n" * bool(rows))
        keep_results(folder)
        ids = cells.obs["cell_id"].to_numpy()
        write_cluster_page(folder, clusterings, (label_key, labels), markers, scores, made, ids)
    print(f"{len(set(ours.clusters))} clusters; wrote {output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
