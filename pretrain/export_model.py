"""Write a model folder anew with float16 weights in files that fit where large files are not welcome."""

import argparse
import shutil
from pathlib import Path

from scdmc.command_line import argument_parser, positive_int, script
from scdmc.files import require_new_folder
from scdmc.model_directory import CONFIG_FILE, open_model_directory, read_weights, weights_file, write_split_weights
from scdmc.shipped_models import add_model_path_argument


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the export."""
    parser = argument_parser(__doc__)
    add_model_path_argument(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--max_file_mib", type=positive_int, default=15, help="largest file of weights, in MiB")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --output_dir")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Copy what is small, convert and split what is large."""
    arguments = parse_arguments(argv)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    model_path = open_model_directory(arguments.model_path).path
    weights = read_weights(model_path)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    skipped = {weights_file(model_path).name}
    for path in sorted(model_path.iterdir()):
        if path.is_file() and path.name not in skipped and not path.name.startswith("model-"):
            shutil.copyfile(path, arguments.output_dir / path.name)
    files = write_split_weights(arguments.output_dir, weights, arguments.max_file_mib * 2**20)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in files)
    print(f"{sizes}; {CONFIG_FILE} and the rest as they were; wrote {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
