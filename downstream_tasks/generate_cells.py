"""Make cells of a text: integer counts of cells that nobody has measured, like the training cells of such types."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import (
    add_result_arguments,
    add_seed_argument,
    require_one_place,
)
from scdmc.cli.generator_arguments import require_generator
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import (
    argument_parser,
    positive_float,
    positive_int,
    script,
)
from scdmc.cli.text_arguments import add_text_encoder_arguments, add_text_model_argument
from scdmc.errors import ScDMCError
from scdmc.files import require_new_file, require_new_folder
from scdmc.text.pseudo_cells.options import GUIDANCES, MakingOptions

EXAMPLES = (
    '{prog} --model text_model --text "B cell" --n_cells 500 --output_dir b_cells',
    "{prog} --model text_model --text_file types.txt --n_cells 200 --output_file cells.h5ad --library_size 5000",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the making of cells."""
    parser = argument_parser(f"{__doc__} They are no measurement.", EXAMPLES)
    add_text_model_argument(parser)
    parser.add_argument("--n_cells", type=positive_int, required=True, help="cells of each text")
    add_result_arguments(parser, (".h5ad",), ".h5ad, the cells", "the cells")
    texts = parser.add_argument_group("texts: one of these")
    meaning = (
        "what the cells are, in words, or the id of a term (CL:0000236); several are several kinds (default: none)"
    )
    texts.add_argument("--text", nargs="+", help=meaning)
    texts.add_argument("--text_file", type=Path, help="a file with a text or an id a line (default: none)")
    add_text_encoder_arguments(texts)
    how = parser.add_argument_group("cells")
    tried = ", ".join(f"{each:g}" for each in GUIDANCES)
    meaning = f"how far to go beyond the text (default: the best of {tried} on validation cells of the training)"
    how.add_argument("--guidance", type=positive_float, help=meaning)
    meaning = "total counts of each cell (default: drawn, as the training cells have)"
    how.add_argument("--library_size", type=positive_int, help=meaning)
    meaning = (
        "the training data set that the cells are like (default: those of the nearest term, as they have its cells)"
    )
    how.add_argument("--dataset", help=meaning)
    meaning = "refuse a text that is far from all training texts, in place of a warning"
    how.add_argument("--refuse_novel", action="store_true", help=meaning)
    add_seed_argument(how, "of all that is drawn; the same gives the same cells of a text")
    arguments = parser.parse_args(argv)
    require_one_place(arguments)
    if (arguments.text is None) == (arguments.text_file is None):
        raise ScDMCError("give the texts either with --text or with --text_file, and not with both")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Make the cells, and say of each text how near it is to what was trained on."""
    arguments = parse_arguments(argv)
    began = time.time()
    if arguments.output_dir is not None:
        require_new_folder(arguments.output_dir, arguments.overwrite)
    else:
        require_new_file(arguments.output_file, arguments.overwrite)
    require_generator(arguments.model)
    require_files(text_file=arguments.text_file)

    from scdmc.text.encoders import open_text_encoder
    from scdmc.text.model import read_text_model
    from scdmc.text.ontology import CellOntology
    from scdmc.text.pseudo_cells.asked import asked_texts, lines_of_texts
    from scdmc.text.pseudo_cells.making import made_of_texts
    from scdmc.text.pseudo_cells.run import write_cells
    from scdmc.text.pseudo_cells.storage import read_generator

    texts = arguments.text or lines_of_texts(arguments.text_file)
    candidates = asked_texts(texts, CellOntology.load())
    model, _ = read_text_model(arguments.model)
    generator, _ = read_generator(arguments.model, model.texts)
    options = MakingOptions(**{name: getattr(arguments, name) for name in MakingOptions.__dataclass_fields__})
    made = made_of_texts(
        generator,
        model.texts,
        candidates,
        arguments.n_cells,
        lambda: open_text_encoder(arguments.text_encoder, may_fetch=arguments.download),
        options,
    )
    output = (arguments.output_dir, arguments.output_file)
    lines = write_cells(output, made, (generator, model.texts, arguments.model), options, began)
    print("\n".join(lines))
    print(f"wrote {arguments.output_file or arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
