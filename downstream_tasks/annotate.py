"""Label the cells of a new file with a fine-tuned classifier."""

import argparse
from pathlib import Path

import pandas as pd

from scdmc.annotation import EMPTY_LENGTH, UNKNOWN, annotate_cells, annotation_columns, names_of_classes
from scdmc.command_line import argument_parser, probability, script
from scdmc.embeddings import EMBEDDING_KEY
from scdmc.files import require_new_file
from scdmc.h5ad import write_h5ad
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import ScDMCForCellClassification
from scdmc.task_data import (
    add_count_arguments,
    add_model_arguments,
    annotated_data,
    count_options,
    place_model,
    read_cells,
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, required=True, help="folder of a classifier (downstream_tasks.py)")
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument(
        "--output_file", type=Path, required=True, help=".h5ad to write: the same cells with their labels"
    )
    parser.add_argument("--min_probability", type=probability, default=0.0, help=f"less certain cells become {UNKNOWN}")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells and print how many there are of each type."""
    arguments = parse_arguments(argv)
    require_new_file(arguments.output_file, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    model = place_model(load_model(arguments.model_path, ScDMCForCellClassification), arguments)
    cells = read_cells(arguments.data_path, model_directory, options=count_options(arguments))
    probabilities, embeddings = annotate_cells(model, cells)
    is_empty = cells.rank_lengths <= EMPTY_LENGTH
    results = annotation_columns(names_of_classes(model), probabilities, is_empty, arguments.min_probability)
    adata = annotated_data(arguments.data_path, cells, obs=results, obsm={EMBEDDING_KEY: embeddings})
    write_h5ad(adata, arguments.output_file)
    print(pd.Series(results["scDMC_cell_type"]).value_counts().to_string())
    if is_empty.any():
        print(f"{is_empty.sum():,} cells have no count in any gene of the vocabulary and are {UNKNOWN}")
    print(f"wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
