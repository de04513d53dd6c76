"""Tokenize a folder of files of raw counts into parquet with two streams per cell."""

import argparse

from scdmc.cli.arguments import (
    add_data_argument,
    add_layer_arguments,
    add_shard_arguments,
    add_species_arguments,
    add_tokenizer_arguments,
    add_worker_arguments,
)
from scdmc.cli.inputs import require_counts, require_gene_files
from scdmc.cli.parser import argument_parser, script

EXAMPLES = (
    "{prog} --data_path counts --output_dir tokenized --output_prefix islets --gene_median_file default",
    "{prog} --data_path counts --output_dir tokenized --output_prefix pbmc --obs_columns cell_type batch "
    "--num_workers 8 --cells_per_shard 20000",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the tokenizer."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(
        parser,
        "--input_directory",
        meaning="folder of .h5ad, .zarr, .loom, 10x .h5 files or 10x mtx folders with raw counts",
    )
    genes = parser.add_argument_group("genes")
    add_tokenizer_arguments(genes)
    add_species_arguments(genes)
    cells = parser.add_argument_group("cells")
    add_layer_arguments(cells)
    cells.add_argument("--drop_empty_cells", action="store_true", help="leave out cells without counts")
    cells.add_argument(
        "--obs_columns", nargs="+", default=[], help="columns of obs to keep, such as cell_type batch donor_id"
    )
    add_shard_arguments(parser)
    add_worker_arguments(parser)
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Tokenize and print where the files are."""
    arguments = parse_arguments(argv)
    require_counts(arguments.data_path, "--data_path")
    require_gene_files(arguments)

    from scdmc.genes.ids import load_gene_mapping, load_orthologs
    from scdmc.genes.vocabulary import load_vocabulary
    from scdmc.tokens.medians import load_gene_medians
    from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
    from scdmc.tokens.tokenizer import Tokenizer

    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=load_gene_medians(arguments.gene_median_file),
        model_input_size=arguments.max_length,
        gene_mapping=load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        gene_id_column=arguments.gene_id_column,
        drop_empty_cells=arguments.drop_empty_cells,
        species=arguments.species,
        orthologs=load_orthologs(arguments.ortholog_file, vocabulary) if arguments.ortholog_file else None,
    )
    job = FolderJob(
        input_directory=arguments.data_path,
        output_directory=arguments.output_dir,
        output_prefix=arguments.output_prefix,
        tokenizer=tokenizer,
        obs_columns=arguments.obs_columns,
        layer=arguments.layer,
        allow_normalized=arguments.allow_normalized,
        recompute_totals=arguments.recompute_totals,
        cells_per_shard=arguments.cells_per_shard,
        block_size=arguments.block_size,
    )
    paths = tokenize_folder(
        job,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        num_workers=arguments.num_workers,
        scheduler_address=arguments.scheduler_address,
    )
    print(f"wrote {len(paths)} parquet file(s), from {paths[0]} on; report: {job.html_report_path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
