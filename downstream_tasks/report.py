"""Join the pages of several runs into one site: an index with the verdict and the numbers of each, and the pages."""

import argparse
from pathlib import Path

from scdmc.cli.arguments import add_output_dir_argument
from scdmc.cli.parser import argument_parser, script
from scdmc.errors import ScDMCError
from scdmc.files import require_new_folder
from scdmc.result_folders import keep_results, result_folder

EXAMPLES = (
    "{prog} --result_dirs annotated clusters integration --output_dir site",
    "{prog} --result_dirs demo_output --output_dir site --overwrite",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the site."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--result_dirs",
        type=Path,
        nargs="+",
        required=True,
        metavar="RESULT_DIR",
        help="output folders of any scripts, with all that lies below them; or single pages",
    )
    add_output_dir_argument(parser, meaning="folder of the site; open its index.html")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Find, copy, write the index."""
    arguments = parse_arguments(argv)
    require_new_folder(arguments.output_dir, arguments.overwrite)
    for path in arguments.result_dirs:
        if not path.exists():
            raise ScDMCError(f"--result_dirs {path}: no such file or folder")

    from scdmc.reports.site import find_pages, write_site

    pages = find_pages(arguments.result_dirs, arguments.output_dir)
    with result_folder(arguments.output_dir) as folder:
        write_site(folder, pages)
        keep_results(folder)
    for page in pages:
        print(f"{page.summary['level']:<8} {page.place}: {page.summary['headline']}")
    print(f"wrote {len(pages)} {'page' if len(pages) == 1 else 'pages'}; open {arguments.output_dir / 'index.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
