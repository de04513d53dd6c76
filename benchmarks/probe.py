"""How much of the cell types frozen embeddings hold: macro-F1 of a linear probe and of 15 neighbours, beside PCA."""

import argparse
from pathlib import Path

import pandas as pd

from scdmc.annotation.probing import probe_scores
from scdmc.cells.data import names_of_files, read_cells
from scdmc.cells.expression import read_expression
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_model_arguments,
    add_model_path_argument,
    count_options_for,
    placement,
)
from scdmc.cli.parser import argument_parser, positive_int, script, seed
from scdmc.errors import ScDMCError
from scdmc.files import require_new_file, write_json
from scdmc.integration.methods import pca_of_variable_genes
from scdmc.labels import labels_of
from scdmc.model.devices import place_model
from scdmc.model.embeddings import cell_embeddings
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.storage import load_model, saw_labels
from scdmc.options import POOLINGS, STREAMS
from scdmc.reports.tables import best_of_columns, markdown, score_texts

COLUMNS = {"probe_macro_f1": "linear probe", "neighbours_macro_f1": "15-NN"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the probe."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser, meaning="folder of a pre-trained model")
    parser.add_argument(
        "--data_path", type=Path, nargs="+", required=True, help="labelled .h5ad or tokenized parquet; one or several"
    )
    parser.add_argument("--output_file", type=Path, help="scores as JSON; without it the table is printed only")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the types")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    parser.add_argument("--splits", type=positive_int, default=5, help="stratified, 80 / 20; the scores are means")
    parser.add_argument("--seed", type=seed, default=42, help="of the splits and of PCA")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def scores_of(
    path: Path, encoder: ScDMCModel, model_directory: ModelDirectory, arguments: argparse.Namespace
) -> dict[str, object]:
    """What was measured on one data set, and how; the scores of PCA, on the same cells and splits, lie in ``pca``."""
    options = count_options_for(arguments, path)
    cells = read_cells(path, model_directory, [arguments.label_key], options)
    labels = labels_of(cells.obs[arguments.label_key])
    how = (arguments.splits, arguments.seed)
    expression, _ = read_expression(path, cells, model_directory, options)
    return {
        "embedding": {"stream": arguments.stream, "pooling": arguments.pooling},
        **probe_scores(cell_embeddings(encoder, cells, arguments.stream, arguments.pooling), labels, *how),
        "pca": probe_scores(pca_of_variable_genes(expression, seed=arguments.seed), labels, *how),
        "n_splits": arguments.splits,
        "seed": arguments.seed,
        "label_key": arguments.label_key,
    }


def table_of(scores: dict[str, dict[str, object]]) -> pd.DataFrame:
    """Methods x scores, those of each data set in columns of their own."""
    columns = {
        f"{data_set}: {title}": {"scDMC": entry[name], "PCA of 2,000 variable genes": entry["pca"][name]}
        for data_set, entry in scores.items()
        for name, title in COLUMNS.items()
    }
    return pd.DataFrame(columns)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed without labels, probe, print."""
    arguments = parse_arguments(argv)
    names = names_of_files(arguments.data_path, "--data_path")
    if arguments.output_file:
        require_new_file(arguments.output_file, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    if saw_labels(model_directory):
        raise ScDMCError(f"{arguments.model_path} is a classifier, whose encoder saw labels; probe a pre-trained model")
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    scores = {
        name: scores_of(path, encoder, model_directory, arguments)
        for name, path in zip(names, arguments.data_path, strict=True)
    }
    if arguments.output_file:
        write_json(arguments.output_file, scores)
    table = table_of(scores)
    print(markdown(score_texts(table), best_of_columns(table)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
