"""Label cells by words: each cell gets the one of several texts or ontology terms that it is nearest to."""

import argparse

from scdmc.annotation.options import OUTPUT_SUFFIXES
from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_model_arguments,
    add_result_arguments,
    add_seed_argument,
    add_umap_argument,
    complete_umap,
    count_options_for,
    placement,
    require_one_place,
    wanted_map,
)
from scdmc.cli.inputs import require_text_model
from scdmc.cli.parser import (
    argument_parser,
    closed_fraction,
    non_negative_float,
    positive_int,
    script,
)
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.cli.text_arguments import add_text_encoder_arguments, add_text_model_argument
from scdmc.errors import ScDMCError
from scdmc.text.options import CENTRES, FEWEST_CELLS_TOGETHER, SMOOTHING, TextAnnotationOptions

EXAMPLES = (
    '{prog} --model text_model --data_path cells.h5ad --types "B cell; T cell; monocyte" --output_dir by_text',
    "{prog} --model text_model --data_path cells.h5ad --under CL:0000988 --output_file cells.csv --smooth off",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of annotation by text."""
    defaults = TextAnnotationOptions()
    parser = argument_parser(f"{__doc__} The labels of cells depend on the other cells of the file.", EXAMPLES)
    add_text_model_argument(parser)
    add_data_argument(parser, meaning=".h5ad with raw counts, or tokenized parquet")
    add_result_arguments(parser, OUTPUT_SUFFIXES, ".h5ad, the same cells with their labels, or .csv")
    types = parser.add_argument_group("candidates: one of these")
    types.add_argument(
        "--types",
        help='a file with a text or an id (CL:0000236) a line, or the texts themselves: "a; b; c" (default: none)',
    )
    types.add_argument("--under", metavar="CL_ID", help="all terms below this one, and itself (default: none)")
    add_text_encoder_arguments(types)
    how = parser.add_argument_group("scores")
    meaning = f"whose mean is taken away; the file's own needs {FEWEST_CELLS_TOGETHER} cells"
    how.add_argument("--centre", choices=CENTRES, default=defaults.centre, help=meaning)
    meaning = "whether cells share scores with their neighbours; auto: where there are enough, and not too many"
    how.add_argument("--smooth", choices=SMOOTHING, default=defaults.smooth, help=meaning)
    meaning = "whether each candidate's scores are standardised; auto: of at most 50; off where many may be absent"
    how.add_argument("--standardise", choices=SMOOTHING, default=defaults.standardise, help=meaning)
    how.add_argument(
        "--max_cells_smoothed", type=positive_int, default=defaults.max_cells_smoothed, help="most cells of auto"
    )
    how.add_argument(
        "--max_none", type=closed_fraction, default=defaults.max_none, help="above it a cell is none of these: Unknown"
    )
    how.add_argument(
        "--marker_weight",
        type=non_negative_float,
        default=defaults.marker_weight,
        help="how much genes count that a text names, beside the text",
    )
    add_umap_argument(parser)
    add_seed_argument(parser, "of components and UMAP")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return _completed(parser.parse_args(argv))


def _completed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments with their defaults, after what contradicts itself was refused."""
    require_one_place(arguments)
    if (arguments.types is None) == (arguments.under is None):
        raise ScDMCError("give the candidates either with --types or with --under, and not with both")
    is_h5ad = arguments.output_file is None or arguments.output_file.suffix == ".h5ad"
    complete_umap(arguments, is_h5ad, "on a table")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Label all cells, and print how many there are of each type."""
    arguments = parse_arguments(argv)
    counts = count_options_for(arguments, arguments.data_path)
    require_task_inputs(arguments, require_text_model)

    from scdmc.model.devices import place_model
    from scdmc.text.annotate_file import annotate_file_by_text, text_annotator
    from scdmc.text.candidates import read_candidates
    from scdmc.text.encoders import open_text_encoder
    from scdmc.text.model import feature_maker, read_text_model
    from scdmc.text.ontology import CellOntology

    ontology = CellOntology.load()
    candidates = read_candidates(arguments.types, arguments.under, ontology)
    model, model_directory = read_text_model(arguments.model)
    names = TextAnnotationOptions.__dataclass_fields__
    options = TextAnnotationOptions(**{name: getattr(arguments, name) for name in names})
    maker = feature_maker(model, model_directory, lambda encoder: place_model(encoder, **placement(arguments)))
    annotator = text_annotator(
        arguments.model,
        model,
        maker,
        candidates,
        ontology,
        lambda: open_text_encoder(arguments.text_encoder, may_fetch=arguments.download),
        options,
    )
    output = (arguments.output_dir, arguments.output_file)
    lines = annotate_file_by_text(arguments.data_path, annotator, output, counts, wanted_map(arguments))
    print("\n".join(lines))
    print(f"wrote {arguments.output_file or arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
