"""Attention of a model: which genes get it in which cell type, whether these are markers, and what <cls> rests on."""

import argparse
import time

from scdmc.cli.arguments import add_gene_arguments, gene_data_options
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.gene_analysis.options import AttentionOptions
from scdmc.result_folders import result_folder

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir attention --label_key cell_type",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_dir attention --cell_types alpha beta --map_cells 2",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of attention analysis."""
    parser, defaults = argument_parser(__doc__, EXAMPLES), AttentionOptions()
    add_gene_arguments(parser)
    group = parser.add_argument_group("attention")
    flags = {
        "min_cells_per_gene": (defaults.min_cells, "cells of a type that must have a gene"),
        "attribution_cells": (defaults.attribution_cells, "cells of each type for rollout and gradients"),
        "map_cells": (defaults.map_cells, "cells whose attention is drawn"),
        "map_genes": (defaults.map_genes, "genes of such a cell, the highest ranks"),
    }
    for name, (default, meaning) in flags.items():
        group.add_argument(f"--{name}", type=positive_int, default=default, help=meaning)
    return parser.parse_args(argv)


def attention_options(arguments: argparse.Namespace) -> AttentionOptions:
    """The options that the flags stand for."""
    return AttentionOptions(
        stream=arguments.stream,
        min_cells=arguments.min_cells_per_gene,
        attribution_cells=arguments.attribution_cells,
        map_cells=arguments.map_cells,
        map_genes=arguments.map_genes,
        seed=arguments.seed,
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Stream attention over the cells, score, draw."""
    began, arguments = time.time(), parse_arguments(argv)
    data_options, options = gene_data_options(arguments), attention_options(arguments)
    require_task_inputs(arguments)

    from scdmc.gene_analysis.attention_analysis import analyse_attention
    from scdmc.gene_analysis.attention_results import write_attention_results
    from scdmc.gene_analysis.data import open_gene_data
    from scdmc.reports.provenance import Provenance

    data = open_gene_data(arguments.model, arguments.data_path, data_options)
    print(f"cells for maps and attributions are drawn with seed {options.seed}")
    results = analyse_attention(data, options)
    made = Provenance((arguments.data_path,), data.model_directory.path.name, options.seed, began)
    with result_folder(arguments.output_dir) as folder:
        write_attention_results(folder, results, made)
    print(results.verdict)
    print(f"wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
