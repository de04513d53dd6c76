"""Gather what the demo made into one page, report.html, and one table, metrics.csv."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_file
from scdmc.result_folders import require_whole

EXAMPLES = (
    "{prog}",
    "{prog} --output_dir ../demo_output --overwrite",
)
NEEDED = (
    "labels/labels.csv",
    "labels/views.csv",
    "labels/per_type.csv",
    "split.csv",
    "tokenized/islets.report.json",
    "pretrained/history.csv",
    "pretrained/arguments.json",
    "pretrained/guessing.json",
    "annotation/metrics.csv",
    "annotation/per_class.csv",
    "clustering/metrics.csv",
    "integration/metrics.csv",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the report."""
    parser = argument_parser(__doc__, EXAMPLES)
    meaning = "folder that `make demo` filled; the page and the table are written there"
    add_output_dir_argument(parser, meaning=meaning, default=Path("demo_output"))
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Write the page and the table, and print what was found."""
    arguments = parse_arguments(argv)
    demo = arguments.output_dir
    missing = [name for name in NEEDED if not (demo / name).exists()]
    if missing:
        raise ScDMCError(f"{demo} lacks {', '.join(missing)}; run `make demo`")
    for name in NEEDED:
        require_whole((demo / name).parent, (demo / name).name)
    for name in ("metrics.csv", "report.html"):
        require_new_file(demo / name, arguments.overwrite)

    from scdmc.studies.demo import write_demo_report

    for task, table in write_demo_report(demo, tuple(demo / name for name in NEEDED)).items():
        print(f"\n{task}\n{table.round(3).to_string()}")
    print(f"\nopen {demo / 'report.html'}; the same numbers are in {demo / 'metrics.csv'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
