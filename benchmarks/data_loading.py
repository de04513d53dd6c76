"""How fast tokenized cells become masked batches without any model, and what it costs per cell as the data grow.

Cells of random genes are written as parquet, decoded to memory-mapped arrays (`--cache_dir` of the pre-training script)
and read for an epoch in shuffled order, masked and packed, as training reads them. Each size runs in a process of its
own, so that its memory is its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from scdmc.cli.arguments import add_max_length_argument
from scdmc.cli.parser import argument_parser, positive_int, script

EXAMPLES = ("{prog}", "{prog} --cells 1000 100000 --max_length 512")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--cells", type=positive_int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes")
    add_max_length_argument(parser, default=2048, meaning="tokens of each stream")
    parser.add_argument("--batch_size", type=positive_int, default=96, help="cells of a batch")
    parser.add_argument("--cells_per_file", type=positive_int, default=10_000, help="cells of a parquet file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_self(*options: object) -> str:
    """What this script prints in a process of its own."""
    command = [str(part) for part in (sys.executable, __file__, *options)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


@script
def main(argv: list[str] | None = None) -> int:
    """Print one line per size."""
    arguments = parse_arguments(argv)

    from scdmc.studies.loading_speed import measure_loading, write_cells

    if arguments.measure:
        print(json.dumps(measure_loading(arguments.measure, arguments.batch_size, arguments.max_length)))
        return 0
    print(f"{'cells':>9}{'decode us/cell':>16}{'read us/cell':>14}{'read cells/s':>14}{'M tokens/s':>12}{'MiB':>8}")
    sizes = ("--batch_size", arguments.batch_size, "--max_length", arguments.max_length)
    for n_cells in arguments.cells:
        with tempfile.TemporaryDirectory() as folder:
            write_cells(Path(folder) / "parquet", n_cells, arguments.max_length, arguments.cells_per_file)
            row = json.loads(run_self("--measure", folder, *sizes).splitlines()[-1])
        decode, read = (1e6 * row[name] / n_cells for name in ("decode", "read"))
        rates = f"{n_cells / row['read']:>14,.0f}{row['tokens'] / row['read'] / 1e6:>12.1f}"
        print(f"{n_cells:>9,}{decode:>16.0f}{read:>14.0f}{rates}{row['memory'] / 2**20:>8.0f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
