"""Tokenize a folder of files of raw counts into parquet with two streams per cell."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import RECOMPUTE_TOTALS_HELP
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.genes.ids import SPECIES, load_gene_mapping, load_orthologs
from scdmc.genes.vocabulary import DEFAULT_TOKEN_DICTIONARY_FILE, load_vocabulary
from scdmc.reading.options import BLOCK_SIZE
from scdmc.tokens.medians import load_gene_medians
from scdmc.tokens.streams import MODEL_INPUT_SIZE
from scdmc.tokens.tokenize_folder import FolderJob, tokenize_folder
from scdmc.tokens.tokenizer import CELLS_PER_SHARD, Tokenizer


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the tokenizer."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--input_directory",
        type=Path,
        required=True,
        help="folder of .h5ad, .zarr, .loom, 10x .h5 files or 10x mtx folders with raw counts",
    )
    parser.add_argument("--output_directory", type=Path, required=True, help="folder for the parquet files")
    parser.add_argument(
        "--output_prefix", required=True, help="one shard becomes PREFIX.parquet, several PREFIX-00000.parquet, ..."
    )
    genes = parser.add_argument_group("genes")
    genes.add_argument(
        "--token_dictionary_file", type=Path, default=DEFAULT_TOKEN_DICTIONARY_FILE, help="vocabulary, JSON token -> id"
    )
    genes.add_argument(
        "--gene_median_file",
        type=Path,
        help="gene medians, JSON id -> number, or 'default': those that ship with scDMC; without it every median is 1",
    )
    genes.add_argument("--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first")
    genes.add_argument("--gene_id_column", help="column of var with the gene ids; looked for without it")
    genes.add_argument("--species", choices=SPECIES, default="human", help="whose genes the files hold")
    genes.add_argument(
        "--ortholog_file",
        type=Path,
        help="table of human and mouse genes, needed for mouse; one-to-one pairs are mapped",
    )
    cells = parser.add_argument_group("cells")
    cells.add_argument("--layer", help="where the raw counts are: X, raw or the name of a layer; looked for without it")
    cells.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    cells.add_argument("--recompute_totals", action="store_true", help=RECOMPUTE_TOTALS_HELP)
    cells.add_argument("--drop_empty_cells", action="store_true", help="leave out cells without counts")
    cells.add_argument(
        "--obs_columns", nargs="+", default=[], help="columns of obs to keep, such as cell_type batch donor_id"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--model_input_size", type=positive_int, default=MODEL_INPUT_SIZE, help="most tokens of a stream"
    )
    output.add_argument(
        "--cells_per_shard", type=positive_int, default=CELLS_PER_SHARD, help="most cells of a parquet file"
    )
    output.add_argument("--block_size", type=positive_int, default=BLOCK_SIZE, help="cells in memory at a time")
    output.add_argument(
        "--resume",
        action="store_true",
        help="keep the finished shards of an interrupted run whose files and settings have not changed",
    )
    output.add_argument("--overwrite", action="store_true", help="replace existing output")
    workers = parser.add_argument_group("workers; the output is the same for any number of them")
    workers.add_argument(
        "--num_workers",
        type=positive_int,
        default=1,
        help="processes on this machine, one thread each; they share out the shards (see --cells_per_shard)",
    )
    workers.add_argument(
        "--scheduler_address",
        help="tcp://HOST:PORT of a running Dask cluster whose workers do it instead; "
        "they must see the input and the output folder under the same paths",
    )
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Tokenize and print where the files are."""
    arguments = parse_arguments(argv)
    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=load_gene_medians(arguments.gene_median_file),
        model_input_size=arguments.model_input_size,
        gene_mapping=load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        gene_id_column=arguments.gene_id_column,
        drop_empty_cells=arguments.drop_empty_cells,
        species=arguments.species,
        orthologs=load_orthologs(arguments.ortholog_file, vocabulary) if arguments.ortholog_file else None,
    )
    job = FolderJob(
        input_directory=arguments.input_directory,
        output_directory=arguments.output_directory,
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
