"""Gene regulatory networks of every cell type: association, attention and in-silico perturbation, beside baselines."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, fill_in, non_negative_int, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import EDITS, PERTURBATION, SCORE_COLUMNS, GraphOptions, NetworkOptions
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir networks --regulons regulons.csv",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir networks --regulons regulons.csv "
    "--cell_types alpha beta --perturbed_factors 0",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of gene regulatory networks."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), NetworkOptions()
    add_gene_arguments(parser)
    group = parser.add_argument_group("pairs of factor and target")
    group.add_argument("--regulons", type=Path, required=True, help="CSV with tf and target (fetch_regulons.py)")
    group.add_argument(
        "--min_cells_per_gene",
        type=positive_int,
        default=defaults.min_cells,
        help="cells of a type that must have a gene",
    )
    group.add_argument("--n_factors", type=positive_int, default=defaults.n_factors, help="commonest factors of a type")
    group.add_argument(
        "--n_targets", type=positive_int, default=defaults.n_targets, help="commonest genes of a type, as targets"
    )
    group.add_argument(
        "--max_cells_per_type", type=positive_int, default=defaults.max_cells, help="cells of a type, drawn by the seed"
    )
    add_score_arguments(parser, defaults)
    arguments = parser.parse_args(argv)
    of_perturbation = {"perturbed_cells": defaults.perturbed_cells, "perturbation": defaults.edit}
    fill_in(arguments, of_perturbation, arguments.perturbed_factors > 0, "with --perturbed_factors 0")
    if arguments.graph_score == SCORE_COLUMNS[PERTURBATION] and not arguments.perturbed_factors:
        raise ScDMCError("--graph_score perturbation needs factors that are perturbed; raise --perturbed_factors")
    return arguments


def add_score_arguments(parser: argparse.ArgumentParser, defaults: NetworkOptions) -> None:
    """Flags of the scores of pairs, and of what is drawn of them."""
    group, graph = parser.add_argument_group("scores and graphs"), GraphOptions()
    for name, what in (("network_layers", "layers"), ("heads", "heads")):
        group.add_argument(
            f"--{name}", type=positive_int, nargs="+", help=f"{what} whose attention is averaged, from 1 (default: all)"
        )
    group.add_argument(
        "--perturbed_factors", type=non_negative_int, default=defaults.perturbed_factors, help="of a type; 0 for none"
    )
    group.add_argument(
        "--perturbed_cells",
        type=positive_int,
        help=f"cells in which each factor is perturbed (default: {defaults.perturbed_cells})",
    )
    group.add_argument(
        "--perturbation", choices=EDITS, help=f"what is done to a perturbed factor (default: {defaults.edit})"
    )
    group.add_argument(
        "--graph_score",
        choices=tuple(SCORE_COLUMNS.values()),
        default=graph.score,
        help="whose strongest edges are drawn, written as GraphML and searched for hubs",
    )
    group.add_argument(
        "--n_neighbors", type=positive_int, default=graph.n_neighbors, help="edges of a gene by association"
    )


def network_options(arguments: argparse.Namespace) -> NetworkOptions:
    """The options that the flags stand for."""
    return NetworkOptions(
        stream=arguments.stream,
        min_cells=arguments.min_cells_per_gene,
        n_factors=arguments.n_factors,
        n_targets=arguments.n_targets,
        max_cells=arguments.max_cells_per_type,
        layers=tuple(arguments.network_layers) if arguments.network_layers else None,
        heads=tuple(arguments.heads) if arguments.heads else None,
        perturbed_factors=arguments.perturbed_factors,
        perturbed_cells=arguments.perturbed_cells,
        edit=arguments.perturbation,
        seed=arguments.seed,
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Score, stream the edges, judge, draw."""
    began, arguments = time.time(), parse_arguments(argv)
    data_options, options = gene_data_options(arguments), network_options(arguments)
    graph = GraphOptions(arguments.graph_score, arguments.n_neighbors)
    require_task_inputs(arguments)
    require_files(regulons=arguments.regulons)

    from scdmc.gene_analysis.data import open_gene_data
    from scdmc.gene_analysis.network_results import score_networks, write_network_results
    from scdmc.gene_analysis.networks import regulons_by_token, require_layers_and_heads, require_masked_gene_head
    from scdmc.public_data.regulons import load_regulons
    from scdmc.reports.provenance import Provenance

    pairs = load_regulons(arguments.regulons)
    data = open_gene_data(arguments.model, arguments.data_path, data_options)
    require_layers_and_heads(data, options)
    require_masked_gene_head(data, options)
    regulons = regulons_by_token(pairs, data, str(arguments.regulons))
    made = Provenance((arguments.data_path, arguments.regulons), data.model_directory.path.name, options.seed, began)
    with result_folder(arguments.output_dir) as folder:
        collected = score_networks(folder, data, regulons, options, graph)
        verdict = write_network_results(folder, collected, graph, arguments.regulons.name, made)
    print(verdict)
    print(f"{collected.n_edges:,} scored pairs; wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
