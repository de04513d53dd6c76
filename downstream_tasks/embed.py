"""Write cell embeddings of a pre-trained or fine-tuned model into obsm['X_scDMC'] of an .h5ad; no label is used."""

import argparse
from pathlib import Path

from scdmc.command_line import argument_parser, non_negative_int, script
from scdmc.devices import choose_device
from scdmc.embeddings import EMBEDDING_KEY, POOLINGS, cell_embeddings
from scdmc.files import require_new
from scdmc.model_directory import load_model, open_model_directory
from scdmc.modeling import STREAMS, ScDMCModel
from scdmc.task_data import add_count_arguments, annotated_data, count_options, read_cells, write_annotated_data


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of embedding."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, required=True, help="model folder")
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_file", type=Path, required=True, help=".h5ad to write")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream; both are joined")
    parser.add_argument("--pooling", choices=POOLINGS, default="cls", help="state of <cls>, or mean state of the genes")
    parser.add_argument("--token_dictionary_file", type=Path, help="vocabulary of a model folder that has none")
    parser.add_argument("--num_gpus", type=non_negative_int, help="0 forces the CPU")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    add_count_arguments(parser)
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Embed all cells."""
    arguments = parse_arguments(argv)
    device = choose_device(arguments.num_gpus)
    require_new(arguments.output_file, arguments.overwrite)
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    cells = read_cells(arguments.data_path, model_directory, options=count_options(arguments))
    encoder = load_model(arguments.model_path, ScDMCModel).to(device)
    embeddings = cell_embeddings(encoder, cells, arguments.stream, arguments.pooling)
    adata = annotated_data(arguments.data_path, cells, obsm={EMBEDDING_KEY: embeddings})
    write_annotated_data(adata, arguments.output_file)
    print(f"obsm['{EMBEDDING_KEY}'] of shape {embeddings.shape}; wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
