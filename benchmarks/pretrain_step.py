"""A pre-training step of scDMC beside the field's usual recipe at the same sizes: time and peak memory of each.

The usual recipe is transformers' BertForMaskedLM (SDPA): padded batches, logits of all positions, and a momentum copy
that runs through its head too. Each side runs in a process of its own, in turn, so that peak memory is its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from scdmc.cli.arguments import add_dtype_argument, add_encoder_size_arguments, encoder_sizes
from scdmc.cli.parser import argument_parser, positive_int, script
from scdmc.errors import ScDMCError
from scdmc.options import BACK_ENDS

SIDES = ("scdmc", "usual")

EXAMPLES = (
    "{prog} --rounds 3 --steps 4",
    "{prog} --hidden_size 512 --num_hidden_layers 12 --num_attention_heads 8 --intermediate_size 1024 "
    "--shortest 2048 --longest 2048 --batch_size 24 --dtype bfloat16",
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the benchmark; the defaults are the CPU comparison of the documentation."""
    parser = argument_parser(__doc__, EXAMPLES)
    add_encoder_size_arguments(parser)
    parser.add_argument("--batch_size", type=positive_int, default=8, help="cells")
    parser.add_argument("--shortest", type=positive_int, default=288, help="tokens of the shortest stream")
    parser.add_argument("--longest", type=positive_int, default=512, help="tokens of the longest stream")
    parser.add_argument("--steps", type=positive_int, default=5, help="timed steps of each round")
    parser.add_argument("--rounds", type=positive_int, default=3, help="rounds, the two sides in turn")
    add_dtype_argument(parser, "what both compute in", has_bf16=True)
    parser.add_argument("--attention", choices=BACK_ENDS, default="auto", help="attention back end of scDMC")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="which to run")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_side(side: str, argv: list[str]) -> dict:
    """Run one side in a process of its own, whose messages are shown.

    Raises
    ------
    ScDMCError
        If it breaks down, as when its batch does not fit.
    """
    command = [sys.executable, str(Path(__file__)), *argv, "--side", side]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise ScDMCError(f"the side {side} ended with status {finished.returncode} (see above); try fewer cells")
    return json.loads(finished.stdout.splitlines()[-1])


@script
def main(argv: list[str] | None = None) -> int:
    """Print one line per side and the ratios."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(argv)
    if arguments.side:
        from scdmc.studies.pretraining_speed import StepOptions, measure_side

        names = ("batch_size", "shortest", "longest", "dtype", "attention")
        options = StepOptions(encoder_sizes(arguments), **{name: getattr(arguments, name) for name in names})
        print(json.dumps(measure_side(arguments.side, options, arguments.steps)))
        return 0
    rounds = {side: [] for side in arguments.sides}
    for _ in range(arguments.rounds):
        for side in arguments.sides:
            rounds[side].append(run_side(side, argv))
    medians = {}
    print(f"{'':<8}{'s / step':>10}{'min':>8}{'max':>8}{'cells/s':>10}{'peak GiB':>10}")
    for side, results in rounds.items():
        seconds = [second for result in results for second in result["seconds"]]
        peak = max(result["peak"] for result in results) / 2**30
        medians[side] = (statistics.median(seconds), peak)
        rate = arguments.batch_size / medians[side][0]
        print(f"{side:<8}{medians[side][0]:>10.3f}{min(seconds):>8.3f}{max(seconds):>8.3f}{rate:>10.1f}{peak:>10.2f}")
    if len(medians) == 2:
        times = medians["usual"][0] / medians["scdmc"][0]
        memory = medians["usual"][1] / medians["scdmc"][1]
        print(f"scDMC takes 1/{times:.1f} of the time and 1/{memory:.1f} of the peak memory (whole process)")
    at_peak = rounds["scdmc"][0]["seconds_at_peak"] if "scdmc" in rounds else None
    if at_peak is not None:
        print(f"scDMC reaches {at_peak / medians['scdmc'][0]:.1%} of the GPU's peak")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
