"""Tokenize a slice of a CELLxGENE Census, or of a SOMA experiment, straight to parquet with two streams per cell."""

import argparse
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from scdmc.cli.arguments import add_seed_argument, add_shard_arguments, add_tokenizer_arguments
from scdmc.cli.inputs import require_gene_files
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.reading.options import CENSUS_OBS_COLUMNS
from scdmc.tokens.options import CENSUS_BLOCK_SIZE

EXAMPLES = (
    "{prog} --census_version 2024-07-01 --obs_value_filter \"tissue_general == 'blood'\" --max_cells 100000 "
    "--output_dir tokenized --output_prefix blood --own_medians",
    "{prog} --uri my_experiment.soma --output_dir tokenized --output_prefix mine",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the Census tokenizer."""
    parser = argument_parser(__doc__, EXAMPLES)
    source = parser.add_argument_group("source; one of the two").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--census_version", help="date of a Census, such as 2024-07-01; read over the network (default: none)"
    )
    source.add_argument("--uri", help="a SOMA experiment of your own, on disk or in a bucket (default: none)")
    cells = parser.add_argument_group("cells")
    cells.add_argument("--organism", default="homo_sapiens", help="experiment of the Census")
    cells.add_argument(
        "--obs_value_filter", help="condition on obs, such as \"tissue_general == 'blood'\" (default: none)"
    )
    cells.add_argument("--max_cells", type=positive_int, help="cells to draw at random (default: all)")
    add_seed_argument(cells, "of the draw")
    cells.add_argument("--all_cells", action="store_true", help="also cells that are not marked as primary data")
    cells.add_argument("--measurement", default="RNA", help="measurement of the experiment")
    cells.add_argument("--layer", default="raw", help="layer of X with the raw counts")
    cells.add_argument("--drop_empty_cells", action="store_true", help="leave out cells without counts")
    cells.add_argument("--obs_columns", nargs="+", default=list(CENSUS_OBS_COLUMNS), help="columns of obs to keep")
    genes = parser.add_argument_group("genes")
    add_tokenizer_arguments(genes)
    genes.add_argument(
        "--own_medians",
        action="store_true",
        help="gene medians of the chosen cells themselves, in a first pass over them, instead of --gene_median_file",
    )
    add_shard_arguments(parser, CENSUS_BLOCK_SIZE)
    return parser.parse_args(argv)


def open_source(arguments: argparse.Namespace) -> tuple[str, AbstractContextManager]:
    """What the cells' ``source_file`` says, and the experiment to be opened."""
    from scdmc.reading.census import open_census, open_experiment

    if arguments.uri:
        return arguments.uri.rstrip("/").rpartition("/")[2], open_experiment(arguments.uri)
    name = f"census_{arguments.census_version}_{arguments.organism}"
    return name, open_census(arguments.census_version, arguments.organism)


@script
def main(argv: list[str] | None = None) -> int:
    """Choose the cells, tokenize them and print where the files are."""
    arguments = parse_arguments(argv)
    if arguments.own_medians and arguments.gene_median_file:
        raise ScDMCError("--own_medians and --gene_median_file both say which medians are taken: give one of them")
    require_gene_files(arguments)
    # A bucket ("s3://...") is looked at when it is opened.
    if arguments.uri and "://" not in arguments.uri and not Path(arguments.uri).exists():
        raise ScDMCError(f"--uri {arguments.uri}: no such SOMA experiment")

    from scdmc.genes.ids import load_gene_mapping
    from scdmc.genes.vocabulary import load_vocabulary
    from scdmc.reading.census import CensusSlice, census_counts, choose_cells, obs_columns_of
    from scdmc.tokens.medians import load_gene_medians
    from scdmc.tokens.tokenize_census import CensusJob, tokenize_census
    from scdmc.tokens.tokenized_cells import require_obs_columns
    from scdmc.tokens.tokenizer import Tokenizer, medians_of_counts

    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=load_gene_medians(arguments.gene_median_file),
        model_input_size=arguments.max_length,
        gene_mapping=load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        gene_id_column=arguments.gene_id_column,
        drop_empty_cells=arguments.drop_empty_cells,
    )
    job = CensusJob(
        output_directory=arguments.output_dir,
        output_prefix=arguments.output_prefix,
        tokenizer=tokenizer,
        location=arguments.uri or f"census {arguments.census_version} {arguments.organism}",
        wanted=CensusSlice(
            arguments.obs_value_filter, arguments.max_cells, arguments.seed, primary_only=not arguments.all_cells
        ),
        obs_columns=tuple(arguments.obs_columns),
        cells_per_shard=arguments.cells_per_shard,
        block_size=arguments.block_size,
    )
    job.require_new(arguments.overwrite, arguments.resume)
    name, source = open_source(arguments)
    with source as experiment:
        require_obs_columns({name: obs_columns_of(experiment)}, job.obs_columns)
        joinids, n_matching = choose_cells(experiment, job.wanted)
        print(f"{name}: {len(joinids):,} of {n_matching:,} matching cells taken")
        counts = census_counts(
            experiment, joinids, job.obs_columns, name, measurement=arguments.measurement, layer=arguments.layer
        )
        if arguments.own_medians:
            medians = medians_of_counts(counts, tokenizer, arguments.block_size)
            job = replace(job, tokenizer=replace(tokenizer, medians=medians))
        paths = tokenize_census(job, counts, n_matching, arguments.overwrite, arguments.resume)
    print(f"wrote {len(paths)} parquet file(s), from {paths[0]} on; report: {job.report_path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
