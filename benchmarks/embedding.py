"""Embedding cells with scDMC, in float32 and in bfloat16, beside transformers' BertModel of the same parameters.

BertModel runs as one would run it: SDPA, batches of cells sorted by length, padded. All sides embed the same cells with
as many threads, in turn; the weights are random, which changes nothing about the time.
"""

import argparse
import statistics

from scdmc.cli.arguments import add_encoder_size_arguments, encoder_sizes
from scdmc.cli.parser import argument_parser, positive_int, script

EXAMPLES = ("{prog} --rounds 5", "{prog} --hidden_size 256 --num_hidden_layers 8 --longest 2048")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are those of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_encoder_size_arguments(parser)
    parser.add_argument("--shortest", type=positive_int, default=288, help="tokens of the shortest stream")
    parser.add_argument("--longest", type=positive_int, default=512, help="tokens of the longest stream")
    parser.add_argument("--cells", type=positive_int, default=256, help="cells")
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds, the sides in turn")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print cells/s of each side, the ratios of the medians, and how well bfloat16 agrees."""
    arguments = parse_arguments(argv)

    from scdmc.studies.embedding_speed import measure_embedding

    sizes, n_cells = encoder_sizes(arguments), arguments.cells
    seconds, agreement = measure_embedding(sizes, n_cells, arguments.shortest, arguments.longest, arguments.rounds)
    rates = {name: n_cells / statistics.median(times) for name, times in seconds.items()}
    print(f"{'':<20}{'cells/s, one stream':>20}{'fastest':>10}{'slowest':>10}")
    for name, times in seconds.items():
        print(f"{name:<20}{rates[name]:>20.1f}{n_cells / min(times):>10.1f}{n_cells / max(times):>10.1f}")
    print(f"float32: {rates['scDMC float32'] / rates['BertModel float32']:.2f} times BertModel")
    print(
        f"bfloat16: {rates['scDMC bfloat16'] / rates['scDMC float32']:.2f} times float32; "
        f"cosine to float32 {agreement.mean():.5f}, smallest {agreement.min():.5f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
