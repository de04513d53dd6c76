"""The integration benchmark on random cells: seconds of each method, scores included, of the page, and the
peak of memory.

Weights and cells are random, which changes little about the time. The encoder is as large as scDMC-small. scVI, whose
time is that of its epochs, is left out.
"""

import argparse

from scdmc.cli.arguments import add_encoder_size_arguments, encoder_sizes
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.integration.options import PROTOCOLS

SIZES_OF_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
EXAMPLES = ("{prog} --cells 20000 --n_batches 5", "{prog} --cells 2000 --seeds 1")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_encoder_size_arguments(parser)
    parser.set_defaults(**SIZES_OF_SMALL)
    parser.add_argument("--cells", type=positive_int, default=20_000, help="cells")
    parser.add_argument("--n_batches", type=positive_int, default=5, help="batches")
    parser.add_argument("--n_genes", type=positive_int, default=2_000, help="genes")
    parser.add_argument("--seeds", type=positive_int, default=3, help="seeds of all that is drawn")
    parser.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="how rows are scored"
    )
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    arguments = parse_arguments(argv)

    from scdmc.studies.integration_speed import measure_integration, random_data

    data = random_data(arguments.cells, arguments.n_batches, arguments.n_genes)
    table, peak = measure_integration(data, encoder_sizes(arguments), arguments.seeds, arguments.protocols)
    print(f"{'method':<24}{'seconds':>10}{'CPU s':>10}")
    for row in table.itertuples():
        print(f"{row.method:<24}{row.seconds:>10.1f}{row.cpu_seconds:>10.1f}")
    print(f"{arguments.cells:,} cells; memory at its peak {peak:,.0f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
