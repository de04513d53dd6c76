"""Write cell embeddings of a pre-trained or fine-tuned model into obsm['X_scDMC'] of an .h5ad; no label is used."""

import argparse
import time

from scdmc.annotation.options import OUTPUT_SUFFIXES
from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_model_argument,
    add_model_arguments,
    add_output_file_argument,
    add_seed_argument,
    add_umap_argument,
    complete_umap,
    count_options_for,
    embedding_options,
    placement,
    wanted_map,
)
from scdmc.cli.parser import argument_parser, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.file_names import page_beside
from scdmc.files import remove, require_new_file

EXAMPLES = (
    "{prog} --model scDMC-small --data_path cells.h5ad --output_file embedded.h5ad",
    "{prog} --model scDMC-small --data_path cells.h5ad --output_file embedded.h5ad --stream rank --pooling mean",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of embedding."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    add_data_argument(parser)
    add_output_file_argument(parser, ".h5ad to write, or .csv with a table", OUTPUT_SUFFIXES)
    add_embedding_arguments(parser)
    add_umap_argument(parser)
    add_seed_argument(parser, "of the UMAP")
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    complete_umap(arguments, arguments.output_file.suffix == ".h5ad", "on a table")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells, block by block."""
    began, arguments = time.time(), parse_arguments(argv)
    counts = count_options_for(arguments, arguments.data_path)
    require_task_inputs(arguments)
    page = page_beside(arguments.output_file)
    require_new_file(page, arguments.overwrite)

    from scdmc.annotation.annotate_file import embed_file
    from scdmc.annotation.embedding_page import write_embedding_page
    from scdmc.cells.viewers import ForViewers
    from scdmc.model.devices import place_model
    from scdmc.model.embeddings import EMBEDDING_KEY, embedding_choice
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.reports.provenance import Provenance

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    choice = embedding_choice(model_directory.config, **embedding_options(arguments))
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    made = Provenance((arguments.data_path,), model_directory.path.name, arguments.seed, began)
    embedded = embed_file(
        arguments.data_path,
        arguments.output_file,
        model_directory,
        encoder,
        counts,
        choice,
        ForViewers(made, wanted_map(arguments)),
    )
    remove(page)  # which is of the older file
    write_embedding_page(page, embedded, made)
    shape = (embedded.n_embedded, embedded.width)
    print(f"obsm['{EMBEDDING_KEY}'] of shape {shape}; wrote {arguments.output_file} and {page.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
