"""Describe cells, or groups of cells, in words: their types, definitions, genes and counts."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import (
    add_count_arguments,
    add_data_argument,
    add_model_arguments,
    add_result_arguments,
    add_seed_argument,
    count_options_for,
    placement,
    require_one_place,
)
from scdmc.cli.inputs import require_text_model
from scdmc.cli.parser import argument_parser, closed_fraction, positive_int, script
from scdmc.cli.task_inputs import require_task_inputs
from scdmc.cli.text_arguments import add_text_encoder_arguments, add_text_model_argument
from scdmc.errors import ScDMCError
from scdmc.text.descriptions.options import FACTS, LANGUAGE_MODEL, STYLES, DescriptionOptions, require_style
from scdmc.text.options import SMOOTHING, TextAnnotationOptions

EXAMPLES = (
    "{prog} --model text_model --data_path cells.h5ad --group_key leiden --output_dir described",
    "{prog} --model text_model --data_path cells.h5ad --under CL:0000988 --output_file descriptions.jsonl",
)
SUFFIXES = (".csv", ".jsonl")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of descriptions."""
    defaults = TextAnnotationOptions()
    parser = argument_parser(__doc__, EXAMPLES)
    add_text_model_argument(parser)
    add_data_argument(parser, meaning=".h5ad with raw counts, or tokenized parquet")
    add_result_arguments(parser, SUFFIXES, ".csv, or .jsonl with an object a line")
    what = parser.add_argument_group("what is described")
    what.add_argument("--group_key", help="column of obs whose groups are described (default: each cell by itself)")
    what.add_argument("--max_cells", type=positive_int, help="most cells that are described, drawn (default: all)")
    meaning = "facts: every clause is computed; language_model: captions of a text model of stage 2, which are checked"
    what.add_argument("--style", choices=STYLES, default=FACTS, help=meaning)
    meaning = "of the captions, where the text model does not hold it: its folder, or smollm2 (default: none)"
    what.add_argument("--language_model", type=Path, help=meaning)
    types = parser.add_argument_group("types that are looked for")
    meaning = 'a file with a text or an id a line, or "a; b; c" (default: all types that the model was trained on)'
    types.add_argument("--types", help=meaning)
    types.add_argument("--under", metavar="CL_ID", help="all terms below this one, and itself (default: none)")
    add_text_encoder_arguments(types)
    meaning = "whether cells share scores with their neighbours; auto: where there are enough, and not too many"
    types.add_argument("--smooth", choices=SMOOTHING, default=defaults.smooth, help=meaning)
    meaning = "whether each type's scores are standardised; auto: where --types names at most 50"
    types.add_argument("--standardise", choices=SMOOTHING, default=defaults.standardise, help=meaning)
    types.add_argument(
        "--max_none", type=closed_fraction, default=defaults.max_none, help="above it a cell is none of these: Unknown"
    )
    add_seed_argument(parser, "of components, and of the cells that are drawn")
    add_model_arguments(parser)
    add_count_arguments(parser)
    return _checked(parser.parse_args(argv))


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments, after what contradicts itself was refused."""
    require_one_place(arguments)
    if arguments.types is not None and arguments.under is not None:
        raise ScDMCError("give the types either with --types or with --under, and not with both")
    if arguments.group_key is not None and arguments.max_cells is not None:
        raise ScDMCError("--max_cells counts cells, and --group_key describes groups, which are described whole")
    if arguments.language_model is not None and arguments.style != LANGUAGE_MODEL:
        raise ScDMCError("--language_model has no effect with --style facts; leave it out")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Find types, genes and counts, and put them into words."""
    arguments = parse_arguments(argv)
    counts = count_options_for(arguments, arguments.data_path)
    require_task_inputs(arguments, require_text_model)
    require_style(arguments.style, arguments.model)

    from scdmc.model.devices import place_model
    from scdmc.text.annotate_file import text_annotator
    from scdmc.text.captions.language_models import language_model_folder
    from scdmc.text.descriptions.describe_file import describe_file
    from scdmc.text.descriptions.types import types_and_options
    from scdmc.text.encoders import open_text_encoder
    from scdmc.text.model import feature_maker, read_text_model
    from scdmc.text.ontology import CellOntology

    ontology = CellOntology.load()
    model, model_directory = read_text_model(arguments.model)
    options = TextAnnotationOptions(
        smooth=arguments.smooth,
        standardise=arguments.standardise,
        max_none=arguments.max_none,
        seed=arguments.seed,
    )
    candidates, options = types_and_options(arguments.types, arguments.under, model, ontology, options)
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
    language_model = arguments.language_model
    if language_model is not None:
        language_model, _ = language_model_folder(language_model, arguments.download)
    wanted = DescriptionOptions(arguments.group_key, arguments.max_cells, arguments.style, language_model)
    output = (arguments.output_dir, arguments.output_file)
    print("\n".join(describe_file(arguments.data_path, annotator, ontology, output, (wanted, counts))))
    print(f"wrote {arguments.output_file or arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
