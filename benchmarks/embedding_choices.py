"""Stream, pooling and layer of zero-shot embeddings: chosen on the first data set, confirmed on the others."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_batch_key_argument,
    add_count_arguments,
    add_data_argument,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_file_argument,
    add_seed_argument,
    count_options_for,
    placement,
)
from scdmc.cli.inputs import require_gene_files, require_input, require_model
from scdmc.cli.parser import argument_parser, positive_float, script
from scdmc.files import atomic_path, require_new_file

if TYPE_CHECKING:
    import pandas as pd

    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model scDMC-small --data_path islets.h5ad",
    "{prog} --model scDMC-small --data_path BLOOD.h5ad LINES.h5ad --batch_key batch --output_file choices.csv",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the comparison."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    add_data_argument(parser, "--tokenized_data_path", meaning="tokenized parquet, or .h5ad; one or several", nargs="+")
    add_output_file_argument(
        parser, "all scores as CSV (default: the table is printed only)", (".csv",), is_required=False
    )
    add_batch_key_argument(parser)
    add_label_key_argument(parser, "column of obs with the types, for the scores only")
    parser.add_argument("--resolution", type=positive_float, default=0.2, help="of Leiden, the same for every choice")
    add_seed_argument(parser, "of neighbours and Leiden")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


def scores_of(
    path: Path, encoder: "ScDMCModel", model_directory: "ModelDirectory", arguments: argparse.Namespace
) -> "pd.DataFrame":
    """Scores of every choice on one data set, choices x metrics."""
    from scdmc.cells.data import read_cells
    from scdmc.integration.data import usable_cells
    from scdmc.labels import labels_of, type_labels
    from scdmc.studies.embedding_choices import embeddings_of_choices, score_choices

    keys = (arguments.batch_key, arguments.label_key)
    cells = read_cells(path, model_directory, keys, count_options_for(arguments, path))
    cells = cells.select(usable_cells(cells, model_directory, *keys))
    batch, labels = labels_of(cells.obs[keys[0]]), type_labels(cells.obs[keys[1]])[0]
    return score_choices(embeddings_of_choices(encoder, cells), labels, batch, arguments.resolution, arguments.seed)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed once, pool in every way, score all alike."""
    arguments = parse_arguments(argv)
    if arguments.output_file:
        require_new_file(arguments.output_file, arguments.overwrite)
    require_model(arguments.model)
    for path in arguments.data_path:
        require_input(path, "--data_path")
    require_gene_files(arguments)

    import pandas as pd

    from scdmc.cells.scores import SUMMARY
    from scdmc.model.devices import place_model
    from scdmc.model.embeddings import embedding_choice
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.reports.tables import best_of_columns, markdown, score_texts
    from scdmc.studies.embedding_choices import confirmation

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    tables = {path.stem: scores_of(path, encoder, model_directory, arguments) for path in arguments.data_path}
    if arguments.output_file:
        with atomic_path(arguments.output_file) as temporary:
            pd.concat(tables, names=["dataset", "choice"]).to_csv(temporary)
    averages = pd.concat([scores[list(SUMMARY)].add_prefix(f"{name}: ") for name, scores in tables.items()], axis=1)
    averages = averages.sort_values(averages.columns[2], ascending=False)
    print(markdown(score_texts(averages), best_of_columns(averages)))
    print("\n".join(confirmation(tables, embedding_choice(encoder.config))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
