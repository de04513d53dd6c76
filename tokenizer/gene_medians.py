"""Median non-zero expression (CP10k) of every gene over a folder of raw-count files, in one streaming pass."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.cells.splits import read_split
from scdmc.cli.arguments import RECOMPUTE_TOTALS_HELP, add_leave_out_argument
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.files import require_new_file, write_json
from scdmc.genes.ids import SPECIES, load_gene_mapping, load_orthologs
from scdmc.genes.vocabulary import DEFAULT_TOKEN_DICTIONARY_FILE, load_vocabulary
from scdmc.reading.counts import Counts, open_counts, passes_filter
from scdmc.reading.inputs import input_files
from scdmc.reading.obs_filter import keep_cells, parse_leave_out, require_known_values
from scdmc.tokens.medians import EXACT_LIMIT, load_gene_medians, medians_by_gene
from scdmc.tokens.tokenizer import Tokenizer, collect_medians


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the gene medians."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--input_directory",
        type=Path,
        required=True,
        help="folder of files with raw counts, of the formats of tokenizer_combine.py",
    )
    parser.add_argument("--output_file", type=Path, required=True, help="JSON, Ensembl id -> median")
    parser.add_argument("--split_file", type=Path, help="split.csv: take its 'train' cells only")
    add_leave_out_argument(parser)
    parser.add_argument("--token_dictionary_file", type=Path, default=DEFAULT_TOKEN_DICTIONARY_FILE, help="vocabulary")
    parser.add_argument("--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first")
    parser.add_argument("--gene_id_column", help="column of var with the gene ids; looked for without it")
    parser.add_argument("--species", choices=SPECIES, default="human", help="whose genes the files hold")
    parser.add_argument("--ortholog_file", type=Path, help="table of human and mouse genes, needed for mouse")
    parser.add_argument(
        "--layer", help="where the raw counts are: X, raw or the name of a layer; looked for without it"
    )
    parser.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    parser.add_argument("--recompute_totals", action="store_true", help=RECOMPUTE_TOTALS_HELP)
    parser.add_argument(
        "--exact_limit",
        type=positive_int,
        default=EXACT_LIMIT,
        help="up to this many non-zero values the medians are exact, beyond that within 0.5%%",
    )
    parser.add_argument("--significant_digits", type=positive_int, help="round the medians; all digits without it")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file and its provenance file")
    return parser.parse_args(argv)


def training_rows(counts: Counts, split_file: Path | None, rules: Mapping[str, Sequence[str]]) -> np.ndarray:
    """True for the cells that count: those that are tokenized, not left out and, given a split, train the model.

    Returns
    -------
    Shape (n_cells,).
    """
    is_taken = passes_filter(counts) & keep_cells(counts.obs, rules)
    if split_file is None:
        return is_taken
    cells = pd.DataFrame({"source_file": counts.name, "cell_id": counts.obs.index.astype(str)})
    return is_taken & (read_split(split_file, cells) == "train")


def require_rules_that_apply(
    files: Sequence[Path], rules: Mapping[str, Sequence[str]], layer: str | None, allow_normalized: bool
) -> None:
    """Look at the obs of every file before the long pass."""
    obs = {}
    for path in files if rules else ():
        with open_counts(path, layer, allow_normalized) as counts:
            obs[path.name] = counts.obs
    require_known_values(rules, obs)


class TakenCells:
    """Chooses the cells and counts those taken by each column of the rules, for the provenance."""

    def __init__(self, split_file: Path | None, rules: Mapping[str, Sequence[str]]) -> None:
        self.split_file = split_file
        self.rules = rules
        self.numbers = {column: Counter() for column in rules}

    def __call__(self, counts: Counts) -> np.ndarray:
        """True for the cells taken, shape (n_cells,)."""
        is_taken = training_rows(counts, self.split_file, self.rules)
        for column in set(self.rules) & set(counts.obs):
            self.numbers[column].update(counts.obs[column][is_taken].astype(str))
        return is_taken


@script
def main(argv: list[str] | None = None) -> int:
    """Compute the medians and write them with their provenance beside them."""
    arguments = parse_arguments(argv)
    provenance_file = arguments.output_file.with_suffix(".provenance.json")
    for path in (arguments.output_file, provenance_file):
        require_new_file(path, arguments.overwrite)
    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    tokenizer = Tokenizer(
        vocabulary=vocabulary,
        medians=load_gene_medians(None),
        gene_mapping=load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        gene_id_column=arguments.gene_id_column,
        species=arguments.species,
        orthologs=load_orthologs(arguments.ortholog_file, vocabulary) if arguments.ortholog_file else None,
    )
    files = input_files(arguments.input_directory)
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
    medians.save(arguments.output_file)
    provenance = {
        "files": [path.name for path in files],
        "cells": accumulator.n_cells,
        "training_cells_only": arguments.split_file is not None,
        "left_out": rules,
        "cells_taken": {column: dict(sorted(numbers.items())) for column, numbers in taken.numbers.items()},
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
