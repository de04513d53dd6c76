"""Label the cells of a new file with a fine-tuned classifier, or, without any training, by a labelled reference."""

import argparse
import logging
from pathlib import Path

import pandas as pd

from scdmc.annotation.annotate_file import annotate_file
from scdmc.annotation.annotators import Annotator, classifier_annotator, reference_annotator
from scdmc.annotation.options import N_NEIGHBORS, OUTPUT_SUFFIXES, UNKNOWN, VOTE_RESOLUTION, AnnotationOptions
from scdmc.cells.data import read_cells
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_dtype_argument,
    add_model_arguments,
    add_model_path_argument,
    count_options,
    placement,
)
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, probability, script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_file
from scdmc.labels import labels_of
from scdmc.model.devices import place_model
from scdmc.model.encoder import ScDMCModel
from scdmc.model.folder import ModelDirectory, open_model_directory
from scdmc.model.heads import ScDMCForCellClassification
from scdmc.model.storage import load_model
from scdmc.options import POOLINGS, STREAMS
from scdmc.reading.options import CountOptions, is_counts

logger = logging.getLogger(__name__)

TRANSFER_DEFAULTS = {"label_key": "cell_type", "n_neighbors": N_NEIGHBORS, "stream": "both", "pooling": "cls"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation."""
    parser = argument_parser(__doc__)
    add_model_path_argument(
        parser, meaning="folder of a classifier (downstream_tasks.py); with --reference, of any model"
    )
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with raw counts, or tokenized parquet")
    parser.add_argument("--output_file", type=Path, required=True, help="to write: .h5ad, the same cells with their "
                        "labels, or .csv, their table of obs with the labels")  # fmt: skip
    parser.add_argument("--min_probability", type=probability, default=0.0, help=f"less certain cells become {UNKNOWN}")
    parser.add_argument("--majority_vote", action="store_true", help="add the most frequent label of each cluster")
    parser.add_argument("--vote_resolution", type=positive_float, help=f"of these clusters; {VOTE_RESOLUTION} "
                        "without it")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    transfer = parser.add_argument_group("label transfer, instead of a classifier")
    transfer.add_argument("--reference", type=Path, help="labelled .h5ad or tokenized parquet; its nearest cells vote")
    transfer.add_argument("--label_key", help="column of obs with the labels of the reference; cell_type without it")
    transfer.add_argument("--n_neighbors", type=positive_int, help=f"cells that vote; {N_NEIGHBORS} without it")
    transfer.add_argument("--stream", choices=STREAMS, help="which stream is compared; both without it")
    transfer.add_argument("--pooling", choices=POOLINGS, help=f"{POOLING_HELP}; cls without it")
    add_model_arguments(parser)
    add_dtype_argument(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, TRANSFER_DEFAULTS, arguments.reference is not None, "without --reference")
    fill_in(arguments, {"vote_resolution": VOTE_RESOLUTION}, arguments.majority_vote, "without --majority_vote")
    has_counts = any(is_counts(path) for path in (arguments.data_path, arguments.reference) if path)
    fill_in(arguments, dict.fromkeys(CountOptions.__dataclass_fields__), has_counts, "on tokenized parquet")
    return arguments


def make_annotator(arguments: argparse.Namespace, model_directory: ModelDirectory) -> Annotator:
    """What labels the cells: the classifier, or the reference cells as the encoder sees them."""
    if not arguments.reference:
        model = load_model(model_directory.path, ScDMCForCellClassification)
        return classifier_annotator(place_model(model, **placement(arguments)), model_directory.path)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    reference = read_cells(arguments.reference, model_directory, [arguments.label_key], count_options(arguments))
    labels = labels_of(reference.obs[arguments.label_key])
    return reference_annotator(
        encoder,
        reference,
        labels,
        model_directory.vocabulary,
        arguments.stream,
        arguments.pooling,
        arguments.n_neighbors,
    )


def print_summary(results: pd.DataFrame, min_probability: float) -> None:
    """How many cells there are of each type, and how sure that is."""
    print(results["scDMC_cell_type"].value_counts().to_string())
    probability = results.loc[~results["is_empty"], "scDMC_probability"]
    if len(probability):
        unsure = (probability < 0.5).mean()
        print(f"probability of the label: median {probability.median():.2f}, below 0.5 in {unsure:.1%} of the cells")
    if min_probability == 0:
        print(f"no cell is {UNKNOWN} for being uncertain, not even of a type never learned: see --min_probability")
    if results["is_empty"].any():
        n_empty = results["is_empty"].sum()
        print(f"{n_empty:,} cells have no count in any gene of the vocabulary and are {UNKNOWN}")


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells, block by block, and print how many there are of each type."""
    arguments = parse_arguments(argv)
    require_new_file(arguments.output_file, arguments.overwrite)
    if arguments.output_file.suffix not in OUTPUT_SUFFIXES:
        raise ScDMCError(f"--output_file {arguments.output_file}: name a file that ends in .h5ad or .csv")
    model_directory = open_model_directory(arguments.model_path, arguments.token_dictionary_file)
    annotator = make_annotator(arguments, model_directory)
    options = AnnotationOptions(arguments.min_probability, arguments.majority_vote, arguments.vote_resolution)
    results = annotate_file(
        arguments.data_path, arguments.output_file, model_directory, annotator, options, count_options(arguments)
    )
    print_summary(results, arguments.min_probability)
    print(f"wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
