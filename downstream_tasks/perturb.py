"""In-silico knock-out or over-expression of genes: shift of cell states and types, against matched random genes."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, fill_in, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.gene_analysis.options import EDITS, ScreenOptions
from scdmc.options import STREAMS
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir perturbation --genes INS GCG",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir perturbation --gene_sets pathways.gmt "
    "--goal alpha --null_draws 1000",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of in-silico perturbation."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), ScreenOptions()
    add_gene_arguments(parser, STREAMS, reads_classifiers=True)
    group = parser.add_argument_group("perturbation")
    group.add_argument("--genes", nargs="+", default=[], metavar="GENE", help="symbols or Ensembl ids, one by one")
    group.add_argument(
        "--gene_sets", type=Path, help="GMT file; the genes of each set are perturbed together (default: none)"
    )
    group.add_argument("--perturbation", choices=EDITS, default=defaults.edit, help="knock-out, or over-expression")
    group.add_argument("--goal", metavar="TYPE", help="cell type that the cells might move towards (default: none)")
    group.add_argument(
        "--max_cells_per_type",
        type=positive_int,
        default=defaults.max_cells,
        help="cells of each type, drawn with the seed",
    )
    group.add_argument(
        "--null_draws", type=positive_int, default=defaults.null_draws, help="matched random genes for each gene"
    )
    arguments = parser.parse_args(argv)
    if not arguments.genes and arguments.gene_sets is None:
        raise ScDMCError("nothing to perturb: name --genes, or --gene_sets")
    return arguments


def screen_options(arguments: argparse.Namespace) -> ScreenOptions:
    """The options that the flags stand for."""
    return ScreenOptions(
        edit=arguments.perturbation,
        stream=arguments.stream,
        max_cells=arguments.max_cells_per_type,
        null_draws=arguments.null_draws,
        goal=arguments.goal,
        cell_types=tuple(arguments.cell_types) if arguments.cell_types else None,
        seed=arguments.seed,
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Perturb, compare with chance, draw."""
    began, arguments = time.time(), parse_arguments(argv)
    data_options = gene_data_options(arguments, all_types=True)
    require_task_inputs(arguments)
    require_files(gene_sets=arguments.gene_sets)

    from scdmc.gene_analysis.data import open_gene_data
    from scdmc.gene_analysis.perturbation import screen_genes, tokens_to_perturb
    from scdmc.gene_analysis.perturbation_results import write_screen_results
    from scdmc.gene_analysis.sets import read_gene_sets
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import saw_labels
    from scdmc.reports.provenance import Provenance

    gene_sets = read_gene_sets(arguments.gene_sets) if arguments.gene_sets else {}
    is_classifier = saw_labels(open_model_directory(arguments.model, arguments.token_dictionary_file))
    why_not = "with a classifier, which reads what it was trained on"
    fill_in(arguments, {"stream": ScreenOptions.stream}, not is_classifier, why_not)
    data = open_gene_data(arguments.model, arguments.data_path, data_options)
    chosen = tokens_to_perturb(data, arguments.genes, gene_sets, str(arguments.gene_sets))
    options = screen_options(arguments)
    table = screen_genes(data, chosen, options)
    made = Provenance(
        tuple(filter(None, (arguments.data_path, arguments.gene_sets))),
        data.model_directory.path.name,
        options.seed,
        began,
    )
    with result_folder(arguments.output_dir) as folder:
        verdict = write_screen_results(folder, table, options, made)
    print(verdict)
    print(f"wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
