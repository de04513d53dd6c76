"""Label the cells of a new file with a fine-tuned classifier."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.annotation import likeliest_class, predict_probabilities
from scdmc.command_line import argument_parser, non_negative_int, script
from scdmc.devices import choose_device
from scdmc.embeddings import EMBEDDING_KEY, cell_embeddings
from scdmc.files import require_new
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import ScDMCForCellClassification
from scdmc.task_data import add_count_arguments, annotated_data, count_options, read_cells, write_annotated_data

UNKNOWN = "Unknown"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, required=True, help="folder of a classifier (downstream_tasks.py)")
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument(
        "--output_file", type=Path, required=True, help=".h5ad to write: the same cells with their labels"
    )
    parser.add_argument("--min_probability", type=float, default=0.0, help=f"less certain cells become {UNKNOWN}")
    parser.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    add_count_arguments(parser)
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells and print how many there are of each type."""
    arguments = parse_arguments(argv)
    device = choose_device(arguments.num_gpus)
    require_new(arguments.output_file, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path)
    model = load_model(arguments.model_path, ScDMCForCellClassification).to(device)
    cells = read_cells(arguments.data_path, model_directory, options=count_options(arguments))
    names = np.array([model.config.id2label[index] for index in range(model.config.num_labels)], dtype=object)
    likeliest, probability, margin = likeliest_class(predict_probabilities(model, cells))
    cell_type = np.where(probability >= arguments.min_probability, names[likeliest], UNKNOWN).astype(object)
    results = {"scDMC_cell_type": cell_type, "scDMC_probability": probability, "scDMC_margin": margin}
    embeddings = cell_embeddings(model.bert, cells, model.config.classifier_stream)
    adata = annotated_data(arguments.data_path, cells, obs=results, obsm={EMBEDDING_KEY: embeddings})
    write_annotated_data(adata, arguments.output_file)
    print(pd.Series(cell_type).value_counts().to_string())
    print(f"wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
