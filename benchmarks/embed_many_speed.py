"""Embedding shard by shard: cells per second and memory of the largest process, by number of cells and of processes.

Counts are random; the model is one that ships.
"""

import argparse

from scdmc.cli.arguments import add_model_argument
from scdmc.cli.parser import argument_parser, positive_int, process_count, script

EXAMPLES = ("{prog} --cells 25000 100000 --num_workers 1 2", "{prog} --cells 5000 --num_workers 1")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_model_argument(parser, meaning="model (default: scDMC-small)", is_required=False)
    parser.add_argument("--cells", nargs="+", type=positive_int, default=[25_000, 100_000], help="cells of each file")
    parser.add_argument("--num_workers", nargs="+", type=process_count, default=[1, 2], help="processes of each run")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    arguments = parse_arguments(argv)

    from scdmc.studies.embed_many_speed import measure_embed_many

    model = arguments.model or "scDMC-small"
    print(f"{'cells':>10}{'processes':>11}{'seconds':>10}{'cells/s':>10}{'MiB of the largest process':>28}")
    for row in measure_embed_many(arguments.cells, arguments.num_workers, model):
        counts = f"{row.n_cells:>10,}{row.num_workers:>11}"
        print(f"{counts}{row.seconds:>10.1f}{row.cells_per_second:>10.0f}{row.peak_mib:>28,.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
