"""Median non-zero expression (CP10k) of every gene over a folder of raw-count files, in one streaming pass."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import (
    add_data_argument,
    add_layer_arguments,
    add_leave_out_argument,
    add_output_file_argument,
    add_species_arguments,
    add_tokenizer_arguments,
)
from scdmc.cli.inputs import require_counts, require_files, require_gene_files
from scdmc.cli.parser import argument_parser, positive_int, script, whole_number
from scdmc.files import remove, require_new_file, write_json
from scdmc.tokens.options import EXACT_LIMIT

EXAMPLES = (
    "{prog} --data_path counts --output_file medians.json",
    "{prog} --data_path counts --output_file medians.json --split_file split.csv --leave_out donor_id=d1,d2",
)
MOST_DIGITS = 17  # of a number in double precision


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the gene medians."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(
        parser,
        "--input_directory",
        meaning="folder of files with raw counts, of the formats of tokenizer_combine.py",
    )
    add_output_file_argument(
        parser, "JSON, Ensembl id -> median", (".json",), overwrite="replace --output_file and its provenance file"
    )
    parser.add_argument("--split_file", type=Path, help="split.csv: take its 'train' cells only (default: all cells)")
    add_leave_out_argument(parser)
    add_tokenizer_arguments(parser, has_medians=False)
    add_species_arguments(parser)
    add_layer_arguments(parser)
    parser.add_argument(
        "--exact_limit",
        type=positive_int,
        default=EXACT_LIMIT,
        help="up to this many non-zero values the medians are exact, beyond that within 0.5%%",
    )
    parser.add_argument(
        "--significant_digits", type=whole_number(1, MOST_DIGITS), help="round the medians (default: all digits)"
    )
    return parser.parse_args(argv)


def require_inputs(arguments: argparse.Namespace) -> None:
    """Refuse absent and unreadable inputs at once."""
    require_counts(arguments.data_path, "--data_path")
    require_files(split_file=arguments.split_file)
    require_gene_files(arguments)


@script
def main(argv: list[str] | None = None) -> int:
    """Compute the medians and write them with their provenance beside them."""
    arguments = parse_arguments(argv)
    provenance_file = arguments.output_file.with_suffix(".provenance.json")
    require_inputs(arguments)
    for path in (arguments.output_file, provenance_file):
        require_new_file(path, arguments.overwrite)

    from scdmc.cells.training_medians import TakenCells, require_rules_that_apply
    from scdmc.genes.ids import load_gene_mapping, load_orthologs
    from scdmc.genes.vocabulary import load_vocabulary
    from scdmc.reading.inputs import input_files
    from scdmc.reading.obs_filter import parse_leave_out
    from scdmc.tokens.medians import load_gene_medians, medians_by_gene
    from scdmc.tokens.tokenizer import Tokenizer, collect_medians

    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=load_gene_medians(None),
        gene_mapping=load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        gene_id_column=arguments.gene_id_column,
        species=arguments.species,
        orthologs=load_orthologs(arguments.ortholog_file, vocabulary) if arguments.ortholog_file else None,
    )
    files = input_files(arguments.data_path)
    rules = parse_leave_out(arguments.leave_out)
    require_rules_that_apply(files, rules, arguments.layer, arguments.allow_normalized)
    taken = TakenCells(arguments.split_file, rules)
    accumulator = collect_medians(
        files,
        tokenizer,
        arguments.layer,
        arguments.allow_normalized,
        choose_cells=taken,
        exact_limit=arguments.exact_limit,
        recompute_totals=arguments.recompute_totals,
    )
    medians = medians_by_gene(accumulator, vocabulary, str(arguments.output_file))
    if arguments.significant_digits:
        medians = medians.rounded(arguments.significant_digits)
    remove(provenance_file)  # so that none of other medians stands beside these, whenever the run ends
    medians.save(arguments.output_file)
    provenance = {
        "files": [path.name for path in files],
        "cells": accumulator.n_cells,
        "training_cells_only": arguments.split_file is not None,
        **taken.provenance(),
        "genes": len(medians.medians),
        "exact": accumulator.is_exact,
        "significant_digits": arguments.significant_digits,
        "unit": "CP10k (counts / n * 10000), median over the cells in which the gene is not zero",
        "vocabulary_sha256": vocabulary.sha256,
        "sha256": medians.sha256,
    }
    write_json(provenance_file, provenance)
    exactness = "exact" if accumulator.is_exact else "within 0.5%"
    print(
        f"medians of {len(medians.medians):,} genes over {accumulator.n_cells:,} cells ({exactness}); "
        f"wrote {arguments.output_file}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
