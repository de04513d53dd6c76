"""annotate.py on synthetic counts, end to end: cells/s per stream and peak memory, file in to file out.

Weights and counts are random, which changes nothing about the time. Run it with more cells to see that memory does not
grow with them.
"""

import argparse

from scdmc.cli.arguments import add_encoder_size_arguments, add_max_length_argument, encoder_sizes
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.options import STREAMS

EXAMPLES = ("{prog}", "{prog} --cells 4000 --stream both")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    parser.add_argument("--cells", type=positive_int, default=2_000, help="cells of the file")
    parser.add_argument("--n_genes", type=positive_int, default=20_000, help="genes of the file")
    parser.add_argument("--genes_per_cell", type=positive_int, default=1_500, help="genes of a cell with counts, about")
    add_max_length_argument(parser, default=512)
    add_encoder_size_arguments(parser)
    parser.add_argument("--stream", choices=STREAMS, default="rank", help="both counts twice")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads of torch")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print cells/s per stream and the peak of memory before and after."""
    arguments = parse_arguments(argv)

    import torch

    from scdmc.studies.annotation_speed import measure_annotation

    torch.set_num_threads(arguments.threads)
    found = measure_annotation(
        encoder_sizes(arguments),
        arguments.max_length,
        arguments.stream,
        arguments.cells,
        arguments.n_genes,
        arguments.genes_per_cell,
    )
    rate = arguments.cells / found["seconds"]
    n_streams = 2 if arguments.stream == "both" else 1
    print(
        f"{arguments.cells:,} cells in {found['seconds']:.1f} s: {rate:.1f} cells/s, {n_streams * rate:.1f} streams/s"
    )
    print(f"peak memory {found['peak']:,.0f} MiB, {found['before']:,.0f} MiB of it before the first cell")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
