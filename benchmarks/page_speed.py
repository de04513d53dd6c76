"""How fast a page moves its map of many cells in a browser, and how large the page is.

Random cells of 25 types, with names, two values, a batch and counts, are written as a page. Chromium opens it without a
window at 1300 pixels, moves and zooms the map, and hovers over it. Needs the package playwright and Chromium.
"""

import argparse
import tempfile
from pathlib import Path

from scdmc.cli.parser import argument_parser, positive_int, script

EXAMPLES = ("{prog}", "{prog} --cells 10000 100000 --frames 60")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--cells", type=positive_int, nargs="+", default=[10_000, 100_000], help="sizes")
    parser.add_argument("--frames", type=positive_int, default=60, help="frames of the moving map")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print one line per size."""
    arguments = parse_arguments(argv)

    import numpy as np

    from scdmc.studies.page_speed import browser_path, measure_page, write_map_page

    browser_path()
    print(f"{'cells':>9}{'MB':>8}{'load s':>9}{'frame ms':>10}{'95% ms':>9}{'hover ms':>10}")
    for n_cells in arguments.cells:
        with tempfile.TemporaryDirectory() as folder:
            found = measure_page(write_map_page(Path(folder), n_cells), arguments.frames)
        frame, slow = np.percentile(found.frame, [50, 95])
        sizes = f"{n_cells:>9,}{found.megabytes:>8.2f}{found.load:>9.2f}"
        print(f"{sizes}{frame:>10.1f}{slow:>9.1f}{np.median(found.hover):>10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
