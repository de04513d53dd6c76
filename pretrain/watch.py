"""Watch a pre-training run: print how far it is, from the files in its folder alone, until it ends."""

import argparse
import time
from pathlib import Path

from scdmc.cli.parser import argument_parser, positive_float, script
from scdmc.errors import ScDMCError
from scdmc.training.run_state import GONE, RUNNING, STOPPED, read_state

EXAMPLES = (
    "{prog} --output_dir pretrained",
    "{prog} --output_dir pretrained --once",
)
LAST_WORDS = {
    GONE: "its process is not there any more; go on with --resume",
    STOPPED: "go on with --resume",
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line of watching."""
    parser = argument_parser(__doc__, EXAMPLES)
    meaning = "the --output_dir of the run; it is only read"
    parser.add_argument("--output_dir", type=Path, required=True, metavar="OUTPUT_DIR", help=meaning)
    parser.add_argument("--every", type=positive_float, default=2.0, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="print the state once and end")
    return parser.parse_args(argv)


@script
def main(argv: list[str] | None = None) -> int:
    """Print a line whenever the run has written something new; 1 where it was killed."""
    arguments = parse_arguments(argv)
    if not arguments.output_dir.is_dir():
        raise ScDMCError(f"--output_dir {arguments.output_dir}: no such folder")
    said = ""
    while True:
        found = read_state(arguments.output_dir)
        line = found.line()
        if line != said:
            print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
            said = line
        if found.state != RUNNING or arguments.once:
            break
        time.sleep(arguments.every)
    if found.state in LAST_WORDS:
        print(LAST_WORDS[found.state])
    return int(found.state == GONE)


if __name__ == "__main__":
    raise SystemExit(main())
