"""Train several variants of pre-training at the same time on one device, each in a process of its own.

Small models leave most of a GPU idle: so many of them fit into the minutes of one. A variant that fails does not end
the others. Judge the models with controls.py.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from scdmc.cli.arguments import add_data_argument
from scdmc.cli.inputs import require_tokenized
from scdmc.cli.parser import argument_parser, positive_float, script
from scdmc.errors import ScDMCError
from scdmc.files import read_json_object, require_writable_folder

PRETRAIN = Path(__file__).parent.parent / "pretrain" / "scDMC_pretrain.py"
EXAMPLES = ("{prog} --data_path tokenized --variants_file gpu_variants.json --minutes 8 --output_dir variants",)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the run."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(parser, "--dataset_path", meaning="tokenized parquet to train on")
    parser.add_argument(
        "--variants_file",
        type=Path,
        required=True,
        help="JSON: name of each variant -> flags of scDMC_pretrain.py; those of 'common' hold for all",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="a model folder and a log for each variant")
    parser.add_argument("--minutes", type=positive_float, required=True, help="minutes of training of every variant")
    return parser.parse_args(argv)


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each variant -> its command.

    Raises
    ------
    ScDMCError
        If the file names no variant.
    """
    variants = read_json_object(arguments.variants_file, "the variants and their flags")
    common = shlex.split(variants.pop("common", ""))
    if not variants:
        raise ScDMCError(f"{arguments.variants_file} names no variant; it maps names to flags")
    return {
        name: [
            *(sys.executable, "-u", str(PRETRAIN), "--data_path", str(arguments.data_path)),
            *("--output_dir", str(arguments.output_dir / name), "--overwrite"),
            *(*common, *shlex.split(flags), "--schedule_minutes", str(arguments.minutes)),
        ]
        for name, flags in variants.items()
    }


@script
def main(argv: list[str] | None = None) -> int:
    """Start all variants, wait for all of them, and say how each ended."""
    arguments = parse_arguments(argv)
    require_tokenized(arguments.data_path, "--data_path")
    planned = commands(arguments)
    require_writable_folder(arguments.output_dir)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    # Processes that share the cores would only wait for each other's threads.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    running = {}
    for name, command in planned.items():
        with (arguments.output_dir / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    failed = [name for name, process in running.items() if process.wait()]
    for name in running:
        last = (arguments.output_dir / f"{name}.log").read_text(errors="replace").split("\n")[-2:-1]
        print(f"{name}: {'failed' if name in failed else 'trained'}; {' '.join(last)[-200:]}")
    if failed:
        raise ScDMCError(f"{len(failed)} of {len(running)} variants failed, see their logs: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
