"""Make ``islets_300.h5ad``, the real cells that the tests use, from the full islet data."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scdmc.cli.parser import argument_parser, script
from scdmc.files import require_new_file
from scdmc.public_data.islets import read_islets
from scdmc.public_data.options import ISLETS_WHEEL
from scdmc.public_data.wheels import open_wheel
from scdmc.reading.h5ad import write_h5ad

if TYPE_CHECKING:
    from anndata import AnnData

SEED = 42
N_CELLS = 300
N_EXPRESSED_GENES = 2_000
N_RANDOM_GENES = 1_000
OUTPUT = Path(__file__).with_name("islets_300.h5ad")


@script
def main(argv: list[str] | None = None) -> int:
    """Write the fixture."""
    arguments = parse_arguments(argv)
    require_new_file(arguments.output_file, arguments.overwrite)
    with open_wheel(ISLETS_WHEEL, arguments.wheel) as archive:
        islets = read_islets(archive)
    small = subset(islets, np.random.default_rng(SEED))
    write_h5ad(small, arguments.output_file)
    logging.info("%s: %d cells x %d genes", arguments.output_file, *small.shape)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--wheel", type=Path, help=f"local copy of the {ISLETS_WHEEL} wheel")
    parser.add_argument("--output_file", type=Path, default=OUTPUT, help="the fixture")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


def subset(islets: "AnnData", random: np.random.Generator) -> "AnnData":
    """Choose cells and genes; ``obs['n_counts']`` keeps each cell's total over all genes."""
    cells = balanced_cells(islets.obs["cell_type"].to_numpy(), N_CELLS, random)
    genes = expressed_and_random_genes(np.asarray(islets.X.sum(axis=0)).ravel(), random)
    islets.obs["n_counts"] = np.asarray(islets.X.sum(axis=1)).ravel().astype(np.int64)
    small = islets[cells, genes].copy()
    small.uns["source"]["changes"] = f"{N_CELLS} cells balanced over types; {len(genes)} genes; n_counts over all genes"
    return small


def balanced_cells(cell_types: np.ndarray, n_cells: int, random: np.random.Generator) -> np.ndarray:
    """Take one random cell of each type in turn until there are enough; rare types are exhausted first.

    Returns
    -------
    ndarray of shape (n_cells,)
        Ascending row numbers.
    """
    turn = np.empty(len(cell_types), dtype=np.int64)
    for cell_type in np.unique(cell_types):
        rows = np.flatnonzero(cell_types == cell_type)
        turn[rows] = random.permutation(len(rows))
    return np.sort(np.argsort(turn, kind="stable")[:n_cells])


def expressed_and_random_genes(totals: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Take the most expressed genes and a random choice of the others.

    Parameters
    ----------
    totals
        Array of shape (n_genes,), counts over all cells.
    random
        Source of the choice.

    Returns
    -------
    ndarray
        Ascending column numbers.
    """
    by_expression = np.argsort(-totals, kind="stable")
    others = random.choice(by_expression[N_EXPRESSED_GENES:], size=N_RANDOM_GENES, replace=False)
    return np.sort(np.concatenate([by_expression[:N_EXPRESSED_GENES], others]))


if __name__ == "__main__":
    raise SystemExit(main())
