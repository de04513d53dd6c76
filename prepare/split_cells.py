"""Split the labelled cells of one .h5ad, or of a folder of them, into train, validation and test, once for all."""

import argparse

from scdmc.cli.arguments import (
    SPLIT_DEFAULTS,
    add_data_argument,
    add_output_file_argument,
    add_seed_argument,
    add_split_arguments,
    label_options,
    split_columns,
    split_options,
)
from scdmc.cli.inputs import require_count_file, require_counts
from scdmc.cli.parser import argument_parser, fill_in, script
from scdmc.files import require_new_file
from scdmc.reading.options import is_counts

EXAMPLES = (
    "{prog} --data_path counts/islets.h5ad --output_file split.csv --label_key cell_type",
    "{prog} --data_path counts --output_file split.csv --label_key cell_type --split_by donor_id",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the split."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_data_argument(parser, meaning=".h5ad or another file of counts with labels in obs, or a folder of them")
    add_output_file_argument(parser, "split.csv: source_file, cell_id, label, split", (".csv",))
    add_seed_argument(parser, "of the split")
    add_split_arguments(parser)
    arguments = parser.parse_args(argv)
    fill_in(arguments, SPLIT_DEFAULTS, True, "")
    return arguments


@script
def main(argv: list[str] | None = None) -> int:
    """Split and print the sizes of the parts."""
    arguments = parse_arguments(argv)
    require_new_file(arguments.output_file, arguments.overwrite)
    if arguments.data_path.is_dir() and not is_counts(arguments.data_path):
        require_counts(arguments.data_path, "--data_path")
    else:
        require_count_file(arguments.data_path, "--data_path")

    from scdmc.cells.splits import cells_of_files, draw_split, require_usable_split, write_split
    from scdmc.labels import type_labels

    cells = cells_of_files(arguments.data_path, split_columns(arguments))
    labels, _ = type_labels(cells[arguments.label_key], label_options(arguments))
    split = draw_split(labels, cells, split_options(arguments))
    require_usable_split(labels, split, cells)
    write_split(arguments.output_file, cells, labels, split)
    sizes = cells.assign(split=split)["split"].value_counts()
    print(", ".join(f"{part}: {sizes[part]:,} cells" for part in sizes.index) + f"; wrote {arguments.output_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
