"""Label the cells of a new file: by a labelled reference, or by a classifier that was made before."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.annotation.options import N_NEIGHBORS, OUTPUT_SUFFIXES, UNKNOWN, VOTE_RESOLUTION, AnnotationOptions
from scdmc.cells.options import MIN_KNOWN_GENES
from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_embedding_arguments,
    add_label_choice_arguments,
    add_label_key_argument,
    add_model_argument,
    add_model_arguments,
    add_seed_argument,
    add_umap_argument,
    complete_umap,
    count_options,
    embedding_options,
    label_options,
    placement,
    require_one_place,
    wanted_map,
)
from scdmc.cli.inputs import require_input
from scdmc.cli.parser import (
    argument_parser,
    fill_in,
    output_file,
    positive_float,
    positive_int,
    probability,
    script,
)
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.errors import ScDMCError
from scdmc.file_names import page_beside
from scdmc.files import remove, require_new_file
from scdmc.model.names import VIEWS_FILE
from scdmc.options import LabelOptions
from scdmc.reading.options import CountOptions, is_counts
from scdmc.views.options import AUTO, MEANING_OF_VIEWS, METHODS, SHIPPED_MODEL, VIEW_CHOICES, VIEWS, ViewOptions

if TYPE_CHECKING:
    from scdmc.annotation.annotators import Annotator
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --data_path new_cells.h5ad --reference labelled.h5ad --label_key cell_type --output_dir annotated",
    "{prog} --model annotated/classifier --data_path more_cells.h5ad --output_file more.h5ad --min_probability auto",
)
OF_REFERENCE = {"label_key": "cell_type", "method": "views"}
LABEL_CHOICES = dict.fromkeys(LabelOptions.__dataclass_fields__)
OF_VIEWS = {"views": list(VIEWS), "batch_key": None}
OF_NEIGHBOURS = {"n_neighbors": N_NEIGHBORS, "stream": None, "pooling": None, "encoder_layer": None}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation."""
    parser = argument_parser(__doc__, EXAMPLES)
    meaning = f"folder of a classifier; with --reference any model (default: {SHIPPED_MODEL})"
    add_model_argument(parser, meaning=meaning, is_required=False)
    meaning = ".h5ad with raw counts, or tokenized parquet, which views do not read"
    add_data_argument(parser, meaning=meaning)
    meaning = (
        "to write: .h5ad, the same cells with their labels, or .csv, their table (default: none, see --output_dir)"
    )
    parser.add_argument("--output_file", type=output_file(OUTPUT_SUFFIXES), help=meaning)
    meaning = "by views, for all results and a classifier: a folder to write (default: none, see --output_file)"
    parser.add_argument("--output_dir", type=Path, metavar="OUTPUT_DIR", help=meaning)
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file, or files in --output_dir")
    labels = parser.add_argument_group("labels")
    meaning = (
        f"less certain cells become {UNKNOWN}; by views also {AUTO}: cells less familiar than the reference recommends"
    )
    labels.add_argument("--min_probability", type=_threshold, default=0.0, help=meaning)
    meaning = "share of the genes of the labelled cells, counted in each of them, that the new cells need"
    labels.add_argument("--min_known_genes", type=probability, help=f"{meaning} (default: {MIN_KNOWN_GENES})")
    labels.add_argument("--majority_vote", action="store_true", help="add the most frequent label of each cluster")
    labels.add_argument(
        "--vote_resolution",
        type=positive_float,
        help=f"resolution of these clusters, with --majority_vote (default: {VOTE_RESOLUTION})",
    )
    add_umap_argument(parser)
    add_seed_argument(parser, "of folds, components, clusters and UMAP")
    _add_reference_arguments(parser)
    add_model_arguments(parser)
    add_count_arguments(parser)
    return _completed(parser.parse_args(argv))


def _threshold(text: str) -> float | str:
    return AUTO if text == AUTO else probability(text)


def _add_reference_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of a reference; :func:`_completed` fills in their defaults."""
    group = parser.add_argument_group("a labelled reference, instead of a classifier")
    meaning = "labelled .h5ad; for neighbours also tokenized parquet (default: none, a classifier labels)"
    group.add_argument("--reference", type=Path, help=meaning)
    meaning = f"column of obs with the labels of the reference (default: {OF_REFERENCE['label_key']})"
    add_label_key_argument(group, meaning, default=None)
    add_label_choice_arguments(group)
    meaning = "several views of a cell, weighed by the reference, or its nearest cells, which vote (default: views)"
    group.add_argument("--method", choices=METHODS, help=meaning)
    views = parser.add_argument_group("by views")
    meaning = "; ".join(f"{view}: {what}" for view, what in MEANING_OF_VIEWS.items())
    views.add_argument("--views", nargs="+", choices=VIEW_CHOICES, help=f"{meaning} (default: {' '.join(VIEWS)})")
    views.add_argument(
        "--batch_key",
        help="column of obs with the batches of the reference: whole batches are held out to weigh the views "
        "(default: none, cells are)",
    )
    votes = parser.add_argument_group("by neighbours")
    votes.add_argument("--n_neighbors", type=positive_int, help=f"cells that vote (default: {N_NEIGHBORS})")
    add_embedding_arguments(votes)


def _completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with their defaults, after flags that say nothing here were refused."""
    has_reference = arguments.reference is not None
    fill_in(arguments, OF_REFERENCE | LABEL_CHOICES, has_reference, "without --reference")
    by_views = has_reference and arguments.method == "views"
    fill_in(arguments, OF_VIEWS, by_views, f"without {'--method views' if has_reference else '--reference'}")
    is_neighbours = has_reference and not by_views
    fill_in(
        arguments, OF_NEIGHBOURS, is_neighbours, f"without {'--method neighbours' if has_reference else '--reference'}"
    )
    if arguments.model is None and not has_reference:
        raise ScDMCError("name a labelled file with --reference, or the folder of a classifier with --model")
    arguments.model = arguments.model or Path(SHIPPED_MODEL)
    arguments.by_views = by_views or (not has_reference and (arguments.model / VIEWS_FILE).is_file())
    fits_genes = has_reference and by_views
    fill_in(arguments, {"min_known_genes": MIN_KNOWN_GENES}, not fits_genes, "by views, which fit on the shared genes")
    fill_in(arguments, {"output_dir": None}, arguments.by_views, "without views")
    if arguments.min_probability == AUTO and not arguments.by_views:
        raise ScDMCError(f"--min_probability {AUTO} has no effect without views; give a number")
    require_one_place(arguments, "--output_file or --output_dir" if arguments.by_views else "--output_file")
    is_h5ad = arguments.output_file is None or arguments.output_file.suffix == ".h5ad"
    complete_umap(arguments, is_h5ad and not arguments.by_views, "on a table, and by views, which draw a map")
    fill_in(arguments, {"majority_vote": False}, not arguments.by_views, "by views")
    fill_in(arguments, {"vote_resolution": VOTE_RESOLUTION}, arguments.majority_vote, "without --majority_vote")
    paths = [path for path in (arguments.data_path, arguments.reference) if path]
    has_counts = any(is_counts(path) for path in paths)
    fill_in(arguments, dict.fromkeys(CountOptions.__dataclass_fields__), has_counts, "on tokenized parquet")
    return arguments


def _require_counts_for_views(arguments: argparse.Namespace) -> None:
    paths = [path for path in (arguments.data_path, arguments.reference) if path]
    parquet = [path for path in paths if not is_counts(path)]
    if arguments.by_views and parquet:
        votes = ", or vote with --method neighbours" if arguments.reference else ""
        raise ScDMCError(
            f"{parquet[0]}: views read the counts of all genes, and tokenized parquet lacks them: name the .h5ad that "
            f"it was made from{votes}"
        )


def make_annotator(arguments: argparse.Namespace, model_directory: "ModelDirectory") -> "Annotator":
    """What labels the cells block by block: the classifier, or the neighbours among reference cells."""
    from scdmc.annotation.annotators import classifier_annotator, reference_annotator
    from scdmc.cells.data import read_cells
    from scdmc.labels import type_labels
    from scdmc.model.devices import place_model
    from scdmc.model.embeddings import embedding_choice
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.heads import ScDMCForCellClassification
    from scdmc.model.storage import load_model

    if not arguments.reference:
        model = load_model(model_directory.path, ScDMCForCellClassification)
        return classifier_annotator(place_model(model, **placement(arguments)), model_directory.path)
    embedding_choice(model_directory.config, **embedding_options(arguments))  # refuses what the model has not
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    reference = read_cells(arguments.reference, model_directory, [arguments.label_key], count_options(arguments))
    return reference_annotator(
        encoder,
        reference,
        type_labels(reference.obs[arguments.label_key], label_options(arguments))[0],
        model_directory.vocabulary,
        n_neighbors=arguments.n_neighbors,
        **embedding_options(arguments),
    )


def annotate_by_views(arguments: argparse.Namespace) -> list[str]:
    """Label by the views of a reference, or by the folder that one left."""
    from scdmc.model.devices import place_model
    from scdmc.model.folder import open_model_directory
    from scdmc.views.files import Output, annotate_by_folder, annotate_by_reference, load_for_views

    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    model = place_model(load_for_views(model_directory), **placement(arguments))
    output, counts = Output(arguments.output_dir, arguments.output_file), count_options(arguments)
    threshold = None if arguments.min_probability == AUTO else arguments.min_probability
    if arguments.reference is None:
        options = ViewOptions(min_probability=threshold, seed=arguments.seed, min_known_genes=arguments.min_known_genes)
        return annotate_by_folder(arguments.data_path, output, model, model_directory, options, counts)
    options = ViewOptions(
        tuple(arguments.views),
        arguments.label_key,
        arguments.batch_key,
        threshold,
        arguments.seed,
        label_options(arguments),
    )
    paths = (arguments.data_path, arguments.reference)
    return annotate_by_reference(*paths, output, model, model_directory, options, counts)


def annotate_by_blocks(arguments: argparse.Namespace) -> list[str]:
    """Label block by block, by a fine-tuned classifier or by neighbours; the cells are never in memory all at once."""
    from scdmc.annotation.annotate_file import annotate_file, require_cells, summary_lines
    from scdmc.cells.labels_page import LabelledFile, write_labels_page
    from scdmc.cells.viewers import ForViewers
    from scdmc.model.folder import open_model_directory
    from scdmc.reading.label_colours import label_colours
    from scdmc.reports.colours import one_colour_per_type
    from scdmc.reports.provenance import Provenance

    began, counts = time.time(), count_options(arguments)
    options = AnnotationOptions(
        arguments.min_probability,
        arguments.majority_vote,
        arguments.vote_resolution,
        arguments.seed,
        arguments.min_known_genes,
    )
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    require_cells(arguments.data_path, counts)  # before the reference is embedded, which takes long
    annotator = make_annotator(arguments, model_directory)
    inputs = tuple(filter(None, (arguments.data_path, arguments.reference)))
    made = Provenance(inputs, model_directory.path.name, options.seed, began)
    paths, page = (arguments.data_path, arguments.output_file), page_beside(arguments.output_file)
    labeller, colours = f"the classifier {model_directory.path.name}", {}
    if arguments.reference:
        labeller = f"the {arguments.n_neighbors} nearest cells of {arguments.reference.name}"
        colours = label_colours(arguments.reference, arguments.label_key)
    with one_colour_per_type(annotator.names, colours):
        viewers = ForViewers(made, wanted_map(arguments))
        written = annotate_file(*paths, model_directory, annotator, options, counts, viewers)
        labels, probability = (written.results[f"scDMC_{name}"].to_numpy() for name in ("cell_type", "probability"))
        labelled = LabelledFile(arguments.data_path.name, labeller, len(annotator.names), labels, probability, UNKNOWN,
                                written.obs, written.coordinates)  # fmt: skip
        remove(page)  # which is of the older file
        write_labels_page(page, labelled, made)
    return summary_lines(written.results, options.min_probability)


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells, and print how many there are of each type."""
    arguments = parse_arguments(argv)
    require_task_inputs(arguments)
    if arguments.reference:
        require_input(arguments.reference, "--reference")
    _require_counts_for_views(arguments)
    if arguments.output_file:
        require_new_file(page_beside(arguments.output_file), arguments.overwrite)
    lines = annotate_by_views(arguments) if arguments.by_views else annotate_by_blocks(arguments)
    print("\n".join(lines))
    page = f" and {page_beside(arguments.output_file).name}" if arguments.output_file else ""
    print(f"wrote {arguments.output_file or arguments.output_dir}{page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
