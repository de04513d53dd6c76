"""Write a model folder anew with float16 weights in files that fit where large files are not welcome."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import add_max_length_argument, add_model_argument, add_output_dir_argument
from scdmc.cli.inputs import require_model
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.files import atomic_path, read_json_object, require_new_folder, write_json

if TYPE_CHECKING:
    from scdmc.model.folder import ModelDirectory

EXAMPLES = (
    "{prog} --model pretrained --output_dir exported",
    "{prog} --model pretrained --output_dir exported --max_file_mib 50 --max_length 1024",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the export."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser)
    add_output_dir_argument(parser, meaning="folder to write")
    parser.add_argument("--max_file_mib", type=positive_int, default=15, help="largest file of weights, in MiB")
    add_max_length_argument(
        parser,
        meaning="tokens of a stream that the exported model reads; ALiBi reads longer ones than it was trained on "
        "(default: as many as before)",
    )
    return parser.parse_args(argv)


def set_context(folder: Path, model_directory: "ModelDirectory", max_length: int) -> None:
    """Have a model folder read so many tokens of a stream; its card says so."""
    from scdmc.model.folder import CONFIG_FILE, TOKENIZATION_FILE
    from scdmc.model.storage import CARD_FILE

    config = read_json_object(folder / CONFIG_FILE, "model configuration")
    config["max_position_embeddings"] = max_length
    if "alibi_starting_size" in config:  # what a published folder calls it
        config["alibi_starting_size"] = max_length
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / TOKENIZATION_FILE, model_directory.with_context(max_length).settings.to_dict())
    card = folder / CARD_FILE
    if card.is_file():
        trained = f"{model_directory.settings.model_input_size:,}"
        note = f"\nReads streams of {max_length:,} tokens since its export; it was trained on {trained}.\n"
        with atomic_path(card) as temporary:
            temporary.write_text(card.read_text(encoding="utf8") + note, encoding="utf8")


@script
def main(argv: list[str] | None = None) -> int:
    """Copy what is small, convert and split what is large."""
    arguments = parse_arguments(argv)
    if arguments.max_length is not None and arguments.max_length < 3:
        raise ScDMCError(f"--max_length {arguments.max_length}: take 3 (<cls>, a gene, <eos>) or more")
    require_new_folder(arguments.output_dir, arguments.overwrite)
    require_model(arguments.model)

    from scdmc.model.folder import open_model_directory
    from scdmc.model.weights import read_weights, weights_file, write_split_weights

    model_directory = open_model_directory(arguments.model)
    model_path = model_directory.path
    weights = read_weights(model_path)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    skipped = {weights_file(model_path).name}
    for path in sorted(model_path.iterdir()):
        if path.is_file() and path.name not in skipped and not path.name.startswith("model-"):
            shutil.copyfile(path, arguments.output_dir / path.name)
    if arguments.max_length:
        set_context(arguments.output_dir, model_directory, arguments.max_length)
    files = write_split_weights(arguments.output_dir, weights, arguments.max_file_mib * 2**20)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in files)
    print(f"{sizes}; the rest as it was; wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
