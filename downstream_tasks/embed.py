"""Write cell embeddings of a pre-trained or fine-tuned model into obsm['X_scDMC'] of an .h5ad; no label is used."""

import argparse
from pathlib import Path

from scdmc.annotation.annotate_file import embed_file
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_dtype_argument,
    add_model_arguments,
    add_model_path_argument,
    count_options_for,
    placement,
)
from scdmc.cli.parser import argument_parser, script
from scdmc.files import require_new_file
from scdmc.model.devices import place_model
from scdmc.model.embeddings import EMBEDDING_KEY
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import open_model_directory
from scdmc.model.storage import load_model
from scdmc.options import POOLINGS, STREAMS


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of embedding."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser)
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_file", type=Path, required=True, help=".h5ad to write, or .csv with a table")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help=POOLING_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    add_model_arguments(parser)
    add_dtype_argument(parser)
    add_count_arguments(parser)
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells, block by block."""
    arguments = parse_arguments(argv)
    options = count_options_for(arguments, arguments.data_path)
    require_new_file(arguments.output_file, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    shape = embed_file(
        arguments.data_path, arguments.output_file, model_directory, encoder,
        arguments.stream, arguments.pooling, options,
    )  # fmt: skip
    print(f"obsm['{EMBEDDING_KEY}'] of shape {shape}; wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
