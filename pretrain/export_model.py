"""Write a model folder anew, with float16 weights in files of a size that file hosts take."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import (
    add_embedding_arguments,
    add_max_length_argument,
    add_model_argument,
    add_output_dir_argument,
    embedding_options,
)
from scdmc.cli.inputs import require_model
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, require_new_folder, write_json
from scdmc.model.hub import require_hub_name
from scdmc.model.names import CARD_FILE, CONFIG_FILE, MODELING_FILE, TOKENIZATION_FILE, WEIGHTS_NAME
from scdmc.model.shipped import model_folder
from scdmc.result_folders import MANIFEST_FILE, result_folder

if TYPE_CHECKING:
    from scdmc.configuration import ScDMCConfig
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model pretrained --output_dir exported --max_file_mib 50 --max_length 1024",
    "{prog} --model running --checkpoint last --output_dir so_far",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the export."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    add_output_dir_argument(parser, meaning="folder to write")
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="the model of a pre-training run that goes on, or was stopped, in the folder --model: last, or the folder "
        "of a checkpoint (default: the finished model)",
    )
    parser.add_argument(
        "--max_file_mib",
        type=positive_int,
        default=15,
        help="largest file of weights, in MiB; a single table that is larger has a larger file of its own",
    )
    add_max_length_argument(
        parser,
        meaning="tokens of a stream that the exported model reads; ALiBi reads longer ones than it was trained on "
        "(default: as many as before)",
    )
    meaning = "what its cell embeddings are and what new classifiers read, unless a user chooses"
    add_embedding_arguments(parser.add_argument_group(meaning))
    parser.add_argument(
        "--push_to_hub",
        metavar="USER/NAME",
        help="send the folder to this model of the Hugging Face hub as well (default: not sent)",
    )
    return parser.parse_args(argv)


def set_states_read(config: "ScDMCConfig", chosen: dict[str, object], is_classifier: bool) -> None:
    """Write what was chosen into the configuration; a classifier goes on reading what it was trained to read."""
    from scdmc.model.embeddings import embedding_choice

    choice = embedding_choice(config, **chosen)
    config.embedding_stream, config.embedding_pooling = choice.stream, choice.pooling
    config.embedding_layer = None if choice.layer == config.num_hidden_layers else choice.layer
    if not is_classifier and chosen["stream"] is not None:
        config.classifier_stream = choice.stream
    if not is_classifier and chosen["pooling"] is not None:
        config.classifier_pooling = choice.pooling


def set_context(folder: Path, model_directory: "ModelDirectory", max_length: int) -> None:
    """Have cells be tokenized to so many tokens of a stream; the card says so."""
    write_json(folder / TOKENIZATION_FILE, model_directory.with_context(max_length).settings.to_dict())
    card = folder / CARD_FILE
    if card.is_file():
        trained = f"{model_directory.settings.model_input_size:,}"
        note = f"\nReads streams of {max_length:,} tokens since its export; it was trained on {trained}.\n"
        with atomic_path(card) as temporary:
            temporary.write_text(card.read_text(encoding="utf8") + note, encoding="utf8")


def copy_other_files(source: Path, target: Path) -> None:
    """Copy what the export does not make anew."""
    for path in sorted(source.iterdir()):
        made_anew = path.name in (CONFIG_FILE, MODELING_FILE, MANIFEST_FILE) or WEIGHTS_NAME.fullmatch(path.name)
        if path.is_file() and not made_anew and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
    arguments = target / "arguments.json"
    if arguments.is_file():  # others need not know the folders of this machine
        values = read_json_object(arguments, "the arguments of the training")
        write_json(arguments, {name: without_folders(value) for name, value in values.items()})


def without_folders(value: object) -> object:
    """An argument with absolute paths cut down to their names."""
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


@script
def main(argv: list[str] | None = None) -> int:
    """Copy what is small, convert and share out what is large."""
    arguments = parse_arguments(argv)
    if arguments.max_length is not None and arguments.max_length < 3:
        raise ScDMCError(f"--max_length {arguments.max_length}: take 3 (<cls>, a gene, <eos>) or more")
    if arguments.push_to_hub:
        require_hub_name(arguments.push_to_hub)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    if arguments.checkpoint is None:
        require_model(arguments.model)
    elif arguments.max_length is not None:
        raise ScDMCError("--max_length changes a finished model; leave it out with --checkpoint")
    if model_folder(arguments.model).resolve() == arguments.output_dir.resolve():
        raise ScDMCError(f"--output_dir {arguments.output_dir} is the model itself; choose another folder")

    from scdmc.model.folder import open_model_directory
    from scdmc.model.heads import ScDMCForCellClassification
    from scdmc.model.hub import push_model
    from scdmc.model.storage import load, save_config
    from scdmc.model.weights import save_weights
    from scdmc.training.checkpoints import model_of_checkpoint

    if arguments.checkpoint is None:
        model_directory = open_model_directory(arguments.model)
        model, described = load(model_directory.path), model_directory.path
    else:
        model, described = model_of_checkpoint(arguments.model, arguments.checkpoint)
    model = model.half()
    with result_folder(arguments.output_dir) as folder:
        copy_other_files(described, folder)
        if arguments.max_length:
            model.config.max_position_embeddings = arguments.max_length
            set_context(folder, model_directory, arguments.max_length)
        set_states_read(model.config, embedding_options(arguments), isinstance(model, ScDMCForCellClassification))
        save_config(folder, model)
        files = save_weights(folder, model, arguments.max_file_mib * 2**20)
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in files)
    print(f"{sizes}; the rest as it was; wrote {arguments.output_dir}")
    if arguments.push_to_hub:
        print(f"sent to {push_model(arguments.output_dir, arguments.push_to_hub)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
