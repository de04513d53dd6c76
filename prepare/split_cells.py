"""Split the labelled cells of one .h5ad, or of a folder of them, into train, validation and test, once for all."""

import argparse
from pathlib import Path

import pandas as pd

from scdmc.cells.splits import draw_split, require_usable_split, write_split
from scdmc.cli.arguments import SPLIT_DEFAULTS, add_split_arguments, split_columns, split_options
from scdmc.cli.parser import argument_parser, fill_in, script, seed
from scdmc.files import require_new_file
from scdmc.labels import labels_of
from scdmc.reading.h5ad import h5ad_files, read_obs
from scdmc.tokens.tokenized_cells import require_obs_columns


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the split."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with labels in obs, or a folder of them")
    parser.add_argument("--output_file", type=Path, required=True, help="split.csv: source_file, cell_id, label, split")
    parser.add_argument("--seed", type=seed, default=42, help="of the split")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    add_split_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, SPLIT_DEFAULTS, True, "")
    return arguments


def read_cells_of(data_path: Path, columns: list[str]) -> pd.DataFrame:
    """Cells of all files, one after the other: source_file, cell_id and the columns asked for."""
    tables = {path.name: read_obs(path) for path in h5ad_files(data_path)}
    require_obs_columns(tables, columns)
    parts = [
        pd.DataFrame({name: obs[name].astype(object) for name in columns if name in obs}, index=obs.index)
        .assign(source_file=source_file, cell_id=obs.index.astype(str))
        for source_file, obs in tables.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@script
def main(argv: list[str] | None = None) -> int:
    """Split and print the sizes of the parts."""
    arguments = parse_arguments(argv)
    require_new_file(arguments.output_file, arguments.overwrite)
    cells = read_cells_of(arguments.data_path, split_columns(arguments))
    labels = labels_of(cells[arguments.label_key])
    split = draw_split(labels, cells, split_options(arguments))
    require_usable_split(labels, split, cells)
    write_split(arguments.output_file, cells, labels, split)
    sizes = pd.Series(split).value_counts()
    print(", ".join(f"{part}: {sizes[part]:,} cells" for part in sizes.index) + f"; wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
