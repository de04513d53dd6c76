"""Gene modules of a model: clusters of gene embeddings, their activity, and whether known gene sets confirm them."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.gene_analysis.options import ModuleOptions
from scdmc.options import STREAMS
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir modules --label_key cell_type",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir modules --gene_sets pathways.gmt",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of gene modules."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), ModuleOptions()
    add_gene_arguments(parser, STREAMS)
    group = parser.add_argument_group("modules")
    group.add_argument(
        "--gene_sets", type=Path, help="GMT file of gene sets, to test the modules against (default: no test)"
    )
    group.add_argument(
        "--min_cells_per_gene", type=positive_int, default=defaults.min_cells, help="cells that must have a gene"
    )
    group.add_argument(
        "--resolutions",
        type=positive_float,
        nargs="+",
        default=list(defaults.resolutions),
        help="of Leiden; all are written, and the one with the best silhouette is described",
    )
    group.add_argument(
        "--n_neighbors", type=positive_int, default=defaults.n_neighbors, help="of the neighbour graph of genes"
    )
    group.add_argument(
        "--permutations",
        type=positive_int,
        help=f"random gene sets of the tests, with --gene_sets (default: {defaults.permutations})",
    )
    arguments = parser.parse_args(argv)
    has_sets = arguments.gene_sets is not None
    fill_in(arguments, {"permutations": defaults.permutations}, has_sets, "without --gene_sets")
    return arguments


def module_options(arguments: argparse.Namespace) -> ModuleOptions:
    """The options that the flags stand for."""
    return ModuleOptions(
        stream=arguments.stream,
        min_cells=arguments.min_cells_per_gene,
        resolutions=tuple(arguments.resolutions),
        n_neighbors=arguments.n_neighbors,
        permutations=arguments.permutations,
        seed=arguments.seed,
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Find modules, score, test, draw."""
    began, arguments = time.time(), parse_arguments(argv)
    data_options, options = gene_data_options(arguments), module_options(arguments)
    require_task_inputs(arguments)
    require_files(gene_sets=arguments.gene_sets)

    from scdmc.gene_analysis.data import open_gene_data
    from scdmc.gene_analysis.module_results import write_module_results
    from scdmc.gene_analysis.modules import analyse_modules
    from scdmc.gene_analysis.sets import read_gene_sets
    from scdmc.reports.provenance import Provenance

    gene_sets = read_gene_sets(arguments.gene_sets) if arguments.gene_sets else None
    data = open_gene_data(arguments.model, arguments.data_path, data_options)
    results = analyse_modules(data, gene_sets, options, str(arguments.gene_sets))
    made = Provenance(
        tuple(filter(None, (arguments.data_path, arguments.gene_sets))),
        data.model_directory.path.name,
        options.seed,
        began,
    )
    with result_folder(arguments.output_dir) as folder:
        write_module_results(folder, results, options, len(data.cells), made)
    print(results.verdict)
    print(f"{results.found.n_modules} modules of {len(results.genes):,} genes; wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
