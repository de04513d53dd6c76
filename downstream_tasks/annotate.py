"""Label the cells of a new file with a fine-tuned classifier, or, without any training, by a labelled reference."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.annotation.options import N_NEIGHBORS, OUTPUT_SUFFIXES, UNKNOWN, VOTE_RESOLUTION, AnnotationOptions
from scdmc.cells.options import MIN_KNOWN_GENES
from scdmc.cli.arguments import (
    POOLING_HELP,
    add_count_arguments,
    add_data_argument,
    add_label_choice_arguments,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_output_file_argument,
    count_options,
    label_options,
    placement,
)
from scdmc.cli.inputs import require_input
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, probability, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.options import POOLINGS, STREAMS, LabelOptions
from scdmc.reading.options import CountOptions, is_counts

if TYPE_CHECKING:
    from scdmc.annotation.annotators import Annotator
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model classifier --data_path new_cells.h5ad --output_file annotated.h5ad --min_probability 0.5",
    "{prog} --model scDMC-small --data_path new_cells.h5ad --output_file annotated.h5ad --reference labelled.h5ad",
)
TRANSFER_DEFAULTS = {"label_key": "cell_type", "n_neighbors": N_NEIGHBORS, "stream": "both", "pooling": "cls"}
LABEL_CHOICES = dict.fromkeys(LabelOptions.__dataclass_fields__)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, meaning="folder of a classifier (downstream_tasks.py); with --reference, of any model")
    add_data_argument(parser)
    meaning = "to write: .h5ad, the same cells with their labels, or .csv, their table of obs with the labels"
    add_output_file_argument(parser, meaning, OUTPUT_SUFFIXES)
    labels = parser.add_argument_group("labels")
    labels.add_argument("--min_probability", type=probability, default=0.0, help=f"less certain cells become {UNKNOWN}")
    labels.add_argument(
        "--min_known_genes",
        type=probability,
        default=MIN_KNOWN_GENES,
        help="share of the genes of the labelled cells, counted in each of them, that the new cells need",
    )
    labels.add_argument("--majority_vote", action="store_true", help="add the most frequent label of each cluster")
    labels.add_argument(
        "--vote_resolution",
        type=positive_float,
        help=f"resolution of these clusters, with --majority_vote (default: {VOTE_RESOLUTION})",
    )
    add_transfer_arguments(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, TRANSFER_DEFAULTS, arguments.reference is not None, "without --reference")
    fill_in(arguments, LABEL_CHOICES, arguments.reference is not None, "without --reference")
    fill_in(arguments, {"vote_resolution": VOTE_RESOLUTION}, arguments.majority_vote, "without --majority_vote")
    has_counts = any(is_counts(path) for path in (arguments.data_path, arguments.reference) if path)
    fill_in(arguments, dict.fromkeys(CountOptions.__dataclass_fields__), has_counts, "on tokenized parquet")
    return arguments


def add_transfer_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of label transfer; :func:`parse_arguments` fills in their defaults."""
    group = parser.add_argument_group("label transfer, instead of a classifier")
    group.add_argument(
        "--reference",
        type=Path,
        help="labelled .h5ad or tokenized parquet; its nearest cells vote (default: none, a classifier labels)",
    )
    shown = {name: f"(default: {value})" for name, value in TRANSFER_DEFAULTS.items()}
    meaning = f"column of obs with the labels of the reference {shown['label_key']}"
    add_label_key_argument(group, meaning, default=None)
    add_label_choice_arguments(group)
    group.add_argument("--n_neighbors", type=positive_int, help=f"cells that vote {shown['n_neighbors']}")
    group.add_argument("--stream", choices=STREAMS, help=f"which stream is compared {shown['stream']}")
    group.add_argument("--pooling", choices=POOLINGS, help=f"{POOLING_HELP} {shown['pooling']}")


def make_annotator(arguments: argparse.Namespace, model_directory: "ModelDirectory") -> "Annotator":
    """What labels the cells: the classifier, or the reference cells as the encoder sees them."""
    from scdmc.annotation.annotators import classifier_annotator, reference_annotator
    from scdmc.cells.data import read_cells
    from scdmc.labels import type_labels
    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.heads import ScDMCForCellClassification
    from scdmc.model.storage import load_model

    if not arguments.reference:
        model = load_model(model_directory.path, ScDMCForCellClassification)
        return classifier_annotator(place_model(model, **placement(arguments)), model_directory.path)
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    reference = read_cells(arguments.reference, model_directory, [arguments.label_key], count_options(arguments))
    return reference_annotator(
        encoder,
        reference,
        type_labels(reference.obs[arguments.label_key], label_options(arguments))[0],
        model_directory.vocabulary,
        arguments.stream,
        arguments.pooling,
        arguments.n_neighbors,
    )


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells, block by block, and print how many there are of each type."""
    arguments = parse_arguments(argv)
    counts = count_options(arguments)
    options = AnnotationOptions(
        arguments.min_probability,
        arguments.majority_vote,
        arguments.vote_resolution,
        min_known_genes=arguments.min_known_genes,
    )
    require_task_inputs(arguments)
    if arguments.reference:
        require_input(arguments.reference, "--reference")

    from scdmc.annotation.annotate_file import annotate_file, require_cells, summary_lines
    from scdmc.model.folder import open_model_directory

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    require_cells(arguments.data_path, counts)  # before the reference is embedded, which takes long
    annotator = make_annotator(arguments, model_directory)
    results = annotate_file(arguments.data_path, arguments.output_file, model_directory, annotator, options, counts)
    print("\n".join(summary_lines(results, options.min_probability)))
    print(f"wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
