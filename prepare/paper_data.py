"""Bring a data set of the paper into one form: raw counts, Ensembl ids, types, batches, donors and a split."""

import argparse
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from scdmc.cli.arguments import add_output_dir_argument, add_seed_argument
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import partial_path, remove_leftovers, require_new_file
from scdmc.public_data.paper.options import CENSUS_2M, CENSUS_CELLS, CENSUS_RELEASE, SOURCES, ReadingOptions

if TYPE_CHECKING:
    from anndata import AnnData

EXAMPLES = (
    "{prog} --dataset zheng68k --output_dir paper_data --download",
    "{prog} --dataset myeloid --output_dir paper_data --source_directory GSE154763",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the data of the paper."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--dataset", choices=tuple(SOURCES), required=True, help="which one")
    add_output_dir_argument(parser, meaning="where DATASET.h5ad goes; of census_2m, tokenized parquet")
    parser.add_argument(
        "--source_directory",
        type=Path,
        help="where the original files lie, or are downloaded to (default: OUTPUT_DIR/sources/DATASET); of census_2m, "
        "a SOMA experiment on the disk",
    )
    parser.add_argument("--download", action="store_true", help="download what is missing; goes on where it broke off")
    parser.add_argument(
        "--allow_normalized", action="store_true", help="keep values from which no counts can be had, and say so"
    )
    add_seed_argument(parser, "of the split, and of the draw from the Census")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Find or download the files, read them and write one .h5ad."""
    arguments = parse_arguments(argv)
    source, folder = SOURCES[arguments.dataset], arguments.source_directory
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ScDMCError(f"--source_directory {folder} is no folder")
    if folder is not None and not folder.exists() and not arguments.download:
        raise ScDMCError(f"--source_directory {folder}: no such folder; --download makes it")
    if arguments.dataset == CENSUS_2M:
        return tokenize_census(arguments)
    path = arguments.output_dir / f"{arguments.dataset}.h5ad"
    require_new_file(path, arguments.overwrite)

    from scdmc.public_data.paper.reading import read_dataset, source_files
    from scdmc.reading.h5ad import write_h5ad

    folder = folder or arguments.output_dir / "sources" / arguments.dataset
    files = source_files(arguments.dataset, source, folder, arguments.download)
    unpacked = arguments.output_dir / f"{arguments.dataset}.unpacked"
    remove_leftovers(unpacked)
    scratch = partial_path(unpacked)
    try:
        options = ReadingOptions(arguments.allow_normalized)
        adata = read_dataset(arguments.dataset, source, files, scratch, options)
        add_split(adata, arguments.seed)
        write_h5ad(adata, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    n_types, n_batches = adata.obs["cell_type"].nunique(), adata.obs["batch"].nunique()
    shape = f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {n_types} types, {n_batches} batches"
    logging.info("%s: %s, %s MiB", path, shape, f"{path.stat().st_size / 2**20:,.1f}")
    return 0


def add_split(adata: "AnnData", seed: int) -> None:
    """Draw the split, and say in ``uns['source']`` which it is; the column of the field's parts goes."""
    import pandas as pd

    from scdmc.labels import type_labels
    from scdmc.public_data.paper.form import PART, QUERY
    from scdmc.studies.paper.splits import split_of_cells

    labels, _ = type_labels(adata.obs["cell_type"])
    is_query = (adata.obs[PART] == QUERY).to_numpy() if PART in adata.obs else None
    adata.obs["split"] = pd.Categorical(split_of_cells(labels, is_query, seed))
    adata.uns["source"]["split"] = "drawn" if is_query is None else "query"
    adata.uns["source"]["seed"] = seed
    if is_query is not None:
        adata.obs["is_query"] = is_query
        del adata.obs[PART]


def tokenize_census(arguments: argparse.Namespace) -> int:
    """Draw the paper's cells of the Census and tokenize them, with the Census command; it resumes by itself."""
    from scdmc.cli.main import COMMANDS, load_script

    if arguments.source_directory is None and not arguments.download:
        raise ScDMCError(
            f"the Census is read over the network: --download says so, or --source_directory names a SOMA experiment; "
            f"by hand: {SOURCES[CENSUS_2M].page}"
        )
    place = ["--census_version", CENSUS_RELEASE]
    if arguments.source_directory is not None:
        place = ["--uri", str(arguments.source_directory)]
    words = ["--output_dir", str(arguments.output_dir), "--output_prefix", CENSUS_2M, "--gene_median_file", "default"]
    words += ["--max_cells", str(CENSUS_CELLS), "--seed", str(arguments.seed)]
    return load_script(COMMANDS["census"]).main([*place, *words, "--overwrite" if arguments.overwrite else "--resume"])


if __name__ == "__main__":
    raise SystemExit(main())
