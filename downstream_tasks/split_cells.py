"""Split the labelled cells of an .h5ad into train, validation and test, once, for every later step."""

import argparse
from pathlib import Path

import pandas as pd

from scdmc.command_line import argument_parser, fraction, non_negative_int, positive_int, script
from scdmc.counts import open_counts
from scdmc.files import require_new
from scdmc.splits import make_split, write_split
from scdmc.task_data import labels_of
from scdmc.tokenization import require_obs_columns


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the split."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help=".h5ad with labels in obs")
    parser.add_argument("--output_file", type=Path, required=True, help="split.csv: source_file, cell_id, label, split")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the labels")
    parser.add_argument("--split_by", help="column of obs (donor_id, batch) whose groups stay in one part")
    parser.add_argument("--validation_fraction", type=fraction, default=0.1, help="share of validation cells")
    parser.add_argument("--test_fraction", type=fraction, default=0.2, help="share of test cells")
    parser.add_argument("--minimum_cells", type=positive_int, default=10, help="rarer types are left out and named")
    parser.add_argument("--seed", type=non_negative_int, default=42, help="of the split")
    parser.add_argument("--overwrite", action="store_true", help="replace --output_file")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Split and print the sizes of the parts."""
    arguments = parse_arguments(argv)
    require_new(arguments.output_file, arguments.overwrite)
    with open_counts(arguments.data_path, allow_normalized=True) as counts:
        obs, name = counts.obs, counts.name
    columns = [arguments.label_key] + ([arguments.split_by] if arguments.split_by else [])
    require_obs_columns({name: obs}, columns)
    labels = labels_of(obs[arguments.label_key])
    groups = obs[arguments.split_by].to_numpy(dtype=object) if arguments.split_by else None
    split = make_split(
        labels, groups, arguments.validation_fraction, arguments.test_fraction, arguments.minimum_cells, arguments.seed
    )
    cells = pd.DataFrame({"source_file": name, "cell_id": obs.index.astype(str)})
    write_split(arguments.output_file, cells, labels, split)
    sizes = pd.Series(split).value_counts()
    print(", ".join(f"{part}: {sizes[part]:,} cells" for part in sizes.index) + f"; wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
