"""How much of the cell types frozen embeddings hold: macro-F1 of a linear probe and of 15 neighbours, beside PCA."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_file_argument,
    add_own_embedding_arguments,
    add_seed_argument,
    count_options_for,
    embedding_options,
    own_embeddings,
    placement,
)
from scdmc.cli.inputs import require_gene_files, require_input, require_model
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import names_of_files, require_new_file, write_json

if TYPE_CHECKING:
    import pandas as pd

    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model scDMC-small --data_path islets.h5ad --label_key cell_type",
    "{prog} --model pretrained --data_path PBMC.h5ad islets.h5ad --pooling weighted --output_file scores.json",
)

COLUMNS = {"probe_macro_f1": "linear probe", "neighbours_macro_f1": "15-NN"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the probe."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, "folder of a pre-trained model")
    add_data_argument(parser, meaning="labelled .h5ad or tokenized parquet; one or several", nargs="+")
    add_output_file_argument(
        parser, "scores as JSON (default: the table is printed only)", (".json",), is_required=False
    )
    add_label_key_argument(parser, "column of obs with the types")
    add_embedding_arguments(parser)
    add_own_embedding_arguments(parser)
    parser.add_argument("--splits", type=positive_int, default=5, help="stratified, 80 / 20; the scores are means")
    add_seed_argument(parser, "of the splits and of PCA")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def scores_of(
    path: Path, encoder: "ScDMCModel", model_directory: "ModelDirectory", arguments: argparse.Namespace
) -> dict[str, object]:
    """What was measured on one data set, and how; the scores of PCA, on the same cells and splits, lie in ``pca``."""
    from scdmc.annotation.probing import probe_scores
    from scdmc.cells.data import read_cells
    from scdmc.cells.expression import read_expression
    from scdmc.cells.own_embeddings import read_own_embeddings
    from scdmc.integration.methods import pca_of_variable_genes
    from scdmc.labels import type_labels
    from scdmc.model.embeddings import cell_embeddings, embedding_choice

    options = count_options_for(arguments, path)
    cells = read_cells(path, model_directory, [arguments.label_key], options)
    labels, _ = type_labels(cells.obs[arguments.label_key])
    how = (arguments.splits, arguments.seed)
    brought = read_own_embeddings(own_embeddings(arguments), path, cells)
    expression, _ = read_expression(path, cells, model_directory, options)
    choice = asdict(embedding_choice(encoder.config, **embedding_options(arguments)))
    return {
        "embedding": choice,
        **probe_scores(cell_embeddings(encoder, cells, **choice), labels, *how),
        "pca": probe_scores(pca_of_variable_genes(expression, seed=arguments.seed), labels, *how),
        "own": {name: probe_scores(embedding, labels, *how) for name, embedding in brought.items()},
        "n_splits": arguments.splits,
        "seed": arguments.seed,
        "label_key": arguments.label_key,
    }


def table_of(scores: dict[str, dict[str, object]]) -> "pd.DataFrame":
    """Methods x scores, those of each data set in columns of their own."""
    import pandas as pd

    columns = {
        f"{data_set}: {title}": {"scDMC": entry[name], "PCA of 2,000 variable genes": entry["pca"][name]}
        | {own: scores[name] for own, scores in entry["own"].items()}
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
    require_model(arguments.model)
    for path in arguments.data_path:
        require_input(path, "--data_path")
    require_gene_files(arguments)
    own = own_embeddings(arguments)

    from scdmc.cells.own_embeddings import require_own_embeddings
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model, saw_labels
    from scdmc.reports.tables import best_of_columns, markdown, score_texts

    require_own_embeddings(own, arguments.data_path)
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    if saw_labels(model_directory):
        raise ScDMCError(f"{arguments.model} is a classifier, whose encoder saw labels; probe a pre-trained model")
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
