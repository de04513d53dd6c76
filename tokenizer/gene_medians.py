"""Median non-zero expression (CP10k) of every gene over a folder of raw-count .h5ad files, in one streaming pass."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scdmc.command_line import argument_parser, positive_int, script
from scdmc.counts import Counts, input_files, passes_filter
from scdmc.files import require_new_file, write_json
from scdmc.gene_ids import load_gene_mapping
from scdmc.gene_medians import EXACT_LIMIT, medians_by_gene
from scdmc.splits import read_split
from scdmc.tokenization import collect_medians
from scdmc.vocabulary import DEFAULT_TOKEN_DICTIONARY_FILE, load_vocabulary


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the gene medians."""
    parser = argument_parser(__doc__)
    parser.add_argument("--input_directory", type=Path, required=True, help="folder of .h5ad files with raw counts")
    parser.add_argument("--output_file", type=Path, required=True, help="JSON, Ensembl id -> median")
    parser.add_argument("--split_file", type=Path, help="split.csv: take its 'train' cells only")
    parser.add_argument("--token_dictionary_file", type=Path, default=DEFAULT_TOKEN_DICTIONARY_FILE, help="vocabulary")
    parser.add_argument("--gene_mapping_file", type=Path, help="JSON symbol or id -> current id, applied first")
    parser.add_argument("--gene_id_column", help="column of var with the gene ids; looked for without it")
    parser.add_argument(
        "--layer", help="where the raw counts are: X, raw or the name of a layer; looked for without it"
    )
    parser.add_argument("--allow_normalized", action="store_true", help="take X even if it holds no integers")
    parser.add_argument(
        "--exact_limit",
        type=positive_int,
        default=EXACT_LIMIT,
        help="up to this many non-zero values the medians are exact, beyond that within 0.5%%",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file and its provenance file")
    return parser.parse_args(argv)


def training_rows(counts: Counts, split_file: Path | None) -> np.ndarray:
    """True for the cells that count, shape (n_cells,): those that are tokenized and, given a split, train the model."""
    if split_file is None:
        return passes_filter(counts)
    cells = pd.DataFrame({"source_file": counts.name, "cell_id": counts.obs.index.astype(str)})
    return passes_filter(counts) & (read_split(split_file, cells) == "train")


@script
def main(argv: list[str] | None = None) -> int:
    """Compute the medians and write them with their provenance beside them."""
    arguments = parse_arguments(argv)
    provenance_file = arguments.output_file.with_suffix(".provenance.json")
    for path in (arguments.output_file, provenance_file):
        require_new_file(path, arguments.overwrite)
    vocabulary = load_vocabulary(arguments.token_dictionary_file)
    files = input_files(arguments.input_directory)
    accumulator = collect_medians(
        files,
        vocabulary,
        arguments.gene_id_column,
        load_gene_mapping(arguments.gene_mapping_file, vocabulary),
        arguments.layer,
        arguments.allow_normalized,
        choose_cells=lambda counts: training_rows(counts, arguments.split_file),
        exact_limit=arguments.exact_limit,
    )
    medians = medians_by_gene(accumulator, vocabulary, str(arguments.output_file))
    medians.save(arguments.output_file)
    provenance = {
        "files": [path.name for path in files],
        "cells": accumulator.n_cells,
        "training_cells_only": arguments.split_file is not None,
        "genes": len(medians.medians),
        "exact": accumulator.is_exact,
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
